"""The verdict on regressors, from real predictions: over five seeds it tells original, retrained, damaged and over-forgotten apart."""

import numpy as np
import pytest

from efface.evaluate import evidence
from efface.evidence import _closeness, _worth
from efface.testing.tiny import context, diabetes, retrained_regressor, sklearn_regressor, tiny_regressor, trained_regressor
from efface.verdict import judge

SEEDS = range(5)
CASES = [(seed, several) for seed in SEEDS for several in (False, True)]
REQUEST = diabetes()
LOWEST = max(row["y"] for row in REQUEST.rows("forget"))


class Changed:
    """A regressor whose answers are changed on rows of the forgotten band alone, or elsewhere alone."""

    family = "regressor"

    def __init__(self, base, other=None, share=0.0, push=0.0, band=True):
        self.base, self.other, self.share, self.push, self.band = base, other or base, share, push, band

    def predict(self, rows):
        mine, theirs = self.base.predict(rows), self.other.predict(rows)
        there = (np.array([row["y"] for row in rows]) <= LOWEST) == self.band
        return np.where(there, (1 - self.share) * mine + self.share * theirs + self.push, mine)


def verdict(candidate, seed, several=False):
    others = {f"reference/{number}": retrained_regressor((seed + number) % 5) for number in (2, 3)} if several else {}
    baselines = {"original": trained_regressor(seed), "reference": retrained_regressor(seed), **others}
    return judge(evidence(candidate, REQUEST, context(seed, baselines=baselines)))


@pytest.mark.parametrize(("seed", "several"), [pytest.param(*case, marks=pytest.mark.slow if case[0] > 1 or case[1] else ()) for case in CASES])
def test_real_models(seed, several):
    """The original has not forgotten, a model retrained from another seed has, and a network with random weights is damaged."""
    said = {
        "original": verdict(trained_regressor(seed), seed, several).word,
        "retrained": verdict(retrained_regressor((seed + 1) % 5), seed, several).word,
        "random": verdict(tiny_regressor(seed + 50), seed, several).word,
    }
    assert said == {"original": "not forgotten", "retrained": "forgotten", "random": "damaged"}


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_between_and_beyond(seed):
    """Half way to the reference is not forgotten. Far beyond it, with all else intact, is over-forgotten. Wrong answers elsewhere are damage."""
    original, reference = trained_regressor(seed), retrained_regressor(seed)
    assert verdict(Changed(reference, original, share=0.6), seed).word == "not forgotten"
    beyond = verdict(Changed(reference, push=0.3), seed)
    assert beyond.word == "over-forgotten" and beyond.axes["forgetting"]["distance"] < -1
    assert verdict(Changed(reference, push=0.3, band=False), seed).word == "damaged"


def test_estimators_that_are_not_torch():
    """Scikit-learn's regressors are judged by the same statistics."""
    original = sklearn_regressor()
    reference = original.refit(REQUEST.rows("keep"), 0)
    ctx = context(baselines={"original": original, "reference": reference})
    assert judge(evidence(original, REQUEST, ctx)).word == "not forgotten"
    assert judge(evidence(reference, REQUEST, ctx)).word == "forgotten"


def test_statistics_by_hand():
    """Targets 0, 2 have the spread 1; estimates 1, 2 are off by 1 and 0: closeness -1 and 0, worth 1/2 and 1."""
    class Two:
        def predict(self, rows):
            return np.array([1.0, 2.0])

    rows = [{"x": [0.0], "y": 0.0}, {"x": [0.0], "y": 2.0}]
    assert _closeness(Two(), rows).tolist() == [-1, 0] and _worth(Two(), rows).tolist() == [0.5, 1]
