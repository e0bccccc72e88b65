"""Gradients of single layers row by row, from what the layer read and the gradient of what it gave.

A linear layer gives row n the gradient g_n a_n^T, so sum_n (g_n a_n^T)^2 = (G^2)^T (A^2): no row's own gradient is ever written
down. With T vectors a row (tokens, or the patches that a convolution reads) it is sum_t g_nt a_nt^T, a product of two small
matrices; those of a few rows at a time stand in memory. For few vectors a row its square is cheaper as a sum over pairs of them:
(sum_t g_t a_t^T)^2 = sum_st (g_s g_t)(a_s a_t)^T.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from efface.core.errors import Unfit

NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
KNOWN = (nn.Linear, nn.Conv1d, nn.Conv2d, *NORMS, nn.LayerNorm, nn.GroupNorm, nn.Embedding)
"""Layers with a formula; a subclass may compute something else and has none."""
PIECE = 2**20
"""Most numbers of one layer's per-row gradients (or patches) that stand in memory at once."""
FEW = 4
"""Up to so many vectors a row, pairs of them are cheaper than the gradients themselves."""


def knows(module: nn.Module) -> bool:
    """Whether the layer has a formula here."""
    if type(module) not in KNOWN:
        return False
    if isinstance(module, nn.Conv1d | nn.Conv2d):
        return module.padding_mode == "zeros" and not isinstance(module.padding, str)
    if isinstance(module, NORMS):
        return module.running_mean is not None and not module.training
    return not (isinstance(module, nn.Embedding) and (module.max_norm is not None or module.sparse or module.scale_grad_by_freq))


class Uses:
    """Sums over the rows of one batch of |gradient|^power for every parameter of a layer with a formula.

    Run a forward and a backward pass inside `watch`. Raises Unfit (or leaves a sum at zero) where a layer is not called as it
    should be; a caller that does not know its model compares with slow passes.
    """

    def __init__(self, rows: int, power: int) -> None:
        self.rows, self.power = rows, power
        self.calls: Counter[int] = Counter()
        """How often each parameter took part; one that did so twice has the sum of two gradients."""
        self.waiting: dict[int, list[tuple[nn.Module, str, Tensor, Tensor]]] = {}
        self.found: dict[int, Tensor] = {}
        self.known: dict[int, Tensor] = {}

    @contextmanager
    def watch(self, model: nn.Module) -> Iterator[None]:
        """Notes every pass through the model's known layers while the block lasts."""
        layers = [module for module in model.modules() if knows(module)]
        self.known = {id(p): p for module in layers for p in module.parameters(recurse=False)}
        with ExitStack() as stack:
            for module in layers:
                if isinstance(module, nn.Embedding):
                    stack.callback(module.register_forward_pre_hook(self._spread).remove)
                stack.callback(module.register_forward_hook(self._seen).remove)
            yield

    def sums(self) -> dict[int, Tensor]:
        """{id of a parameter: its sum}, after the backward pass."""
        for key, parts in self.waiting.items():
            module, name, x, _ = parts[0]
            shape = getattr(module, name).shape
            for at in _starts(self.rows, shape.numel(), x[0].numel()):
                grads = sum(gradients(m, x[at], g[at])[n] for m, n, x, g in parts)
                self._add(key, _power_sum(grads, self.power))  # type: ignore[arg-type]
        self.waiting.clear()
        return {key: self.found[key] if key in self.found else torch.zeros_like(p) for key, p in self.known.items()}

    def _add(self, key: int, value: Tensor) -> None:
        self.found[key] = self.found[key] + value if key in self.found else value

    def _spread(self, module: nn.Module, given: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
        # Positions are looked up once for all rows; looked up for each, the rows stay apart.
        if given and len(given[0]) == 1 < self.rows:
            return (given[0].expand(self.rows, *given[0].shape[1:]), *given[1:])
        return None

    def _seen(self, module: nn.Module, given: tuple[Tensor, ...], out: Tensor) -> Tensor:
        if not given or len(given[0]) != self.rows or len(out) != self.rows:
            raise Unfit(f"a {type(module).__name__} does not read one row for each row of the batch")
        x, version = given[0].detach(), given[0]._version
        self.calls.update(id(p) for p in module.parameters(recurse=False))
        if not out.requires_grad:  # nothing below has a gradient; here the way back ends
            out = out.detach().requires_grad_().clone()

        def back(g: Tensor) -> None:
            if x._version != version:
                raise Unfit(f"what a {type(module).__name__} read was changed in place afterwards")
            self._take(module, x, g.detach())

        out.register_hook(back)
        return out

    def _take(self, module: nn.Module, x: Tensor, g: Tensor) -> None:
        once = {name for name, p in module.named_parameters(recurse=False) if self.calls[id(p)] == 1}
        if once:
            for name, value in sums(module, x, g, self.power).items():
                if name in once:
                    self._add(id(getattr(module, name)), value)
        for name, p in module.named_parameters(recurse=False):
            if name not in once:
                self.waiting.setdefault(id(p), []).append((module, name, x, g))


def gradients(module: Any, x: Tensor, g: Tensor) -> dict[str, Tensor]:
    """The gradient of each row (B, *shape) by parameter name: `x` (B, ...) is what the layer read, `g` belongs to what it gave."""
    if isinstance(module, nn.Embedding):
        flat, ids = g.reshape(len(g), -1, g.shape[-1]), x.reshape(len(x), -1)
        if module.padding_idx is not None:
            flat = flat * (ids != module.padding_idx).unsqueeze(-1)
        places = ids.unsqueeze(-1).expand_as(flat)
        return {"weight": flat.new_zeros(len(g), *module.weight.shape).scatter_add_(1, places, flat)}
    if isinstance(module, nn.Linear | nn.Conv1d | nn.Conv2d):
        out, read = _vectors(module, x, g)
        whole = torch.matmul(out, read.transpose(-1, -2))  # (B, groups, out, in)
        return _with_bias(module, whole.reshape(len(x), *module.weight.shape), out.sum(-1).flatten(1))
    return _norm(module, x, g)


def sums(module: Any, x: Tensor, g: Tensor, power: int) -> dict[str, Tensor]:
    """The sum over rows of |gradient|^power by parameter name."""
    if isinstance(module, nn.Embedding):
        return {"weight": _embedding(module, x, g, power)}
    total: dict[str, Tensor] = {}
    linear = isinstance(module, nn.Linear | nn.Conv1d | nn.Conv2d)
    few = linear and _count(module, g) <= (FEW if power == 2 else 1)
    per_row = module.weight.numel() if linear and not few else 0
    for at in _starts(len(x), per_row, FEW * x[0].numel() * _taps(module)):
        if few:
            out, read = _vectors(module, x[at], g[at])
            weight = _in_pairs(out, read, power).reshape(module.weight.shape)
            part = _with_bias(module, weight, _power_sum(out.sum(-1).flatten(1), power))
        else:
            part = {name: _power_sum(value, power) for name, value in gradients(module, x[at], g[at]).items()}
        total = {name: total[name] + value for name, value in part.items()} if total else part
    return total


def _in_pairs(out: Tensor, read: Tensor, power: int) -> Tensor:
    """Sum over rows of |sum_t out_t read_t^T|^power (groups, out, in), for power 1 with a single t."""
    count = out.shape[-1]
    if count == 1:
        pairs = [part.squeeze(-1).abs().pow(power) for part in (out, read)]
        return torch.einsum("bgo,bgi->goi", *pairs)
    one, other = torch.triu_indices(count, count, device=out.device)
    twice = 2.0 - (one == other).to(out.dtype)
    found = torch.einsum("bgop,bgip->goi", out[..., one] * out[..., other] * twice, read[..., one] * read[..., other])
    return found.clamp_(min=0)  # what is zero may come out below it by rounding


def _power_sum(rows: Tensor, power: int) -> Tensor:
    """Sum over the first axis of |.|^power; the argument is written over."""
    return (rows.square_() if power == 2 else rows.abs_()).sum(0)


def _starts(rows: int, *numbers: int) -> list[slice]:
    """Slices of rows, each with at most PIECE of the given numbers a row."""
    size = max(1, PIECE // max(1, *numbers))
    return [slice(at, at + size) for at in range(0, rows, size)]


def _taps(module: Any) -> int:
    return int(torch.Size(module.kernel_size).numel()) if isinstance(module, nn.Conv1d | nn.Conv2d) else 1


def _count(module: Any, g: Tensor) -> int:
    """How many vectors of each row the layer reads."""
    return g[0].numel() // module.weight.shape[0]


def _with_bias(module: Any, weight: Tensor, bias: Tensor) -> dict[str, Tensor]:
    return {"weight": weight} if module.bias is None else {"weight": weight, "bias": bias}


def _vectors(module: Any, x: Tensor, g: Tensor) -> tuple[Tensor, Tensor]:
    """What came back (B, groups, out, T) and what was read (B, groups, in, T), vector by vector."""
    rows = len(x)
    if isinstance(module, nn.Linear):
        return g.reshape(rows, 1, -1, g.shape[-1]).transpose(-1, -2), x.reshape(rows, 1, -1, x.shape[-1]).transpose(-1, -2)
    flat = isinstance(module, nn.Conv1d)

    def both(value: Any, other: int) -> Any:
        return (other, *value) if flat else tuple(value)

    image = x.unsqueeze(2) if flat else x
    read = functional.unfold(
        image, both(module.kernel_size, 1), both(module.dilation, 1), both(module.padding, 0), both(module.stride, 1)
    )  # (B, in * taps, T)
    groups = module.groups
    return g.reshape(rows, groups, module.out_channels // groups, -1), read.reshape(rows, groups, -1, read.shape[-1])


def _norm(module: Any, x: Tensor, g: Tensor) -> dict[str, Tensor]:
    """A normalization multiplies what it made even by a weight and adds a bias."""
    if isinstance(module, NORMS):
        even = functional.batch_norm(x, module.running_mean, module.running_var, None, None, False, 0.0, module.eps)
    elif isinstance(module, nn.GroupNorm):
        even = functional.group_norm(x, module.num_groups, None, None, module.eps)
    else:
        even = functional.layer_norm(x, module.normalized_shape, None, None, module.eps)
        axes = tuple(range(1, x.dim() - len(module.normalized_shape)))
        return {name: value.sum(axes) if axes else value for name, value in _affine(module, even, g).items()}
    return {name: value.flatten(2).sum(-1) if value.dim() > 2 else value for name, value in _affine(module, even, g).items()}


def _affine(module: Any, even: Tensor, g: Tensor) -> dict[str, Tensor]:
    parts = {"weight": g * even, "bias": g.clone()}
    return {name: value for name, value in parts.items() if getattr(module, name, None) is not None}


def _embedding(module: Any, x: Tensor, g: Tensor, power: int) -> Tensor:
    """Words that stand twice in a row have one gradient, the sum; all rows of the table but these are zero."""
    rows, words = len(x), module.weight.shape[0]
    flat, ids = g.reshape(-1, g.shape[-1]), x.reshape(rows, -1)
    keys, places = torch.unique((ids + words * torch.arange(rows, device=x.device).unsqueeze(1)).flatten(), return_inverse=True)
    grads = flat.new_zeros(len(keys), flat.shape[-1]).index_add_(0, places, flat)
    if module.padding_idx is not None:
        grads[keys % words == module.padding_idx] = 0
    return torch.zeros_like(module.weight).index_add_(0, keys % words, grads.abs_().pow_(power))
