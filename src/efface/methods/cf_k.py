"""Catastrophic forgetting of the last k layers, CF-k (Goel et al., arXiv:2201.06640): only they are fine-tuned, on keep rows.

minimized = mean over keep rows of the loss, over the parameters of the last k layers; all others stay as they are.

A layer is a linear or convolutional module; normalization that stands between or after the last k belongs to them. The
frozen part is a fixed function: its batch normalization keeps its statistics as well. With k = all layers this is fine-tuning.

Paper: lr .01. The last layers alone forget less than fine-tuning does, which itself forgets little; EU-k (eu_k) begins them anew.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import Field
from torch import Tensor

from efface.core.card import Card
from efface.core.config import Config, Fit, Stop
from efface.core.context import Context
from efface.core.errors import BadConfig
from efface.core.types import Method, Request
from efface.ops.loop import descend, watch
from efface.ops.masks import last_layers, only


class CFkConfig(Config):
    """Settings of CF-k."""

    k: int = Field(2, ge=1)
    """Layers, counted from the end, that are trained."""
    fit: Fit = Fit(optimizer="sgd", lr=0.01, momentum=0.9, weight_decay=5e-4, epochs=10, batch=64, clip=0)
    """Optimizer settings; adapters (fit.rank) are not possible."""
    stop: Stop = Stop()
    """When to end, should the forget rows be forgotten before all steps are done."""


class CFk(Method[CFkConfig]):
    """Fine-tunes the last k layers on the keep rows."""

    card = Card(
        name="cf_k", title="Catastrophic forgetting of the last k layers", paper="arXiv:2201.06640", families=("classifier", "regressor"),
        needs=("losses", "weights"), uses=("keep",),
        technique="parameter optimization", intent="remove", touches=("weights",), locality="selected layers", data=("keep rows",), operator="weights",
        sequence="accumulates", reversible=False, guarantee="none",
        departs="statistics of batch normalization in the frozen part do not move; can end at the level of rows never seen",
    )

    def run(self, subject: Any, request: Request, ctx: Context) -> Any:
        """Return the subject with its last k layers fine-tuned. Raises BadConfig for too large a k or fit.rank."""
        config = self.config
        if config.fit.rank:
            raise BadConfig(f"setting fit.rank = {config.fit.rank}: cf_k trains whole layers and has no adapter; leave fit.rank at 0")
        after = subject.trainable(0, ctx.seed_for("adapter"))
        settle = only(after.model, last_layers(after.model, after.modules_of("layer"), config.k))

        def loss(batches: Mapping[str, Any]) -> dict[str, Tensor]:
            settle()
            return {"keep": after.losses(batches["keep"]).mean()}

        return descend(after, {"keep": request.rows("keep")}, loss, config.fit, ctx, watch(subject, after, request, config.stop, ctx))
