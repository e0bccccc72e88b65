import numpy as np
import pytest

from efface.core.errors import Missing
from efface.core.types import Data, Request
from efface.metrics.tow import Tow
from efface.testing.tiny import context, digits, retrained_classifier, trained_classifier

PARTS = digits()
UTILITY = {"test rows": Data.inline(PARTS.test)}


class Fixed:
    """A classifier that reads its class probabilities off a column of the row."""

    family = "classifier"

    def __init__(self, column="p"):
        self.column = column

    def predict(self, rows):
        return np.array([row[self.column] for row in rows])


def rows(*pairs):
    """Rows of class 0; the two bits say whether candidate and reference get it right."""
    say = lambda hit: [0.9, 0.1] if hit else [0.2, 0.8]  # noqa: E731
    return Data.inline([{"x": [0.0], "y": 0, "p": say(a), "q": say(b)} for a, b in pairs])


def test_formula():
    """Accuracies .5 and 1 on forget (gap -.5), .75 and 1 on keep (-.25), equal on test: (1 - .5)(1 - .25)(1 - 0) = .375."""
    request = Request(forget=rows((1, 1), (0, 1)), keep=rows((1, 1), (1, 1), (1, 1), (0, 1)))
    ctx = context(baselines={"reference": Fixed("q")}, utility={"test": rows((1, 1), (0, 0))})
    found = Tow().run(Fixed(), request, ctx)
    assert found.value == pytest.approx(0.375) and found.low <= 0.375 <= found.high and found.n == 8
    assert (found.parts["gap_forget"], found.parts["gap_keep"], found.parts["gap_test"]) == (-0.5, -0.25, 0)
    assert "over_seeds" not in found.parts, "one reference gives no interval over seeds"


def test_the_retrained_model_has_one_and_a_reference_of_another_seed_nearly():
    ctx = context(baselines={"reference": retrained_classifier(), "reference/1": retrained_classifier(1)}, utility=UTILITY)
    same = Tow().run(retrained_classifier(), PARTS.request, ctx)
    assert (same.value, same.low, same.high, same.parts["tow_mia"]) == (1, 1, 1, 1)
    assert 0.9 < same.parts["against reference/1"] < 1
    assert same.parts["over_seeds_low"] < same.parts["over_seeds"] == pytest.approx((1 + same.parts["against reference/1"]) / 2)
    assert Tow().run(retrained_classifier(1), PARTS.request, ctx).value > 0.9


def test_the_original_has_none_of_it_where_a_class_goes():
    found = Tow().run(trained_classifier(), PARTS.request, context(baselines={"reference": retrained_classifier()}, utility=UTILITY))
    assert found.value < 0.05 and found.parts["tow_mia"] < 0.1


def test_a_gap_of_zero_from_different_rows_is_still_inside_its_interval():
    request = Request(forget=rows((1, 0), (0, 1)), keep=rows((1, 1)))
    found = Tow().run(Fixed(), request, context(baselines={"reference": Fixed("q")}, utility={"test": rows((1, 1))}))
    assert found.value == 1 == found.high and found.low < 1


def test_without_reference_or_test_rows_there_is_no_number():
    with pytest.raises(Missing, match="no reference"):
        Tow().run(trained_classifier(), PARTS.request, context(utility=UTILITY))
    with pytest.raises(Missing, match="no test rows"):
        Tow().run(trained_classifier(), PARTS.request, context(baselines={"reference": retrained_classifier()}))
