"""Boundary unlearning (Chen et al., CVPR 2023, arXiv:2303.11570): a class is moved across its boundary, without any keep row.

shrink   x' = x + bound * sign(grad_x CE(f(x), y));  minimized = mean over forget rows of CE(f(x), argmax f(x'))
expand   one more output C;  minimized = mean over forget rows of CE(f(x), C);  then the output C is cut off again

x' is kept within the smallest and largest number of the forget rows' inputs. A row that stays in its class under the attack
would have its own label reinforced: such rows are dropped, and it is an error when all are. A released port of expand leaves the
extra output in place, so that the model has C + 1 classes; here the row of the last linear module that makes it is removed.

Nothing holds the other classes, and both forms can damage them: on handwritten digits between a third and nearly all of the
keep rows were still right, depending on bound and learning rate. Shrink needs inputs that can be moved, so text models are refused; expand takes them.

Paper: bound .1 on inputs in [0, 1], ten epochs of SGD at lr 1e-5, momentum .9, batch 64. The rate must fit the model.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from efface.core.card import Card
from efface.core.config import Config, Fit
from efface.core.context import Context
from efface.core.errors import BadConfig, Unfit
from efface.core.types import Method, Request, Row
from efface.families.module import Batch, chunks
from efface.ops.loop import descend


class BoundaryConfig(Config):
    """Settings of boundary unlearning."""

    mode: Literal["shrink", "expand"] = "shrink"
    """Move forget rows to the nearest other class, or to an extra class that is cut off afterwards."""
    bound: float = Field(0.1, gt=0)
    """Shrink: by how much every number of an input is moved, in the inputs' own unit."""
    fit: Fit = Fit(optimizer="sgd", lr=1e-5, momentum=0.9, epochs=10, batch=64, clip=0)
    """Optimizer settings; expand has no adapter (fit.rank)."""


class Boundary(Method[BoundaryConfig]):
    """Gives the region of the forget rows to other classes."""

    card = Card(
        name="boundary", title="Boundary shrink and expand", paper="arXiv:2303.11570", families=("classifier",), needs=("losses",), uses=("forget",),
        technique="relabeling", intent="remove", touches=("weights", "adapter"), locality="all", data=("forget rows",), operator="weights",
        sequence="accumulates", reversible=False, guarantee="empirical",
        departs="rows that the attack does not move into another class are dropped, where the code reinforces their own label; the extra "
        "output of expand is cut off, where a port leaves it",
    )

    def run(self, subject: Any, request: Request, ctx: Context) -> Any:
        """Return the subject with the boundary moved. Raises Unfit when no row crosses it, or for shrink on a text model."""
        config, forget = self.config, request.rows("forget")
        if config.mode == "expand":
            return self._expand(subject, forget, ctx)
        if getattr(subject, "tokenizer", None) is not None:
            raise Unfit("boundary moves inputs by small amounts, and a text has none; take mode = expand")
        rows = nearest(subject, forget, config.bound)
        ctx.note(crossed=float(len(rows)), dropped=float(len(forget) - len(rows)))
        if not rows:
            raise Unfit(f"boundary: none of {len(forget)} forget rows leaves its class when its inputs move by bound = {config.bound:g}; raise bound")
        after = subject.trainable(config.fit.rank, ctx.seed_for("adapter"))
        return descend(after, {"forget": rows}, lambda batches: {"forget": after.losses(batches["forget"]).mean()}, config.fit, ctx)

    def _expand(self, subject: Any, forget: Sequence[Row], ctx: Context) -> Any:
        config = self.config
        if config.fit.rank:
            raise BadConfig(f"setting fit.rank = {config.fit.rank}: expand adds an output to the last layer itself; leave fit.rank at 0")
        after = subject.trainable(0, ctx.seed_for("adapter"))
        head = after.modules_of("head")[-1]
        with torch.no_grad():
            width = after.logits(after.encode(forget[:1])).shape[-1]
        if width != head.out_features:
            raise Unfit(f"expand adds an output, and the last linear module has {head.out_features} outputs where the model has {width}")
        wide = _replaced(after, head, _wider(head, ctx.seed_for("output")))

        def loss(batches: Mapping[str, Any]) -> dict[str, Tensor]:
            logits = after.logits(batches["forget"])
            return {"forget": cross_entropy(logits, torch.full((len(logits),), width, device=logits.device))}

        descend(after, {"forget": forget}, loss, config.fit, ctx)
        _replaced(after, wide, _narrower(wide))
        return after


def nearest(subject: Any, rows: Sequence[Row], bound: float) -> list[Row]:
    """The rows that one step of the sign of the gradient moves into another class, labeled with that class."""
    found: list[Row] = []
    ends = [(float(x.min()), float(x.max())) for x in (subject.encode(piece).x for piece in chunks(rows))]
    low, high = min(least for least, _ in ends), max(most for _, most in ends)
    for piece in chunks(rows):
        batch = subject.encode(piece)
        x = batch.x.clone().requires_grad_(True)
        loss = cross_entropy(subject.logits(Batch(x, batch.labels, batch.index)), batch.labels, reduction="sum")
        (gradient,) = torch.autograd.grad(loss, x)
        with torch.no_grad():
            moved = (batch.x + bound * gradient.sign()).clamp(low, high)
            there = subject.logits(Batch(moved, batch.labels, batch.index)).argmax(-1)
        pairs = zip(piece, batch.labels.tolist(), there.tolist(), strict=True)
        found += [{**row, "y": other} for row, own, other in pairs if other != own]
    return found


def _wider(head: nn.Linear, seed: int) -> nn.Linear:
    """The layer with one output more, drawn as torch draws a new linear layer."""
    wide = _shaped(head, head.out_features + 1)
    source = torch.Generator().manual_seed(seed % 2**62)
    reach = 1 / math.sqrt(head.in_features)
    with torch.no_grad():
        for mine, theirs in zip(wide.parameters(), head.parameters(), strict=True):
            mine[:-1] = theirs
            mine[-1] = (torch.rand(theirs.shape[1:], generator=source) * 2 - 1) * reach
    return wide


def _narrower(wide: nn.Linear) -> nn.Linear:
    """The layer without its last output."""
    head = _shaped(wide, wide.out_features - 1)
    with torch.no_grad():
        for mine, theirs in zip(head.parameters(), wide.parameters(), strict=True):
            mine.copy_(theirs[:-1])
    return head.requires_grad_(False)


def _shaped(like: nn.Linear, outputs: int) -> nn.Linear:
    """A linear layer with undefined weights, so that no random number is drawn."""
    with torch.device("meta"):
        empty = nn.Linear(like.in_features, outputs, bias=like.bias is not None, dtype=like.weight.dtype)
    return empty.to_empty(device=like.weight.device).train(like.training)


def _replaced(subject: Any, old: nn.Module, new: nn.Linear) -> nn.Linear:
    """Put `new` in the place of `old` in the subject's own model, and return it."""
    name = next(name for name, module in subject.model.named_modules() if module is old)
    parent, _, leaf = name.rpartition(".")
    if name:
        setattr(subject.model.get_submodule(parent), leaf, new)
    else:
        subject.model = new
    return new
