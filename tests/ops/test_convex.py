"""Convex heads: the objective and its derivatives, the fit, the removal of rows, and the budget."""

import math

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from efface.benchmarks.digits import split
from efface.core.errors import Diverged, Unfit
from efface.ops import convex
from efface.ops.convex import Rows


def digits(*classes):
    parts = split("random")
    rows = [row for row in [*parts.forget, *parts.keep] if row["y"] in classes]
    labels = torch.tensor([classes.index(row["y"]) for row in rows])
    return Rows(convex.unit(torch.tensor(np.array([row["x"] for row in rows]))), convex.signs(labels, len(classes)))


def noise(count, width, sigma, seed=0):
    return sigma * torch.randn(count, width, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def test_signs_and_units():
    assert convex.signs(torch.tensor([0, 1]), 2).tolist() == [[-1.0, 1.0]]
    assert convex.signs(torch.tensor([0, 2]), 3).tolist() == [[1.0, -1.0], [-1.0, -1.0], [-1.0, 1.0]]
    assert convex.unit(torch.tensor([[3.0, 4.0], [0.0, 0.0]])).tolist() == [[0.6, 0.8], [0.0, 0.0]]


def test_objective_by_hand():
    """One row x = (0.6, 0.8), s = -1, w = (1, 1), lam = 0.5, b = (1, 0): log(1 + e^1.4) + 0.25 * 2 + 1."""
    rows = Rows(torch.tensor([[0.6, 0.8]], dtype=torch.float64), torch.tensor([[-1.0]], dtype=torch.float64))
    w, b = torch.ones(1, 2, dtype=torch.float64), torch.tensor([[1.0, 0.0]], dtype=torch.float64)
    assert float(convex.objective(w, rows, 0.5, b)) == pytest.approx(math.log(1 + math.exp(1.4)) + 0.5 + 1.0, rel=1e-12)
    chance = 1 / (1 + math.exp(-1.4))
    assert convex.gradient(w, rows, 0.5, b)[0].tolist() == pytest.approx([0.6 * chance + 0.5 + 1, 0.8 * chance + 0.5], rel=1e-12)


def test_derivatives_equal_automatic_ones():
    rows = digits(1, 7, 4)
    rows = Rows(rows.x[:50], rows.signs[:, :50])
    w, b = noise(3, 64, 1.0, 1), noise(3, 64, 1.0, 2)
    slope = torch.autograd.functional.jacobian(lambda v: convex.objective(v, rows, 0.1, b).sum(), w)
    assert torch.allclose(convex.gradient(w, rows, 0.1, b), slope, atol=1e-12)
    v = noise(3, 64, 1.0, 3)
    _, product = torch.autograd.functional.hvp(lambda u: convex.objective(u, rows, 0.1, b).sum(), w, v)
    assert torch.allclose(convex.curvature(w, rows, 0.1)(v), product, atol=1e-12)


def test_fit_equals_logistic_regression():
    """Without a random term it is scikit-learn's regression with C = 1 / (lam n) and no intercept."""
    rows = digits(3, 8)
    found = convex.fit(rows, 0.01, torch.zeros(1, 64, dtype=torch.float64))
    other = LogisticRegression(C=1 / (0.01 * len(rows.x)), fit_intercept=False, tol=1e-10, max_iter=5000)
    other.fit(rows.x.numpy(), rows.signs[0].numpy())
    assert np.abs(found.weights.numpy() - other.coef_).max() < 1e-5 and float(found.residual) < 1e-9


def test_fit_refuses_what_it_cannot():
    rows = digits(3, 8)
    with pytest.raises(Unfit, match="row 2 has the norm 2"):
        convex.fit(Rows(torch.cat([rows.x[:1], 2 * rows.x[1:2], rows.x[2:]]), rows.signs), 0.01, torch.zeros(1, 64, dtype=torch.float64))
    with pytest.raises(Diverged, match="after 1 steps"):
        convex.fit(rows, 0.01, torch.zeros(1, 64, dtype=torch.float64), steps=1)


@pytest.fixture(scope="module")
def hundred():
    """100 removals from a head on the digits 3 and 8 (lam .01, sigma 1): after each, what is left, what was counted, and the weights."""
    rows, lam, b = digits(3, 8), 0.01, noise(1, 64, 1.0)
    start = convex.fit(rows, lam, b)
    norm, weights, counted, steps = convex.spectral_norm(rows.x), start.weights, start.residual, []
    for at in range(100):
        rest, gone = (Rows(rows.x[a:z], rows.signs[:, a:z]) for a, z in ((at + 1, None), (at, at + 1)))
        found = convex.remove(weights, rest, gone, lam, norm)
        weights, counted = found.weights, counted + found.bound
        steps.append((float(convex.gradient(weights, rest, lam, b).norm()), float(counted), weights))
    return rows, lam, b, start.weights, steps


def test_what_is_left_is_within_the_bound_at_every_step(hundred):
    *_, steps = hundred
    assert len(steps) == 100 and all(0 < left <= counted for left, counted, _ in steps)
    assert all(steps[at][1] < steps[at + 1][1] for at in range(99)), "bounds add up"
    assert steps[99][1] / steps[99][0] < 1000, "and are not so wide as to say nothing"


def test_removal_is_near_retraining(hundred):
    """Less than 1 % of the distance that doing nothing leaves, after 1, 10 and 100 rows; measured .02, .12 and .22 %."""
    rows, lam, b, before, steps = hundred
    for count in (1, 10, 100):
        retrained = convex.fit(Rows(rows.x[count:], rows.signs[:, count:]), lam, b).weights
        assert float((steps[count - 1][2] - retrained).norm()) < 0.01 * float((before - retrained).norm())


def test_budget_of_the_measured_case(hundred):
    """epsilon 1, delta 1e-4, sigma 1: sqrt(2 log 15000) = 4.38539, a budget of .22803, which lasts for some twenty removals here."""
    *_, steps = hundred
    assert convex.budget(1.0, 1.0, 1e-4) == pytest.approx(1 / 4.38539, rel=1e-5)
    assert 10 <= sum(counted <= convex.budget(1.0, 1.0, 1e-4) for _, counted, _ in steps) <= 30


def test_a_batch_of_rows_goes_in_one_step(hundred):
    rows, lam, b, before, _ = hundred
    gone, rest = Rows(rows.x[:10], rows.signs[:, :10]), Rows(rows.x[10:], rows.signs[:, 10:])
    found = convex.remove(before, rest, gone, lam, convex.spectral_norm(rows.x))
    left = convex.gradient(found.weights, rest, lam, b).norm()
    assert float(left) <= float(found.bound.sum()) + 1e-8
    with pytest.raises(Unfit, match="no row would remain"):
        convex.remove(before, Rows(rows.x[:0], rows.signs[:, :0]), rows, lam, 1.0)


def test_classes_have_bounds_of_their_own():
    """One against the rest is so many separate regressions: together they give what each gives alone."""
    rows, lam = digits(0, 1, 2, 3), 0.05
    b = noise(4, 64, 1.0)
    whole = convex.fit(rows, lam, b)
    rest, gone = Rows(rows.x[5:], rows.signs[:, 5:]), Rows(rows.x[:5], rows.signs[:, :5])
    together = convex.remove(whole.weights, rest, gone, lam, 20.0)
    for k in range(4):
        alone = convex.remove(whole.weights[k : k + 1], Rows(rest.x, rest.signs[k : k + 1]), Rows(gone.x, gone.signs[k : k + 1]), lam, 20.0)
        assert torch.allclose(together.weights[k], alone.weights[0], atol=1e-10)
        assert float(together.bound[k]) == pytest.approx(float(alone.bound[0]), rel=1e-6)
    assert len({round(float(bound), 12) for bound in together.bound}) == 4


def test_spectral_norm():
    """The largest singular value, or sqrt(n) for large sets, which is never less for rows of norm at most 1."""
    x = convex.unit(noise(30, 8, 1.0))
    assert convex.spectral_norm(x) == pytest.approx(float(torch.linalg.matrix_norm(x, 2)), rel=1e-10)
    assert convex.spectral_norm(x.T[:, :8]) >= float(torch.linalg.matrix_norm(x.T[:, :8], 2)) and convex.spectral_norm(x[:0]) == 0.0
    assert math.sqrt(30) >= convex.spectral_norm(x)


def test_gaussian_delta():
    """A unit Gaussian moved by 1, at epsilon 1: Phi(-.5) - e Phi(-1.5) = .308538 - 2.718282 * .066807 = .126937.

    The theorem's constant stays below its own delta where epsilon is small, and not where it is large.
    """
    assert convex.gaussian_delta(1.0, 1.0) == pytest.approx(0.126937, abs=1e-6) and convex.gaussian_delta(0.0, 1.0) == 0.0
    for epsilon in (0.1, 0.5, 1.0, 2.0):
        assert convex.gaussian_delta(convex.budget(1.0, epsilon, 1e-4), epsilon) <= 1e-4
    assert convex.gaussian_delta(convex.budget(1.0, 30.0, 1e-4), 30.0) > 1e-4
