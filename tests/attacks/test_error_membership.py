"""Membership by error: the share by hand, equal numbers of both kinds, and the original against the reference."""

import numpy as np
import pytest

from efface.attacks.error_membership import ErrorMembership
from efface.core.errors import BudgetSpent
from efface.core.types import Data, Request
from efface.testing.tiny import context, diabetes, retrained_regressor, trained_regressor


class Fixed:
    """A regressor that is off by what the row says, or by a constant."""

    family = "regressor"

    def __init__(self, constant=None):
        self.constant = constant

    def predict(self, rows):
        return np.array([row["y"] + (row["x"] if self.constant is None else self.constant) for row in rows])


def rows(*gaps):
    return Data.inline([{"x": gap, "y": 1.0} for gap in gaps])


REQUEST = Request(forget=rows(0.05, -0.02, 5.1, -4.9), keep=rows(*np.linspace(-0.1, 0.1, 100)), unseen=rows(*np.linspace(4.5, 5.5, 10)))


def test_formula():
    """Members are off by at most 0.1, others by about 5: two of four forget rows pass for members, Wilson .1500 to .8500.

    Ten unseen rows allow ten keep rows, so 24 answers are asked for.
    """
    ctx = context(baselines={"reference": Fixed()})
    found = ErrorMembership().run(Fixed(), REQUEST, ctx)
    assert (found.value, found.low, found.high) == pytest.approx((0.5, 0.1500, 0.8500), abs=1e-4) and found.n == 4
    assert [row["value"] for row in found.table] == [1, 1, 0, 0]
    assert found.parts == {"accuracy on what it learned from": 1.0, "reference": 0.5}
    assert ctx.spent["queries"] == 24


def test_the_reference_is_judged_by_its_own_errors():
    """A model that is off alike everywhere tells nothing: all forget rows fall on one side."""
    found = ErrorMembership().run(Fixed(), REQUEST, context(baselines={"reference": Fixed(1.0)}))
    assert found.parts["reference"] in (0.0, 1.0) and found.value == 0.5
    assert "reference" not in ErrorMembership().run(Fixed(), REQUEST, context()).parts


def test_fewer_rows_and_a_budget():
    ctx = context()
    ErrorMembership.set({"rows": 3}).run(Fixed(), REQUEST, ctx)
    assert ctx.spent["queries"] == 4 + 3 + 3
    with pytest.raises(BudgetSpent, match="queries"):
        ErrorMembership().run(Fixed(), REQUEST, context(budget={"queries": 23}))


def test_more_forgotten_rows_pass_for_members_before_forgetting():
    reference = retrained_regressor()
    found = ErrorMembership().run(trained_regressor(), diabetes(), context(baselines={"reference": reference}))
    assert found.value > found.parts["reference"] + 0.2
    assert ErrorMembership().run(reference, diabetes(), context()).value == found.parts["reference"]
