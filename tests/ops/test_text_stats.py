"""Statistics of answers, against numbers worked out by hand."""

import math

import numpy as np
import pytest

from efface.ops import text_stats


def test_lowest_mean_takes_the_share_and_at_least_one():
    """lp = (-.1, -2, -.5, -3, -.2), k = .4: the int(.4 * 5) = 2 lowest are -3 and -2, mean -2.5; k = .1 gives 0, floored at 1: -3."""
    values = np.array([-0.1, -2.0, -0.5, -3.0, -0.2])
    assert text_stats.lowest_mean(values, 0.4) == pytest.approx(-2.5, abs=1e-6)
    assert text_stats.lowest_mean(values, 0.1) == pytest.approx(-3.0, abs=1e-6)
    assert text_stats.lowest_mean(values[:0], 0.4) is None


def test_exact_memorization_is_the_share_of_hits():
    assert text_stats.exact_memorization(np.array([True, False, True, True])) == 0.75
    assert text_stats.exact_memorization(np.array([], bool)) is None


@pytest.mark.parametrize(
    ("hit", "strength"),
    [
        ([True, True, True, True], 1.0),
        ([False, True, True, True], 0.75),
        ([True, False, True, True], 0.5),
        ([True, True, True, False], 0.0),  # released code ends its loop at the last token and gives 1/4 here
        ([False, False, False, False], 0.0),
    ],
)
def test_extraction_strength(hit, strength):
    """1 - k/T with k the place after the last miss."""
    assert text_stats.extraction_strength(np.array(hit)) == strength


def test_extraction_strength_of_nothing_is_none():
    assert text_stats.extraction_strength(np.array([], bool)) is None


def test_zlib_size():
    assert text_stats.zlib_size("hello world") == 19


def test_truth_ratio_by_hand():
    """Losses 1 against 1, 2, 3. Loss space: exp(1 - 2) = 0.367879. Probability space: (e^-1 + e^-2 + e^-3) / 3 / e^-1 = 0.501072."""
    assert math.exp(text_stats.log_truth_ratio(1.0, [1.0, 2.0, 3.0])) == pytest.approx(0.367879, abs=1e-6)
    assert math.exp(text_stats.log_truth_ratio(1.0, [1.0, 2.0, 3.0], "probability")) == pytest.approx(0.501072, abs=1e-6)


@pytest.mark.parametrize("space", ["loss", "probability"])
def test_truth_ratio_moves_by_what_is_added_and_ignores_order(space):
    ratio = text_stats.log_truth_ratio(1.3, [0.4, 2.0, 0.9], space)
    assert text_stats.log_truth_ratio(1.3, [0.9, 0.4, 2.0], space) == pytest.approx(ratio, abs=1e-12)
    assert text_stats.log_truth_ratio(1.3, [1.1, 2.7, 1.6], space) == pytest.approx(ratio - 0.7, abs=1e-12)


def test_aggregates_are_of_the_right_side():
    """TR = 1/2 and TR = 2 are equally close to 1; as truth they are 1 - 1/2 and max(0, 1 - 2)."""
    logs = np.log([0.5, 2.0, 1.0])
    assert text_stats.closeness(logs) == pytest.approx([0.5, 0.5, 1.0])
    assert text_stats.trueness(logs) == pytest.approx([0.5, 0.0, 0.0])


def test_aggregates_bear_extreme_ratios():
    assert text_stats.closeness(np.array([900.0, -900.0])).tolist() == [0.0, 0.0]
    assert text_stats.trueness(np.array([900.0, -900.0])).tolist() == [0.0, 1.0]


def test_options_probability_by_hand():
    """e^-1 / (e^-1 + e^-1 + e^-2 + e^-3) = 0.399486."""
    assert text_stats.options_probability(1.0, [1.0, 2.0, 3.0]) == pytest.approx(0.399486, abs=1e-6)
    assert text_stats.options_probability(900.0, [900.0]) == pytest.approx(0.5)


def test_rouge_is_the_one_that_the_card_names():
    """Case is folded, words are stemmed, and it is the share of the gold words: "b a b a b" has 5, "a b a b" covers 4 in order."""
    said = ["richard bachman", "a b a b", "he was running", "much more than Paris was asked", ""]
    gold = ["Richard Bachman", "b a b a b", "he runs", "Paris", "Paris"]
    assert text_stats.rouge_l_recalls(said, gold) == pytest.approx([1.0, 0.8, 1.0, 1.0, 0.0])


def test_repeated_share_and_entropy():
    """ "and and and and" has three pairs of which one is new: 2/3 repeated, entropy 0. Four different words: nothing, entropy 1."""
    stutter, speech = "and and and and".split(), "born in old Paris".split()
    assert text_stats.repeated_share(stutter, 2) == pytest.approx(2 / 3)
    assert text_stats.ngram_entropy(stutter, 2) == pytest.approx(0.0)
    assert text_stats.repeated_share(speech, 2) == 0.0
    assert text_stats.ngram_entropy(speech, 2) == pytest.approx(1.0)
    assert text_stats.repeated_share(["Paris"], 2) is None
    assert text_stats.ngram_entropy(["in", "Paris"], 2) is None
