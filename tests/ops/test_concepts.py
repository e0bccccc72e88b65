"""Concept directions, the sparse head, integrated gradients and plain concepts of pictures, against what is known by hand."""

import numpy as np
import pytest
import torch

from efface.ops import concepts
from efface.testing.tiny import digits, trained_classifier

pytest.importorskip("captum")
RNG = np.random.default_rng(0)


def test_a_concept_is_the_direction_that_tells_the_sides_apart():
    """Rows with it have 3 more in the first of five numbers; its margin is a distance, so the sides stand 3 apart."""
    absent = RNG.normal(size=(300, 5))
    present = RNG.normal(size=(300, 5)) + np.array([3, 0, 0, 0, 0])
    one = concepts.concept("first", present, absent, 200, 0)
    assert one.accuracy > 0.9 and abs(one.normal[0]) > 0.95 and np.linalg.norm(one.normal) == pytest.approx(1)
    margins = concepts.margins(np.concatenate([present, absent]), [one])
    assert margins[:300].mean() - margins[300:].mean() == pytest.approx(3, abs=0.3)


def test_noise_is_no_concept():
    one = concepts.concept("nothing", RNG.normal(size=(400, 3)), RNG.normal(size=(400, 3)), 400, 0)
    assert one.accuracy < 0.6


def test_too_few_rows_give_none():
    few = RNG.normal(size=(3, 5))
    assert concepts.concept("few", few, RNG.normal(size=(50, 5)), 100, 0) is None
    assert concepts.concept("four", RNG.normal(size=(4, 5)) + 9, RNG.normal(size=(50, 5)), 100, 0).accuracy == 1


def test_the_head_is_sparse_and_right():
    """Three classes that live on margins 0 and 1; margin 2 is noise and gets no weight, and class 3 of 4 has no rows."""
    labels = RNG.integers(0, 3, 600)
    scores = RNG.normal(size=(600, 3)) * 0.3
    scores[:, 0] += labels == 1
    scores[:, 1] += labels == 2
    head = concepts.sparse_head(scores, labels, 4, 5e-3, 0)
    assert head.accuracy > 0.85 and head.weights.shape == (4, 3)
    assert np.abs(head.weights[:, 2]).max() < 0.15 and head.weights[1, 0] > 1 and head.weights[2, 1] > 1
    assert not head.weights[3].any()


def test_two_classes_have_two_rows():
    labels = RNG.integers(0, 2, 200)
    head = concepts.sparse_head(labels[:, None] + 0.3 * RNG.normal(size=(200, 1)), labels, 2, 1e-3, 0)
    assert head.weights[1, 0] > 0 and head.weights[0, 0] == -head.weights[1, 0] and head.accuracy > 0.9


def test_a_linear_model_needs_one_step():
    """Integrated gradients of w x are w (x - x0), whatever the steps."""
    weights, x = torch.randn(3, 5, dtype=torch.float64), torch.randn(4, 5, dtype=torch.float64)
    baseline = torch.ones(4, 5, dtype=torch.float64)
    found, missing = concepts.integrated_gradients(lambda z: z @ weights.T, x, 1, 1, baseline)
    assert torch.allclose(found, weights[1] * (x - 1), atol=1e-6) and missing.abs().max() < 1e-6


def test_completeness():
    """Inputs sum to the rise of the logit from the baseline, to a thousandth of it: at 50 nodes for all rows together and for the
    middle row (kinks of the network leave .0021 in the worst one), at 400 nodes for every row."""
    subject = trained_classifier()
    x = torch.tensor([row["x"] for row in digits().forget])
    with torch.no_grad():
        rise = (subject.model(x) - subject.model(torch.zeros_like(x)))[:, 3]
    found, missing = concepts.integrated_gradients(subject.model, x, 3, 50)
    share = (found.sum(1) - rise).abs() / rise.abs()
    assert torch.allclose(found.sum(1) - rise, missing, atol=1e-4)
    assert abs(float(found.sum() / rise.sum()) - 1) < 1e-3 and float(share.median()) < 1e-3 and float(share.max()) < 4e-3
    finer, _ = concepts.integrated_gradients(subject.model, x, 3, 400)
    assert float(((finer.sum(1) - rise).abs() / rise.abs()).max()) < 1e-3


def test_worth():
    """A head of weights (2, -1) on rows of standardized margins (1, 3) and (3, 1): mean (2, 2), so (4, -2)."""
    head = concepts.Head(np.array([[2.0, -1.0]]), np.zeros(1), np.zeros(2), np.ones(2), 1.0)
    assert concepts.worth(head, np.array([[1.0, 3.0], [3.0, 1.0]]), 0, 5) == pytest.approx([4, -2])
    shifted = concepts.Head(np.array([[2.0, -1.0]]), np.zeros(1), np.array([1.0, 1.0]), np.array([1.0, 2.0]), 1.0)
    assert concepts.worth(shifted, np.array([[1.0, 3.0], [3.0, 1.0]]), 0, 5) == pytest.approx([2, -0.5])


def test_ink():
    """A picture 4 x 4 with all its ink in the upper left corner: top and left have all of it, bottom and right none."""
    picture = np.zeros((3, 4, 4))
    picture[0, 0, 0] = picture[0, 0, 1] = 1.0
    picture[1, :, :] = [0, 1, 1, 0]
    picture[2, 3, 3] = 1.0
    found = concepts.ink(picture)
    assert [found[name][0] for name in ("top ink", "bottom ink", "left ink", "right ink")] == [1, 0, 1, 0]
    assert [found[name][1] for name in ("top ink", "left ink", "right ink", "center ink", "symmetry")] == [0.5, 0.5, 0.5, 0.5, 0]
    assert found["right ink"][2] == found["bottom ink"][2] == 1 and found["symmetry"][2] == -2


def test_ink_is_what_differs_from_the_background():
    """Black on white, and three channels, are the same concepts as white on black in one."""
    gray = np.zeros((2, 4, 4))
    gray[:, 0, 0] = 1.0
    for other in (1 - gray, np.repeat(gray[:, None], 3, 1)):
        for name, score in concepts.ink(other).items():
            assert score == pytest.approx(concepts.ink(gray)[name])


def test_groups():
    rows = np.concatenate([RNG.normal(size=(20, 2)) + at for at in ((0, 0), (20, 0), (0, 20))])
    found = concepts.groups(rows, 3, 0)
    assert [len(set(found[at : at + 20])) for at in (0, 20, 40)] == [1, 1, 1] and len(set(found)) == 3
