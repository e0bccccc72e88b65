"""KL between next-token distributions, against numbers worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from efface.ops.divergences import kl_rows
from efface.ops.logprobs import IGNORE

A = torch.tensor([1 / 2, 1 / 2]).log()
B = torch.tensor([1 / 4, 3 / 4]).log()


def test_by_hand() -> None:
    """KL((1/2, 1/2) || (1/4, 3/4)) = 1/2 ln 2 + 1/2 ln 2/3 = 1/2 ln 4/3 = 0.143841; the other way round 0.130812."""
    labels = torch.tensor([[0]])
    assert kl_rows(A.view(1, 1, 2), B.view(1, 1, 2), labels).item() == pytest.approx(0.143841, abs=1e-6)
    assert kl_rows(B.view(1, 1, 2), A.view(1, 1, 2), labels).item() == pytest.approx(0.130812, abs=1e-6)


def test_mean_over_labeled_positions_of_each_row() -> None:
    """Row 1: labels at two positions, KL 0.143841 and 0 -> 0.071921. Row 2: one label, 0.143841; the rest is not counted.

    What a mean over all positions would give: 0.143841 / 3 in row 2.
    """
    before = torch.stack([A.repeat(3, 1), A.repeat(3, 1)])
    after = torch.stack([torch.stack([B, A, B]), torch.stack([A, B, 50 * B])])
    labels = torch.tensor([[0, 1, IGNORE], [IGNORE, 1, IGNORE]])
    assert kl_rows(before, after, labels).tolist() == pytest.approx([0.0719205, 0.143841], abs=1e-6)


def test_padding_changes_nothing() -> None:
    before, after = A.repeat(1, 2, 1), B.repeat(1, 2, 1)
    labels = torch.tensor([[0, 1]])
    noise = torch.randn(1, 5, 2, generator=torch.Generator().manual_seed(0)) * 30
    padded = kl_rows(torch.cat([before, noise], 1), torch.cat([after, -noise], 1), torch.cat([labels, torch.full((1, 5), IGNORE)], 1))
    assert padded.item() == pytest.approx(0.143841, abs=1e-6)


def test_raw_logits_are_normalized() -> None:
    """A constant added to all logits of a position changes nothing, as it would if logits were taken for log-probabilities."""
    labels = torch.tensor([[0, 1]])
    before, after = A.repeat(1, 2, 1), B.repeat(1, 2, 1)
    assert kl_rows(before + 11, after - 7, labels).item() == pytest.approx(kl_rows(before, after, labels).item(), abs=1e-6)


def test_gradient_by_hand() -> None:
    """d KL(p || q) / d logits of q = q - p = (1/4 - 1/2, 3/4 - 1/2); none flows at q = p."""
    labels = torch.tensor([[0]])
    for q, expected in ((B, [-0.25, 0.25]), (A, [0.0, 0.0])):
        after = q.view(1, 1, 2).clone().requires_grad_()
        kl_rows(A.view(1, 1, 2), after, labels).sum().backward()
        assert after.grad is not None
        assert after.grad.flatten().tolist() == pytest.approx(expected, abs=1e-6)


def test_a_row_without_labels_gives_zero_not_nan() -> None:
    assert kl_rows(A.view(1, 1, 2), B.view(1, 1, 2), torch.tensor([[IGNORE]])).item() == 0


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10_000), st.floats(0.1, 30))
def test_never_negative_and_zero_at_equality(seed: int, scale: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    p, q = (torch.randn(2, 3, 7, generator=generator) * scale for _ in range(2))
    labels = torch.randint(0, 7, (2, 3), generator=generator)
    assert kl_rows(p, q, labels).min().item() >= -1e-5
    assert kl_rows(p, p, labels).abs().max().item() == 0
    assert all(math.isfinite(value) for value in kl_rows(p, q, labels).tolist())
