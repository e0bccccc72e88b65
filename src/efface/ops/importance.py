"""How much each weight matters to a set of rows: sums over rows of |gradient of the row's loss| to a power.

    total_i = sum over rows n of |d loss_n / d theta_i|^power          power 2: n times the diagonal of the empirical Fisher

The square stands inside the sum over rows. Squaring the gradient of a batch's mean loss is another thing (`batch_squares`):
it depends on the size of the batch.

Three ways lead to the same numbers, and the first that does is taken: layer by layer from what each layer read and what
came back to it (`layers`; no row ever makes a pass of its own), torch.func.vmap over the whole model (`vmap`), and one
backward pass a row (`rows`). On the first batch the faster ways are held against the slowest for two rows.

A batch is whatever the losses take: a tensor, a mapping, a sequence or a dataclass of tensors whose first axis is the rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, is_dataclass, replace
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn

from efface.core.errors import Diverged, Unfit
from efface.ops.layer_gradients import KNOWN, Uses, knows

Losses = Callable[[Any], Tensor]
"""A batch -> the loss of each row (B,), differentiable, computed by the model in question."""
Way = Literal["auto", "layers", "vmap", "rows"]
PIECE = 256 * 2**20
"""Most bytes of whole per-row gradients that the way `vmap` holds at once."""
AGREE, NOISE = 1e-3, 1e-4
"""Two ways agree within AGREE of a tensor's largest number and of NOISE times the largest number of all."""


@dataclass
class Importance:
    """Sums over rows, by parameter name, and how they were found."""

    total: dict[str, Tensor]
    rows: int
    way: str

    def mean(self) -> dict[str, Tensor]:
        """The mean over rows, by parameter name."""
        return {name: value / max(1, self.rows) for name, value in self.total.items()}

    def __add__(self, other: Importance) -> Importance:
        total = {name: value + other.total[name] for name, value in self.total.items()}
        return Importance(total, self.rows + other.rows, self.way)


def weights_of(model: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that can have a gradient, by name; a tied one counts once."""
    return {name: p for name, p in model.named_parameters() if p.is_floating_point()}


def per_sample_squares(model: nn.Module, batches: Iterable[Any], losses: Losses, power: Literal[1, 2] = 2, way: Way = "auto") -> Importance:
    """Sums over all rows of |gradient of the row's loss|^power, exactly, in bounded memory.

    The model must be in evaluation mode, so that no row depends on another. Raises Unfit otherwise, and Diverged when a
    gradient is not finite.
    """
    _must_evaluate(model)
    total: dict[str, Tensor] = {}
    rows = 0
    for batch in batches:
        if way == "auto":
            way = _quickest(model, batch, losses, power)
        rows += size_of(batch)
        found = WAYS[way](model, batch, losses, power)
        total = {name: total[name] + value if total else value.to(_wide(value)) for name, value in found.items()}
    if not rows:
        raise Unfit("importance was asked over no rows")
    return Importance(_finite(total), rows, way)


def batch_squares(model: nn.Module, batches: Iterable[Any], losses: Losses, power: Literal[1, 2] = 2) -> Importance:
    """Sums over batches of size * |gradient of the batch's mean loss|^power: the form of published code, not the Fisher.

    Each batch weighs as its rows do, so that a short last one does not count like a full one.
    """
    _must_evaluate(model)
    total: dict[str, Tensor] = {}
    rows = 0
    for batch in batches:
        size = size_of(batch)
        rows += size
        found = {name: size * _power(grad.to(_wide(grad)) / size, power) for name, grad in _gradient(model, batch, losses).items()}
        total = {name: total[name] + value for name, value in found.items()} if total else found
    if not rows:
        raise Unfit("importance was asked over no rows")
    return Importance(_finite(total), rows, "batch")


def mean_gradient(model: nn.Module, batches: Iterable[Any], losses: Losses) -> dict[str, Tensor]:
    """The gradient of the mean loss over all rows, by parameter name; each row weighs the same, whatever its batch."""
    total: dict[str, Tensor] = {}
    rows = 0
    for batch in batches:
        rows += size_of(batch)
        for name, grad in _gradient(model, batch, losses).items():
            total[name] = total[name] + grad if name in total else grad
    if not rows:
        raise Unfit("a gradient was asked over no rows")
    return _finite({name: value / rows for name, value in total.items()})


def per_sample_gradients(model: nn.Module, batch: Any, losses: Losses) -> dict[str, Tensor]:
    """The gradient of each row's loss (B, *shape), by parameter name; it takes B times the memory of the model."""
    _must_evaluate(model)
    try:
        return _by_vmap(model, batch, losses)
    except (RuntimeError, ValueError, NotImplementedError):  # an operation that cannot be vectorized, or a look at the data
        each = [_gradient(model, part, losses) for part in pieces(batch, 1)]
        return {name: torch.stack([row[name] for row in each]) for name in each[0]}


def size_of(batch: Any) -> int:
    """Number of rows of a batch."""
    found = _tensors(batch)
    return len(found[0]) if found else 0


def pieces(batch: Any, size: int) -> Iterator[Any]:
    """The batch in batches of at most `size` rows."""
    for at in range(0, size_of(batch), size):
        yield _each(batch, partial(_cut, at, at + size))


# -- the three ways ---------------------------------------------------------------------------------------------------------


def _layers(model: nn.Module, batch: Any, losses: Losses, power: int) -> dict[str, Tensor]:
    """Sums of one batch from each layer's input and the gradient of its output; Unfit where a parameter has no formula."""
    weights, rows = weights_of(model), size_of(batch)
    names = {id(p): name for name, p in weights.items()}
    owned = {id(p) for module in model.modules() if knows(module) for p in module.parameters(recurse=False)}
    loose = {name: p for name, p in weights.items() if id(p) not in owned}
    if strange := [name for name, p in loose.items() if p.shape[:1] != (1,)]:
        raise Unfit(f"{strange[0]} stands in no layer with a formula; there are: {', '.join(kind.__name__ for kind in KNOWN)}")
    # A parameter (1, ...) that a module holds itself, as a class token, is spread over the rows: then each row has its own.
    spread = {name: p.detach().expand(rows, *p.shape[1:]).clone().requires_grad_() for name, p in loose.items()}
    uses = Uses(rows, power)
    with _frozen(model), torch.enable_grad(), uses.watch(model):
        loss = torch.func.functional_call(_Whole(model, losses), {f"model.{name}": p for name, p in spread.items()}, (batch,)).sum()
        if loss.requires_grad:
            loss.backward()  # only to what the first layer gave: no parameter of the model asks for a gradient
    found = {names[key]: value for key, value in uses.sums().items()}
    for name, p in spread.items():
        found[name] = torch.zeros_like(weights[name]) if p.grad is None else _power(p.grad, power).sum(0, keepdim=True)
    return found


def _vmap(model: nn.Module, batch: Any, losses: Losses, power: int) -> dict[str, Tensor]:
    row = sum(p.numel() * p.element_size() for p in weights_of(model).values())
    total: dict[str, Tensor] = {}
    for part in pieces(batch, max(1, PIECE // max(1, row))):
        for name, value in _by_vmap(model, part, losses).items():
            found = _power(value, power).sum(0, dtype=_wide(value))
            total[name] = total[name] + found if name in total else found
    return total


def _rows(model: nn.Module, batch: Any, losses: Losses, power: int) -> dict[str, Tensor]:
    total: dict[str, Tensor] = {}
    for part in pieces(batch, 1):
        for name, value in _gradient(model, part, losses).items():
            found = _power(value, power).to(_wide(value))  # not in place: two parameters may have one and the same gradient
            total[name] = total[name] + found if name in total else found
    return total


WAYS: Mapping[str, Callable[[nn.Module, Any, Losses, int], dict[str, Tensor]]] = {"layers": _layers, "vmap": _vmap, "rows": _rows}


def _quickest(model: nn.Module, batch: Any, losses: Losses, power: int) -> Way:
    """The first way that runs on this model and gives what single backward passes give for the first two rows.

    Not a matter of timing: the same model must always go the same way.
    """
    few = next(pieces(batch, 2))
    slow = _rows(model, few, losses, power)
    largest = max(float(value.max()) for value in slow.values())
    for way in ("layers", "vmap"):
        if way == "vmap" and _convolves(model):
            break
        try:
            fast = WAYS[way](model, few, losses, power)
        except (Unfit, RuntimeError, ValueError, NotImplementedError):  # no formula, no vectorized form, or a look at the data
            continue
        if all(_agree(fast[name], value, largest) for name, value in slow.items()):
            return way  # type: ignore[return-value]
    return "rows"


def _agree(one: Tensor, other: Tensor, largest: float) -> bool:
    # A gradient that is zero but for rounding, as that of a key's bias in attention, agrees in no digit.
    allowed = AGREE * (float(other.max()) + NOISE * largest)
    return bool(((one - other).abs() <= allowed).all())


def _convolves(model: nn.Module) -> bool:
    """Whether most weights stand in convolutions, which vmap makes slower than single rows."""
    kinds = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
    inside = sum(p.numel() for module in model.modules() if isinstance(module, kinds) for p in module.parameters(recurse=False))
    return 2 * inside > sum(p.numel() for p in model.parameters())


def _by_vmap(model: nn.Module, batch: Any, losses: Losses) -> dict[str, Tensor]:
    """Per-row gradients (B, *shape) by torch.func."""
    weights = {f"model.{name}": p.detach() for name, p in weights_of(model).items()}
    whole = _Whole(model, losses)
    flat = _tensors(batch)

    def one(theta: dict[str, Tensor], *row: Tensor) -> Tensor:
        parts = iter(row)
        single = _each(batch, lambda tensor: next(parts).unsqueeze(0))
        found: Tensor = torch.func.functional_call(whole, theta, (single,))
        return found.sum()

    with _frozen(model):
        grads = torch.func.vmap(torch.func.grad(one), in_dims=(None, *(0 for _ in flat)))(weights, *flat)
    return {name.removeprefix("model."): value.detach() for name, value in grads.items()}


class _Whole(nn.Module):
    """The losses as a module that holds the model, so that its parameters can be exchanged for one call."""

    def __init__(self, model: nn.Module, losses: Losses) -> None:
        super().__init__()
        self.model, self.losses = model, losses
        self.training = False

    def forward(self, batch: Any) -> Tensor:
        return self.losses(batch)


def _gradient(model: nn.Module, batch: Any, losses: Losses) -> dict[str, Tensor]:
    """The gradient of the sum of the losses of one batch; zero where the loss does not reach."""
    weights = weights_of(model)
    with _frozen(model, to=True), torch.enable_grad():
        loss = losses(batch).sum()
        grads = torch.autograd.grad(loss, list(weights.values()), allow_unused=True) if loss.requires_grad else [None] * len(weights)
    return {name: torch.zeros_like(p) if grad is None else grad for (name, p), grad in zip(weights.items(), grads, strict=True)}


# -- helpers ----------------------------------------------------------------------------------------------------------------


@contextmanager
def _frozen(model: nn.Module, to: bool = False) -> Iterator[None]:
    """The model with requires_grad at one value for all its parameters, while the block lasts."""
    before = [(p, p.requires_grad) for p in model.parameters() if p.is_floating_point()]
    try:
        for p, _ in before:
            p.requires_grad_(to)
        yield
    finally:
        for p, had in before:
            p.requires_grad_(had)


def _each(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """The same structure with `change` applied to each of its tensors, always in the same order."""
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, Mapping):
        return {name: _each(part, change) for name, part in value.items()}
    if is_dataclass(value) and not isinstance(value, type):
        return replace(value, **{field.name: _each(getattr(value, field.name), change) for field in fields(value)})
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_each(part, change) for part in value]
    return value


def _cut(start: int, end: int, tensor: Tensor) -> Tensor:
    return tensor[start:end]


def _tensors(value: Any) -> list[Tensor]:
    """Its tensors in the order of `_each`."""
    found: list[Tensor] = []

    def note(tensor: Tensor) -> Tensor:
        found.append(tensor)
        return tensor

    _each(value, note)
    return found


def _power(tensor: Tensor, power: int) -> Tensor:
    return tensor.square() if power == 2 else tensor.abs()


def _wide(tensor: Tensor) -> torch.dtype:
    """The type that sums are kept in: never narrower than float32."""
    return torch.promote_types(tensor.dtype, torch.float32)


def _must_evaluate(model: nn.Module) -> None:
    if training := next((name or "the model" for name, module in model.named_modules() if module.training), ""):
        raise Unfit(f"importance is measured row by row, and {training} is in training mode, where rows mix or drop out; call model.eval() first")


def _finite(total: dict[str, Tensor]) -> dict[str, Tensor]:
    for name, value in total.items():
        if not bool(torch.isfinite(value.sum())) and not bool(torch.isfinite(value).all()):  # the sum takes one pass, and may overflow
            raise Diverged(f"a gradient of {name} is not finite; look for rows with huge inputs, or for damaged weights")
    return total


