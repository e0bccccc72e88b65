import numpy as np
import pytest

from efface.core.capabilities import check
from efface.core.errors import Unfit
from efface.core.types import Data, Request
from efface.metrics.accuracy import Accuracy
from efface.testing.tiny import context, tiny_lm


class Fixed:
    """A classifier that reads its class probabilities off the row."""

    family = "classifier"

    def predict(self, rows):
        return np.array([row["x"] for row in rows])


def rows(*right):
    return Data.inline([{"x": [0.1, 0.9] if hit else [0.8, 0.2], "y": 1} for hit in right])


def test_formula():
    """Three of four forget rows right: .75, Wilson interval .3006 to .9544; keep and unseen rows are parts."""
    request = Request(forget=rows(1, 1, 0, 1), keep=rows(1, 1), unseen=rows(1, 0))
    found = Accuracy().run(Fixed(), request, context())
    assert (found.value, found.low, found.high) == pytest.approx((0.75, 0.3006, 0.9544), abs=1e-4)
    assert found.parts == {"forget": 0.75, "keep": 1.0, "unseen": 0.5}
    assert [row["value"] for row in found.table if row["set"] == "forget"] == [1.0, 1.0, 0.0, 1.0]


def test_sets_that_are_not_there_are_no_parts():
    assert Accuracy().run(Fixed(), Request(forget=rows(1)), context()).parts == {"forget": 1.0}


def test_language_models_are_refused():
    with pytest.raises(Unfit, match="classifier"):
        check(Accuracy(), tiny_lm(), Request(forget=rows(1)))
