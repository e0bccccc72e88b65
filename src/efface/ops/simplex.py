"""The probability simplex: the nearest point of it, exactly by sorting or to a tolerance by bisection; rows of numbers in, rows out."""

from __future__ import annotations

import torch
from torch import Tensor


def by_sorting(rows: Tensor) -> Tensor:
    """Each row (..., V) projected onto {u >= 0, sum u = 1} in the Euclidean sense, exactly.

    u = max(x - mu, 0), where mu makes the positive part sum to one; with x sorted downward it is the mean excess of the
    longest head that stays positive.
    """
    high = rows.sort(-1, descending=True).values
    excess = (high.cumsum(-1) - 1) / torch.arange(1, rows.shape[-1] + 1, device=rows.device, dtype=rows.dtype)
    held = (high > excess).sum(-1, keepdim=True).clamp(min=1)
    return (rows - excess.gather(-1, held - 1)).clamp(min=0)


def by_bisection(rows: Tensor, tolerance: float = 1e-5) -> Tensor:
    """The same by halving the interval that holds mu until the sum is within `tolerance` of one: no sort of a large vocabulary."""
    low = rows.amax(-1, keepdim=True) - 1  # here the largest entry alone gives one or more
    high = rows.amax(-1, keepdim=True)  # and here nothing is left
    found = (rows - low).clamp(min=0)
    for _ in range(64):
        middle = (low + high) / 2
        found = (rows - middle).clamp(min=0)
        total = found.sum(-1, keepdim=True)
        if bool(((total - 1).abs() <= tolerance).all()):
            break
        low, high = torch.where(total > 1, middle, low), torch.where(total > 1, high, middle)
    return found
