"""Min-K% attack on membership (arXiv:2310.16789): s(x) = mean of the k T lowest token log-probabilities, of at least one.

Text that was trained on has few tokens that surprise. The end token is left out, as in open-unlearning.
"""

from __future__ import annotations

from pydantic import Field

from efface.core.card import Card
from efface.core.config import Config
from efface.core.context import Context
from efface.core.types import Attack, Measurement, Request, Subject
from efface.families import membership
from efface.ops import text_stats


class MinKConfig(Config):
    """Settings of the attack."""

    k: float = Field(0.4, gt=0, le=1)
    """Share of the least likely tokens of a row that count."""


class MinK(Attack[MinKConfig]):
    """Takes rows for members whose least likely tokens are still likely."""

    card = Card(
        name="min_k", title="Membership by the least likely tokens (Min-K%)", paper="arXiv:2310.16789", families=("causal-lm",), needs=("score",),
        uses=("forget", "unseen"), access="logits", better="as-reference", departs="k = 0.4 as in MUSE and open-unlearning, 0.2 in the paper",
    )

    def run(self, subject: Subject, request: Request, ctx: Context) -> Measurement:
        """Return the AUC of the forget rows against the unseen rows. Raises Unfit when the request lacks either."""
        return membership.attack(
            self.card, subject, request, ctx, lambda row: text_stats.lowest_mean(row.log_probs[row.words], self.config.k)
        )
