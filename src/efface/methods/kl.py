"""KL minimization (TOFU, arXiv:2401.06121): ascent on forget rows, held to the model's own words on keep rows.

minimized = -forget_weight * mean m(forget) + keep_weight * mean KL(before || after) on keep rows, m a row's mean loss per
labeled token, KL averaged over a row's labeled positions.

TOFU: both weights 1, lr 1e-5, five epochs at batch 16 or 32, no stop rule, KL over every position with prompt and padding.
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
from efface.ops.keep import Keep
from efface.ops.loop import descend, watch


class KLConfig(Config):
    """Settings of KL minimization."""

    forget_weight: float = Field(1.0, ge=0)
    """Weight of the ascent on forget rows."""
    keep_weight: float = Field(1.0, ge=0)
    """Weight of the distance to the model before forgetting, on keep rows."""
    fit: Fit = Fit(lr=1e-5, steps=200, batch=8)
    """Optimizer settings; adapters (fit.rank) want a learning rate 10 to 100 times as high."""
    stop: Stop = Stop()
    """When to end; this method needs it."""


class KL(Method[KLConfig]):
    """Raises the loss on forget rows while next-token distributions on keep rows stay."""

    card = Card(
        name="kl", title="KL minimization", paper="arXiv:2401.06121", families=("causal-lm",), needs=("losses",), uses=("forget", "keep"),
        technique="parameter optimization", intent="remove", touches=("weights", "adapter"), locality="all", data=("forget rows", "keep rows"), operator="weights",
        sequence="accumulates", reversible=False, guarantee="empirical",
        departs="KL over labeled positions, where the code averages over prompt and padding too; each row weighs the same; ends at the "
        "level of rows never seen, where the code always runs its epochs",
    )

    def run(self, subject: Any, request: Request, ctx: Context) -> Any:
        """Return the subject after ascent under the keep term."""
        config = self.config
        after = subject.trainable(config.fit.rank, ctx.seed_for("adapter"))
        keep = Keep("kl", config.keep_weight, subject, request, ctx)

        def loss(batches: Mapping[str, Any]) -> dict[str, Tensor]:
            return {"forget": -config.forget_weight * after.losses(batches["forget"]).mean(), **keep.terms(after, batches)}

        pools = {"forget": request.rows("forget"), **keep.pools}
        return descend(after, pools, loss, config.fit, ctx, watch(subject, after, request, config.stop, ctx))
