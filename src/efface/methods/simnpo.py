"""SimNPO (arXiv:2410.07163): NPO without a reference model, normalized by length.

forget = (2 / beta) * mean softplus(-beta * (m - delta)),  m = a row's mean loss per labeled token
keep   = mean loss on keep rows, or KL(before || after) on them, or nothing.

delta (the code's gamma) stands inside beta, as in the authors' code. The paper has it outside: log sigmoid(-beta / |y| * log p -
gamma), which is this with delta = gamma / beta; at 0, the default of both, they are one.
A row's gradient is that of -log p times -2 sigmoid(-beta * (m - delta)) / T: rows that are far enough up are left alone.
The paper on TOFU: beta 2.5 and forget weight 0.1375 (forget05), beta 4.5 and 0.125 (forget10), delta 0, keep weight 1, lr 1e-5,
ten epochs at batch 32; on MUSE beta 0.7. With those weights forget rows may never get to the level of rows never seen, where the
run ends; the forget weight is 1 here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import Field
from torch import Tensor
from torch.nn.functional import softplus

from efface.core.card import Card
from efface.core.config import Config, Fit, Stop
from efface.core.context import Context
from efface.core.types import Method, Request
from efface.ops.keep import Keep, KeepTerm
from efface.ops.loop import descend, watch


class SimNPOConfig(Config):
    """Settings of SimNPO."""

    beta: float = Field(2.5, gt=0)
    """Inverse temperature: how soon a row counts as forgotten."""
    delta: float = 0.0
    """Mean loss per token around which a row's weight falls."""
    keep: KeepTerm = "loss"
    """What holds the keep rows: their loss, their distance to the model before (kl), or nothing (none)."""
    forget_weight: float = Field(1.0, ge=0)
    """Weight of the forget term."""
    keep_weight: float = Field(1.0, ge=0)
    """Weight of the keep term."""
    fit: Fit = Fit(lr=1e-5, steps=200, batch=8)
    """Optimizer settings; adapters (fit.rank) want a learning rate 10 to 100 times as high."""
    stop: Stop = Stop()
    """When to end."""


class SimNPO(Method[SimNPOConfig]):
    """Raises the mean loss per token of forget answers, with a force that fades as it rises."""

    card = Card(
        name="simnpo", title="SimNPO", paper="arXiv:2410.07163", families=("causal-lm",), needs=("losses",), uses=("forget", "keep"),
        technique="parameter optimization", intent="remove", touches=("weights", "adapter"), locality="all", data=("forget rows", "keep rows"), operator="weights",
        sequence="accumulates", reversible=False, guarantee="empirical",
        departs="forget weight 1, where the paper tunes it to 0.125 or 0.1375; delta inside beta, as in the code, where the paper has it outside; each keep row weighs the same; ends at the level of rows "
        "never seen, where the code always runs ten epochs",
    )

    def run(self, subject: Any, request: Request, ctx: Context) -> Any:
        """Return the subject after SimNPO."""
        config = self.config
        after = subject.trainable(config.fit.rank, ctx.seed_for("adapter"))
        keep = Keep(config.keep, config.keep_weight, subject, request, ctx)

        def loss(batches: Mapping[str, Any]) -> dict[str, Tensor]:
            each = simnpo(after.losses(batches["forget"]), config.beta, config.delta)
            return {"forget": config.forget_weight * each.mean(), **keep.terms(after, batches)}

        pools = {"forget": request.rows("forget"), **keep.pools}
        return descend(after, pools, loss, config.fit, ctx, watch(subject, after, request, config.stop, ctx))


def simnpo(mean_losses: Tensor, beta: float, delta: float = 0.0) -> Tensor:
    """Loss of each row (B,) from its mean loss per labeled token."""
    return 2 / beta * softplus(-beta * (mean_losses - delta))
