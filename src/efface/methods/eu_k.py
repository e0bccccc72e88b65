"""Exact unlearning of the last k layers, EU-k (Goel et al., arXiv:2201.06640): they begin anew and are trained on keep rows.

The last k layers get their initial weights; then minimized = mean over keep rows of the loss, over these layers alone.

Exact for the last k layers only, given the layers below, which still come from all rows: the whole is no guarantee. A layer
is a linear or convolutional module; normalization that stands between or after the last k belongs to them and begins anew
too. The frozen part is a fixed function: its batch normalization keeps its statistics as well.

Initial weights are those that the model had before training. They can be had when the seed that drew them is given
(`seed`); without it new random weights of the same distribution are drawn, which is what retraining with another seed does.
With k = all layers and the seed, this is retraining. A model that began from pretrained weights gets random ones here.

Paper: lr .01, trained as long as the original was; set fit to the original's settings.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn

from efface.core.card import Card
from efface.core.config import Config, Fit
from efface.core.context import Context
from efface.core.errors import BadConfig
from efface.core.types import Method, Request
from efface.ops.loop import descend
from efface.ops.masks import last_layers, only


class EUkConfig(Config):
    """Settings of EU-k."""

    k: int = Field(2, ge=1)
    """Layers, counted from the end, that begin anew."""
    seed: int | None = Field(None, ge=0)
    """Seed that drew the model's initial weights, to go back to them; none draws new random weights."""
    fit: Fit = Fit(optimizer="sgd", lr=0.01, momentum=0.9, weight_decay=5e-4, epochs=60, batch=64, clip=0)
    """Optimizer settings, best those of the original; adapters (fit.rank) are not possible."""


class EUk(Method[EUkConfig]):
    """Trains the last k layers from their initial weights on the keep rows alone."""

    card = Card(
        name="eu_k", title="Exact unlearning of the last k layers", paper="arXiv:2201.06640", families=("classifier", "regressor"),
        needs=("losses", "weights", "fresh"), uses=("keep",),
        technique="retraining", intent="remove", touches=("weights",), locality="selected layers", data=("keep rows",), operator="weights",
        sequence="refits", reversible=False, guarantee="empirical",
        departs="new random weights where the seed of the initial ones is not given; statistics of batch normalization in the frozen part do not move",
    )

    def run(self, subject: Any, request: Request, ctx: Context) -> Any:
        """Return the subject with its last k layers trained anew. Raises BadConfig for too large a k or fit.rank."""
        config = self.config
        if config.fit.rank:
            raise BadConfig(f"setting fit.rank = {config.fit.rank}: eu_k trains whole layers and has no adapter; leave fit.rank at 0")
        after = subject.trainable(0, ctx.seed_for("adapter"))
        start = subject.fresh(ctx.seed_for("fresh") if config.seed is None else config.seed)
        chosen = last_layers(after.model, after.modules_of("layer"), config.k)
        _begin_anew(chosen, last_layers(start.model, start.modules_of("layer"), config.k))
        ctx.note(initial_weights="drawn anew" if config.seed is None else f"those of seed {config.seed}")
        settle = only(after.model, chosen)

        def loss(batches: Mapping[str, Any]) -> dict[str, Tensor]:
            settle()
            return {"keep": after.losses(batches["keep"]).mean()}

        return descend(after, {"keep": request.rows("keep")}, loss, config.fit, ctx)


@torch.no_grad()
def _begin_anew(modules: Sequence[nn.Module], start: Sequence[nn.Module]) -> None:
    """Copy parameters and buffers of `start` into `modules`."""
    for module, fresh in zip(modules, start, strict=True):
        for mine, theirs in (
            *zip(module.parameters(recurse=False), fresh.parameters(recurse=False), strict=True),
            *zip(module.buffers(recurse=False), fresh.buffers(recurse=False), strict=True),
        ):
            mine.copy_(theirs)
