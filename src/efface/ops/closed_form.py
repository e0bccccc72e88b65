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


@dataclass(frozen=True)
class Solved:
    """The map M, and how well the problem was posed."""

    map: Tensor
    """(d, d), float64."""
    condition: float
    """Condition number of the normal matrix that was solved."""
    added: float
    """What was added to lam because the system was rank-deficient; 0 when nothing was."""


def solve(moves: Moves, lam: float, prior: Tensor | None = None) -> Solved:
    """The map M of the edit, for lam >= 0 and a prior B (d, d).

    Where the normal matrix's condition number is beyond 1e10, lam is raised until it is not, and `added` says by how much.
    Raises Unfit when states are not finite or their widths differ.
    """
    normal, mixed = brackets(moves, lam, prior)
    if not (torch.isfinite(normal).all() and torch.isfinite(mixed).all()):
        raise Unfit("the states of the texts hold numbers that are not finite; the text encoder is damaged or in half precision")
    values = torch.linalg.eigvalsh(normal)
    added = 0.0
    if float(values[0]) <= float(values[-1]) / CONDITION:
        added = max(float(values[-1]) / CONDITION - float(values[0]), 1e-12)
        eye = torch.eye(len(normal), dtype=torch.float64)
        normal, mixed = normal + added * eye, mixed + added * eye
    found = torch.linalg.solve(normal, mixed.T).T  # the normal matrix is its own transpose
    return Solved(found, (float(values[-1]) + added) / max(float(values[0]) + added, 1e-300), added)


def brackets(moves: Moves, lam: float, prior: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """The two brackets of M: the normal matrix (d, d) and the mixed one (d, d), float64."""
    c, g = moves.contexts.double().cpu(), moves.targets.double().cpu()
    if c.shape != g.shape:
        raise Unfit(f"{len(c)} states of width {c.shape[-1]} are to be read as {len(g)} of width {g.shape[-1]}; they must pair up")
    a = _ones(moves.weights, c).double().cpu()[:, None]
    base = lam * torch.eye(c.shape[-1], dtype=torch.float64)
    if prior is not None:
        base = base + prior.double().cpu()
    if moves.kept is not None and len(moves.kept):
        r = moves.kept.double().cpu()
        base = base + (r * _ones(moves.kept_weights, r).double().cpu()[:, None]).T @ r
    return base + (a * c).T @ c, base + (a * g).T @ c


def edited(weight: Tensor, found: Tensor) -> Tensor:
    """W M in the weight's own precision and place."""
    return (weight.detach().double().cpu() @ found).to(weight)


def fitted(weight: Tensor, contexts: Tensor, values: Tensor, lam: float) -> Tensor:
    """The solution where the wanted outputs are given as they are: min sum |W' c_i - v_i|^2 + lam |W' - W|^2, for values (n, o)."""
    c, v, old = contexts.double().cpu(), values.double().cpu(), weight.detach().double().cpu()
    normal = lam * torch.eye(c.shape[-1], dtype=torch.float64) + c.T @ c
    return torch.linalg.solve(normal, (lam * old + v.T @ c).T).T.to(weight)


def undone(found: Tensor) -> Tensor:
    """M^-1, with which the edit is taken back; Unfit when M cannot be inverted."""
    if float(torch.linalg.cond(found)) > 1.0 / torch.finfo(torch.float64).eps:
        raise Unfit("the edit cannot be taken back: its map is singular")
    return torch.linalg.inv(found)


def stacked(states: Sequence[Tensor]) -> Tensor:
    """States of several texts, one under the other (n, d)."""
    return torch.cat([part.reshape(-1, part.shape[-1]) for part in states])


def _ones(weights: Tensor | None, like: Tensor) -> Tensor:
    return torch.ones(len(like)) if weights is None else weights.float()


def _kept_ones(moves: Moves) -> Tensor | None:
    return None if moves.kept is None else _ones(moves.kept_weights, moves.kept)
