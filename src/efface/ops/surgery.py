"""Gradient surgery: a gradient loses the part that works against another one, tensor by tensor.

    a <- a - strength (a.b) / |b|^2 b   where a.b < 0,   and a as it is elsewhere

With strength 1 the result is orthogonal to b: to first order a step along it leaves the loss behind b alone.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def without_conflict(gradients: Sequence[Tensor], others: Sequence[Tensor], strength: float = 1.0) -> list[Tensor]:
    """The gradients, each without its part against its counterpart in `others`; the very same tensor where the two agree."""
    return [_projected(a, b, strength) for a, b in zip(gradients, others, strict=True)]


def _projected(a: Tensor, b: Tensor, strength: float) -> Tensor:
    wide = b.double()
    dot = (a.double() * wide).sum()
    if not bool(dot < 0):
        return a
    return (a.double() - strength * dot / wide.square().sum() * wide).to(a.dtype)


def limited(gradients: Sequence[Tensor], most: float) -> list[Tensor]:
    """The gradients scaled together so that their common norm is at most `most`; as they are when it is 0 or not reached."""
    norm = torch.stack([gradient.double().norm() for gradient in gradients]).norm()
    if not most or not bool(norm > most):
        return list(gradients)
    return [gradient * (most / norm).to(gradient.dtype) for gradient in gradients]
