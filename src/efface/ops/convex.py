"""L2-regularized logistic regression with a random linear term, and the removal of rows from it with a proven error bound.

L(w) = sum_i log(1 + exp(-s_i w.x_i)) + (lam n / 2) |w|^2 + b.w, rows of norm at most 1, signs s_i = +-1, b ~ N(0, sigma^2 I).

K regressions stand side by side (one against the rest, one for each class): w and b are (K, d), signs (K, n). Everything is
in double precision. The removal is one Newton step (Guo and others 2020, arXiv:1911.03030).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from efface.core.errors import Diverged, Unfit
from efface.ops.curvature import Product, conjugate_gradient

GAMMA = 0.25
"""What the theorem takes for the Lipschitz constant of the second derivative of log(1 + exp(-z))."""
SLACK = 1e-9
"""How far the norm of a row may stand above 1, for rounding."""
EXACT = 4096
"""Rows or columns up to which the spectral norm is computed; beyond, sqrt(n) stands above it."""


class Rows(NamedTuple):
    """Inputs (n, d) with rows of norm at most 1, and the sign of each row in each regression (K, n)."""

    x: Tensor
    signs: Tensor


class Fitted(NamedTuple):
    """Weights (K, d), and the norm of the gradient that training left in each regression (K,)."""

    weights: Tensor
    residual: Tensor


class Removed(NamedTuple):
    """Weights after a removal (K, d), and by how much the gradient's norm on the remaining rows may have grown (K,)."""

    weights: Tensor
    bound: Tensor


def signs(labels: Tensor, classes: int) -> Tensor:
    """One row of +-1 for each class (classes, n); for two classes a single row, +1 for the second."""
    if classes == 2:
        return (2.0 * labels.double() - 1.0)[None]
    own = torch.arange(classes, device=labels.device)[:, None] == labels[None]
    return torch.where(own, 1.0, -1.0).double()


def unit(x: Tensor) -> Tensor:
    """Rows (n, d) in double precision, each divided by its norm; a row of zeros stays."""
    x = x.double()
    norms = x.norm(dim=1, keepdim=True)
    return x / torch.where(norms > 0, norms, 1.0)


def slopes(weights: Tensor, rows: Rows) -> Tensor:
    """Derivative of each row's loss by w.x, in each regression (K, n)."""
    return -rows.signs * torch.sigmoid(-rows.signs * (weights @ rows.x.T))


def gradient(weights: Tensor, rows: Rows, lam: float, b: Tensor) -> Tensor:
    """Gradient of L in each regression (K, d)."""
    return slopes(weights, rows) @ rows.x + lam * len(rows.x) * weights + b


def objective(weights: Tensor, rows: Rows, lam: float, b: Tensor) -> Tensor:
    """L in each regression (K,)."""
    losses = torch.nn.functional.softplus(-rows.signs * (weights @ rows.x.T)).sum(1)
    return losses + lam * len(rows.x) / 2 * (weights * weights).sum(1) + (b * weights).sum(1)


def curvature(weights: Tensor, rows: Rows, lam: float) -> Product:
    """v -> H v in each regression, H the Hessian of L at `weights`."""
    chance = torch.sigmoid(weights @ rows.x.T)
    weight = chance * (1 - chance)  # (K, n)
    return lambda v: (weight * (v @ rows.x.T)) @ rows.x + lam * len(rows.x) * v


def fit(rows: Rows, lam: float, b: Tensor, tolerance: float = 1e-9, steps: int = 100) -> Fitted:
    """The minimum of L from zero by Newton's method, until each gradient's norm is at most `tolerance`.

    Raises Unfit when a row has a norm above 1, which the bound of a removal rests on, and Diverged when it does not arrive.
    """
    check(rows)
    weights = torch.zeros_like(b)
    for _ in range(steps):
        slope = gradient(weights, rows, lam, b)
        if bool((slope.norm(dim=1) <= tolerance).all()):
            return Fitted(weights, slope.norm(dim=1))
        step = conjugate_gradient(curvature(weights, rows, lam), slope, 1e-12, 4 * weights.shape[1] + 100).x
        size, before = torch.ones(len(b), dtype=b.dtype, device=b.device), objective(weights, rows, lam, b)
        for _ in range(40):
            # Near the minimum the objective's rounding hides the gain, and there Newton's whole step is right.
            worse = objective(weights - size[:, None] * step, rows, lam, b) > before + 1e-12 * before.abs()
            if not bool(worse.any()):
                break
            size = torch.where(worse, size / 2, size)
        weights = weights - size[:, None] * step
    raise Diverged(f"logistic regression left a gradient of norm {float(gradient(weights, rows, lam, b).norm(dim=1).max()):.3g} after {steps} steps; raise tolerance or lam")


def remove(weights: Tensor, keep: Rows, gone: Rows, lam: float, norm: float) -> Removed:
    """One Newton step that takes the rows `gone` out; `keep` are the rows that remain, and `norm` is at least their spectral norm.

    The bound is gamma |step| |X step| |X|, plus what the linear solver left over. Raises Unfit when no row remains.
    """
    if not len(keep.x):
        raise Unfit("no row would remain; certified removal needs rows to keep")
    pull = slopes(weights, gone) @ gone.x + lam * len(gone.x) * weights
    solved = conjugate_gradient(curvature(weights, keep, lam), pull, 1e-12, 4 * weights.shape[1] + 100)
    step = solved.x
    bound = GAMMA * step.norm(dim=1) * (step @ keep.x.T).norm(dim=1) * norm + solved.residual
    return Removed(weights + step, bound)


def spectral_norm(x: Tensor) -> float:
    """A number that is at least the largest singular value of rows of norm at most 1: that value, or sqrt(n) for large ones."""
    if not len(x):
        return 0.0
    if min(x.shape) > EXACT:
        return math.sqrt(len(x))
    square = x.T @ x if x.shape[1] <= len(x) else x @ x.T
    return math.sqrt(max(0.0, float(torch.linalg.eigvalsh(square)[-1]))) * (1 + 1e-12)


def check(rows: Rows) -> None:
    """Raise Unfit unless every row is finite and has a norm of at most 1."""
    norms = rows.x.norm(dim=1)
    if not bool(torch.isfinite(norms).all()) or bool((norms > 1 + SLACK).any()):
        worst = int(torch.nan_to_num(norms, nan=math.inf).argmax())
        raise Unfit(f"row {worst + 1} has the norm {float(norms[worst]):.6g}; certified removal needs rows of norm at most 1, so divide each by its norm")


def budget(sigma: float, epsilon: float, delta: float) -> float:
    """The largest gradient that (epsilon, delta) allows to be left over: sigma epsilon / c with c = sqrt(2 log(1.5 / delta))."""
    return sigma * epsilon / math.sqrt(2 * math.log(1.5 / delta))


def gaussian_delta(shift: float, epsilon: float) -> float:
    """The exact delta at `epsilon` of a unit Gaussian moved by `shift`: what `budget` must not claim less than.

    Phi(shift / 2 - epsilon / shift) - e^epsilon Phi(-shift / 2 - epsilon / shift); 0 for no shift.
    """
    if shift <= 0:
        return 0.0

    def phi(z: float) -> float:
        return 0.5 * math.erfc(-z / math.sqrt(2))

    return phi(shift / 2 - epsilon / shift) - math.exp(min(epsilon, 700.0)) * phi(-shift / 2 - epsilon / shift)
