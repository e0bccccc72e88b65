"""Blindspot unlearning of deep regression (Tarun et al., ICML 2023, arXiv:2210.08196): forget rows follow a model that never saw them.

1. The blindspot model B: the same architecture from new random weights, trained on the keep rows for a few passes, then frozen.
2. The student f starts at the subject. With batches drawn from all rows, u = 1 for a forget row and 0 for a keep row,

       minimized = mean over rows of  (1 - u) l(f(x), y) + u [ l(f(x), B(x)) + beta * sum_j AD_j(x) ]
       AD_j(x)   = mean over positions of (A(h_j of f) - A(h_j of B))^2
       A(h)      = h^2 averaged over channels, flattened, scaled to norm 1 for each row; h^2 itself where h has no positions

   l is the task's loss and h_j the output of layer j.

The mean over rows is what the paper writes as (1 - r) times the mean over kept rows plus r times that over forget rows, with
r the share of forget rows in the batch, and it stays a number for r = 0 and r = 1.

The authors: beta 50, Adam without clipping, B for 2 to 10 epochs at 1e-2, student for 1 to 5 epochs at 1e-3, batch 256: about
as many steps as here, where batches are of 64 since data are small. A map of a single number, such as that of the last layer,
is 1 in both models and asks nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor, nn

from efface.core.card import Card
from efface.core.config import Config, Fit
from efface.core.context import Context
from efface.core.errors import BadConfig
from efface.core.types import Method, Request
from efface.families.module import bare
from efface.ops.loop import descend

Maps = list[Tensor]


class BlindspotConfig(Config):
    """Settings of blindspot unlearning."""

    beta: float = Field(50.0, ge=0)
    """Weight of the attention terms."""
    layers: tuple[Annotated[int, Field(ge=0)], ...] = ()
    """Layers whose attention is compared, from 0; all linear and convolutional ones when empty."""
    blind: Fit = Fit(optimizer="adam", lr=1e-2, steps=200, batch=64, clip=0)
    """Optimizer settings of the blindspot model; a few passes are enough."""
    fit: Fit = Fit(optimizer="adam", lr=1e-3, steps=100, batch=64, clip=0)
    """Optimizer settings of the student."""


class Blindspot(Method[BlindspotConfig]):
    """Teaches the forget rows by a weak model that never saw them, and the keep rows by their targets."""

    card = Card(
        name="blindspot", title="Blindspot unlearning of regression", paper="arXiv:2210.08196", families=("regressor",),
        needs=("losses", "fresh", "activations"), uses=("forget", "keep"),
        technique="relabeling", intent="remove", touches=("weights", "adapter"), locality="all", data=("forget rows", "keep rows"), operator="weights",
        sequence="accumulates", reversible=False, guarantee="empirical",
        departs="outputs of all layers before their nonlinearity, where the code names some after it; in a fully connected layer the squared "
        "activations are the map, where the code averages them into one number, whose term is always 0; batches of 64, not 256",
    )

    def run(self, subject: Any, request: Request, ctx: Context) -> Any:
        """Return the student. Raises BadConfig for a layer that the subject lacks."""
        config, forget, keep = self.config, request.rows("forget"), request.rows("keep")
        modules = subject.modules_of("layer")
        if wrong := [layer for layer in config.layers if layer >= len(modules)]:
            raise BadConfig(f"setting layers = {list(config.layers)}: there is no layer {wrong[0]}; the model has layers 0 to {len(modules) - 1}")
        layers = config.layers or tuple(range(len(modules)))
        axes = [_channels(modules[layer]) for layer in layers]
        blind = _blind(subject, keep, config.blind, ctx)
        after = subject.trainable(config.fit.rank, ctx.seed_for("adapter"))

        def loss(batches: Mapping[str, Any]) -> dict[str, Tensor]:
            batch = batches["all"]
            gone = batch.index.to(batch.labels.device) < len(forget)
            said, mine = _seen(after, batch, layers, axes)
            with torch.no_grad():
                wanted, theirs = _seen(blind, batch, layers, axes)
            far = sum(((a - b) ** 2).mean(1) for a, b in zip(mine, theirs, strict=True))  # (B,)
            there = after.errors(said, wanted) + config.beta * far
            return {"forget": (gone * there).mean(), "keep": (~gone * after.errors(said, batch.labels)).mean()}

        return descend(after, {"all": [*forget, *keep]}, loss, config.fit, ctx)


def attention(h: Tensor, channels: int) -> Tensor:
    """The attention map of each row (B, positions): squares averaged over the axis `channels`, scaled to norm 1.

    Activations without positions (B, F) are the map themselves.
    """
    squares = h.square()
    flat = squares if h.dim() == 2 else squares.mean(channels).flatten(1)
    return nn.functional.normalize(flat, dim=1)


def _seen(subject: Any, batch: Any, layers: Sequence[int], axes: Sequence[int]) -> tuple[Tensor, Maps]:
    """Estimates (B,), and the attention maps of each of `layers` at each of its uses."""
    with subject.taps("layer") as caught:
        said = subject.estimates(batch)
    return said, [attention(h, axis) for layer, axis in zip(layers, axes, strict=True) for h in caught[layer]]


def _channels(module: nn.Module) -> int:
    """The axis of a layer's output that holds channels: last behind a linear layer, first after the rows behind a convolution."""
    return -1 if isinstance(bare(module), nn.Linear) else 1


def _blind(subject: Any, keep: Sequence[Any], fit: Fit, ctx: Context) -> Any:
    """The blindspot model, which saw the keep rows alone. Its training has a log of its own."""
    own = ctx.alone(folder=None, curve=[], notes={}, spent=ctx.spent, began=ctx.began)
    blind = subject.fresh(ctx.seed_for("blindspot"))
    blind = descend(blind, {"keep": keep}, lambda batch: {"loss": blind.losses(batch["keep"]).mean()}, fit, own)
    ctx.note(blindspot_loss=own.curve[-1]["loss"] if own.curve else "not trained")
    return blind
