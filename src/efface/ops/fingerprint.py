"""One name for weights: what every torch family's digest is made of."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import torch
from torch import Tensor


def of_weights(tensors: Mapping[str, Tensor], start: str = "") -> str:
    """SHA-256 (hex) over `start` and, in order of the names, over names, types, shapes and bytes of the tensors."""
    total = hashlib.sha256(start.encode())
    for name, tensor in sorted(tensors.items()):
        total.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}|".encode())
        total.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return total.hexdigest()
