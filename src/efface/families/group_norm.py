"""Networks without batch normalization: what private training needs, because batch normalization mixes the rows of a batch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from efface.core.errors import Missing, Unfit
from efface.families.module_files import module_class

GROUPS = 32
"""Most groups of channels."""


class GroupNormed(nn.Module):
    """The module that `arch` ("module:Class") and `arguments` build, with group in the place of batch normalization."""

    def __init__(self, arch: str, arguments: Mapping[str, object]) -> None:
        super().__init__()
        kind: Any = module_class(arch)
        if kind is None:
            raise Missing(f"no torch module {arch!r} can be imported; install the package that defines it")
        self.body = swapped(kind(**arguments))

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)  # type: ignore[no-any-return]


def batch_norms(module: nn.Module) -> list[str]:
    """Names of all batch normalizations in a module, in order."""
    return [name for name, part in module.named_modules() if isinstance(part, _BatchNorm)]


def swapped(module: nn.Module) -> nn.Module:
    """The module itself, every batch normalization in it replaced: gcd(32, channels) groups, scale 1 and shift 0."""
    if isinstance(module, _BatchNorm):
        return _group_norm(module)
    for name, part in module.named_children():
        setattr(module, name, swapped(part))
    return module


def _group_norm(norm: Any) -> nn.Module:
    channels = int(norm.num_features)
    groups = math.gcd(GROUPS, channels)
    if isinstance(norm, nn.BatchNorm1d) and groups == channels:
        groups = 1  # a group of one number is always zero after normalization
    fresh = nn.GroupNorm(groups, channels, eps=norm.eps, affine=norm.affine)
    reference = next((tensor for tensor in (*norm.parameters(), *norm.buffers()) if tensor.is_floating_point()), None)
    return fresh if reference is None else fresh.to(reference.device, reference.dtype)


def group_normed(subject: Any) -> Any:
    """A subject with own weights and no batch normalization, whose other weights are those it had.

    Raises Unfit for a transformers model, whose folder would be read with its own layers again.
    """
    model = subject.model
    if hasattr(model, "config") and hasattr(model, "save_pretrained"):
        raise Unfit(f"a saved {type(model).__name__} is always read with batch normalization; train adapters beside it, which leaves it frozen (fit.rank = 8)")
    other = subject.fork()
    other.model = swapped(other.model)
    if subject.arguments is not None:
        arch = f"{type(model).__module__}:{type(model).__qualname__}"
        with torch.random.fork_rng(devices=[]):  # the weights drawn here are thrown away
            built = GroupNormed(arch, subject.arguments)
        built.body = other.model
        other.model, other.arguments = built, {"arch": arch, "arguments": dict(subject.arguments)}
    other.model.eval()
    other.model.requires_grad_(False)
    return other
