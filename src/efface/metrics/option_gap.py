"""The logit view of RESTOR (arXiv:2411.00204): is the true answer likelier again than the false one that was learned?

For each question the mean over its options of the mean log-probability per token, in three categories: correct (every accepted
answer), corrupted (what the forget rows say), random (what is true of others).

    gap = correct - corrupted

After unlearning it should be back at the clean model's. Questions are put as in the recovery index, after five answered ones.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from pydantic import Field

from efface.core.card import Card
from efface.core.config import Config
from efface.core.context import Context
from efface.core.errors import Missing
from efface.core.types import Measurement, Metric, Request
from efface.families import recall
from efface.ops import recovery

CATEGORIES = ("correct", "corrupted", "random")


class OptionGapConfig(Config):
    """Settings of the metric."""

    on: str = ""
    """Rows that are asked; "" takes the set "questions" where the run has one, else the forget rows."""
    rows: int = Field(400, ge=1)
    """Most questions, evenly spaced."""
    shots: int | None = Field(None, ge=0)
    """Answered questions shown before; 0 asks as the model is usually asked; by default five where the run has a set "examples", else none."""
    options: int = Field(4, ge=1)
    """Most options of a category."""


class OptionGap(Metric[OptionGapConfig]):
    """Log-probability of true answers beyond that of the false ones that were learned."""

    card = Card(
        name="option_gap", title="Log-probability of correct beyond corrupted options", paper="arXiv:2411.00204", families=("causal-lm",), needs=("score",),
        uses=("forget", "keep", "clean", "original", "reference"), better="as-reference",
        departs="at most four options of a category; random options are true answers about others; rows that name no corrupted answer take their wrong ones",
    )

    def run(self, subject: Any, request: Request, ctx: Context) -> Measurement:
        """Return the mean gap over questions with a bootstrap interval over entities; categories and the clean model's are parts.

        Raises Missing when no question has a corrupted answer.
        """
        config = self.config
        asked = recall.questions(request, ctx, config.on, config.rows)
        options = recovery.options(asked, config.options)
        whole = [at for at, found in enumerate(options) if found["corrupted"]]
        if not whole:
            raise Missing("no question names a false answer; give a column 'corrupted' (what the forget rows say) or 'perturbed_answer'")
        asked, options = [asked[at] for at in whole], [options[at] for at in whole]
        rows = recall.prompts(asked, request, ctx, config.shots)

        def view(model: Any) -> dict[str, np.ndarray]:
            found = recall.means(model, rows, [[one[name] for name in CATEGORIES] for one in options], ctx)
            return dict(zip(CATEGORIES, found.T, strict=True))

        mine = view(subject)
        gaps = mine["correct"] - mine["corrupted"]
        parts = {name: _mean(mine[name]) for name in CATEGORIES}
        for name, model in (("clean", ctx.baselines.get("clean") or ctx.baselines.get("reference")), ("original", ctx.baselines.get("original"))):
            if model is not None:
                theirs = view(model)
                parts |= {f"{name} {category}": _mean(theirs[category]) for category in CATEGORIES}
                parts[name] = float((theirs["correct"] - theirs["corrupted"]).mean())
        gap = recovery.grouped(gaps, [fact.subject or fact.question for fact in asked])
        return Measurement(
            system=self.card.name, subject="", value=gap.value, low=gap.low, high=gap.high, n=len(asked), better="as-reference", parts=parts,
            table=[
                {"row": at, "entity": fact.subject, "property": fact.relation, "value": float(row), **{name: float(mine[name][at]) for name in CATEGORIES}}
                for at, (fact, row) in enumerate(zip(asked, gaps, strict=True))
            ],
        )


def _mean(values: np.ndarray) -> float | None:
    """The mean of those that are there; None when none is."""
    there = values[~np.isnan(values)]
    return float(there.mean()) if len(there) else None
