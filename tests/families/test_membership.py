"""What membership attacks share: direction, PrivLeak, what is None and what is left out."""

import numpy as np
import pytest

from efface.core.card import Card
from efface.core.errors import Missing
from efface.families.membership import Scored, measure, privleak
from efface.ops import stats

CARD = Card(name="some", title="", paper="", families=("causal-lm",))


def test_members_above_give_one_and_below_zero():
    high, low = [2.0, 3.0], [0.0, 1.0, -1.0]
    assert measure(CARD, Scored(high, low), None).value == 1.0
    assert measure(CARD, Scored(low, high), None).value == 0.0
    assert measure(CARD, Scored([1.0, 1.0], [1.0]), None).value == 0.5


def test_privleak_has_its_sign_from_muse():
    """MUSE's AUC calls unseen rows positive: A = 1 - ours. Reference against itself 0; all forget rows recognized -100;
    ours .3 against .6 is A = .7 against .4, 100 * .3 / .4 = 75 (over-forgotten)."""
    assert privleak(0.6, 0.6) == 0.0
    assert privleak(1.0, 0.6) == pytest.approx(-100.0)
    assert privleak(0.3, 0.6) == pytest.approx(75.0)
    assert privleak(0.3, None) is None
    assert privleak(0.3, 1.0) is None


def test_privleak_is_that_of_loss_like_scores_with_unseen_rows_positive():
    rng = np.random.default_rng(0)
    forget, unseen = rng.normal(1.0, 1, 50), rng.normal(2.0, 1, 60)  # losses of the candidate
    base_forget, base_unseen = rng.normal(1.9, 1, 50), rng.normal(2.0, 1, 60)
    muse, base = 1 - stats.auc(unseen, forget), 1 - stats.auc(base_unseen, base_forget)  # P(-loss of unseen > -loss of forget)
    found = measure(CARD, Scored(list(-forget), list(-unseen)), Scored(list(-base_forget), list(-base_unseen)))
    assert found.parts["privleak"] == pytest.approx(100 * (muse - base) / base, abs=1e-9)
    assert found.parts["reference_auc"] == pytest.approx(1 - base, abs=1e-12)


def test_without_a_reference_nothing_stands_in_for_it():
    parts = measure(CARD, Scored([1.0, 0.2], [0.5]), None).parts
    assert parts["reference_auc"] is None and parts["privleak"] is None


def test_rows_without_tokens_are_left_out_and_counted():
    found = measure(CARD, Scored([1.0, None, 3.0], [None, 0.0]), None)
    assert found.value == 1.0 and found.n == 3
    assert found.parts["rows_without_tokens"] == 2.0
    assert [row["value"] for row in found.table] == [1.0, None, 3.0, None, 0.0]
    with pytest.raises(Missing, match="unseen rows with tokens"):
        measure(CARD, Scored([1.0], [None]), None)


def test_true_positive_rate_needs_enough_unseen_rows():
    rng = np.random.default_rng(0)
    few = measure(CARD, Scored(list(rng.normal(3, 1, 50)), list(rng.normal(0, 1, 99))), None).parts
    enough = measure(CARD, Scored(list(rng.normal(3, 1, 50)), list(rng.normal(0, 1, 100))), None).parts
    assert few["tpr_at_1%_fpr"] is None
    assert enough["tpr_at_1%_fpr"] > 0.3 and enough["tpr_at_0.1%_fpr"] is None


def test_false_positive_rate_at_95_percent():
    """20 members 1..20: 95 % of them are at 2 or more; of the others 0, 1, 2, 3 the last two are."""
    found = measure(CARD, Scored([float(i) for i in range(1, 21)], [0.0, 1.0, 2.0, 3.0]), None)
    assert found.parts["fpr_at_95%_tpr"] == 0.5


def test_two_random_halves_of_one_set_give_a_half():
    """Over 200 splits of 200 rows the mean AUC is .5 to .01, and they scatter as they should: sqrt(201 / (12 * 100 * 100)) = .041."""
    rng = np.random.default_rng(0)
    scores = rng.normal(size=200)
    mixed = [rng.permutation(scores) for _ in range(200)]
    found = [stats.auc(split[:100], split[100:]) for split in mixed]
    assert np.mean(found) == pytest.approx(0.5, abs=0.01)
    assert np.std(found) == pytest.approx(0.041, abs=0.008)
