"""Regression error: both measures by hand, with intervals for every part."""

import numpy as np
import pytest

from efface.core.capabilities import check
from efface.core.errors import BadRows, Unfit
from efface.core.types import Data, Request
from efface.metrics.regression_error import RegressionError
from efface.testing.tiny import context, sklearn_regressor, trained_classifier


class Fixed:
    """A regressor that reads its estimate off the row."""

    family = "regressor"

    def predict(self, rows):
        return np.array([row["x"] for row in rows])


def rows(*gaps):
    return Data.inline([{"x": 10.0 + gap, "y": 10.0} for gap in gaps])


@pytest.mark.parametrize(("measure", "forget", "keep"), [("mae", (1 + 3 + 2) / 3, 0.5), ("mse", (1 + 9 + 4) / 3, 0.25)])
def test_formula(measure, forget, keep):
    """Gaps 1, -3, 2: mean absolute 2, mean squared 14/3. Equal gaps have an interval of no width."""
    request = Request(forget=rows(1.0, -3.0, 2.0), keep=rows(0.5, -0.5), unseen=rows(4.0))
    found = RegressionError.set({"measure": measure}).run(Fixed(), request, context())
    assert found.value == found.parts["forget"] == pytest.approx(forget)
    assert found.low == found.parts["forget_low"] < forget < found.parts["forget_high"] == found.high and found.n == 3
    assert found.parts["keep"] == found.parts["keep_low"] == found.parts["keep_high"] == pytest.approx(keep)
    assert [row["value"] for row in found.table if row["set"] == "forget"] == pytest.approx([1, 3, 2] if measure == "mae" else [1, 9, 4])


def test_sets_that_are_not_there_are_no_parts():
    assert set(RegressionError().run(Fixed(), Request(forget=rows(1.0)), context()).parts) == {"forget", "forget_low", "forget_high"}


def test_what_does_not_fit():
    request = Request(forget=rows(1.0))
    check(RegressionError(), sklearn_regressor(), request)
    with pytest.raises(Unfit, match="regressor"):
        check(RegressionError(), trained_classifier(), request)
    with pytest.raises(BadRows, match="y = nan"):
        RegressionError().run(Fixed(), Request(forget=Data.inline([{"x": 1.0, "y": float("nan")}])), context())
