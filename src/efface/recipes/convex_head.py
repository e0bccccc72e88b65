"""A convex head on a frozen classifier: the kind of model from which rows can be removed with a guarantee (arXiv:1911.03030).

minimized, for each class against the rest, over rows scaled to norm 1:
    sum_i log(1 + exp(-s_i w.x_i)) + (lam n / 2) |w|^2 + b.w,        b ~ N(0, sigma^2 I) drawn once

The random term b hides what later removals leave behind, as long as nobody else knows it. It follows from the seed, and the
seed stands in run.json: give --seed a large random number, and hand out the model folder alone.
"""

from __future__ import annotations

from typing import Any

from pydantic import Field

from efface.core.card import Card
from efface.core.config import Config
from efface.core.context import Context
from efface.core.errors import Unfit
from efface.core.types import Recipe, Request
from efface.families.convex_head import Terms, with_head


class ConvexHeadConfig(Config):
    """Settings of a convex head."""

    terms: Terms = Terms()
    """Regularization, random term, and the guarantee that removals must keep."""
    tolerance: float = Field(1e-8, gt=0)
    """Norm of the gradient at which training ends; what is left counts against the budget."""


class ConvexHead(Recipe[ConvexHeadConfig]):
    """Trains regularized logistic regression on what a frozen classifier computes of all rows, or on the rows themselves."""

    card = Card(
        name="convex_head", title="Convex head with a removal budget", paper="arXiv:1911.03030", families=("classifier",), needs=("features", "losses"), uses=(),
        departs="lam 0.1 and sigma 3 for a thousand rows, where the paper's sets are ten times as large; two classes share one regression; "
        "no intercept",
    )

    def run(self, subject: Any, request: Request, ctx: Context) -> Any:
        """Return the subject with a convex head trained on forget and keep rows; Unfit when there are none."""
        rows = [row for data in (request.forget, request.keep) if data is not None for row in data.read()]
        if not rows:
            raise Unfit("convex_head reads forget and keep rows and the request has neither")
        terms = self.config.terms
        after: Any = with_head(subject, rows, terms, ctx.seed_for("random term"), self.config.tolerance)
        ctx.note(
            budget=terms.budget, spent=after.model.spent_together, epsilon=terms.epsilon, delta=terms.delta, rows=float(len(rows)),
            random_term="from the seed of this run",
        )
        return after
