"""FID and KID by hand."""


import numpy as np
import pytest

from efface.metrics.fid import frechet, kernel


def test_frechet_distance_by_hand():
    """Two sets on a line: means 1 and 4, variances 2 and 8: (1 - 4)^2 + 2 + 8 - 2 sqrt(16) = 11."""
    one, other = np.array([[0.0], [2.0]]), np.array([[2.0], [6.0]])
    assert frechet(one, other) == pytest.approx(9 + 2 + 8 - 2 * 4)
    shifted = np.random.default_rng(0).normal(size=(500, 3))
    assert frechet(shifted, shifted + np.array([3.0, 0, 0])) == pytest.approx(9, rel=1e-6)


def test_kernel_distance_by_hand():
    """x = (0, 1), y = (1, 1), d = 1: within x 1, within y 8, across (1 + 1 + 8 + 8) / 4 = 4.5; 1 + 8 - 9 = 0."""
    assert kernel(np.array([[0.0], [1.0]]), np.array([[1.0], [1.0]])) == pytest.approx(0.0)
    rng = np.random.default_rng(0)
    same = [kernel(rng.normal(size=(40, 4)), rng.normal(size=(40, 4))) for _ in range(30)]
    assert abs(np.mean(same)) < 0.1  # unbiased: around 0 for equal distributions
