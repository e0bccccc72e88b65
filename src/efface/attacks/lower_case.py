"""Lower-case attack on membership (arXiv:2012.07805): s(x) = -(mean loss of x / mean loss of x in lower case).

Text that was learned by heart is likely in its own spelling alone; text that is merely easy is easy in lower case, too.
Prompt and answer are both written small. A row without capitals has nothing to compare and is left out.
"""

from __future__ import annotations

import math
from typing import Any

from efface.core.card import Card
from efface.core.config import Config
from efface.core.context import Context
from efface.core.types import Attack, Measurement, Request, Row
from efface.families import forms, membership


class LowerCaseConfig(Config):
    """The attack has no settings."""


class LowerCase(Attack[LowerCaseConfig]):
    """Takes rows for members whose loss is low for what it is in lower case."""

    card = Card(
        name="lower_case", title="Membership by loss against lower case", paper="arXiv:2012.07805", families=("causal-lm",), needs=("score",),
        uses=("forget", "unseen"), access="logits", better="as-reference",
        departs="ratio of mean losses as in MUSE, where the paper divides perplexities' logarithms of whole samples; rows without capitals are left out",
    )

    def run(self, subject: Any, request: Request, ctx: Context) -> Measurement:
        """Return the AUC of the forget rows against the unseen rows. Raises Unfit when the request lacks either."""
        return membership.compare(self.card, subject, membership.sides(request), ctx, lambda model, rows: scores(model, rows, ctx))


def scores(subject: Any, rows: list[Row], ctx: Context) -> list[float | None]:
    """-(loss / loss in lower case) of each row; None where both are the same text, or nothing is left to divide by."""
    small = [membership.changed(row, str.lower, prompt=True) for row in rows]
    pairs = zip(forms.gold(subject, rows, ctx), forms.gold(subject, small, ctx), strict=True)
    return [
        None if small_row == row else ratio(score.loss, small_score.loss)
        for row, small_row, (score, small_score) in zip(rows, small, pairs, strict=True)
    ]


def ratio(loss: float, lowered: float) -> float | None:
    """-(loss / loss in lower case); None where the latter is 0 or either was not measured."""
    return -loss / lowered if lowered > 0 and not math.isnan(loss) else None
