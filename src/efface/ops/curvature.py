"""Solving with a matrix that is only known by its products: Hessians, empirical Fisher matrices, and the WoodFisher recursion."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from efface.core.errors import Diverged

Product = Callable[[Tensor], Tensor]
"""v -> A v, for a vector (P,) or for each row of (K, P) with a matrix of its own."""


class Solution(NamedTuple):
    """x with A x = b up to `residual`, the norm of A x - b of each system."""

    x: Tensor
    residual: Tensor
    steps: int


def conjugate_gradient(product: Product, b: Tensor, tolerance: float = 1e-10, steps: int = 1000) -> Solution:
    """The solution of A x = b for positive definite A; b is (P,), or (K, P) for K systems side by side.

    Ends when every residual is at most `tolerance` times the norm of its b, or after `steps` products; the residual given
    back is computed anew from x. Raises Diverged when it meets a direction of negative curvature.
    """
    goal = tolerance * b.norm(dim=-1)
    x, r = torch.zeros_like(b), b.clone()
    p, square = r.clone(), (r * r).sum(-1)
    done = 0
    while done < steps and bool((square.sqrt() > goal).any()):
        forward = product(p)
        curve = (p * forward).sum(-1)
        moving = square.sqrt() > goal
        if not bool(torch.isfinite(curve).all()) or bool((curve[moving] <= 0).any()):
            least = float((curve / (p * p).sum(-1))[moving].min())
            raise Diverged(
                f"conjugate gradients met the curvature {least:.3g} in product {done + 1}; the matrix is not positive definite: raise damping, "
                "or solve for the head alone"
            )
        size = torch.where(moving, square / torch.where(moving, curve, 1.0), 0.0)
        x = x + size[..., None] * p
        r = r - size[..., None] * forward
        fresh = torch.where(moving, (r * r).sum(-1), square)
        p = torch.where(moving[..., None], r + (fresh / square.clamp(min=1e-300))[..., None] * p, p)
        square, done = fresh, done + 1
    return Solution(x, (product(x) - b).norm(dim=-1), done)


def woodfisher(gradients: Iterable[Tensor], v: Tensor, count: int) -> Tensor:
    """The rank-one recursion of WoodFisher unlearning: an approximation of (I + sum g g' / count)^-1 v in two vectors.

    `gradients` are those of single rows (P,). o_0 = g_0, k_0 = v; then for each further g, with t = count + o.g:
    k <- k - (k.g / t) o and o <- o - (o.g / t) o. Because o is not solved for anew at each row, k leaves v along g_0 only.
    """
    o: Tensor | None = None
    k = v.clone()
    for g in gradients:
        if o is None:
            o = g.clone()
            continue
        along = o @ g
        t = count + along
        k = k - (k @ g) / t * o
        o = o - along / t * o
    return k


def hessian_product(loss: Callable[[], Iterable[Tensor]], parameters: Sequence[Tensor], damping: float) -> Product:
    """v -> (H + damping I) v, H the Hessian of the sum of the terms that `loss` yields, each with a graph of its own."""

    def product(v: Tensor) -> Tensor:
        total = damping * v
        for term in loss():
            slope = flat(torch.autograd.grad(term, parameters, create_graph=True))
            total = total + flat(torch.autograd.grad(slope @ v, parameters))
        return total

    return product


def fisher_product(losses: Callable[[], Iterable[Tensor]], parameters: Sequence[Tensor], count: int, damping: float) -> Product:
    """v -> (sum g g' / count + damping I) v over the rows' own gradients g; `losses` yields pieces (B,) of the rows' losses."""

    def product(v: Tensor) -> Tensor:
        total = damping * v
        for piece in losses():
            # J'w is linear in w, so its gradient with respect to w along v is J v: every row's g.v at once.
            w = torch.zeros_like(piece, requires_grad=True)
            back = flat(torch.autograd.grad(piece, parameters, w, create_graph=True))
            (along,) = torch.autograd.grad(back @ v, w, retain_graph=True)
            total = total + flat(torch.autograd.grad(piece, parameters, along)) / count
        return total

    return product


def flat(tensors: Iterable[Tensor]) -> Tensor:
    """All numbers of some tensors in one vector."""
    return torch.cat([tensor.reshape(-1) for tensor in tensors])


@torch.no_grad()
def move(parameters: Sequence[Tensor], step: Tensor) -> None:
    """Add the pieces of a vector to some tensors, in order; raises Diverged when the step is not finite."""
    if not bool(torch.isfinite(step).all()):
        raise Diverged("the step of the weights holds a number that is not finite; lower alpha or raise damping")
    sizes = [math.prod(parameter.shape) for parameter in parameters]
    for parameter, piece in zip(parameters, step.split(sizes), strict=True):
        parameter += piece.reshape(parameter.shape).to(parameter)
