"""l1-sparse unlearning (arXiv:2304.04934): fine-tuning on keep rows under an l1 penalty that fades out.

minimized = mean loss of keep rows + gamma_t |theta|_1,   gamma_t = gamma (1 - t / (T - unpenalized)) in epoch t of T, 0 in the last ones

The norm runs over all weights, biases and those of normalization included; nothing is cut off at the end, so weights come out
small and not zero. The code: 10 epochs, SGD at lr .01, momentum .9, weight decay 5e-4, batches of 256, no clipping. gamma is
what matters: 1e-5 to 1e-3 for a ResNet-18, 5e-3 for a network of 17,000 weights.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from efface.core.card import Card
from efface.core.config import Config, Fit
from efface.core.context import Context
from efface.core.errors import BadConfig
from efface.core.types import Method, Request
from efface.ops.loop import descend, in_steps


class L1SparseConfig(Config):
    """Settings of l1-sparse unlearning."""

    gamma: float = Field(5e-4, ge=0)
    """Weight of the l1 norm in the first epoch; small networks want about ten times as much."""
    unpenalized: int = Field(0, ge=0)
    """Epochs at the end without any penalty; as many as there are epochs, or more, leave plain fine-tuning."""
    fit: Fit = Fit(optimizer="sgd", lr=1e-2, epochs=10, batch=256, momentum=0.9, weight_decay=5e-4, clip=0)
    """Optimizer settings; without fit.epochs, fit.steps says how many epochs there are. Adapters (fit.rank) are not possible."""


class L1Sparse(Method[L1SparseConfig]):
    """Drives weights towards zero while holding the keep rows, so that what only forget rows needed is lost."""

    card = Card(
        name="l1_sparse", title="Fine-tuning with a fading l1 penalty", paper="arXiv:2304.04934", families=("classifier", "regressor"),
        needs=("losses",), uses=("keep",),
        technique="parameter optimization", intent="remove", touches=("weights",), locality="all", data=("keep rows",), operator="weights",
        sequence="accumulates", reversible=False, guarantee="empirical",
        departs="with as many epochs without a penalty as there are epochs the coefficient is 0, where the code leaves it at gamma throughout",
    )

    def run(self, subject: Any, request: Request, ctx: Context) -> Any:
        """Return the subject after penalized fine-tuning; each line of the log carries the coefficient. Raises BadConfig for fit.rank."""
        config = self.config
        if config.fit.rank:
            raise BadConfig(f"setting fit.rank = {config.fit.rank}: l1_sparse shrinks the model's own weights and has no adapter; leave fit.rank at 0")
        after = subject.trainable(0, ctx.seed_for("adapter"))
        pools = {"keep": request.rows("keep")}
        fit = in_steps(config.fit, pools)
        an_epoch = math.ceil(len(pools["keep"]) / fit.batch)
        weights = [p for p in after.model.parameters() if p.requires_grad]
        begun = len(ctx.curve)

        def at(step: int) -> float:
            return coefficient(config.gamma, step // an_epoch, math.ceil(fit.steps / an_epoch), config.unpenalized)

        def loss(batches: Mapping[str, Any]) -> dict[str, Tensor]:
            # The log has a line for each step that is done, those before a kill and a resume included.
            step = int(ctx.curve[-1]["step"]) + 1 if len(ctx.curve) > begun else 0
            keep = after.losses(batches["keep"]).mean()
            gamma = at(step)
            norm = torch.stack([weight.abs().sum() for weight in weights]).sum() if gamma else keep.new_zeros(())
            return {"keep": keep, "l1": gamma * norm}

        descend(after, pools, loss, fit, ctx)
        for line in ctx.curve[begun:]:
            line["coefficient"] = at(int(line["step"]))
        return after


def coefficient(gamma: float, epoch: int, epochs: int, unpenalized: int = 0) -> float:
    """The weight of the l1 norm in an epoch, counted from 0: it falls along a line that reaches zero where the last epochs begin."""
    penalized = epochs - unpenalized
    return gamma * (1 - epoch / penalized) if epoch < penalized else 0.0
