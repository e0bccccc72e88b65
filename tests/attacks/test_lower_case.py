import math

import pytest

from efface.attacks.lower_case import LowerCase, ratio, scores
from efface.core.errors import Missing
from efface.core.types import Data, Request
from efface.families import forms
from efface.testing.tiny import context, facts, retrained_lm, tiny_lm, trained_lm


def test_formula():
    """Loss 0.5 where the small letters have 2: s = -0.25. Nothing to divide by, or nothing measured: no score."""
    assert ratio(0.5, 2.0) == -0.25
    assert ratio(0.5, 0.0) is None
    assert ratio(math.nan, 1.0) is None and ratio(1.0, math.nan) is None


def test_prompt_and_answer_are_written_small():
    subject, ctx, row = tiny_lm(), context(), {"question": "What is the home of Gorm?", "answer": "The home of Gorm is dusty bay."}
    small = {"question": "what is the home of gorm?", "answer": "the home of gorm is dusty bay."}
    (loss,), (lowered,) = (forms.losses(forms.gold(subject, [given], ctx)) for given in (row, small))
    assert scores(subject, [row], ctx) == [pytest.approx(-loss / lowered, abs=1e-6)]


def test_rows_without_capitals_are_left_out_and_counted():
    rows = facts()
    small = {"question": "what is the home of?", "answer": "the home is dusty bay."}
    request = Request(forget=Data.inline([*rows.forget, small]), unseen=Data.inline(rows.unseen))
    found = LowerCase().run(tiny_lm(), request, context())
    assert found.parts["rows_without_tokens"] == 1.0 and found.n == 32
    with pytest.raises(Missing, match="lower_case"):
        LowerCase().run(tiny_lm(), Request(forget=Data.inline([small]), unseen=Data.inline(rows.unseen)), context())


def test_finds_members_where_there_are_any(over):
    """The reference is at .5 within two standard errors (.1 for 16 against 16 rows)."""
    request, ctx = facts().request, context(baselines={"reference": retrained_lm()})
    assert LowerCase().run(trained_lm(), request, ctx).value > 0.9
    assert LowerCase().run(retrained_lm(), request, ctx).value == pytest.approx(0.5, abs=0.21)
    found = LowerCase().run(over, request, ctx)
    assert found.value < 0.1 and found.why.startswith("a leak")
