"""Directions in an encoder's space, and distances between pictures. Tensors in, tensors out, differentiable."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

FLOOR = 1e-4
"""Length below which a difference has no direction; unit vectors are at most 2 apart."""


def cosines(moves: Tensor, direction: Tensor, floor: float = FLOOR) -> Tensor:
    """Cosine (N,) of each difference (N, d) with a direction (d,): 0 with a finite gradient where there is no difference yet.

    <m, v> / (|v| sqrt(|m|^2 + floor^2)). The plain cosine of a zero difference is 0 / 0, and its gradient is not a number.
    """
    lengths = (moves.square().sum(1) + floor**2).sqrt()
    return (moves @ direction) / (lengths * direction.norm().clamp(min=floor))


def shares(moves: Tensor, direction: Tensor, floor: float = FLOOR) -> Tensor:
    """How far each difference (N, d) goes along a direction (d,), in units of its length: <m, v> / |v|^2, (N,)."""
    return (moves @ direction) / direction.square().sum().clamp(min=floor**2)


def picture_distance(one: Tensor, other: Tensor, scales: int = 3) -> Tensor:
    """Mean absolute difference of two stacks of pictures (N, 3, H, W), averaged over `scales` resolutions, each half the last: (N,).

    The coarse ones see what has moved or changed its color, the finest one texture.
    """
    difference, found = one - other, []
    for _ in range(scales):
        found.append(difference.abs().flatten(1).mean(1))
        if min(difference.shape[-2:]) < 2:
            break
        difference = avg_pool2d(difference, 2)
    return torch.stack(found).mean(0)


def layer_distance(one: list[Tensor], other: list[Tensor]) -> Tensor:
    """LPIPS (arXiv:1801.03924) with equal weights: feature maps of two stacks, unit length at every place, squared difference, (N,).

    Summed over channels, averaged over places and then over layers.
    """
    found = []
    for a, b in zip(one, other, strict=True):
        a, b = (x / (x.square().sum(1, keepdim=True) + 1e-10).sqrt() for x in (a, b))
        found.append((a - b).square().sum(1).flatten(1).mean(1))
    return torch.stack(found).mean(0)
