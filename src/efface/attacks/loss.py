"""LOSS attack on membership (arXiv:1709.01604): s(x) = -(mean loss per labeled token of x), end token included.

Members are the forget rows, non-members the unseen rows; the value is P(s(member) > s(non-member)). Far below 0.5 is a
leak too: then the forget rows stand out as less likely than text that nobody trained on.
"""

from __future__ import annotations

from efface.core.card import Card
from efface.core.config import Config
from efface.core.context import Context
from efface.core.types import Attack, Measurement, Request, Subject
from efface.families import membership
from efface.families.causal_lm import RowScore


class LossConfig(Config):
    """The attack has no settings."""


class Loss(Attack[LossConfig]):
    """Takes rows of low loss for members."""

    card = Card(
        name="loss", title="Membership by loss", paper="arXiv:1709.01604", families=("causal-lm",), needs=("score",),
        uses=("forget", "unseen"), access="logits", better="as-reference", departs="AUC over all thresholds, not one threshold",
    )

    def run(self, subject: Subject, request: Request, ctx: Context) -> Measurement:
        """Return the AUC of the forget rows against the unseen rows. Raises Unfit when the request lacks either."""
        return membership.attack(self.card, subject, request, ctx, likelihood)


def likelihood(row: RowScore) -> float | None:
    """-(mean loss), None for a row without tokens."""
    return -row.loss if len(row.log_probs) else None
