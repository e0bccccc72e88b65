import numpy as np
import pytest

from efface.attacks.class_loss import ClassLoss
from efface.attacks.mia_efficacy import FEATURES, MiaEfficacy, seen
from efface.core.config import Fit
from efface.core.errors import BadConfig, BudgetSpent, Missing
from efface.core.types import Data, Request
from efface.families.predictions import Outputs
from efface.metrics.unlearning_accuracy import UnlearningAccuracy
from efface.ops import side_by_side
from efface.testing.tiny import context, digits, retrained_classifier, tiny_classifier, trained_classifier


class Fixed:
    """A classifier that reads the probability of class 1 off the row."""

    family = "classifier"

    def predict(self, rows):
        return np.array([[1 - row["p"], row["p"]] for row in rows])


def rows(chances):
    return Data.inline([{"x": [0.0], "y": 1, "p": float(p)} for p in chances])


def case(scenario, reference=None):
    parts = digits(scenario)
    return parts.request, context(baselines={"reference": reference} if reference else {}, utility={"test rows": Data.inline(parts.test)})


def test_formula():
    """Members are given .9 and more, non-members .3 and less: of five forget rows two look like non-members, so the value is 2 / 5."""
    rng = np.random.default_rng(0)
    request = Request(forget=rows([0.95, 0.2, 0.93, 0.1, 0.97]), keep=rows(rng.uniform(0.9, 1, 50)), unseen=rows([0.5]))
    ctx = context(utility={"test": rows(rng.uniform(0, 0.3, 50))})
    found = MiaEfficacy().run(Fixed(), request, ctx)
    assert found.value == 0.4 == found.parts["confidence"] and found.low < 0.4 < found.high and found.n == 5
    assert [row["value"] for row in found.table] == [0, 1, 0, 1, 0]
    assert found.parts["held_out_accuracy"] == 1 and found.parts["reference"] is None
    assert ctx.spent["queries"] == 5


def test_features():
    """p = (.25, .75), class 1: entropy .5623, m_entropy .25 log(1/.75) + .25 log(1/.75) = .1438."""
    of = Outputs(np.log([[0.25, 0.75]]), np.array([1]))
    assert seen("confidence", of) == pytest.approx([0.75]) and seen("correctness", of).tolist() == [1.0]
    assert seen("entropy", of) == pytest.approx([0.5623], abs=1e-4) and seen("m_entropy", of) == pytest.approx([0.1438], abs=1e-4)
    assert seen("probability", of) == pytest.approx(np.array([[0.25, 0.75]]))


def test_a_class_that_is_known_and_one_that_never_was():
    """All rows of a class: the original treats them as members, the retrained network none of them. Higher is more forgotten."""
    request, ctx = case("class", retrained_classifier())
    original, reference = (MiaEfficacy().run(subject, request, ctx) for subject in (trained_classifier(), retrained_classifier()))
    assert original.value < 0.05 and reference.value == 1 == original.parts["reference"]
    assert set(FEATURES) <= set(original.parts)
    assert MiaEfficacy.set({"feature": "correctness"}).run(retrained_classifier(), request, ctx).value == 1


def test_what_is_refused():
    request, _ = case("class")
    with pytest.raises(Missing, match="no test rows of classes that stay"):
        MiaEfficacy().run(trained_classifier(), request, context())
    with pytest.raises(BadConfig, match="feature"):
        MiaEfficacy.set({"feature": "loss"})
    with pytest.raises(BudgetSpent):
        MiaEfficacy().run(trained_classifier(), request, context(budget={"queries": 10}))


@pytest.mark.slow
def test_calibration():
    """The published kind of training (SGD .05, momentum .9, decay 5e-4, 60 epochs of 64 rows) on digits.

    Class: original 0, retrained 100 %. Random tenth: the retrained network calls |x - 7| < 7 % of forget rows non-members, its
    loss attack is at .45 to .55, and the original's UA is within a few percent of its: nothing there tells a no-op.
    """
    fit = Fit(optimizer="sgd", momentum=0.9, weight_decay=5e-4, lr=0.05, epochs=60, batch=64, clip=0, precision="no")
    parts = digits("random")
    every = [*parts.forget, *parts.keep]
    pools = [range(len(every)), range(len(parts.forget), len(every)), [at for at, row in enumerate(every) if row["y"] != 3]]
    original, random, whole = side_by_side.train([tiny_classifier().trainable(0, 0) for _ in pools], every, pools, [0] * 3, fit, context()).subjects
    request, ctx = case("class", whole)
    assert (MiaEfficacy().run(original, request, ctx).value, MiaEfficacy().run(whole, request, ctx).value) == (0, 1)
    accuracies = UnlearningAccuracy().run(whole, request, ctx).parts
    assert accuracies["UA"] == 1 == accuracies["RA"] and accuracies["TA"] > 0.97
    request, ctx = case("random", random)
    assert abs(MiaEfficacy().run(random, request, ctx).value - 0.07) < 0.07
    assert 0.45 <= ClassLoss().run(random, request, ctx).value <= 0.55
    assert abs(UnlearningAccuracy().run(original, request, ctx).parts["gap_UA"]) < 0.1
