"""Gradient difference (arXiv:2203.12817, as in TOFU, arXiv:2401.06121): ascent on forget rows, descent on keep rows.

minimized = -forget_weight * mean m(forget) + keep_weight * mean m(keep), m a row's mean loss per labeled token.

The forget term has no bound, so the stop rule ends the run. TOFU and open-unlearning: both weights 1, lr 1e-5, ten epochs
at batch 32, no stop rule; that over-forgets.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import Field
from torch import Tensor

from efface.core.card import Card
from efface.core.config import Config, Fit, Stop
from efface.core.context import Context
from efface.core.types import Method, Request
from efface.ops.loop import descend, watch


class GradDiffConfig(Config):
    """Settings of gradient difference."""

    forget_weight: float = Field(1.0, ge=0)
    """Weight of the ascent on forget rows."""
    keep_weight: float = Field(1.0, ge=0)
    """Weight of the loss on keep rows."""
    fit: Fit = Fit(lr=1e-5, steps=200, batch=8)
    """Optimizer settings; adapters (fit.rank) and small networks want a learning rate 10 to 100 times as high."""
    stop: Stop = Stop()
    """When to end; this method needs it."""


class GradDiff(Method[GradDiffConfig]):
    """Raises the loss on forget rows while lowering it on keep rows."""

    card = Card(
        name="grad_diff", title="Gradient difference", paper="arXiv:2203.12817", families=("causal-lm", "classifier", "regressor"), needs=("losses",),
        uses=("forget", "keep"),
        technique="parameter optimization", intent="remove", touches=("weights", "adapter"), locality="all", data=("forget rows", "keep rows"), operator="weights",
        sequence="accumulates", reversible=False, guarantee="empirical",
        departs="each row weighs the same, where the code lets each token weigh the same; ends at the level of rows never seen, where the "
        "code always runs ten epochs",
    )

    def run(self, subject: Any, request: Request, ctx: Context) -> Any:
        """Return the subject after descent on the difference."""
        config = self.config
        after = subject.trainable(config.fit.rank, ctx.seed_for("adapter"))

        def loss(batches: Mapping[str, Any]) -> dict[str, Tensor]:
            return {
                "forget": -config.forget_weight * after.losses(batches["forget"]).mean(),
                "keep": config.keep_weight * after.losses(batches["keep"]).mean(),
            }

        pools = {"forget": request.rows("forget"), "keep": request.rows("keep")}
        return descend(after, pools, loss, config.fit, ctx, watch(subject, after, request, config.stop, ctx))
