import numpy as np
import pytest

from efface.attacks.loss import Loss, likelihood
from efface.core.errors import Unfit
from efface.core.types import Data, Request
from efface.families.causal_lm import RowScore
from efface.testing.tiny import context, facts, retrained_lm, tiny_lm, trained_lm


def test_formula():
    """Tokens at log-probabilities -1, -2 and -6, the end token among them: s = -3."""
    row = RowScore(np.array([-1.0, -2.0, -6.0]), np.zeros(3), np.ones(3), np.zeros(3, bool), True, "a b")
    assert likelihood(row) == pytest.approx(-3.0)
    empty = RowScore(np.array([]), np.array([]), np.array([]), np.array([], bool), False, "")
    assert likelihood(empty) is None


def test_finds_members_in_the_model_that_saw_them():
    ctx = context(baselines={"reference": retrained_lm()})
    found = Loss().run(trained_lm(), facts().request, ctx)
    assert found.value > 0.9 and found.low > 0.8
    assert found.parts["privleak"] < -80
    assert found.parts["members"] == found.parts["non_members"] == 16


def test_finds_none_in_the_reference():
    """Within two standard errors of .5: .2 for 16 against 16 rows. Against itself, PrivLeak is 0."""
    ctx = context(baselines={"reference": retrained_lm()})
    found = Loss().run(retrained_lm(), facts().request, ctx)
    assert found.value == pytest.approx(0.5, abs=0.2)
    assert found.low < 0.5 < found.high
    assert found.parts["privleak"] == 0.0


def test_a_model_pushed_too_far_leaks_from_the_other_side(over):
    found = Loss().run(over, facts().request, context(baselines={"reference": retrained_lm()}))
    assert found.value < 0.1 and found.high < 0.2
    assert found.parts["privleak"] > 60
    assert found.better == "as-reference"


def test_needs_unseen_rows():
    with pytest.raises(Unfit, match="unseen"):
        Loss().run(tiny_lm(), Request(forget=Data.inline(facts().forget)), context())
