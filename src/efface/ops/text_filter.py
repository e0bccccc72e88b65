"""Subspaces of text features, which of a prompt's words point into one, and what is left outside of it (SAFREE, arXiv:2410.12761).

Bases are orthonormal columns, float64; vectors are rows. A projection is applied as x B B^T, never built.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

TOLERANCE = 1e-5
"""Part of the largest direction below which a direction is none: encoders compute in single precision."""


def basis(vectors: Tensor) -> Tensor:
    """Orthonormal columns (d, r) that span vectors (n, d); r < n where some depend on others. Float64."""
    columns = vectors.double().T
    if columns.shape[1] == 0:
        return columns
    orthonormal, upper = torch.linalg.qr(columns)
    sizes = upper.diagonal().abs()
    if columns.shape[1] <= columns.shape[0] and float(sizes.min()) > TOLERANCE * float(sizes.max()):
        return orthonormal
    left, values, _ = torch.linalg.svd(columns, full_matrices=False)
    return left[:, values > TOLERANCE * values.max().clamp(min=1e-300)]


def inside(span: Tensor, vectors: Tensor) -> Tensor:
    """The part of vectors (..., d) inside the span of a basis (d, r). Float64."""
    return vectors.double() @ span @ span.T


def outside(span: Tensor, vectors: Tensor) -> Tensor:
    """The part of vectors (..., d) outside of the span of a basis (d, r). Float64."""
    return vectors.double() - inside(span, vectors)


def triggers(concept: Tensor, without: Tensor, whole: Tensor, alpha: float) -> list[bool]:
    """Whether each word brings its prompt near a concept: leaving it out moves the prompt away more than the other words do.

        z_i = |(I - P_C) p_i|,   word i is one  <=>  z_i >= (1 + alpha) mean of z_j over j != i

    `without` holds the prompt's summary with word i left out (n, d), `whole` that of the whole prompt (d,). A single word has no
    others: it is compared with the whole prompt.
    """
    away = torch.linalg.vector_norm(outside(concept, without), dim=-1)
    if len(away) == 1:
        return [bool(away[0] >= (1 + alpha) * torch.linalg.vector_norm(outside(concept, whole)))]
    others = (away.sum() - away) / max(len(away) - 1, 1)
    return [bool(is_one) for is_one in away >= (1 + alpha) * others]


def remainder(concept: Tensor, prompt: Tensor, states: Tensor) -> Tensor:
    """(I - P_C) P_I h of states (..., d): what the prompt's own span holds of them outside of the concept. Float64."""
    return outside(concept, inside(prompt, states))


def nearness(left: Tensor, states: Tensor) -> float:
    """b = 1 - mean over positions of cos(q, h), for what is left q and states h, both (positions, d)."""
    return float(1 - torch.nn.functional.cosine_similarity(left, states.double(), dim=-1).mean())


def filtered_steps(near: float, midpoint: float, slope: float, most: int) -> int:
    """The last step that is filtered: round(most * sigmoid(2 slope (10 b - midpoint))), 0 to most."""
    return round(most / (1 + math.exp(-min(max(2 * slope * (10 * near - midpoint), -700.0), 700.0))))


def reattended(
    filtered: Tensor, plain: Tensor, size: float, where: Literal["low", "high"], replace: bool = True,
) -> Tensor:
    """Features (..., h, w) of the filtered prompt, in which frequencies that stand out are damped by those of the plain prompt.

    "low": the four lowest frequencies, where Re F exceeds that of the plain prompt. "high": all others, where |Re F| falls short
    of it. There F becomes `size`, or F times `size`. Where both prompts agree nothing changes.
    """
    one = torch.fft.fftshift(torch.fft.fft2(filtered.float()), dim=(-2, -1))
    other = torch.fft.fftshift(torch.fft.fft2(plain.float()), dim=(-2, -1))
    height, width = filtered.shape[-2:]
    low = torch.zeros(height, width, dtype=torch.bool, device=filtered.device)
    low[max(height // 2 - 1, 0) : height // 2 + 1, max(width // 2 - 1, 0) : width // 2 + 1] = True
    met = low & (one.real > other.real) if where == "low" else ~low & (other.real.abs() > one.real.abs())
    changed = torch.where(met, torch.full_like(one, size) if replace else one * size, one)
    return torch.fft.ifft2(torch.fft.ifftshift(changed, dim=(-2, -1))).real.to(filtered.dtype)
