"""The closed-form edit against least squares on stacked rows, its map, its inverse, and the states that undo it."""

import math

import pytest
import torch

from efface.core.errors import Unfit
from efface.ops import closed_form as cf

D, WIDTHS = 24, (10, 16, 31)


def states(count, seed, width=D):
    return torch.randn(count, width, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def layers(seed=9):
    return [states(width, seed + width) for width in WIDTHS]


def posed(seed=0, erased=3, kept=4):
    """A problem with a weight of its own for every state."""
    return cf.Moves(
        states(erased, seed), states(erased, seed + 1), torch.rand(erased, generator=torch.Generator().manual_seed(seed)) + 0.5,
        states(kept, seed + 2), torch.rand(kept, generator=torch.Generator().manual_seed(seed + 1)) + 0.5,
    )


def stacked_solution(weight, moves, lam, prior=None):
    """The same problem as one tall least-squares system, a row for each state and each direction of the penalty."""
    a, p = moves.weights.double().sqrt()[:, None], moves.kept_weights.double().sqrt()[:, None]
    rows = [a * moves.contexts, p * moves.kept, math.sqrt(lam) * torch.eye(D, dtype=torch.float64)]
    wanted = [a * (moves.targets @ weight.T), p * (moves.kept @ weight.T), math.sqrt(lam) * weight.T]
    if prior is not None:
        root = torch.linalg.cholesky(prior).T
        rows, wanted = [*rows, root], [*wanted, root @ weight.T]
    return torch.linalg.lstsq(torch.cat(rows), torch.cat(wanted)).solution.T


def test_worked_by_hand():
    """lam = 1, c = (1, 0), g = (0, 1): N = diag(2, 1), M = I + (g - c) c^T N^-1 = [[1/2, 0], [1/2, 1]]; W = (3, 5) becomes (4, 5)."""
    moves = cf.Moves(torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]]))
    found = cf.solve(moves, 1.0)
    assert torch.allclose(found.map, torch.tensor([[0.5, 0.0], [0.5, 1.0]], dtype=torch.float64), atol=1e-15)
    assert found.condition == pytest.approx(2.0) and found.added == 0
    assert torch.allclose(cf.edited(torch.tensor([[3.0, 5.0]]), found.map), torch.tensor([[4.0, 5.0]]))


@pytest.mark.parametrize("with_prior", [False, True])
@pytest.mark.parametrize("lam", [1e-3, 0.5, 20.0])
def test_equals_least_squares_in_every_layer(lam, with_prior):
    moves = posed()
    tokens = states(200, 77)
    prior = tokens.T @ tokens / 40 if with_prior else None
    found = cf.solve(moves, lam, prior).map
    for weight in layers():
        assert torch.allclose(cf.edited(weight, found), stacked_solution(weight, moves, lam, prior), atol=1e-8)


def test_one_map_for_all_layers_and_the_same_as_reading_other_states():
    """W_old^+ W_new is one matrix in all layers, whatever their width; and W' h = W (M h)."""
    found = cf.solve(posed(), 0.5).map
    tall = [states(width, width) for width in (24, 40, 33)]
    for weight in tall:
        assert torch.allclose(torch.linalg.lstsq(weight, cf.edited(weight, found)).solution, found, atol=1e-9)
    h = states(7, 5)
    assert max(float((h @ cf.edited(w, found).T - (h @ found.T) @ w.T).abs().max()) for w in tall) < 1e-12
    back = h @ cf.undone(found).T
    assert max(float((back @ cf.edited(w, found).T - h @ w.T).abs().max()) for w in tall) < 1e-12


def test_nothing_to_change_changes_nothing():
    """No state to move, or states moved to themselves: the map is the identity and weights keep their bits."""
    r = states(5, 1)
    for moves in (cf.Moves(r[:0], r[:0], None, r), cf.Moves(r, r.clone())):
        found = cf.solve(moves, 0.5).map
        assert torch.equal(found, torch.eye(D, dtype=torch.float64))
        weight = states(9, 3).float()
        assert torch.equal(cf.edited(weight, found), weight)


def test_independent_states_are_met():
    """At lam 1e-6 moved states land on their targets and held ones stay, each within 1e-4; at lam .5 they are off by more."""
    moves, weight = posed(), layers()[2]
    misses = {}
    for lam in (1e-6, 0.5):
        changed = cf.edited(weight, cf.solve(moves, lam).map)
        for name, (said, wanted) in {"moved": (moves.contexts, moves.targets), "held": (moves.kept, moves.kept)}.items():
            misses[name, lam] = float((said @ changed.T - wanted @ weight.T).norm() / (wanted @ weight.T).norm())
    assert max(misses["moved", 1e-6], misses["held", 1e-6]) < 1e-4
    assert misses["moved", 0.5] > 100 * misses["moved", 1e-6]


def test_rank_deficient_systems_are_made_solvable_by_a_named_value():
    """Three states in 24 directions and lam 0: the least eigenvalue is 0, so a ten-billionth of the largest is added."""
    moves = cf.Moves(states(3, 0), states(3, 1))
    found = cf.solve(moves, 0.0)
    largest = float(torch.linalg.eigvalsh(moves.contexts.T @ moves.contexts)[-1])
    assert found.added == pytest.approx(largest / 1e10, rel=1e-3)
    assert found.condition == pytest.approx(1e10, rel=1e-3)
    assert torch.allclose(moves.contexts @ found.map.T, moves.targets, atol=1e-6)
    assert cf.solve(moves, 0.5).added == 0


def test_single_precision_costs_digits_of_the_change_alone():
    """A small change of float32 weights is right to the last bits, and half precision comes back as it was."""
    moves = cf.Moves(states(2, 0), states(2, 0) + 1e-3 * states(2, 1))
    found, weight = cf.solve(moves, 0.5).map, states(30, 4).float()
    exact = (weight.double() @ found).float()
    # A product in single precision is off by 24 roundings of whole numbers; here the last addition rounds once.
    assert float((cf.edited(weight, found) - exact).abs().max()) <= float(weight.abs().max()) * 2**-23
    half = cf.edited(weight.bfloat16(), found)
    assert half.dtype == torch.bfloat16
    assert torch.equal(half, (weight.bfloat16().double() @ found).bfloat16())


def test_targets_as_outputs():
    """With the outputs W g given as they are, the solution is the edit's; `away` leaves nothing along W c."""
    moves, weight = cf.Moves(states(3, 0), states(3, 1)), layers()[1]
    assert torch.allclose(cf.fitted(weight, moves.contexts, moves.targets @ weight.T, 0.5), cf.edited(weight, cf.solve(moves, 0.5).map), atol=1e-10)
    left = cf.away(weight, moves.contexts, moves.targets)
    assert float((left * (moves.contexts @ weight.T)).sum(1).abs().max()) < 1e-10
    along = moves.contexts @ weight.T
    assert torch.allclose(torch.linalg.matrix_rank(torch.stack([left[0], along[0], (moves.targets @ weight.T)[0]])), torch.tensor(2))


def test_moves_together():
    """Two sets of moves solve as one whose weights, 1 where none are given, stand side by side."""
    one, two = posed(0), cf.Moves(states(2, 8), states(2, 9))
    both = one.plus(two)
    assert torch.equal(both.weights, torch.cat([one.weights, torch.ones(2)]))
    assert torch.equal(both.kept, one.kept) and torch.equal(both.kept_weights, one.kept_weights)
    assert torch.allclose(cf.normal(both, 0.5), cf.normal(one, 0.5) + two.contexts.T @ two.contexts)
    assert torch.equal(two.plus(one).kept, one.kept) and two.plus(two).kept is None


@pytest.mark.parametrize("lam_reg", [1e-4, 0.1, 10.0])
def test_recalled_states_are_where_the_gradient_vanishes(lam_reg):
    old, moves = layers(), posed()
    new = [cf.edited(weight, cf.solve(moves, 0.1).map) for weight in old]
    found = cf.recalled(*cf.products(old, new), moves.contexts, lam_reg).requires_grad_(True)
    objective = sum((found @ w.T - moves.contexts @ v.T).square().sum() for w, v in zip(new, old, strict=True)) + lam_reg * found.square().sum()
    (gradient,) = torch.autograd.grad(objective, found)
    assert float(gradient.abs().max()) < 1e-8 * max(1.0, float(objective.detach()))


def test_recalled_states_undo_any_edit_as_they_are_let_grow():
    """Residual and length for lam_reg 10, .1, 1e-6, 0: the one falls to nothing, the other grows; at 0 they are M^-1 c."""
    old, moves = layers(), posed()
    m = cf.solve(moves, 0.1).map
    new = [cf.edited(weight, m) for weight in old]
    same, cross = cf.products(old, new)
    found = [cf.recalled(same, cross, moves.contexts, lam) for lam in (10.0, 0.1, 1e-6, 0.0)]
    rests = [sum(float((c @ w.T - moves.contexts @ v.T).square().sum()) for w, v in zip(new, old, strict=True)) for c in found]
    assert rests == sorted(rests, reverse=True) and rests[-1] < 1e-15 * rests[0]
    assert [float(c.norm()) for c in found] == sorted(float(c.norm()) for c in found)
    assert torch.allclose(found[-1], moves.contexts @ cf.undone(m).T, atol=1e-6)


def test_shapes_of_recalled_states():
    """States (B, L, d) come back as (B, L, d), each position by itself."""
    old = layers()
    same, cross = cf.products(old, old)
    given = states(6, 2).view(2, 3, D)
    assert torch.allclose(cf.recalled(same, cross, given, 0.5)[1, 2], cf.recalled(same, cross, given[1, 2], 0.5))


@pytest.mark.parametrize(
    ("moves", "says"),
    [
        (cf.Moves(torch.full((1, 3), math.nan), torch.zeros(1, 3)), "not finite"),
        (cf.Moves(torch.zeros(2, 3), torch.zeros(1, 3)), "2 states of width 3 are to be read as 1"),
        (cf.Moves(torch.zeros(1, 3), torch.zeros(1, 4)), "of width 4"),
    ],
)
def test_bad_states_say_so_in_one_line(moves, says):
    with pytest.raises(Unfit, match=says) as error:
        cf.solve(moves, 0.5)
    assert "\n" not in str(error.value)


def test_a_singular_map_cannot_be_taken_back():
    with pytest.raises(Unfit, match="singular"):
        cf.undone(torch.zeros(3, 3, dtype=torch.float64))
