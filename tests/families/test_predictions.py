"""What a classifier says of row sets; and that no metric or attack that reads it takes a damaged model for one with a score."""

import numpy as np
import pytest
import torch

from efface.core import registry
from efface.core.errors import Diverged, Missing, Unfit
from efface.core.types import Data, Request
from efface.families import predictions
from efface.testing.tiny import context, digits, retrained_classifier, sklearn_classifier, tiny_classifier, trained_classifier

METRICS = (
    "unlearning_accuracy", "tow", "zrf", "js_divergence", "activation_distance", "nomus", "relearn_time", "linear_probe", "interclass_confusion",
)
"""All but neurips_score, which trains models of its own and reads nothing of the subject but its kind."""
ATTACKS = ("mia_efficacy", "class_loss", "lira", "u_lira")
READ = [("metric", name) for name in METRICS] + [("attack", name) for name in ATTACKS]
PARTS = digits()
FEW = Request(forget=Data.inline(PARTS.forget[:20]), keep=Data.inline(PARTS.keep[:120]), unseen=Data.inline(PARTS.unseen[:20]))
SETTINGS = {"fit.steps": 2, "fit.batch": 8, "models": 8, "cap": 1}


def data(*labels):
    return Data.inline([{"x": [0.0], "y": y} for y in labels])


class Counting:
    """A classifier that is sure of class 1, and counts the rows that it is asked about."""

    family, lineage = "classifier", ()

    def __init__(self):
        self.asked = 0

    def predict(self, rows):
        self.asked += len(rows)
        return np.array([[0.25, 0.75]] * len(rows))


def test_outputs():
    """p = (.25, .75): loss -log .75 for class 1, log-odds log 3."""
    found = predictions.read(Counting(), data(1, 0).read())
    assert found.chances == pytest.approx(np.array([[0.25, 0.75]] * 2))
    assert found.hits.tolist() == [True, False]
    assert found.losses == pytest.approx(-np.log([0.75, 0.25]))
    assert found.scaled == pytest.approx([np.log(3), -np.log(3)])
    assert predictions.confidence(found) == pytest.approx([0.75, 0.25])
    assert predictions.confidence(found.of(np.array([False, True]))) == pytest.approx([0.25])


def test_a_torch_classifier_is_read_beyond_float32():
    rows = PARTS.keep[:50]
    found = predictions.read(trained_classifier(), rows)
    assert found.chances == pytest.approx(trained_classifier().predict(rows), abs=1e-6)
    assert 0 < found.losses.min() < 1e-7, "where float32 has steps of 6e-8"


def test_a_model_is_asked_once_for_each_set():
    subject, ctx, request = Counting(), context(), Request(forget=data(1, 1, 0))
    for _ in range(3):
        predictions.side(subject, request, "forget", ctx)
    assert subject.asked == 3
    predictions.side(subject, request, "forget", ctx, most=2)
    assert subject.asked == 5


def test_a_class_that_goes_as_a_whole():
    assert predictions.forgotten_classes(Request(forget=data(3, 3), keep=data(1, 2))) == {3}
    assert predictions.forgotten_classes(Request(forget=data(3, 1), keep=data(1, 3))) == frozenset()
    assert predictions.forgotten_classes(Request(forget=data(3))) == frozenset(), "without keep rows nobody can say"


def test_test_rows_are_of_classes_that_stay():
    subject = Counting()
    whole = Request(forget=data(0, 0), keep=data(1, 1), unseen=data(0, 1, 0))
    assert predictions.test(subject, whole, context(utility={"a": data(0, 1), "b": data(1)})).labels.tolist() == [1, 1]
    assert predictions.test(subject, whole, context()).labels.tolist() == [1], "unseen rows do, where there is nothing else"
    part = Request(forget=data(0, 1), keep=data(1, 0), unseen=data(0, 1, 0))
    assert predictions.test(subject, part, context()).labels.tolist() == [0, 1, 0]
    with pytest.raises(Missing, match="no test rows of classes that stay"):
        predictions.test(subject, Request(forget=data(0), keep=data(1), unseen=data(0)), context())
    with pytest.raises(Missing, match="no test rows"):
        predictions.test(subject, Request(forget=data(0), keep=data(1)), context())


def test_non_members_are_of_the_same_kind():
    subject = Counting()
    whole = Request(forget=data(0, 0), keep=data(1, 1), unseen=data(0, 1, 0))
    assert predictions.same_kind(subject, whole, context()).labels.tolist() == [0, 0]
    with pytest.raises(Missing, match="no unseen row is of the forgotten class 0"):
        predictions.same_kind(subject, whole.model_copy(update={"unseen": data(1)}), context())
    part = Request(forget=data(0, 1), keep=data(1, 0), unseen=data(0, 1, 0))
    assert predictions.same_kind(subject, part, context()).labels.tolist() == [0, 1, 0]


def test_operations():
    """64 x 128 + 128 x 64 + 64 x 10 multiplications and as many additions to read a row, three times that to train on it."""
    assert predictions.operations(tiny_classifier(), PARTS.keep[0]) == 3 * 2 * (64 * 128 + 128 * 64 + 64 * 10)
    with pytest.raises(Unfit, match="trial would take about 1e\\+08 .* most = 1e\\+07 .* raise it"):
        predictions.refuse_large("trial", tiny_classifier(), PARTS.keep, 1000, 1e7)
    predictions.refuse_large("trial", tiny_classifier(), PARTS.keep, 1000, 1.1e8)


def damaged(number):
    after = trained_classifier().fork()
    with torch.no_grad():
        after.modules_of("head")[0].bias[2] = number
    return after


@pytest.mark.parametrize(("kind", "name"), READ, ids=lambda value: str(value))
@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_every_metric_refuses_a_damaged_model(kind, name, number):
    """Neither the candidate nor the reference may have a logit that is not a number; the error says which row."""
    system = registry.load(kind, name)
    system = system.set({key: value for key, value in SETTINGS.items() if key.split(".")[0] in system.Config.model_fields})
    utility = {"test rows": Data.inline(PARTS.test[:40])}
    good = {"original": trained_classifier(), "reference": retrained_classifier()}
    for subject, reference in ((damaged(number), good["reference"]), (good["original"], damaged(number))):
        with pytest.raises(Unfit, match="not finite"):
            system.run(subject, FEW, context(baselines={**good, "reference": reference}, utility=utility))


def test_the_neurips_score_refuses_models_that_diverge():
    system = registry.load("metric", "neurips_score").set({"models": 8, "fit.steps": 30, "fit.lr": 1e30, "fit.clip": 0, "fit.optimizer": "sgd"})
    with pytest.raises(Diverged, match="copy 1 .* not finite"):
        system.run(trained_classifier(), FEW, context(utility={"test rows": Data.inline(PARTS.test[:40])}))


def test_scikit_learn_is_read_as_well():
    found = predictions.read(sklearn_classifier(kind="bayes"), PARTS.forget[:20])
    assert np.isfinite(found.losses).all() and found.chances.sum(1) == pytest.approx(np.ones(20))
