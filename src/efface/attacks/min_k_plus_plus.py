"""Min-K%++ attack on membership (arXiv:2404.02936): Min-K% on standardized log-probabilities.

z_t = (log p(token t) - mu_t) / sigma_t, with mu_t and sigma_t mean and deviation of log p under the model's own
distribution at t; s(x) = mean of the k T lowest z_t, of at least one, end token left out. sigma^2 is clamped at 1e-6,
as a uniform distribution has none.
"""

from __future__ import annotations

import numpy as np
from pydantic import Field

from efface.core.card import Card
from efface.core.config import Config
from efface.core.context import Context
from efface.core.types import Attack, Measurement, Request, Subject
from efface.families import membership
from efface.families.causal_lm import RowScore
from efface.ops import text_stats


class MinKPlusPlusConfig(Config):
    """Settings of the attack."""

    k: float = Field(0.4, gt=0, le=1)
    """Share of the lowest standardized tokens of a row that count."""


class MinKPlusPlus(Attack[MinKPlusPlusConfig]):
    """Takes rows for members whose tokens stand out among what the model might have said."""

    card = Card(
        name="min_k_plus_plus", title="Membership by standardized tokens (Min-K%++)", paper="arXiv:2404.02936", families=("causal-lm",),
        needs=("score",), uses=("forget", "unseen"), access="logits", better="as-reference",
        departs="variance clamped at 1e-6 and at least one token counts, as in open-unlearning; k = 0.4, 0.2 in the paper",
    )

    def run(self, subject: Subject, request: Request, ctx: Context) -> Measurement:
        """Return the AUC of the forget rows against the unseen rows. Raises Unfit when the request lacks either."""
        return membership.attack(
            self.card, subject, request, ctx, lambda row: text_stats.lowest_mean(standardized(row)[row.words], self.config.k)
        )


def standardized(row: RowScore) -> np.ndarray:
    """z_t of each token."""
    z: np.ndarray = (row.log_probs - row.mean) / row.deviation
    return z
