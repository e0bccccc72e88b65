"""Closed-form edits of linear maps: the least-squares problem behind UCE, RECE, TRCE and their kin, solved once for all layers.

For a projection W (o, d) that reads text states, contexts c_i are to be read as if they were g_i, and states r_j as before:

    min_W'  sum_i a_i |W' c_i - W g_i|^2 + sum_j p_j |W' r_j - W r_j|^2 + tr((W' - W) (lam I + B) (W' - W)^T)

    W' = W M,   M = (lam I + B + sum a g c^T + sum p r r^T) (lam I + B + sum a c c^T + sum p r r^T)^-1

M (d, d) does not depend on W, so one solve serves all layers, keys and values alike; and the edited model is the old one that
reads h M^T. M can be inverted whenever the second bracket can: whoever holds M, or both models, undoes the edit. Everything is
solved in float64.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from efface.core.errors import Unfit

CONDITION = 1e10
"""Largest condition number that is solved as it is."""


@dataclass(frozen=True)
class Moves:
    """What a projection should read differently, and what it should go on reading as before."""

    contexts: Tensor
    """(n, d) states c."""
    targets: Tensor
    """(n, d) states g in their place."""
    weights: Tensor | None = None
    """(n,) weights a; 1 each when None."""
    kept: Tensor | None = None
    """(m, d) states r."""
    kept_weights: Tensor | None = None
    """(m,) weights p; 1 each when None."""

    def plus(self, other: Moves) -> Moves:
        """These and those together."""
        def both(one: Tensor | None, two: Tensor | None) -> Tensor | None:
            found = [part for part in (one, two) if part is not None]
            return torch.cat(found) if found else None

        kept = both(self.kept, other.kept)
        return Moves(
            torch.cat([self.contexts, other.contexts]), torch.cat([self.targets, other.targets]),
            torch.cat([_ones(self.weights, self.contexts), _ones(other.weights, other.contexts)]), kept,
            None if kept is None else both(_kept_ones(self), _kept_ones(other)),
        )


Factors = tuple[Tensor, Tensor]
"""(d, n) and (n, d), whose product is M - I: an edit of n states changes weights in n directions only."""


@dataclass(frozen=True)
class Solved:
    """The map M, and how well the problem was posed."""

    map: Tensor
    """(d, d), float64."""
    condition: float
    """Condition number of the normal matrix that was solved."""
    added: float
    """What was added to lam because the system was rank-deficient; 0 when nothing was."""
    factors: Factors | None = None
    """M - I in two thin pieces, where fewer than a quarter as many states move as there are directions."""


def solve(moves: Moves, lam: float, prior: Tensor | None = None, start: Tensor | None = None) -> Solved:
    """The map M of the edit, for lam >= 0, a prior B (d, d), and an earlier map to stay near in place of the identity.

    Where the normal matrix's condition number is beyond 1e10, lam is raised until it is not, and `added` says by how much.
    Raises Unfit when states are not finite or their widths differ.
    """
    matrix = normal(moves, lam, prior)
    eye = torch.eye(len(matrix), dtype=torch.float64)
    change = moved(moves, eye if start is None else start)
    if not (torch.isfinite(matrix).all() and torch.isfinite(change).all()):
        raise Unfit("the states of the texts hold numbers that are not finite; the text encoder is damaged or in half precision")
    matrix, condition, added = regular(matrix)
    # M = I + change normal^-1: exactly I where nothing is to change. The normal matrix is its own transpose.
    if start is None and 4 * len(moves.contexts) < len(matrix):
        c = moves.contexts.double().cpu()
        left = ((moves.targets.double().cpu() - c) * _ones(moves.weights, c).cpu()[:, None]).T
        right = _solved(matrix, c.T).T
        return Solved(eye + left @ right, condition, added, (left, right))
    return Solved((eye if start is None else start) + _solved(matrix, change.T).T, condition, added)


def normal(moves: Moves, lam: float, prior: Tensor | None = None) -> Tensor:
    """The second bracket of M (d, d), float64."""
    c = moves.contexts.double().cpu()
    found = lam * torch.eye(c.shape[-1], dtype=torch.float64)
    if prior is not None:
        found = found + prior.double().cpu()
    if moves.kept is not None and len(moves.kept):
        r = moves.kept.double().cpu()
        found = found + (r * _ones(moves.kept_weights, r).cpu()[:, None]).T @ r
    return found + (c * _ones(moves.weights, c).cpu()[:, None]).T @ c


def moved(moves: Moves, begin: Tensor) -> Tensor:
    """What is still to change: sum a (g - M c) c^T + sum p (r - M r) r^T (d, d), float64, for the map M that it begins with.

    For the identity it is the first bracket of M less the second. Raises Unfit where states do not pair up.
    """
    c, g = moves.contexts.double().cpu(), moves.targets.double().cpu()
    if c.shape != g.shape:
        raise Unfit(f"{len(c)} states of width {c.shape[-1]} are to be read as {len(g)} of width {g.shape[-1]}; they must pair up")
    found = ((g - c @ begin.T) * _ones(moves.weights, c).cpu()[:, None]).T @ c
    if moves.kept is not None and len(moves.kept):
        r = moves.kept.double().cpu()
        found = found + ((r - r @ begin.T) * _ones(moves.kept_weights, r).cpu()[:, None]).T @ r
    return found


def regular(matrix: Tensor) -> tuple[Tensor, float, float]:
    """A symmetric matrix that can be solved, its condition number, and what was added to its diagonal to make it so."""
    values = torch.linalg.eigvalsh(matrix)
    least, most, added = float(values[0]), float(values[-1]), 0.0
    if least <= most / CONDITION:
        added = max(most / CONDITION - least, 1e-12)
        matrix = matrix + added * torch.eye(len(matrix), dtype=matrix.dtype)
    return matrix, (most + added) / max(least + added, 1e-300), added


def edited(weight: Tensor, found: Tensor, factors: Factors | None = None) -> Tensor:
    """W M in the weight's own precision and place, computed as W + W (M - I) so that single precision costs digits of the change alone.

    With `factors` of M - I the product is as much cheaper as they are thinner.
    """
    wide = weight.detach().cpu().to(torch.promote_types(weight.dtype, torch.float32))
    if factors is not None:
        left, right = (part.to(wide.dtype) for part in factors)
        return (wide + (wide @ left) @ right).to(weight)
    change = (found - torch.eye(len(found), dtype=found.dtype)).to(wide.dtype)
    return (wide + wide @ change).to(weight)


def fitted(weight: Tensor, contexts: Tensor, values: Tensor, lam: float) -> Tensor:
    """The solution where the wanted outputs are given as they are: min sum |W' c_i - v_i|^2 + lam |W' - W|^2, for values (n, o)."""
    c, v, old = contexts.double().cpu(), values.double().cpu(), weight.detach().double().cpu()
    normal = lam * torch.eye(c.shape[-1], dtype=torch.float64) + c.T @ c
    return torch.linalg.solve(normal, (lam * old + v.T @ c).T).T.to(weight)


def away(weight: Tensor, contexts: Tensor, targets: Tensor) -> Tensor:
    """Outputs (n, o) for contexts that hold nothing of their own: W g less its part along W c, float64."""
    own, other = (states.double().cpu() @ weight.detach().double().cpu().T for states in (contexts, targets))
    unit = own / own.norm(dim=1, keepdim=True).clamp_min(1e-300)
    return other - (other * unit).sum(1, keepdim=True) * unit


def gram(weights: Sequence[Tensor]) -> Tensor:
    """sum W^T W (d, d), float64, each product in the weights' own precision (single where they have less)."""
    found = torch.zeros(weights[0].shape[1], weights[0].shape[1], dtype=torch.float64)
    for weight in weights:
        own = weight.detach().cpu().to(torch.promote_types(weight.dtype, torch.float32))
        found += own.T @ own
    return found


def products(before: Sequence[Tensor], after: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """sum W'^T W' and sum W'^T W (d, d), all in float64, over weights W' of one model and W of another.

    W' may be near singular, as an edit leaves it, so that no digit may be lost here.
    """
    same, cross = (torch.zeros(after[0].shape[1], after[0].shape[1], dtype=torch.float64) for _ in range(2))
    for old, new in zip(before, after, strict=True):
        here = new.detach().double().cpu()
        same += here.T @ here
        cross += here.T @ old.detach().double().cpu()
    return same, cross


def recalled(same: Tensor, cross: Tensor, states: Tensor, lam: float) -> Tensor:
    """States c' (n, d) from which W' makes what W makes of `states`: argmin sum |W' c' - W c|^2 + lam |c'|^2, from the two products."""
    matrix = same + lam * torch.eye(len(same), dtype=torch.float64)
    if lam <= float(same.trace()) / CONDITION:  # else lam itself keeps the condition number below
        matrix, _, _ = regular(matrix)
    flat = states.double().cpu().reshape(-1, states.shape[-1])
    return _solved(matrix, cross @ flat.T).T.reshape(states.shape)


def undone(found: Tensor) -> Tensor:
    """M^-1, with which the edit is taken back; Unfit when M cannot be inverted."""
    if not float(torch.linalg.cond(found)) <= 1.0 / torch.finfo(torch.float64).eps:  # a map of zeros has no condition number at all
        raise Unfit("the edit cannot be taken back: its map is singular")
    return torch.linalg.inv(found)


def carrying(before: Sequence[Tensor], after: Sequence[Tensor]) -> Tensor:
    """The map M (d, d), float64, that carries weights W to W M nearest to others, by least squares over all at once; the shortest one where many do."""
    one, two = (torch.cat([weight.detach().double().cpu() for weight in side]) for side in (before, after))
    return torch.linalg.lstsq(one, two, driver="gelsd").solution


def _solved(matrix: Tensor, right: Tensor) -> Tensor:
    """matrix^-1 right, for a matrix that regular() gave or would leave as it is: symmetric, and far from singular."""
    return torch.cholesky_solve(right, torch.linalg.cholesky(matrix))


def _ones(weights: Tensor | None, like: Tensor) -> Tensor:
    return torch.ones(len(like), dtype=torch.float64) if weights is None else weights.double()


def _kept_ones(moves: Moves) -> Tensor | None:
    return None if moves.kept is None else _ones(moves.kept_weights, moves.kept)
