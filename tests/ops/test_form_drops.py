"""Drops and the index, by hand: e^-1 against e^-3 is a drop of 2 nats."""

import numpy as np
import pytest

from efface.ops.form_drops import Form, carried, dependence, drop, intervals, log_ratio, renormalized, worst


def form(before, after, units=None):
    return Form(np.array(before, float), np.array(after, float), np.array(units if units is not None else [str(at) for at in range(len(before))]))


def test_a_drop_is_a_difference_of_logs_of_means():
    """Means 0.5 and 0.125: log 4."""
    assert drop(form([0.25, 0.75], [0.05, 0.2])) == pytest.approx(np.log(4))


def test_index_is_zero_in_every_form_and_one_only_as_trained():
    assert dependence({"question": 1.0, "cloze": 1.0}) == pytest.approx(0.0)
    assert dependence({"question": 1.0, "cloze": 0.0}) == pytest.approx(1.0)
    assert dependence({"question": 1.0, "cloze": 0.75, "spelled": 0.25}) == pytest.approx(0.75)
    assert dependence({"question": 1.0, "cloze": -0.5}) == pytest.approx(1.5)
    assert worst({"question": 1.0, "cloze": 0.75, "spelled": 0.25}) == "spelled"


def test_carried_is_the_share_of_the_trained_drop():
    """log 8 in questions, log 2 in the cloze: a third. From 1/2 among four options down to 1/4 is all that can be lost there."""
    forms = {"question": form([0.8], [0.1]), "cloze": form([0.8], [0.4]), "letters": Form(np.array([0.5]), np.array([0.25]), np.array(["0"]), 0.25)}
    assert carried(forms, "question") == pytest.approx({"question": 1.0, "cloze": 1 / 3, "letters": 1.0})


def test_shares_without_a_drop_or_above_nothing_are_refused():
    with pytest.raises(ValueError, match="trained form dropped by 0"):
        carried({"question": form([0.5], [0.5]), "cloze": form([0.5], [0.1])}, "question")
    with pytest.raises(ValueError, match="could drop is 0"):
        carried({"question": form([0.5], [0.1]), "letters": Form(np.array([0.25]), np.array([0.25]), np.array(["0"]), 0.25)}, "question")


def test_units_are_resampled_together_and_forms_may_lack_some():
    rng = np.random.default_rng(0)
    before = rng.uniform(0.4, 0.6, 30)
    forms = {"question": form(before, before / 10), "cloze": form(before[:20], before[:20] / 10)}
    spread, found = intervals(forms, "question")
    # every item drops tenfold, so that every draw of facts does
    assert spread["question"].low == pytest.approx(np.log(10)) and spread["cloze"].high == pytest.approx(np.log(10))
    assert found.value == pytest.approx(0.0, abs=1e-9) and found.high == pytest.approx(0.0, abs=1e-9)


def test_interval_is_wide_where_items_differ():
    rng = np.random.default_rng(1)
    before = np.full(12, 0.5)
    forms = {"question": form(before, rng.uniform(0.01, 0.1, 12)), "cloze": form(before, rng.uniform(0.05, 0.5, 12))}
    found = intervals(forms, "question")[1]
    assert found.low < found.value < found.high and found.high - found.low > 0.1
    assert intervals(forms, "question")[1] == found  # seeded


def test_log_ratio_of_equal_models_is_zero():
    assert log_ratio(form([0.2, 0.4], [0.2, 0.4])) == (0.0, 0.0, 0.0)


def test_uniform_letters_renormalize_to_a_quarter():
    """A model uniform over 64 tokens gives each letter 1/64 over its vocabulary, and a quarter among the four."""
    letters = np.full((3, 4), 1 / 64)
    assert renormalized(letters, [0, 3, 1]) == pytest.approx([0.25] * 3)


def test_an_underflow_stays_a_number():
    assert np.isfinite(drop(form([0.5], [0.0])))
