"""Reference attack on membership (arXiv:2111.08440): s(x) = -(loss of the model on x - loss of the reference on x).

The reference is the model retrained without the forget rows, so a row that the model knows beyond it stands out. The
reference attacked by itself scores every row 0: its AUC is 0.5 by the count of ties, not by assumption.
"""

from __future__ import annotations

from typing import Any

from efface.core.card import Card
from efface.core.config import Config
from efface.core.context import Context
from efface.core.types import Attack, Measurement, Request, Row
from efface.families import forms, membership


class ReferenceConfig(Config):
    """The attack has no settings."""


class Reference(Attack[ReferenceConfig]):
    """Takes rows for members that the model finds likelier than the retrained reference does."""

    card = Card(
        name="reference", title="Membership by loss against the reference's", paper="arXiv:2111.08440", families=("causal-lm",), needs=("score",),
        uses=("forget", "unseen", "reference"), access="logits", better="as-reference", departs="the retrained model is the calibrating one",
    )

    def run(self, subject: Any, request: Request, ctx: Context) -> Measurement:
        """Return the AUC of the forget rows against the unseen rows. Raises Missing without a reference."""
        base = ctx.baseline("reference")
        forget, unseen = membership.sides(request)
        mine = membership.Scored(_scores(subject, base, forget, ctx), _scores(subject, base, unseen, ctx))
        own = membership.Scored(_scores(base, base, forget, ctx), _scores(base, base, unseen, ctx))
        return membership.measure(self.card, mine, own)


def _scores(subject: Any, base: Any, rows: list[Row], ctx: Context) -> list[float | None]:
    pairs = zip(forms.gold(subject, rows, ctx), forms.gold(base, rows, ctx), strict=True)
    return [base_row.loss - row.loss if len(row.log_probs) else None for row, base_row in pairs]
