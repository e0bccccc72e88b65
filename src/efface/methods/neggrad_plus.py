"""NegGrad+ (Kurmanji et al., arXiv:2302.09880): down the loss on keep rows while going up the loss on forget rows.

minimized = alpha * mean CE(keep) - (1 - alpha) * mean CE(forget), one batch of forget rows to each batch of keep rows

A regressor has its own loss in the place of CE. MUFAC's "Advanced NegGrad" is alpha = 1/2.

The second term has no bound, and the useful range of alpha is narrow: for a whole class .99 and more (the paper's grid goes
to .9999), while .98 can already ruin what must stay. Give a ceiling, unseen rows or a higher alpha; a number that is not
finite ends the run with an error. Default alpha .95.
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
from efface.ops.loop import Watch, descend, mean_loss, watch


class NegGradPlusConfig(Config):
    """Settings of NegGrad+."""

    alpha: float = Field(0.95, ge=0, le=1)
    """Weight of the descent on keep rows; the rest of 1 is the weight of the ascent on forget rows. A whole class wants .99 or more."""
    ceiling: float | None = Field(None, gt=0)
    """End when the mean loss on forget rows has risen to this (log of the number of classes is a guess); none leaves the end to stop."""
    fit: Fit = Fit(optimizer="sgd", lr=0.01, momentum=0.9, weight_decay=5e-4, epochs=10, batch=64, clip=0)
    """Optimizer settings; an epoch is a pass over the keep rows, with the forget rows over and over beside them."""
    stop: Stop = Stop()
    """When to end, where there is no ceiling."""


class NegGradPlus(Method[NegGradPlusConfig]):
    """Descends on keep rows and ascends on forget rows, weighted by alpha."""

    card = Card(
        name="neggrad_plus", title="NegGrad+", paper="arXiv:2302.09880", families=("classifier", "regressor"), needs=("losses",), uses=("forget", "keep"),
        technique="parameter optimization", intent="remove", touches=("weights", "adapter"), locality="all", data=("forget rows", "keep rows"), operator="weights",
        sequence="accumulates", reversible=False, guarantee="empirical",
        departs="can end at a loss ceiling or at the level of rows never seen, where the code always runs all epochs",
    )

    def run(self, subject: Any, request: Request, ctx: Context) -> Any:
        """Return the subject after descent on the weighted difference; raises Diverged when the loss is no longer finite."""
        config = self.config
        after = subject.trainable(config.fit.rank, ctx.seed_for("adapter"))

        def loss(batches: Mapping[str, Any]) -> dict[str, Tensor]:
            return {
                "forget": (config.alpha - 1) * after.losses(batches["forget"]).mean(),
                "keep": config.alpha * after.losses(batches["keep"]).mean(),
            }

        pools = {"forget": request.rows("forget"), "keep": request.rows("keep")}
        return descend(after, pools, loss, config.fit, ctx, self._watch(subject, after, request, ctx))

    def _watch(self, subject: Any, after: Any, request: Request, ctx: Context) -> Watch | None:
        config = self.config
        if config.ceiling is None:
            return watch(subject, after, request, config.stop, ctx)
        rows = ctx.random("watch").sample(request.rows("forget"), min(config.stop.rows, len(request.rows("forget"))))
        return Watch(lambda: mean_loss(after, rows), config.ceiling, config.stop.every, "the loss on forget rows reached the ceiling")
