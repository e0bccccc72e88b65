"""Conjugate gradients, the WoodFisher recursion, products with Hessians and Fisher matrices, and leave-one-out in closed form."""

import pytest
import torch
from sklearn.datasets import load_diabetes

from efface.core.errors import Diverged
from efface.ops.curvature import conjugate_gradient, fisher_product, flat, hessian_product, move, woodfisher


def close(a, b, within=1e-10):
    return float((a - b).abs().max()) <= within * max(1.0, float(b.abs().max()))


def test_conjugate_gradients():
    """[[4, 1], [1, 3]] x = [1, 2] has the solution [1/11, 7/11], reached in two products; side by side each system stands alone."""
    matrix = torch.tensor([[4.0, 1.0], [1.0, 3.0]], dtype=torch.float64)
    b = torch.tensor([1.0, 2.0], dtype=torch.float64)
    found = conjugate_gradient(lambda v: matrix @ v, b)
    assert close(found.x, torch.tensor([1 / 11, 7 / 11], dtype=torch.float64)) and found.steps == 2 and float(found.residual) < 1e-12
    three = torch.stack([b, torch.zeros_like(b), 2 * b])
    side = conjugate_gradient(lambda v: v @ matrix, three)
    assert close(side.x, torch.stack([found.x, torch.zeros(2, dtype=torch.float64), 2 * found.x]))
    short = conjugate_gradient(lambda v: matrix @ v, b, steps=1)
    assert short.steps == 1 and float(short.residual) == pytest.approx(float((matrix @ short.x - b).norm()), rel=1e-12)


def test_negative_curvature_is_named():
    with pytest.raises(Diverged, match="curvature -1.*raise damping"):
        conjugate_gradient(lambda v: -v, torch.ones(2))


def test_woodfisher_recursion():
    """g = (1, 0), (1, 1), (2, 0), N = 2, v = (1, 1).

    o = (1, 0). Second row: o.g = 1, t = 3, k.g = 2: k = (1/3, 1), o = (2/3, 0). Third: o.g = 4/3, t = 10/3, k.g = 2/3: k = (0.2, 1).
    """
    rows = [torch.tensor(row, dtype=torch.float64) for row in ([1.0, 0.0], [1.0, 1.0], [2.0, 0.0])]
    v = torch.ones(2, dtype=torch.float64)
    assert close(woodfisher(rows, v, 2), torch.tensor([0.2, 1.0], dtype=torch.float64))
    assert v.tolist() == [1.0, 1.0] and rows[0].tolist() == [1.0, 0.0], "nothing that was given has changed"


def test_woodfisher_is_no_inverse():
    """Whatever the rows, it moves v along the first row's gradient and nowhere else; the true inverse does not."""
    source = torch.Generator().manual_seed(0)
    rows = torch.randn(20, 6, generator=source, dtype=torch.float64)
    v = torch.randn(6, generator=source, dtype=torch.float64)
    moved = woodfisher(rows, v, 20) - v
    along = moved @ rows[0] / rows[0].norm() / moved.norm()
    assert abs(float(along)) == pytest.approx(1.0, abs=1e-12)
    exact = torch.linalg.solve(torch.eye(6, dtype=torch.float64) + rows.T @ rows / 20, v)
    assert float((v + moved - exact).norm() / exact.norm()) > 0.1


@pytest.fixture
def small():
    """A linear classifier with three classes in double precision: its weights, and the loss of each of 12 rows."""
    source = torch.Generator().manual_seed(1)
    x = torch.randn(12, 4, generator=source, dtype=torch.float64)
    y = torch.randint(3, (12,), generator=source)
    weight = torch.randn(3, 4, generator=source, dtype=torch.float64).requires_grad_()

    def losses(w):
        return torch.nn.functional.cross_entropy(x @ w.T, y, reduction="none")

    return weight, losses


def test_products_equal_the_whole_matrix(small):
    weight, losses = small
    v = torch.randn(12, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    hessian = torch.autograd.functional.hessian(lambda w: losses(w).mean(), weight.detach()).reshape(12, 12)
    eye = torch.eye(12, dtype=torch.float64)
    parts = lambda: (losses(weight)[a:b].sum() / 12 for a, b in ((0, 5), (5, 12)))  # noqa: E731
    assert close(hessian_product(parts, [weight], 0.3)(v), (hessian + 0.3 * eye) @ v)
    each = torch.stack([flat(torch.autograd.grad(row, [weight], retain_graph=True)) for row in losses(weight)])
    pieces = lambda: (losses(weight)[a:b] for a, b in ((0, 5), (5, 12)))  # noqa: E731
    assert close(fisher_product(pieces, [weight], 12, 0.3)(v), (each.T @ each / 12 + 0.3 * eye) @ v)


@pytest.fixture(scope="module")
def ridge():
    """Ridge regression on the diabetes table: inputs, targets, regularization, weights, and the Hessian."""
    x, y = load_diabetes(return_X_y=True)
    x, y = torch.from_numpy(x), torch.from_numpy(y - y.mean())
    lam = 0.1
    hessian = x.T @ x + lam * torch.eye(10, dtype=torch.float64)
    return x, y, lam, torch.linalg.solve(hessian, x.T @ y), hessian


@pytest.mark.parametrize("row", [0, 17, 400])
def test_leave_one_out_in_closed_form(ridge, row):
    """One step along the inverse Hessian times the row's gradient, divided by 1 - h, is retraining without the row, to 1e-10.

    With the Hessian of the rows that remain the step needs no correction, because that Hessian makes it (Sherman and Morrison).
    Without either, the plain influence step falls short by the factor 1 - h exactly.
    """
    x, y, lam, weights, hessian = ridge
    pull = -x[row] * (y[row] - x[row] @ weights)
    rest = torch.arange(len(x)) != row
    hessian_rest = x[rest].T @ x[rest] + lam * torch.eye(10, dtype=torch.float64)
    retrained = torch.linalg.solve(hessian_rest, x[rest].T @ y[rest])
    plain = conjugate_gradient(lambda v: hessian @ v, pull, 1e-14).x
    h = float(x[row] @ torch.linalg.solve(hessian, x[row]))
    assert close(weights + plain / (1 - h), retrained, 1e-10)
    assert close(weights + conjugate_gradient(lambda v: hessian_rest @ v, pull, 1e-14).x, retrained, 1e-10)
    assert close(plain, (1 - h) * (retrained - weights), 1e-10) and h > 1e-3
    assert not close(weights + plain, retrained, 1e-6), "the correction matters"


def test_move():
    one, two = torch.zeros(2, 2), torch.zeros(3)
    move([one, two], torch.arange(7.0))
    assert one.tolist() == [[0, 1], [2, 3]] and two.tolist() == [4, 5, 6]
    with pytest.raises(Diverged, match="not finite"):
        move([one], torch.full((4,), float("nan")))
    assert one.tolist() == [[0, 1], [2, 3]], "and nothing was written"
