"""Gradient ascent (TOFU, arXiv:2401.06121): go up the loss on the forget rows, and nothing else.

minimized = -mean over rows of m, where m is a row's mean loss per labeled token (a classifier's cross-entropy).

Nothing holds what must stay and nothing bounds the loss, so the run must end in time: the stop rule does that. With the
defaults of TOFU (lr 1e-5, ten epochs, batch 32, no stop rule) the model collapses.
"""

from __future__ import annotations

from typing import Any

from efface.core.card import Card
from efface.core.config import Config, Fit, Stop
from efface.core.context import Context
from efface.core.types import Method, Request
from efface.ops.loop import descend, watch


class GradientAscentConfig(Config):
    """Settings of gradient ascent."""

    fit: Fit = Fit(lr=1e-5, steps=200, batch=8)
    """Optimizer settings; adapters (fit.rank) and small networks want a learning rate 10 to 100 times as high."""
    stop: Stop = Stop()
    """When to end; this method needs it."""


class GradientAscent(Method[GradientAscentConfig]):
    """Maximizes the loss on the forget rows."""

    card = Card(
        name="gradient_ascent", title="Gradient ascent", paper="arXiv:2401.06121", families=("causal-lm", "classifier", "regressor"), needs=("losses",),
        uses=("forget",),
        technique="parameter optimization", intent="remove", touches=("weights", "adapter"), locality="all", data=("forget rows",), operator="weights",
        sequence="accumulates", reversible=False, guarantee="empirical",
        departs="each row weighs the same, where the code lets each token weigh the same; ends at the level of rows never seen, where the "
        "code always runs ten epochs",
    )

    def run(self, subject: Any, request: Request, ctx: Context) -> Any:
        """Return the subject after ascent on the forget rows."""
        after = subject.trainable(self.config.fit.rank, ctx.seed_for("adapter"))
        seen = watch(subject, after, request, self.config.stop, ctx)
        pools = {"forget": request.rows("forget")}
        return descend(after, pools, lambda batch: {"forget": -after.losses(batch["forget"]).mean()}, self.config.fit, ctx, seen)
