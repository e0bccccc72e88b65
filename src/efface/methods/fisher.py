"""Fisher forgetting (arXiv:1911.04933): noise where the kept rows hold the weights loosely, and a zero row for a forgotten class.

    F_i = mean over keep rows of sum_y p(y|x) (d log p(y|x) / d theta_i)^2           every label, weighed by its chance
    v_i = alpha min(1 / (F_i + 1e-8), cap)                                            averaged over dim 1 of a matrix
    theta' = mu + sqrt(v) N(0, 1),   mu = theta, but 0 (and v = row_variance) in the output row of a class wholly forgotten

The last layer has a cap and a factor of its own; one-dimensional parameters have the factor too. Zeroing and noise are
separate settings, because in the class task it is the zero row that forgets.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from efface.core.card import Card
from efface.core.config import Config
from efface.core.context import Context
from efface.core.errors import Unfit
from efface.core.types import Method, Request, Row
from efface.ops.importance import per_sample_squares, weights_of

TINY = 1e-8


class FisherConfig(Config):
    """Settings of Fisher forgetting."""

    alpha: float = Field(1e-6, ge=0)
    """Scale of the noise's variance; published 1e-6, elsewhere down to 1e-9."""
    noise: bool = True
    """Add noise where the kept rows hold the weights loosely."""
    zero: bool = True
    """Set the output rows of classes that have forget rows and no keep rows to zero, before a little noise."""
    row_variance: float = Field(1e-4, ge=0)
    """Variance of the noise on such an output row."""
    cap: float = Field(1e3, gt=0)
    """Largest 1 / F."""
    head_cap: float = Field(1e2, gt=0)
    """Largest 1 / F in the last layer."""
    factor: float = Field(10.0, ge=0)
    """Multiplies the variance of the last layer and of one-dimensional parameters."""
    rows: int = Field(0, ge=0)
    """Most keep rows to measure; 0 takes all."""
    batch: int = Field(256, ge=1)
    """Rows of one pass; the result does not depend on it."""


class Fisher(Method[FisherConfig]):
    """Blurs what the kept rows do not need, and empties the output row of a forgotten class."""

    card = Card(
        name="fisher", title="Fisher forgetting", paper="arXiv:1911.04933", families=("classifier",), needs=("losses", "weights", "features"), uses=("forget", "keep"),
        technique="closed form", intent="remove", touches=("weights",), locality="all", data=("forget rows", "keep rows"), operator="weights",
        sequence="accumulates", reversible=False, guarantee="empirical",
        departs="the forgotten class is read off the rows; the last layer is the last linear module, where the code takes every parameter "
        "with as many rows as there are classes",
    )

    def run(self, subject: Any, request: Request, ctx: Context) -> Any:
        """Return the subject with blurred weights. Raises Unfit when neither noise nor zeroing has anything to do."""
        config, forget, keep = self.config, request.rows("forget"), request.rows("keep")
        gone = sorted({int(str(row["y"])) for row in forget} - {int(str(row["y"])) for row in keep}) if config.zero else []
        if not config.noise and not gone:
            raise Unfit("fisher without noise empties the output rows of classes wholly forgotten, and each class of the forget rows has keep rows; set noise = true")
        after = subject.merged()
        after.origin = ""
        own = {id(p) for p in after.modules_of("head")[-1].parameters()}
        information = self._information(after, keep, ctx) if config.noise else {}
        generator = torch.Generator().manual_seed(ctx.seed_for("noise") % 2**62)
        with torch.no_grad():
            for name, weight in weights_of(after.model).items():
                head = id(weight) in own
                variance = self._variance(information[name], head) if config.noise else torch.zeros_like(weight)
                mean = weight.detach().clone()
                if head and gone:
                    mean[gone], variance[gone] = 0.0, config.row_variance
                noise = torch.randn(weight.shape, generator=generator).to(weight)
                weight.copy_(mean + variance.sqrt().to(weight) * noise)
        ctx.note(zeroed=", ".join(map(str, gone)) or "no class")
        return after

    def _variance(self, information: Tensor, head: bool) -> Tensor:
        """Variance of the noise on one parameter."""
        config = self.config
        found = config.alpha * (1 / (information + TINY)).clamp(max=min(config.cap, config.head_cap) if head else config.cap)
        if found.ndim > 1:
            found = found.mean(dim=1, keepdim=True).expand_as(found).clone()
        return found * config.factor if head or found.ndim == 1 else found

    def _information(self, after: Any, keep: Sequence[Row], ctx: Context) -> dict[str, Tensor]:
        """Mean over keep rows of the Fisher information of each weight, by parameter name."""
        config = self.config
        rows = ctx.random("rows").sample(keep, config.rows) if 0 < config.rows < len(keep) else keep
        batches = [after.encode(rows[at : at + config.batch]) for at in range(0, len(rows), config.batch)]
        classes = int(after.logits(batches[0]).shape[1])
        total: dict[str, Tensor] = {}
        way: Any = "auto"
        for label in ctx.progress(range(classes), "labels", classes):

            def weighed(batch: Any, label: int = label) -> Tensor:
                # The square of its gradient is p(y|x) (d log p(y|x))^2: the weight stands outside of the gradient.
                log_p = after.logits(batch).log_softmax(-1)[:, label]
                return -log_p * (log_p.detach() / 2).exp()

            found = per_sample_squares(after.model, batches, weighed, power=2, way=way)
            way = found.way
            for name, value in found.mean().items():
                total[name] = total[name] + value if name in total else value
        return total
