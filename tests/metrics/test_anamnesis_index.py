"""Anamnesis index: steps by hand, equality with itself, what is said when a level is not reached, classifiers too."""

import pytest
import torch
from torch import nn

from efface.core.errors import Missing
from efface.core.types import Data, Request
from efface.families.regressor import Regressor
from efface.metrics.anamnesis_index import AnamnesisIndex
from efface.testing.tiny import context, diabetes, digits, retrained_classifier, retrained_regressor, trained_classifier, trained_regressor

ONE = Data.inline([{"x": [1.0], "y": 1.0}] * 4)
LINE = Request(forget=ONE, keep=ONE, unseen=ONE)


def line(weight: float) -> Regressor:
    """x -> weight * x, with the absolute error as its loss."""
    model = nn.Linear(1, 1, bias=False)
    with torch.no_grad():
        model.weight.fill_(weight)
    return Regressor(model.requires_grad_(False), measure="l1")


def index(candidate: Regressor, settings=None, original: float = 0.5, reference: float = 0.0):
    ctx = context(baselines={"original": line(original), "reference": line(reference)})
    return AnamnesisIndex.set({"within": 0.1, "lr": 0.1, "batch": 4, **(settings or {})}).run(candidate, LINE, ctx)


def test_steps_by_hand():
    """A constant gradient moves Adam by its rate: 0.1 a step. The level is 1.1 * |1 - 0.5| = 0.55.

    From 0 the error is 0.6 after four steps and 0.5 after five; from 0.3 it is 0.6 after one and 0.5 after two: 2 / 5.
    """
    found = index(line(0.3))
    assert found.value == pytest.approx(2 / 5) and (found.low, found.high, found.why, found.n) == (None, None, "", 4)
    assert found.parts == pytest.approx({"steps": 2, "reference_steps": 5, "cap": 600, "level": 0.55, "start": 0.7, "reference_start": 1.0})


def test_looked_at_after_steps_alone():
    """The original itself is at the level from the start, and has one step, not none."""
    assert index(line(0.5)).parts["steps"] == 1


@pytest.mark.parametrize(
    ("candidate", "steps", "low", "high", "status", "says"),
    [
        (-0.5, 5, 1.0, None, "ok", "not reached within 5 steps; the index is above 1.00"),
        (0.3, 4, None, 0.5, "ok", "the reference did not reach the level within 4 steps; the index is below 0.500"),
        (-0.5, 4, None, None, "skipped", "neither the model nor the reference"),
    ],
)
def test_not_reached(candidate, steps, low, high, status, says):
    """No number where one of both has none: a bound, and words. From -0.5 it takes ten steps, from 0 five, from 0.3 two."""
    found = index(line(candidate), {"steps": steps})
    assert (found.value, found.low, found.high, found.status) == (None, low, high, status) and says in found.why


def test_nothing_to_relearn_is_said():
    found = index(line(0.3), reference=0.5)
    assert found.value == 2 and "nothing to relearn" in found.why


def test_regressors():
    """Exactly 1 for the reference's twin, far less for the original; the models are left as they were."""
    original, reference, request = trained_regressor(), retrained_regressor(), diabetes()
    ctx = context(baselines={"original": original, "reference": reference})
    before = original.digest, reference.digest
    twin = AnamnesisIndex().run(reference.fork(), request, ctx)
    own = AnamnesisIndex().run(original, request, ctx)
    assert twin.value == 1.0 and twin.parts["steps"] > 5
    assert own.value < 0.5
    assert before == (original.digest, reference.digest) and not ctx.curve and not ctx.notes


def test_classifiers():
    original, reference = trained_classifier(), retrained_classifier()
    ctx = context(baselines={"original": original, "reference": reference})
    asked = digits().request
    settings = {"within": 1.0, "steps": 150, "lr": 1e-2}
    own, twin = (AnamnesisIndex.set(settings).run(subject, asked, ctx) for subject in (original, reference))
    assert twin.value == 1.0 and own.value < 0.2


def test_without_a_reference():
    with pytest.raises(Missing, match="reference"):
        AnamnesisIndex().run(line(0.0), LINE, context(baselines={"original": line(0.0)}))
