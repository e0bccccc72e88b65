"""Fine-tuning on what must stay, in the hope that the rest fades: the baseline known as FT.

minimized = mean over keep rows of m, where m is a row's mean loss per labeled token (a classifier's cross-entropy).
"""

from __future__ import annotations

from typing import Any

from efface.core.card import Card
from efface.core.config import Config, Fit, Stop
from efface.core.context import Context
from efface.core.types import Method, Request
from efface.ops.loop import descend, watch


class FinetuneConfig(Config):
    """Settings of fine-tuning as a forgetting method."""

    fit: Fit = Fit(lr=2e-5, steps=200, batch=8)
    """Optimizer settings; adapters (fit.rank) and small networks want a learning rate 10 to 100 times as high."""
    stop: Stop = Stop()
    """When to end, should the forget rows be forgotten before all steps are done."""


class Finetune(Method[FinetuneConfig]):
    """Keeps training on the keep rows alone."""

    card = Card(
        name="finetune", title="Fine-tuning on kept rows", paper="", families=("causal-lm", "classifier", "regressor"), needs=("losses",), uses=("keep",),
        technique="parameter optimization", intent="remove", touches=("weights", "adapter"), locality="all", data=("keep rows",), operator="weights",
        sequence="accumulates", reversible=False, guarantee="none",
        departs="each row weighs the same, where many trainers let each token weigh the same",
    )

    def run(self, subject: Any, request: Request, ctx: Context) -> Any:
        """Return the subject after more training on the keep rows."""
        after = subject.trainable(self.config.fit.rank, ctx.seed_for("adapter"))
        seen = watch(subject, after, request, self.config.stop, ctx)
        pools = {"keep": request.rows("keep")}
        return descend(after, pools, lambda batch: {"keep": after.losses(batch["keep"]).mean()}, self.config.fit, ctx, seen)
