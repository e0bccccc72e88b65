"""Rounding of weights: buckets, overlap of codes, properties."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as some

from efface.ops.quantize import codes, round_to_nearest, same_codes


def test_by_hand():
    """Three bits give codes -3..3; the row's largest 0.6 makes delta 0.2, so 0.29 is 1 bucket and -0.31 is -2 buckets (-1.55)."""
    weight = torch.tensor([[0.6, 0.29, -0.31, 0.0]])
    assert codes(weight, 3)[0].tolist() == [[3.0, 1.0, -2.0, 0.0]]
    assert round_to_nearest(weight, 3)[0].tolist() == pytest.approx([0.6, 0.2, -0.4, 0.0], abs=1e-6)


def test_each_row_has_its_own_scale_and_each_group_too():
    weight = torch.tensor([[1.0, 0.01, 0.01, 0.005], [100.0, 1.0, 1.0, 0.5]])
    assert codes(weight, 4)[1].flatten().tolist() == pytest.approx([1 / 7, 100 / 7])
    grouped = round_to_nearest(weight, 4, group=2)
    assert grouped[0, 2:].tolist() == pytest.approx([0.01, 0.01 * 4 / 7], abs=1e-6)  # 3.5 rounds to even: 4 of 7
    assert round_to_nearest(weight, 4)[0, 2:].tolist() == [0.0, 0.0]
    assert torch.equal(round_to_nearest(weight, 4, group=3), round_to_nearest(weight, 4))


def test_a_row_of_zeros_stays_zero():
    assert torch.equal(round_to_nearest(torch.zeros(2, 3), 4), torch.zeros(2, 3))


def test_small_edits_inside_the_bucket_vanish():
    """Weights on bucket centers, edits below half a bucket, none where the row's largest stands: every code is as before."""
    seeded = torch.Generator().manual_seed(0)
    plain = round_to_nearest(torch.randn(32, 64, generator=seeded), 4)
    delta = codes(plain, 4)[1]
    edit = (torch.rand(plain.shape, generator=seeded) - 0.5) * 0.98 * delta
    held = torch.where(plain.abs() >= plain.abs().amax(-1, keepdim=True) * 0.999, 0.0, edit)
    assert same_codes(plain, plain + held, 4) == plain.numel()
    # Edits of the largest entries move delta itself, and with it the codes of others.
    assert same_codes(plain, plain + edit, 4) < plain.numel()


def test_overlap_falls_with_the_size_of_the_edit():
    """Gaussian weights of deviation .02: an edit of 1e-5 leaves nearly all 4-bit codes, one of .1 few."""
    seeded = torch.Generator().manual_seed(1)
    weight, edit = torch.randn(64, 256, generator=seeded) * 0.02, torch.randn(64, 256, generator=seeded)
    shares = [same_codes(weight, weight + size * edit, 4) / weight.numel() for size in (1e-5, 1e-3, 1e-1)]
    assert shares[0] > 0.99 > shares[1] > 0.8 > 0.5 > shares[2]


@settings(max_examples=40, deadline=None)
@given(some.integers(2, 16), some.integers(0, 2**31), some.sampled_from([0, 4, 8]))
def test_rounding_is_idempotent_and_within_half_a_bucket(bits, seed, group):
    weight = torch.randn(3, 8, generator=torch.Generator().manual_seed(seed))
    rounded = round_to_nearest(weight, bits, group)
    _, scale = codes(weight, bits, group)
    wide = scale.reshape(3, -1).repeat_interleave(8 // scale.reshape(3, -1).shape[1], dim=1)
    assert ((rounded - weight).abs() <= wide / 2 * 1.0001 + 1e-7).all()
    assert torch.allclose(round_to_nearest(rounded, bits, group), rounded, atol=1e-6)
