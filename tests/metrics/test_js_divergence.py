import math

import numpy as np
import pytest

from efface.core.errors import Missing
from efface.core.types import Data, Request
from efface.metrics.js_divergence import JsDivergence
from efface.testing.tiny import context, digits, retrained_classifier, trained_classifier

PARTS = digits()


class Fixed:
    """A classifier that reads its class probabilities off a column of the row."""

    family = "classifier"

    def __init__(self, column):
        self.column = column

    def predict(self, rows):
        return np.array([row[self.column] for row in rows])


def rows(*pairs):
    return Data.inline([{"x": [0.0], "y": 0, "p": p, "q": q} for p, q in pairs])


def test_formula():
    """Rows: .2531 for (.7, .2, .1) against its mirror image, log 2 for two that share no class, 0 for equal ones; keep rows are a part."""
    request = Request(
        forget=rows(([0.7, 0.2, 0.1], [0.1, 0.2, 0.7]), ([1, 0, 0], [0, 1, 0]), ([0.5, 0.5, 0], [0.5, 0.5, 0])), keep=rows(([0, 1, 0], [0, 1, 0])),
    )
    found = JsDivergence().run(Fixed("p"), request, context(baselines={"reference": Fixed("q")}))
    assert found.value == pytest.approx((0.2531 + math.log(2)) / 3, abs=1e-4)
    assert [row["value"] for row in found.table] == pytest.approx([0.2531, math.log(2), 0], abs=1e-4)
    assert found.parts == {"keep": pytest.approx(0), "test": None, "between_references": None}
    turned = JsDivergence().run(Fixed("q"), request, context(baselines={"reference": Fixed("p")}))
    assert turned.value == pytest.approx(found.value), "it is symmetric"


def test_the_reference_is_at_zero_and_another_seed_near_it():
    ctx = context(baselines={"reference": retrained_classifier(), "reference/1": retrained_classifier(1)}, utility={"test rows": Data.inline(PARTS.test)})
    assert JsDivergence().run(retrained_classifier(), PARTS.request, ctx).value == 0
    other = JsDivergence().run(retrained_classifier(1), PARTS.request, ctx)
    assert other.value == pytest.approx(other.parts["between_references"]) and 0 < other.value < 0.1
    original = JsDivergence().run(trained_classifier(), PARTS.request, ctx)
    assert original.value > 0.6 > 0.05 > original.parts["test"]


def test_without_a_reference_there_is_no_number():
    with pytest.raises(Missing, match="no reference"):
        JsDivergence().run(trained_classifier(), PARTS.request, context())
