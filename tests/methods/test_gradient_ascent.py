"""Gradient ascent: the formula, its limits, and both families it runs on."""

import math

import pytest

from efface.core.errors import Unfit
from efface.core.types import Request
from efface.methods.gradient_ascent import GradientAscent
from efface.ops.loop import mean_loss
from efface.testing.tiny import context, digits, trained_classifier, trained_lm


def test_formula(forget, uniform, second_step, plain, the_facts):
    """A model that gives each of V tokens 1 / V has m = log V on every row, however long: the first loss is -log V.

    After a step, the loss is the mean over rows of the mean over tokens of log p, here by a plain loop. Summing over tokens, or
    averaging over all tokens of the batch, would give another number: answers have 8 to 9 tokens.
    """
    _, ctx = forget("gradient_ascent", {"fit.steps": 1, "stop.at": "steps"}, uniform)
    assert ctx.curve[0]["forget"] == pytest.approx(-math.log(len(uniform.tokenizer)), rel=1e-6)
    one, drawn, logged = second_step("gradient_ascent", {}, {"forget": 16})
    rows = [plain(one, the_facts.forget[at]) for at in drawn["forget"]]
    assert logged["forget"] == pytest.approx(sum(sum(row) / len(row) for row in rows) / len(rows), rel=1e-4)


def test_no_op(forget):
    assert forget("gradient_ascent", {"fit.steps": 0})[0].digest == trained_lm().digest


def test_forgets(forget, losses):
    after, ctx = forget("gradient_ascent")
    assert losses(trained_lm())["forget"] < 0.1
    assert losses(after)["forget"] >= losses(trained_lm())["unseen"]
    assert "unseen" in ctx.notes["stopped"] and ctx.notes["steps"] < 200


def test_keeps(forget, losses):
    """The stop rule spares what must stay; without it nothing does: the loss goes where no answer can be told any more."""
    far = losses(forget("gradient_ascent", {"stop.at": "steps", "fit.steps": 40})[0])
    near = losses(forget("gradient_ascent")[0])
    assert near["keep"] < near["forget"]
    assert far["keep"] > 2 * math.log(len(trained_lm().tokenizer)) and far["keep"] > 2 * near["keep"]


def test_limits():
    """On a classifier the same file goes up the cross-entropy: the class is no longer recognized, and the original stays."""
    parts, before = digits("class"), trained_classifier()
    name, ctx = before.digest, context()
    after = GradientAscent.set({"fit.lr": 1e-4, "fit.batch": 64, "fit.steps": 60}).run(before, parts.request, ctx)
    assert mean_loss(after, parts.forget) > 10 * mean_loss(before, parts.forget)
    assert before.digest == name and after.digest != name
    with pytest.raises(Unfit, match="no 'forget' rows"):
        GradientAscent().run(before, Request(), ctx)
