"""Gradient surgery: by hand, orthogonal after a conflict, untouched without one."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from efface.ops.surgery import limited, without_conflict


def test_by_hand():
    """a = (3, -1), b = (0, 2): a.b = -2, |b|^2 = 4, so a + 1/2 b = (3, 0), and with half the strength (3, -1/2). The second pair agrees."""
    a, b = [torch.tensor([3.0, -1.0]), torch.tensor([1.0])], [torch.tensor([0.0, 2.0]), torch.tensor([5.0])]
    assert [tensor.tolist() for tensor in without_conflict(a, b)] == [[3.0, 0.0], [1.0]]
    assert without_conflict(a, b, 0.5)[0].tolist() == [3.0, -0.5]


@given(st.integers(0, 2**31), st.integers(2, 200), st.floats(1e-3, 1e3))
@settings(max_examples=40, deadline=None)
def test_after_a_conflict_the_dot_product_is_zero(seed, size, scale):
    """To 1e-6 of the product of the norms; and where the two agree, bit for bit what it was."""
    source = torch.Generator().manual_seed(seed)
    a, b = scale * torch.randn(size, generator=source), torch.randn(size, generator=source)
    for sign in (1.0, -1.0):
        other = sign * b
        (found,) = without_conflict([a], [other])
        if torch.dot(a.double(), other.double()) < 0:
            assert abs(float(found.double() @ other.double())) <= 1e-6 * float(a.norm() * b.norm())
            assert not torch.equal(found, a)
        else:
            assert found is a


def test_each_tensor_by_itself():
    """Over both tensors together there is no conflict (4 - 1 > 0); in the second alone there is."""
    first, second = without_conflict([torch.tensor([2.0]), torch.tensor([1.0, 1.0])], [torch.tensor([2.0]), torch.tensor([-1.0, 0.0])])
    assert first.tolist() == [2.0] and second.tolist() == [0.0, 1.0]


def test_nothing_to_protect():
    """A gradient of zero conflicts with nothing."""
    a = torch.tensor([-1.0, 2.0])
    assert without_conflict([a], [torch.zeros(2)])[0] is a


def test_limited():
    """Norms 3 and 4 are 5 together; limited to 1, each is a fifth."""
    given_two = [torch.tensor([3.0, 0.0]), torch.tensor([4.0])]
    assert torch.cat(limited(given_two, 1.0)).tolist() == pytest.approx([0.6, 0.0, 0.8])
    assert all(one is other for most in (0.0, 5.0, 9.0) for one, other in zip(limited(given_two, most), given_two, strict=True))
