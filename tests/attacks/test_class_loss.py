import math

import numpy as np
import pytest

from efface.attacks.class_loss import ClassLoss
from efface.core.errors import BudgetSpent, Missing, Unfit
from efface.core.types import Data, Request
from efface.testing.tiny import context, digits, retrained_classifier, sklearn_classifier, trained_classifier


class Fixed:
    """A classifier that reads the probability of class 1 off a column of the row."""

    family = "classifier"

    def __init__(self, column="p"):
        self.column = column

    def predict(self, rows):
        return np.array([[1 - row[self.column], row[self.column]] for row in rows])


def rows(chances, y=1):
    return Data.inline([{"x": [0.0], "y": y, "p": float(p), "q": 0.5} for p in chances])


def test_formula():
    """Losses of .01 against 4.6 are always told, those of the reference (all log 2) never; the losses are in the table."""
    request = Request(forget=rows([0.99] * 30), unseen=rows([0.01] * 50))
    ctx = context(baselines={"reference": Fixed("q")})
    found = ClassLoss().run(Fixed(), request, ctx)
    assert found.value == 1 and found.parts["signed"] == 0.5 and found.parts["auc"] == 1 and found.n == 80
    assert found.parts["reference"] == 0.5 == found.parts["reference_auc"] and found.parts["reference_signed"] == 0
    assert found.table[0] == {"row": 0, "set": "forget", "value": pytest.approx(-math.log(0.99)), "reference": pytest.approx(math.log(2))}
    assert ctx.spent["queries"] == 30


def test_known_too_little_is_a_leak_and_has_a_sign():
    found = ClassLoss().run(Fixed(), Request(forget=rows([0.01] * 30), unseen=rows([0.99] * 30)), context())
    assert found.value == 1 and found.parts["signed"] == -0.5 and found.parts["auc"] == 0 and found.parts["reference"] is None


def test_one_distribution_is_a_half():
    rng = np.random.default_rng(1)
    found = ClassLoss().run(Fixed(), Request(forget=rows(rng.uniform(size=1500)), unseen=rows(rng.uniform(size=1500))), context())
    assert found.value == pytest.approx(0.5, abs=0.03) and found.low < 0.5 < found.high


def test_a_class_is_compared_with_unseen_rows_of_its_own():
    """Unseen rows of other classes would tell the classes apart, not members: without any of the class there is no number."""
    request = Request(forget=rows([0.9] * 20, 1), keep=rows([0.1] * 20, 0), unseen=Data.inline([*rows([0.1] * 30, 0).read(), *rows([0.9] * 20, 1).read()]))
    found = ClassLoss().run(Fixed(), request, context())
    assert found.n == 40 and found.parts["auc"] == 0.5
    with pytest.raises(Missing, match="no unseen row is of the forgotten class 1"):
        ClassLoss().run(Fixed(), request.model_copy(update={"unseen": rows([0.1] * 30, 0)}), context())


def test_random_rows_of_digits_are_not_told():
    """A random tenth: retrained and original alike within .45 to .55, which is why this alone proves nothing."""
    for subject in (retrained_classifier(0, "random"), trained_classifier(0, "random")):
        found = ClassLoss().run(subject, digits("random").request, context(baselines={"reference": retrained_classifier(0, "random")}))
        assert 0.45 <= found.value <= 0.55 and found.parts["auc_low"] < 0.5 < found.parts["auc_high"]


@pytest.mark.slow
def test_wrong_labels_known_by_heart_are():
    request, reference = digits("noisy").request, retrained_classifier(0, "noisy")
    found = ClassLoss().run(trained_classifier(0, "noisy"), request, context(baselines={"reference": reference}))
    assert found.value > 0.95 and found.parts["signed"] > 0.45 and 0.4 < found.parts["reference"] < 0.6


def test_what_is_refused():
    request = Request(forget=rows([0.9] * 20), unseen=rows([0.9] * 20))
    with pytest.raises(Unfit, match="a logit of row 1 is not finite"):
        ClassLoss().run(Fixed(), request.model_copy(update={"forget": rows([math.nan] * 20)}), context())
    with pytest.raises(Missing, match="at least 10 rows on each side; found 3 and 20"):
        ClassLoss().run(Fixed(), request.model_copy(update={"forget": rows([0.9] * 3)}), context())
    with pytest.raises(BudgetSpent):
        ClassLoss().run(Fixed(), request, context(budget={"queries": 5}))


def test_scikit_learn():
    found = ClassLoss().run(sklearn_classifier(kind="bayes"), digits().request, context())
    assert found.value is not None and 0 <= found.value <= 1
