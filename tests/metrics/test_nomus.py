import numpy as np
import pytest

from efface.core.errors import BadConfig, Missing
from efface.core.types import Data, Request
from efface.metrics.nomus import Nomus
from efface.ops import class_stats
from efface.testing.tiny import context, digits, retrained_classifier, trained_classifier


class Fixed:
    """A classifier that reads the probability of class 1 off the row."""

    family = "classifier"

    def predict(self, rows):
        return np.array([[1 - row["p"], row["p"]] for row in rows])


def rows(chances, y=1):
    return Data.inline([{"x": [0.0], "y": y, "p": float(p)} for p in chances])


def request(forget, unseen):
    return Request(forget=rows(forget), keep=rows([0.9, 0.1]), unseen=rows(unseen))


def test_formula():
    """Three of four test rows right; forget rows far likelier than unseen ones: the attack is always right, NoMUS = (.75 + 1 - 1) / 2."""
    ctx = context(utility={"test": rows([0.9, 0.8, 0.7, 0.1])})
    found = Nomus().run(Fixed(), request([0.99] * 40, [0.01] * 40), ctx)
    assert found.value == pytest.approx(0.375) and found.low <= 0.375 <= found.high
    assert (found.parts["accuracy"], found.parts["attack"], found.parts["signed"]) == (0.75, 1, 0.5)
    heavy = Nomus.set({"weight": 1.0}).run(Fixed(), request([0.99] * 40, [0.01] * 40), ctx)
    assert heavy.value == pytest.approx(0.75)


def test_the_sign_is_reported_because_the_score_loses_it():
    ctx = context(utility={"test": rows([0.9, 0.8, 0.7, 0.1])})
    known, gone = (Nomus().run(Fixed(), request(a, b), ctx) for a, b in (([0.99] * 40, [0.01] * 40), ([0.01] * 40, [0.99] * 40)))
    assert known.value == gone.value and known.parts["signed"] == 0.5 == -gone.parts["signed"]


def test_the_published_pairs():
    """Accuracy .5952 with attack .7136, and .59 with .6299, of the published notebook."""
    assert class_stats.nomus(0.5952, 0.7136) == pytest.approx(0.5840, abs=1e-3)
    assert class_stats.nomus(0.59, 0.6299) == pytest.approx(0.6651, abs=1e-3)


@pytest.mark.slow
def test_wrong_labels_learned_by_heart_cost_half():
    """The original knows every wrong label (attack near 1); the retrained network none. The reference stands beside both."""
    parts, original, reference = digits("noisy"), trained_classifier(0, "noisy"), retrained_classifier(0, "noisy")
    ctx = context(baselines={"reference": reference}, utility={"test rows": Data.inline(parts.test)})
    found = Nomus().run(original, parts.request, ctx)
    assert found.parts["signed"] > 0.45 and abs(found.parts["reference_signed"]) < 0.15
    assert found.parts["reference"] - found.value > 0.3
    assert Nomus().run(reference, parts.request, ctx).value == found.parts["reference"]


def test_what_is_refused():
    with pytest.raises(Missing, match="no test rows"):
        Nomus().run(Fixed(), Request(forget=rows([0.5] * 20), keep=rows([0.5], 0), unseen=rows([0.5] * 20)), context())
    with pytest.raises(Missing, match="at least 10 rows"):
        Nomus().run(Fixed(), request([0.9] * 5, [0.1] * 40), context(utility={"test": rows([0.9])}))
    with pytest.raises(BadConfig, match="weight"):
        Nomus.set({"weight": 1.5})
