"""MIA efficacy (arXiv:2304.04934): the share of forget rows that a membership attack takes for NON-members.

A support vector machine (C = 3, rbf) is fitted on keep rows (members) against as many test rows (non-members), by what the
model says of each, and asked about the forget rows. Higher means that more rows pass for rows never trained on. The target is
the retrained model's value, not 1: for a random part of the rows a retrained model, too, treats most of them like members.

    confidence   p_y                          entropy      -sum p_c log p_c
    correctness  is the class right           m_entropy    -(1 - p_y) log p_y - sum over c != y of p_c log(1 - p_c)
    probability  all of p

Published code names several of these "MIA" without saying which, one library prints "lower is better", and the released
m_entropy has its terms wrong; this one is that of arXiv:2003.10595.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from pydantic import Field

from efface.core.card import Card
from efface.core.config import Config
from efface.core.context import Context
from efface.core.types import Attack, Measurement, Request
from efface.families import predictions
from efface.families.predictions import Outputs
from efface.ops import class_stats

Feature = Literal["confidence", "correctness", "entropy", "m_entropy", "probability"]
FEATURES: tuple[Feature, ...] = ("confidence", "correctness", "entropy", "m_entropy", "probability")


class MiaEfficacyConfig(Config):
    """Settings of the attack."""

    feature: Feature = "confidence"
    """What the attacker looks at for the value; the others are parts."""
    rows: int = Field(1000, ge=10)
    """Most members, and non-members, to fit on."""


class MiaEfficacy(Attack[MiaEfficacyConfig]):
    """An adversary who learns from keep and test rows what membership looks like."""

    card = Card(
        name="mia_efficacy", title="MIA efficacy: forget rows called non-members", paper="arXiv:2304.04934", families=("classifier",),
        needs=("predict",), uses=("forget", "keep", "utility", "reference"), access="outputs", better="as-reference",
        departs="at most 1000 rows of each side, evenly spaced; m_entropy as defined, where the released code has its terms wrong",
    )

    def run(self, subject: Any, request: Request, ctx: Context) -> Measurement:
        """Return the non-member rate with a Wilson interval; every feature's, and the reference's, are parts. Raises Missing without test rows."""
        ctx.spend(queries=min(len(request.rows("forget")), predictions.MOST))
        mine = self._called(subject, request, ctx)
        reference = ctx.baselines.get("reference")
        base = self._called(reference, request, ctx) if reference is not None else {}
        found = class_stats.wilson(mine[self.config.feature])
        parts: dict[str, float | None] = {name: float(called.mean()) for name, called in mine.items()}
        parts |= {f"reference_{name}": float(called.mean()) for name, called in base.items()}
        parts |= {"reference": parts.get(f"reference_{self.config.feature}"), "held_out_accuracy": self._held_out(subject, request, ctx)}
        return Measurement(
            system=self.card.name, subject="", value=found.value, low=found.low, high=found.high, n=len(mine[self.config.feature]),
            better="as-reference", parts=parts, table=[{"row": at, "value": float(one)} for at, one in enumerate(mine[self.config.feature])],
        )

    def _called(self, subject: Any, request: Request, ctx: Context) -> dict[str, np.ndarray]:
        """Which forget rows are called non-members, by each feature."""
        forget = predictions.side(subject, request, "forget", ctx)
        members, others = self._sides(subject, request, ctx)
        return {name: class_stats.called_non_members(seen(name, members), seen(name, others), seen(name, forget)) for name in FEATURES}

    def _sides(self, subject: Any, request: Request, ctx: Context) -> tuple[Outputs, Outputs]:
        keep, test = predictions.side(subject, request, "keep", ctx), predictions.test(subject, request, ctx)
        return predictions.members_and_others(keep, test, self.config.rows)

    def _held_out(self, subject: Any, request: Request, ctx: Context) -> float:
        """Share of members and non-members told apart rightly, fitted on one half of each: near 1/2 the attack knows nothing."""
        members, others = (seen(self.config.feature, side) for side in self._sides(subject, request, ctx))
        called = class_stats.called_non_members(members[::2], others[::2], np.concatenate([members[1::2], others[1::2]]))
        truth = np.r_[np.zeros(len(members[1::2]), bool), np.ones(len(others[1::2]), bool)]
        return float((called == truth).mean())


def seen(feature: Feature, of: Outputs) -> np.ndarray:
    """What the attacker looks at, for each row."""
    if feature == "confidence":
        return predictions.confidence(of)
    if feature == "correctness":
        return of.hits.astype(float)
    if feature == "entropy":
        return class_stats.entropy(of.chances)
    return class_stats.modified_entropy(of.chances, of.labels) if feature == "m_entropy" else of.chances
