"""Fine-tuning: a model trained on all rows of the request, those to be forgotten included. This is how a target comes to be.

loss = mean over rows of the mean loss per labeled token (or per example, for a classifier).
"""

from __future__ import annotations

from typing import Any

from efface.core.card import Card
from efface.core.config import Config, Fit
from efface.core.context import Context
from efface.core.errors import Unfit
from efface.core.types import Recipe, Request
from efface.ops.loop import descend


class FinetuneConfig(Config):
    """Settings of fine-tuning."""

    fit: Fit = Fit(lr=2e-5, steps=500, batch=16, warmup=10, schedule="linear")
    """Optimizer settings."""


class Finetune(Recipe[FinetuneConfig]):
    """Trains on the forget rows and the keep rows together."""

    card = Card(
        name="finetune", title="Fine-tuning on all rows", paper="", families=("causal-lm", "classifier", "regressor"), needs=("losses",), uses=(),
        departs="each row weighs the same, where many trainers let each token weigh the same",
    )

    def run(self, subject: Any, request: Request, ctx: Context) -> Any:
        """Return the subject trained on forget and keep rows; Unfit when the request has neither."""
        rows = [row for data in (request.forget, request.keep) if data is not None for row in data.read()]
        if not rows:
            raise Unfit("finetune reads forget and keep rows and the request has neither")
        after = subject.trainable(self.config.fit.rank, ctx.seed_for("adapter"))
        return descend(after, {"all": rows}, lambda batch: {"loss": after.losses(batch["all"]).mean()}, self.config.fit, ctx)
