"""Round-to-nearest quantization of weight matrices: symmetric, one scale for each output row or for each group in a row.

delta = max|W| / (2^(bits - 1) - 1), code = round(W / delta), quantized weight = delta * code.
"""

from __future__ import annotations

import torch
from torch import Tensor


def codes(weight: Tensor, bits: int, group: int = 0) -> tuple[Tensor, Tensor]:
    """Integer codes and their scales; rows are outputs. With `group`, each run of so many columns has its own scale.

    A width that the group does not divide keeps one scale a row. A row of zeros has codes 0.
    """
    shaped = _grouped(weight.float(), group)
    scale = shaped.abs().amax(-1, keepdim=True) / (2 ** (bits - 1) - 1)
    return torch.round(shaped / scale.clamp(min=torch.finfo(torch.float32).tiny)), scale


def round_to_nearest(weight: Tensor, bits: int, group: int = 0) -> Tensor:
    """The weight as it comes back from `bits` bits, of the same shape and type."""
    code, scale = codes(weight, bits, group)
    return (code * scale).reshape(weight.shape).to(weight.dtype)


def same_codes(one: Tensor, other: Tensor, bits: int, group: int = 0) -> int:
    """How many entries of two weights fall on the same code."""
    return int((codes(one, bits, group)[0] == codes(other, bits, group)[0]).sum())


def _grouped(weight: Tensor, group: int) -> Tensor:
    rows, columns = weight.shape
    return weight.reshape(rows, columns // group, group) if group and columns % group == 0 else weight
