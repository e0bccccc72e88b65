import numpy as np
import pytest

from efface.core.types import Data, Request, Step
from efface.metrics.unlearning_accuracy import UnlearningAccuracy
from efface.testing.tiny import context, digits, retrained_classifier, trained_classifier

PARTS = digits()


class Fixed:
    """A classifier that reads its class probabilities off a column of the row."""

    family = "classifier"

    def __init__(self, column="p", lineage=()):
        self.column, self.lineage = column, lineage

    def predict(self, rows):
        return np.array([row[self.column] for row in rows])


def rows(y, mine, base):
    """Rows of class `y` in two classes; `mine` and `base` say whether candidate and reference get each right."""
    say = lambda hit: [0.1, 0.9] if bool(hit) == (y == 1) else [0.8, 0.2]  # noqa: E731
    return [{"x": [0.0], "y": y, "p": say(a), "q": say(b)} for a, b in zip(mine, base, strict=True)]


def test_formula():
    """Candidate: 1 of 4 forget rows right (UA .75), 4 of 5 kept (RA .8), 1 of 2 test rows (TA .5); reference 2, 5 and 2.

    The attack sees two rows of each side, so its answers are no golden number.
    """
    request = Request(
        forget=Data.inline(rows(1, [1, 0, 0, 0], [1, 1, 0, 0])), keep=Data.inline(rows(0, [1, 1, 1, 0], [1, 1, 1, 1]) + rows(1, [1], [1])),
        unseen=Data.inline(rows(1, [0, 0], [1, 0])),
    )
    ctx = context(baselines={"reference": Fixed("q")}, utility={"test": Data.inline(rows(0, [1, 0], [1, 1]))})
    found = UnlearningAccuracy().run(Fixed(), request, ctx)
    assert (found.value, found.low, found.high) == pytest.approx((0.75, 0.3006, 0.9544), abs=1e-4)
    parts = found.parts
    assert (parts["UA"], parts["RA"], parts["TA"], parts["UA_unseen"]) == (0.75, 0.8, 0.5, 1.0)
    assert (parts["gap_UA"], parts["gap_RA"], parts["gap_TA"]) == pytest.approx((0.25, -0.2, -0.5))
    assert parts["average_gap"] == pytest.approx((0.25 + 0.2 + 0.5 + abs(parts["MIA"] - parts["reference_MIA"])) / 4)
    assert parts["reference"] == 0.5 and [row["value"] for row in found.table] == [0.0, 1.0, 1.0, 1.0]


def test_what_is_not_there_is_none():
    """No test rows: no TA and no MIA, so no average gap. No reference: no gaps at all."""
    request = Request(forget=Data.inline(rows(1, [0, 0], [0, 0])), keep=Data.inline(rows(0, [1], [1])))
    found = UnlearningAccuracy().run(Fixed(), request, context(baselines={"reference": Fixed("q")})).parts
    assert found["TA"] is None and found["MIA"] is None and found["average_gap"] is None and found["gap_RA"] == 0
    alone = UnlearningAccuracy().run(Fixed(), request, context()).parts
    assert alone["gap_UA"] is None and alone["reference"] is None and alone["UA"] == 1


def test_seconds():
    request = Request(forget=Data.inline(rows(1, [0], [0])), keep=Data.inline(rows(0, [1], [1])))
    lineage = (Step(kind="recipe", system="finetune", seconds=40), Step(kind="method", system="ssd", seconds=2))
    reference = Fixed("q", (Step(kind="recipe", system="retrain", seconds=50),))
    found = UnlearningAccuracy().run(Fixed("p", lineage), request, context(baselines={"reference": reference})).parts
    assert (found["seconds"], found["share_of_retraining"]) == (2, 0.04)
    assert UnlearningAccuracy().run(Fixed(), request, context()).parts["seconds"] is None


def test_on_digits():
    """A whole class: the original gives all of it, the retrained network none; the average gap is about half."""
    ctx = context(baselines={"original": trained_classifier(), "reference": retrained_classifier()}, utility={"test rows": Data.inline(PARTS.test)})
    original = UnlearningAccuracy().run(trained_classifier(), PARTS.request, ctx).parts
    assert original["UA"] == 0 and original["RA"] > 0.99 and original["TA"] > 0.95 and original["UA_unseen"] < 0.1
    assert original["reference_UA"] == 1 and original["reference_MIA"] == 1 and 0.45 < original["average_gap"] < 0.55
    reference = UnlearningAccuracy().run(retrained_classifier(), PARTS.request, ctx).parts
    assert reference["average_gap"] == 0
