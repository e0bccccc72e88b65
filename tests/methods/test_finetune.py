"""Fine-tuning on kept rows: the formula, and that it is retraining that starts from the model itself."""

import math

import pytest

from efface.methods.finetune import Finetune
from efface.ops.loop import mean_loss
from efface.recipes.retrain import Retrain
from efface.testing.tiny import context, digits, facts, tiny_lm, trained_classifier, trained_lm


def test_formula(forget, uniform, second_step, plain, the_facts):
    """Each of V tokens has 1 / V: the first loss is log V. Later it is the mean over rows of the mean over tokens of -log p."""
    _, ctx = forget("finetune", {"fit.steps": 1, "stop.at": "steps"}, uniform)
    assert ctx.curve[0]["keep"] == pytest.approx(math.log(len(uniform.tokenizer)), rel=1e-6)
    one, drawn, logged = second_step("finetune", {}, {"keep": 48})
    rows = [plain(one, the_facts.keep[at]) for at in drawn["keep"]]
    assert logged["keep"] == pytest.approx(-sum(sum(row) / len(row) for row in rows) / len(rows), rel=1e-4)


def test_no_op(forget):
    assert forget("finetune", {"fit.steps": 0})[0].digest == trained_lm().digest


def test_forgets(forget, losses):
    """More training on other rows wears the forget rows off a little, at a high learning rate: this is a weak method."""
    after, _ = forget("finetune", {"fit.lr": 1e-2, "fit.steps": 30, "stop.at": "steps"})
    assert losses(after)["forget"] > 2 * losses(trained_lm())["forget"]


def test_keeps(forget, losses):
    after, _ = forget("finetune", {"fit.steps": 20, "stop.at": "steps"})
    assert losses(after)["keep"] <= losses(trained_lm())["keep"]


def test_limits():
    """From the same weights, on the same rows and settings, it is the recipe `retrain`; and it runs on classifiers."""
    settings = {"fit.lr": 1e-3, "fit.batch": 8, "fit.steps": 3, "fit.warmup": 0, "fit.schedule": "constant"}
    one = Finetune.set({**settings, "stop.at": "steps"}).run(tiny_lm(), facts().request, context())
    other = Retrain.set(settings).run(tiny_lm(), facts().request, context())
    assert one.digest == other.digest != tiny_lm().digest
    parts, before = digits("class"), trained_classifier()
    after = Finetune.set({"fit.lr": 1e-3, "fit.batch": 64, "fit.steps": 60}).run(before, parts.request, context())
    assert mean_loss(after, parts.keep) < mean_loss(before, parts.keep)
    assert mean_loss(after, parts.forget) > mean_loss(before, parts.forget)
