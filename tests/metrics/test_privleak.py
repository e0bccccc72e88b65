"""PrivLeak: MUSE's formula in MUSE's orientation, on areas worked out by hand."""

import numpy as np
import pytest

from efface.core.errors import Missing
from efface.core.types import Data
from efface.metrics import privleak
from efface.metrics.privleak import PrivLeak
from efface.testing.tiny import context, facts, retrained_lm, tiny_lm, trained_lm

MINE = (np.array([1.0, 2.0, 3.0]), np.array([0.0, 2.5]))
"""Of six pairs, four have the member higher (1 > 0, 2 > 0, 3 > 0, 3 > 2.5): attack AUC 2/3, MUSE's area 1/3."""
THEIRS = (np.array([1.0, 0.0, 2.0]), np.array([0.5, 1.5]))
"""Three of six (1 > 0.5, 2 > 0.5, 2 > 1.5): area 1/2."""


def test_by_hand():
    """100 (1/3 - 1/2) / (1/2) = -33.33: the forget rows look more like members than the reference's do."""
    assert privleak.area(*MINE) == pytest.approx(1 / 3) and privleak.area(*THEIRS) == 0.5
    found = privleak.interval(MINE, THEIRS, None)
    assert found.value == pytest.approx(-100 / 3) and found.low <= found.value <= found.high


def test_the_reference_against_itself_is_0_and_full_recognition_exactly_minus_100():
    assert privleak.interval(THEIRS, THEIRS, None) == (0.0, 0.0, 0.0)
    apart = (np.array([-0.1, -0.2, -0.3]), np.array([-3.0, -4.0]))  # losses of F all below those of H
    found = privleak.interval(apart, THEIRS, None)
    assert found.value == -100.0 and found[1:] == pytest.approx((-100.0, -100.0), abs=1e-9)


@pytest.mark.parametrize("seed", range(5))
def test_it_equals_open_unlearnings_orientation(seed):
    """There scores are losses, forget rows the negative side: its area is the attack's AUC, and 100 (A_u - A_r) / A_r takes 1 - AUC."""
    from sklearn.metrics import roc_auc_score

    rng = np.random.default_rng(seed)
    mine, theirs = ([rng.normal(shift, 1, 40), rng.normal(0, 1, 60)] for shift in (0.5, 0.1))
    labels = np.repeat([0, 1], [40, 60])
    candidate, reference = (1 - roc_auc_score(labels, -np.concatenate(sides)) for sides in (mine, theirs))
    assert privleak.interval(mine, theirs, None).value == pytest.approx(100 * (candidate - reference) / reference, abs=1e-9)


def test_the_wrong_orientation_has_the_wrong_sign():
    """A model that still recognizes the forget rows must be below 0, one that finds them stranger than unseen text above."""
    knows = (np.arange(10.0) + 3, np.arange(10.0))
    strange = (np.arange(10.0) - 3, np.arange(10.0))
    even = (np.arange(10.0), np.arange(10.0))
    assert privleak.interval(knows, even, None).value < -50 and privleak.interval(strange, even, None).value > 50
    turned = 100 * ((1 - privleak.area(*knows)) - (1 - privleak.area(*even))) / (1 - privleak.area(*even))
    assert turned > 0 > privleak.interval(knows, even, None).value


def test_the_upper_bounds_of_both_corpora():
    """An area of 1 gives 100 (1 / A_r - 1): 109.6 on News and 85.4 on Books."""
    unlike = (np.array([0.0, 1.0]), np.array([2.0, 3.0]))
    bounds = {name: privleak.interval(unlike, None, stored).value for name, stored in privleak.STORED.items()}
    assert bounds == {"news": pytest.approx(109.6, abs=0.05), "books": pytest.approx(85.4, abs=0.05)}


def test_a_model_that_knows_and_one_that_was_retrained():
    request, ctx = facts().request, context(baselines={"reference": retrained_lm()})
    leaks = PrivLeak().run(trained_lm(), request, ctx)
    assert leaks.value < -50 and leaks.n == 32 and leaks.parts["stored area"] is None
    assert leaks.value == pytest.approx(100 * (leaks.parts["area"] - leaks.parts["reference area"]) / leaks.parts["reference area"], abs=1e-9)
    itself = PrivLeak().run(retrained_lm(), request, ctx)
    assert (itself.value, itself.low, itself.high) == (0.0, 0.0, 0.0)
    other = PrivLeak().run(retrained_lm(1), request, ctx)
    assert other.low <= 0 <= other.high, "a reference of another seed does not leak"


def test_without_a_reference_only_a_named_corpus_has_an_area():
    request = facts().request
    with pytest.raises(Missing, match="--reference MODEL"):
        PrivLeak().run(tiny_lm(), request, context())
    found = PrivLeak.set({"corpus": "news"}).run(tiny_lm(), request, context())
    assert found.parts["stored area"] == found.parts["reference area"] == 0.4772
    assert found.value == pytest.approx(100 * (found.parts["area"] - 0.4772) / 0.4772, abs=1e-9)
    named = {name: Data.inline([{**row, "corpus": "books"} for row in rows]) for name, rows in (("privleak_forget", facts().forget), ("privleak_holdout", facts().unseen))}
    assert PrivLeak().run(tiny_lm(), request, context(sets=named)).parts["reference area"] == 0.5393


def test_a_reference_that_knows_the_forget_rows_is_refused():
    with pytest.raises(Missing, match="it has seen them"):
        privleak.interval(MINE, (np.array([5.0, 6.0, 7.0]), np.array([0.0, 1.0])), None)
