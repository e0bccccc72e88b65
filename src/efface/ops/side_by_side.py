"""Many copies of one small module trained at once: their weights are stacked, and a step of all copies is one pass (torch.func.vmap).

Every copy has rows, order and start of its own, and ends where `descend` would bring it alone, up to rounding. A step of a
small network is mostly waiting for the next operation, and sixteen copies wait together. Modules that vmap cannot train (they
draw random numbers in a pass, or read a number out of a tensor) are trained one after another, and the reason is said.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from efface.core import digest
from efface.core.config import Fit
from efface.core.context import Context
from efface.core.errors import BadRows, Diverged
from efface.core.types import Row

# The optimizer and the schedule have one definition, or the two ways of training would drift apart.
from efface.ops.loop import _set_rate, descend, in_steps, optimizer_for

POOL = "all"
"""Name of the one row set that a copy is trained on."""
CLOSE = 1e-3
"""Largest difference between a copy's losses in the stack and alone, as a share, at which stacking is taken to be sound."""


class Trained(NamedTuple):
    """The trained subjects, whether they were trained together, and why not if they were not."""

    subjects: list[Any]
    together: bool
    why: str


class _Losses(nn.Module):
    """The subject's loss of each row as a module, so that its weights can be swapped from outside."""

    def __init__(self, subject: Any, batch: Any) -> None:
        super().__init__()
        self.model, self.subject, self.batch = subject.model, subject, batch

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        return self.subject.losses(dataclasses.replace(self.batch, x=x, labels=labels))  # type: ignore[no-any-return]


def train(starts: Sequence[Any], rows: Sequence[Row], members: Sequence[Sequence[int]], seeds: Sequence[int], fit: Fit, ctx: Context) -> Trained:
    """Train each of `starts` in place on its own `members` (places in `rows`) and return them with how it was done.

    `starts` are trainable subjects of one architecture. Copy k draws its rows as a run with the seed `seeds[k]` would.
    Raises Diverged, naming the copy, at the first number that is not finite.
    """
    if not all(members):
        raise BadRows(f"copy {next(k for k, own in enumerate(members) if not own) + 1} has no rows to train on")
    batch = starts[0].encode(rows)
    why = unfit(starts, batch, members, seeds, fit)
    if why:
        return Trained(one_by_one(starts, rows, members, seeds, fit, ctx), False, why)
    plans: dict[int, list[int]] = {}
    for k, own in enumerate(members):  # sets of different size may differ in the steps of an epoch
        plans.setdefault(in_steps(fit, {POOL: range(len(own))}).steps, []).append(k)  # type: ignore[dict-item]
    for steps, group in plans.items():
        whole = fit.model_copy(update={"steps": steps, "epochs": 0.0})
        _together([starts[k] for k in group], batch, [members[k] for k in group], [seeds[k] for k in group], whole, ctx)
    return Trained(list(starts), True, "")


def one_by_one(
    starts: Sequence[Any], rows: Sequence[Row], members: Sequence[Sequence[int]], seeds: Sequence[int], fit: Fit, ctx: Context
) -> list[Any]:
    """Train the same copies by the one training loop, one after another."""
    fit = fit.model_copy(update={"checkpoint": 0})
    for start, own, seed in zip(starts, members, seeds, strict=True):
        alone = ctx.alone(seed=seed, folder=None, curve=[], notes={}, spent=ctx.spent, began=ctx.began)
        descend(start, {POOL: [rows[place] for place in own]}, _mean_of(start), fit, alone)
    return list(starts)


def _mean_of(subject: Any) -> Any:
    return lambda batches: {"loss": subject.losses(batches[POOL]).mean()}


def unfit(starts: Sequence[Any], batch: Any, members: Sequence[Sequence[int]], seeds: Sequence[int], fit: Fit) -> str:
    """Why these copies cannot be trained together; "" when they can. Two of them are tried, and compared with each alone."""
    if fit.precision == "bf16" or fit.accumulate > 1:
        return "mixed precision and accumulated batches are left to the one training loop"
    if not isinstance(batch.x, Tensor):
        return "its inputs are not one tensor"
    if not all(parameter.requires_grad for parameter in starts[0].model.parameters()):
        return "some of its weights are frozen"
    shapes = [[(name, tensor.shape) for name, tensor in start.model.state_dict().items()] for start in starts]
    if any(shape != shapes[0] for shape in shapes):
        return "the copies differ in shape"
    pair = [start.model for start in (starts[0], starts[-1])]
    try:
        places = torch.tensor(list(members[0]))[next(row_order(len(members[0]), fit.batch, 1, seeds[0]))].to(batch.labels.device).expand(2, -1)
        x, labels = batch.x[places], batch.labels[places]
        one = _Losses(starts[0], batch)
        with torch.no_grad(), _training(starts[0].model):
            stacked = vmap(_calling(one), randomness="error")(*_stack(pair), x, labels)
            alone = torch.stack([_calling(one)(*_own(model), x[k], labels[k]) for k, model in enumerate(pair)])
    except (RuntimeError, ValueError, TypeError, IndexError, NotImplementedError) as error:
        return f"vmap cannot run {type(starts[0].model).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__}"
    if not torch.allclose(stacked, alone, rtol=CLOSE, atol=CLOSE):
        return f"{type(starts[0].model).__name__} gives other losses in a stack than alone"
    return ""


def _together(starts: Sequence[Any], batch: Any, members: Sequence[Sequence[int]], seeds: Sequence[int], fit: Fit, ctx: Context) -> None:
    """One stacked training; every copy takes as many steps."""
    parameters, buffers = _stack([start.model for start in starts])
    parameters = {name: tensor.requires_grad_(True) for name, tensor in parameters.items()}
    optimizer = optimizer_for(list(parameters.values()), fit)
    losses = vmap(_calling(_Losses(starts[0], batch)), randomness="error")
    own = [torch.tensor(list(places)) for places in members]
    orders = [row_order(len(places), fit.batch, fit.steps, seed) for places, seed in zip(members, seeds, strict=True)]
    with _training(starts[0].model):
        for step in ctx.progress(range(fit.steps), f"training {len(starts)} models side by side", fit.steps):
            places = torch.stack([mine[next(order)] for mine, order in zip(own, orders, strict=True)]).to(batch.labels.device)  # (K, B)
            _set_rate(optimizer, fit, step)
            means = losses(parameters, buffers, batch.x[places], batch.labels[places]).mean(1)  # (K,)
            means.sum().backward()  # the copies share nothing, so each gets the gradient of its own loss
            norms = _clipped(list(parameters.values()), fit.clip)
            _finite(means, norms, step)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            ctx.spend(steps=len(starts))
    for k, start in enumerate(starts):
        with torch.no_grad():
            for name, tensor in (*start.model.named_parameters(), *start.model.named_buffers()):
                tensor.copy_((parameters if name in parameters else buffers)[name][k])
        start.origin = ""
        start.model.eval()
        start.model.requires_grad_(False)


def _calling(module: _Losses) -> Any:
    def call(parameters: Mapping[str, Tensor], buffers: Mapping[str, Tensor], x: Tensor, labels: Tensor) -> Tensor:
        return functional_call(module, {f"model.{name}": tensor for name, tensor in (*parameters.items(), *buffers.items())}, (x, labels))  # type: ignore[no-any-return]

    return call


def _stack(models: Sequence[nn.Module]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Parameters and buffers of all models, by name (K, ...), as copies."""
    each = [_own(model) for model in models]
    return tuple({name: torch.stack([one[kind][name] for one in each]) for name in each[0][kind]} for kind in (0, 1))  # type: ignore[return-value]


def _own(model: nn.Module) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Copies of a model's parameters and buffers; a pass in training may write into buffers."""
    return {n: p.detach().clone() for n, p in model.named_parameters()}, {n: b.detach().clone() for n, b in model.named_buffers()}


class _training:
    """The module in training mode while the block lasts."""

    def __init__(self, model: nn.Module) -> None:
        self.model, self.before = model, copy.copy(model.training)

    def __enter__(self) -> None:
        self.model.train()

    def __exit__(self, *raised: object) -> None:
        self.model.train(self.before)


def row_order(count: int, size: int, steps: int, seed: int) -> Iterator[Tensor]:
    """Places of the rows of each step, as `loop.draw` gives them for a run with this seed, without shuffling anew at every step."""
    own, held = digest.seed_from(seed, "rows", POOL), torch.empty(0, dtype=torch.long)
    epoch = 0
    for _ in range(steps):
        while len(held) < size:
            shuffle = torch.Generator().manual_seed(digest.seed_from(own, epoch) % 2**62)
            held, epoch = torch.cat([held, torch.randperm(count, generator=shuffle)]), epoch + 1
        yield held[:size]
        held = held[size:]


def _clipped(parameters: Sequence[Tensor], clip: float) -> Tensor:
    """Clip the gradients of each copy by its own norm, and return the norms (K,) that they had."""
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    norms = torch.stack([gradient.flatten(1).norm(dim=1) for gradient in gradients]).norm(dim=0)
    if clip:
        share = (clip / (norms + 1e-6)).clamp(max=1.0)
        for gradient in gradients:
            gradient.mul_(share.reshape(-1, *[1] * (gradient.dim() - 1)))
    return norms


def _finite(means: Tensor, norms: Tensor, step: int) -> None:
    good = torch.isfinite(means) & torch.isfinite(norms)
    if not good.all():
        raise Diverged(f"copy {int((~good).nonzero()[0]) + 1} has a loss or gradient that is not finite at step {step}; lower fit.lr, then run again")
