"""Wasserstein distance of predictions: by hand, against scipy, and what the reference and its seeds are at."""

import numpy as np
import pytest
from scipy.stats import wasserstein_distance

from efface.core.errors import Missing
from efface.core.types import Data, Request
from efface.metrics.prediction_distance import PredictionDistance, _sorted_distance
from efface.testing.tiny import context, diabetes, retrained_regressor, trained_regressor


class Fixed:
    """A regressor with given answers."""

    family = "regressor"

    def __init__(self, *answers):
        self.answers = answers

    def predict(self, rows):
        return np.array(self.answers[: len(rows)])


REQUEST = Request(forget=Data.inline([{"x": [0.0], "y": 0.0}] * 3))


def test_formula():
    """Sets {0, 2, 1} and {4, 1, 2}: sorted 0 1 2 against 1 2 4, so (1 + 1 + 2) / 3; row by row (4 + 1 + 1) / 3."""
    ctx = context(baselines={"reference": Fixed(4.0, 1.0, 2.0), "reference/1": Fixed(1.0, 2.0, 7.0)})
    found = PredictionDistance().run(Fixed(0.0, 2.0, 1.0), REQUEST, ctx)
    assert found.value == pytest.approx(4 / 3) and found.parts == pytest.approx({"paired": 2.0, "of reference/1": 1.0})
    assert found.low <= found.value <= found.high and found.n == 3
    assert [(row["value"], row["reference"]) for row in found.table] == [(0, 4), (2, 1), (1, 2)]


def test_the_same_answers_on_other_rows_are_no_distance_between_sets():
    """The value compares distributions; that each row has another's answer shows in the part alone."""
    found = PredictionDistance().run(Fixed(0.0, 1.0, 2.0), REQUEST, context(baselines={"reference": Fixed(2.0, 0.0, 1.0)}))
    assert found.value == 0 and found.parts["paired"] == pytest.approx(4 / 3)


def test_resampled_distances_are_scipys():
    draws = np.random.default_rng(0)
    one, other = draws.normal(size=(5, 30)), draws.normal(1, 2, size=(5, 30))
    assert _sorted_distance(one, other) == pytest.approx([wasserstein_distance(a, b) for a, b in zip(one, other, strict=True)])


def test_retrained_models_are_near_each_other():
    reference, request = retrained_regressor(), diabetes()
    ctx = context(baselines={"reference": reference})
    at = {name: PredictionDistance().run(subject, request, ctx) for name, subject in (
        ("original", trained_regressor()), ("reference", reference), ("other seed", retrained_regressor(1)),
    )}
    assert at["reference"].value == at["reference"].parts["paired"] == 0
    assert at["other seed"].high < at["original"].low


def test_without_a_reference():
    with pytest.raises(Missing, match="reference"):
        PredictionDistance().run(Fixed(0.0, 1.0, 2.0), REQUEST, context())
