import pytest

from efface.attacks.reference import Reference
from efface.core.errors import Missing
from efface.families import forms
from efface.testing.tiny import context, facts, retrained_lm, tiny_lm, trained_lm


def test_formula():
    """s = loss of the reference - loss of the model, row by row."""
    subject, base, rows = trained_lm(), retrained_lm(), facts()
    ctx = context(baselines={"reference": base})
    mine, theirs = (forms.losses(forms.gold(model, rows.forget, ctx)) for model in (subject, base))
    found = Reference().run(subject, rows.request, ctx)
    assert [row["value"] for row in found.table if row["set"] == "forget"] == pytest.approx(list(theirs - mine), abs=1e-9)


def test_finds_members_where_there_are_any(over):
    request, ctx = facts().request, context(baselines={"reference": retrained_lm()})
    assert Reference().run(trained_lm(), request, ctx).value > 0.9
    assert Reference().run(over, request, ctx).value < 0.1


def test_the_reference_against_itself_is_all_ties():
    found = Reference().run(retrained_lm(), facts().request, context(baselines={"reference": retrained_lm()}))
    assert (found.value, found.low, found.high) == (0.5, 0.5, 0.5)
    assert found.parts["privleak"] == 0.0


def test_without_a_reference_there_is_no_number():
    with pytest.raises(Missing, match="reference"):
        Reference().run(tiny_lm(), facts().request, context())
