"""Random labels: how they are drawn."""

from collections import Counter

import pytest

from efface.core.errors import Unfit
from efface.ops.relabel import outputs_of, random_labels
from efface.testing.tiny import digits, tiny_classifier

ROWS = [{"x": [0.0], "y": n % 4, "id": n} for n in range(4000)]


def test_never_the_own_label():
    """1000 rows a class, three wrong ones: each should come about 333 times; six standard deviations are 90."""
    drawn = random_labels(ROWS, 4, True, 0)
    assert all(new["y"] != row["y"] and new["id"] == row["id"] for new, row in zip(drawn, ROWS, strict=True))
    counts = Counter((row["y"], new["y"]) for new, row in zip(drawn, ROWS, strict=True))
    assert len(counts) == 12 and all(abs(count - 1000 / 3) < 90 for count in counts.values())


def test_from_all_classes():
    """A quarter of the rows keep their own label: 1000 of 4000, six standard deviations are 164."""
    drawn = random_labels(ROWS, 4, False, 0)
    assert abs(sum(new["y"] == row["y"] for new, row in zip(drawn, ROWS, strict=True)) - 1000) < 164


def test_the_seed_alone_decides():
    assert random_labels(ROWS, 4, True, 1) == random_labels(ROWS, 4, True, 1) != random_labels(ROWS, 4, True, 2)


def test_one_class_has_no_other():
    with pytest.raises(Unfit, match="at least two classes"):
        random_labels(ROWS, 1, True, 0)


def test_classes_are_counted_on_logits():
    assert outputs_of(tiny_classifier(), digits().forget) == 10
