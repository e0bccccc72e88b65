import math

import numpy as np
import pytest
import torch

from efface.core.errors import Missing
from efface.core.types import Data, Request
from efface.families.classifier import Classifier
from efface.families.networks import MLP, seeded
from efface.metrics.activation_distance import ActivationDistance, layer_wise
from efface.testing.tiny import context, digits, retrained_classifier, sklearn_classifier, trained_classifier

PARTS = digits()


class Fixed:
    """A classifier that reads its class probabilities off a column of the row."""

    family = "classifier"

    def __init__(self, column):
        self.column = column

    def predict(self, rows):
        return np.array([row[self.column] for row in rows])


def rows(*pairs):
    return Data.inline([{"x": [0.0], "y": 0, "p": p, "q": q} for p, q in pairs])


def test_formula():
    """sqrt 2 for opposite corners, 0 for equal rows, sqrt(.36 + .36) for (.8, .2) against (.2, .8): mean .7542; one class in three agrees."""
    request = Request(forget=rows(([1, 0], [0, 1]), ([0.5, 0.5], [0.5, 0.5]), ([0.8, 0.2], [0.2, 0.8])))
    found = ActivationDistance().run(Fixed("p"), request, context(baselines={"reference": Fixed("q")}))
    assert found.value == pytest.approx((math.sqrt(2) + math.sqrt(0.72)) / 3)
    assert found.parts["completeness"] == pytest.approx(1 / 3) and found.parts["layer_wise_distance"] is None


def test_layer_wise_distance():
    """One weight moved by 3 and a bias by 4: 5. Other shapes, or no weights: None."""
    one = trained_classifier()
    other = one.fork()
    with torch.no_grad():
        other.modules_of("layer")[0].weight[0, 0] += 3
        other.modules_of("head")[0].bias[1] += 4
    assert layer_wise(one, other) == pytest.approx(5, abs=1e-4)
    assert layer_wise(one, one) == 0
    assert layer_wise(one, Classifier(seeded(MLP, 0, hidden=[4]))) is None
    assert layer_wise(one, sklearn_classifier(kind="bayes")) is None
    assert layer_wise(one, one.trainable(2, 0)) == 0, "a new adapter changes nothing"


def test_on_digits():
    ctx = context(baselines={"reference": retrained_classifier(), "reference/1": retrained_classifier(1)})
    same = ActivationDistance().run(retrained_classifier(), PARTS.request, ctx)
    assert same.value == 0 and same.parts["completeness"] == 1 and same.parts["layer_wise_distance"] == 0
    other = ActivationDistance().run(retrained_classifier(1), PARTS.request, ctx)
    original = ActivationDistance().run(trained_classifier(), PARTS.request, ctx)
    assert other.value == pytest.approx(other.parts["between_references"]) and other.value < 0.3
    assert original.value > 1.2 and original.parts["completeness"] == 0 and original.parts["completeness_keep"] > 0.99
    assert other.parts["layer_wise_distance"] > 1, "weights of another seed lie far apart, whatever they say"


def test_without_a_reference_there_is_no_number():
    with pytest.raises(Missing, match="no reference"):
        ActivationDistance().run(trained_classifier(), PARTS.request, context())
