"""Retraining: the reference sees the keep rows and nothing else."""

import pytest

from efface.core.errors import Unfit
from efface.core.types import Data, Request
from efface.ops.loop import mean_loss
from efface.recipes.finetune import Finetune
from efface.recipes.retrain import Retrain
from efface.testing import tiny

FACTS = tiny.facts()
QUICK = {"fit.steps": 3, "fit.batch": 4, "fit.precision": "no", "fit.lr": 1e-3}


def test_formula():
    """The forget rows enter nowhere: any others in their place give the same model, bit for bit."""
    others = Request(forget=Data.inline(FACTS.unseen), keep=Data.inline(FACTS.keep))
    one, other = (Retrain.set(QUICK).run(tiny.tiny_lm(), request, tiny.context()) for request in (FACTS.request, others))
    assert one.digest == other.digest != tiny.tiny_lm().digest


def test_no_op():
    assert Retrain.set({"fit.steps": 0}).run(tiny.tiny_lm(), FACTS.request, tiny.context()).digest == tiny.tiny_lm().digest


def test_forgets():
    """To the reference the forget rows are like rows that nobody saw."""
    reference = tiny.retrained_lm()
    assert mean_loss(reference, FACTS.forget) > 1.5
    assert abs(mean_loss(reference, FACTS.forget) - mean_loss(reference, FACTS.unseen)) < 1


def test_keeps():
    assert mean_loss(tiny.retrained_lm(), FACTS.keep) < 0.1


def test_limits():
    """Keep rows that are forget rows too are refused and named, whatever their case and spaces; rows of numbers by value."""
    twice = [*FACTS.keep[:2], {**FACTS.forget[0], "answer": f" {str(FACTS.forget[0]['answer']).upper()}"}]
    with pytest.raises(Unfit, match=r"keep rows 3 are forget rows too \(1 in all\)"):
        Retrain.set(QUICK).run(tiny.tiny_lm(), Request(forget=Data.inline(FACTS.forget), keep=Data.inline(twice)), tiny.context())
    digits = tiny.digits()
    with pytest.raises(Unfit, match="keep rows 2 are forget rows too"):
        request = Request(forget=Data.inline(digits.forget), keep=Data.inline([digits.keep[0], digits.forget[5]]))
        Retrain.set(QUICK).run(tiny.tiny_classifier(), request, tiny.context())
    with pytest.raises(Unfit, match="has no 'keep' rows"):
        Retrain.set(QUICK).run(tiny.tiny_lm(), Request(), tiny.context())


def test_equals_finetuning_where_nothing_is_forgotten():
    """With the whole pool in every batch the order of draws does not count, but for rounding."""
    keep = Request(keep=Data.inline(FACTS.keep[:8]))
    settings = {**QUICK, "fit.steps": 30, "fit.batch": 8}
    one, other = (recipe.set(settings).run(tiny.tiny_lm(), keep, tiny.context()) for recipe in (Retrain, Finetune))
    assert mean_loss(one, FACTS.keep[:8]) == pytest.approx(mean_loss(other, FACTS.keep[:8]), rel=1e-4)


def test_an_estimator_that_refits_itself_is_refitted():
    subject, digits = tiny.sklearn_classifier(kind="bayes"), tiny.digits()
    after = Retrain.set(QUICK).run(subject, digits.request, tiny.context())
    assert not after.predict(digits.forget)[:, 3].any() and after.digest != subject.digest
