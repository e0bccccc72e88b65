"""Cosines that know a zero difference, shares along a direction, and two distances between pictures."""

import math

import pytest
import torch
from torch.nn.functional import cosine_similarity

from efface.ops.directions import cosines, layer_distance, picture_distance, shares


def test_cosines():
    """(3, 4) and (1, 0): 3/5. (0, 2): 0. The plain cosine of torch says the same of differences that are not small."""
    moves, direction = torch.tensor([[3.0, 4.0], [0.0, 2.0], [-1.0, 0.0]]), torch.tensor([2.0, 0.0])
    assert cosines(moves, direction).tolist() == pytest.approx([0.6, 0.0, -1.0], abs=1e-6)
    assert torch.allclose(cosines(moves, direction), cosine_similarity(moves, direction[None]), atol=1e-6)


def test_a_zero_difference_has_cosine_zero_and_a_gradient_along_the_direction():
    """d/dm <m, v> / (|v| sqrt(|m|^2 + f^2)) at 0 is v / (|v| f): with v = (0, 2) and f = 0.5 it is (0, 2)."""
    moves = torch.zeros(1, 2, requires_grad=True)
    found = cosines(moves, torch.tensor([0.0, 2.0]), floor=0.5)
    found.sum().backward()
    assert found.tolist() == [0.0] and moves.grad.tolist() == [[0.0, 2.0]]
    plain = torch.zeros(1, 2, requires_grad=True)
    (plain @ torch.tensor([0.0, 2.0]) / (plain.norm(dim=1) * 2)).sum().backward()
    assert not torch.isfinite(plain.grad).all(), "the plain formula gives no number here, which is why there is another"


def test_shares():
    """(3, 4) goes 3 along (2, 0), which is 1.5 of its length 2; (-2, 7) goes back all of it."""
    assert shares(torch.tensor([[3.0, 4.0], [-2.0, 7.0]]), torch.tensor([2.0, 0.0])).tolist() == pytest.approx([1.5, -1.0])


def test_picture_distance():
    """A checkerboard of +1 and -1 has distance 1 at full size and 0 at every coarser one: a third. A constant 0.5 has 0.5 at each."""
    y, x = torch.meshgrid(torch.arange(8), torch.arange(8), indexing="ij")
    board = (1 - 2 * ((x + y) % 2)).float().expand(1, 3, 8, 8)
    nothing = torch.zeros(1, 3, 8, 8)
    assert picture_distance(board, nothing).item() == pytest.approx(1 / 3)
    assert picture_distance(nothing + 0.5, nothing).item() == pytest.approx(0.5)
    assert picture_distance(board, board).item() == 0
    assert picture_distance(torch.ones(1, 3, 1, 1), torch.zeros(1, 3, 1, 1)).item() == 1, "one pixel has one resolution"


def test_layer_distance():
    """Unit vectors (1, 0) and (0, 1) at every place are 2 apart, squared; the length of a feature vector does not count.

    Over two layers, one of which is equal: the mean of 2 and 0.
    """
    one, other = torch.zeros(1, 2, 3, 3), torch.zeros(1, 2, 3, 3)
    one[:, 0], other[:, 1] = 5.0, 0.1
    assert layer_distance([one], [other]).item() == pytest.approx(2, rel=1e-5)
    assert layer_distance([one, one], [other, 3 * one]).item() == pytest.approx(1, rel=1e-5)
    assert math.isfinite(layer_distance([torch.zeros(1, 2, 3, 3)], [one]).item())
