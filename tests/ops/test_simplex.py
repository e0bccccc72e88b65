import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from efface.ops import simplex

ROWS = st.lists(st.lists(st.floats(-5, 5, width=32), min_size=7, max_size=7), min_size=1, max_size=4).map(torch.tensor)
BOTH = pytest.mark.parametrize("project", [simplex.by_sorting, simplex.by_bisection])


@BOTH
def test_by_hand(project):
    """x = (1, .5, 0): with two entries mu = (1.5 - 1) / 2 = .25, which leaves (.75, .25, 0). A point of the simplex stays; V equal entries become 1 / V."""
    rows = torch.tensor([[1.0, 0.5, 0.0], [0.2, 0.3, 0.5], [-7.0, -7.0, -7.0], [0.0, 40.0, 0.0]])
    wanted = torch.tensor([[0.75, 0.25, 0.0], [0.2, 0.3, 0.5], [1 / 3] * 3, [0.0, 1.0, 0.0]])
    assert torch.allclose(project(rows), wanted, atol=2e-5)


@BOTH
@given(ROWS)
@settings(max_examples=40, deadline=None)
def test_on_the_simplex_and_nearest(project, rows):
    """Rows sum to 1 +- 1e-4 and are not negative; no corner q is nearer: (x - p)(q - p) <= 0 for all of them."""
    found = project(rows)
    assert (found.sum(-1) - 1).abs().max() <= 1e-4 and found.min() >= 0
    towards = torch.eye(rows.shape[-1])[None] - found[:, None]
    assert ((rows - found)[:, None] * towards).sum(-1).max() <= 2e-3


@given(ROWS)
@settings(max_examples=60, deadline=None)
def test_bisection_agrees_with_sorting(rows):
    assert (simplex.by_bisection(rows) - simplex.by_sorting(rows)).abs().max() <= 1e-4


def test_a_whole_vocabulary():
    """49,408 entries near 1 / V, as after a step of the attack; any leading shape."""
    rows = 1 / 49408 + 0.01 * torch.randn(2, 3, 49408, generator=torch.Generator().manual_seed(0))
    found = simplex.by_bisection(rows)
    assert found.shape == rows.shape and (found.sum(-1) - 1).abs().max() <= 1e-4
    assert (found - simplex.by_sorting(rows.double())).abs().max() <= 1e-4
