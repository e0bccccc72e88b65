"""Certified removal from a convex head (Guo and others 2020, arXiv:1911.03030): one Newton step a row, with a proven bound.

For L(w) = sum_i l(s_i w.x_i) + (lam n / 2) |w|^2 + b.w over rows of norm at most 1, row i goes by

    w <- w + H^-1 g,    g = grad l_i + lam w,    H the Hessian of L over the rows that remain

and the gradient that this leaves over on them has at most the norm gamma |H^-1 g| |X H^-1 g| |X|, with gamma = 1/4. These
bounds add up, on top of the gradient that training left and of what the linear solver left. A removal that would carry the
sum beyond sigma epsilon / sqrt(2 log(1.5 / delta)) is refused; below, nobody can tell the weights from retrained ones
better than (epsilon, delta). Every class has its own regression and its own sum; since their random terms are independent,
the norm over classes is what counts against the budget.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic import Field

from efface.core.card import Card
from efface.core.config import Config
from efface.core.context import Context
from efface.core.errors import Unsound
from efface.core.types import Method, Request, Row
from efface.families.convex_head import Terms, check_rows, fingerprint, head_of, rows_of, with_head
from efface.ops import convex


class CertifiedRemovalConfig(Config):
    """Settings of certified removal."""

    terms: Terms = Terms()
    """For a classifier without a convex head, which gets one first; a convex head keeps the terms that it was trained on."""
    batch: int = Field(1, ge=1)
    """Rows taken out by one Newton step; more is quicker and spends more of the budget."""
    tolerance: float = Field(1e-8, gt=0)
    """Norm of the gradient at which training such a head ends."""


class CertifiedRemoval(Method[CertifiedRemovalConfig]):
    """Takes rows out of a convex head as if it had been trained without them, until the budget is spent."""

    card = Card(
        name="certified_removal", title="Certified removal from a convex head", paper="arXiv:1911.03030", families=("classifier",),
        needs=("features", "losses"), uses=("forget", "keep"),
        technique="closed form", intent="remove", touches=("weights",), locality="one module", data=("forget rows", "keep rows"), operator="weights",
        sequence="accumulates", reversible=False, guarantee="bounded",
        departs="the residuals of training and of the linear solver count against the budget; over several classes the norm of their "
        "bounds counts, where the paper bounds each class alone; a classifier without a convex head gets one first",
    )

    def run(self, subject: Any, request: Request, ctx: Context) -> Any:
        """Return the subject without the forget rows. Raises BadRows for rows that the head does not hold, Unsound at the end of the budget."""
        config, forget, keep = self.config, request.rows("forget"), request.rows("keep")
        fitted = head_of(subject) is None
        if fitted:
            subject = with_head(subject, [*forget, *keep], config.terms, ctx.seed_for("random term"), config.tolerance)
        after = subject.fork()
        head, terms = after.model, after.model.terms
        check_rows(head, [*forget, *keep])
        self._remove(after, forget, keep, ctx)
        head.rows.copy_((head.rows.cpu() - fingerprint(forget)).to(head.rows.device))
        after.origin = ""
        ctx.note(
            budget=terms.budget, spent=head.spent_together, epsilon=terms.epsilon, delta=terms.delta, removed=float(len(forget)),
            most_spent_by_a_class=float(head.spent.max()), random_term="from the seed of this run" if fitted else "from the run that trained the head",
        )
        return after

    def _remove(self, after: Any, forget: Sequence[Row], keep: Sequence[Row], ctx: Context) -> None:
        """Newton steps until all forget rows are out; the head's weights and sums are changed in place."""
        head, size = after.model, self.config.batch
        whole = rows_of(after, [*forget, *keep])
        convex.check(whole)
        norm = convex.spectral_norm(whole.x)
        weights, spent = head.solution, head.spent.clone()
        starts = range(0, len(forget), size)
        for at in ctx.progress(starts, "removing", len(starts)):
            end = min(at + size, len(forget))
            gone, rest = (convex.Rows(whole.x[a:b], whole.signs[:, a:b]) for a, b in ((at, end), (end, None)))
            weights, bound = convex.remove(weights, rest, gone, head.terms.lam, norm)
            spent = spent + bound
            if (together := float(spent.norm())) > head.terms.budget:
                raise Unsound(
                    f"removal {at + 1} of {len(forget)} would carry the gradient bound to {together:.6g}, beyond the budget {head.terms.budget:.6g} for "
                    f"epsilon {head.terms.epsilon:g}, delta {head.terms.delta:g}; {at} rows fit, for more train the head anew (efface train --recipe convex_head)"
                )
            ctx.log(removed=float(end), spent=together)
        head.take(weights)
        head.spent.copy_(spent)
