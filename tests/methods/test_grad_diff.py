"""Gradient difference: the formula, its weights, and that it is gradient ascent when nothing weighs on keep rows."""

import math

import pytest

from efface.methods.grad_diff import GradDiff
from efface.ops.loop import mean_loss
from efface.testing.tiny import context, digits, trained_classifier, trained_lm


def test_formula(forget, uniform, second_step, plain, the_facts):
    """Each of V tokens has 1 / V, so m = log V on all rows: the terms are -0.5 log V and 2 log V under the weights 0.5 and 2."""
    settings = {"forget_weight": 0.5, "keep_weight": 2.0}
    _, ctx = forget("grad_diff", {**settings, "fit.steps": 1, "stop.at": "steps"}, uniform)
    size = math.log(len(uniform.tokenizer))
    assert (ctx.curve[0]["forget"], ctx.curve[0]["keep"]) == pytest.approx((-0.5 * size, 2 * size), rel=1e-6)
    one, drawn, logged = second_step("grad_diff", settings, {"forget": 16, "keep": 48})
    for part, weight in (("forget", 0.5), ("keep", -2.0)):
        rows = [plain(one, getattr(the_facts, part)[at]) for at in drawn[part]]
        assert logged[part] == pytest.approx(weight * sum(sum(row) / len(row) for row in rows) / len(rows), rel=1e-4)


def test_no_op(forget):
    after, _ = forget("grad_diff", {"forget_weight": 0.0, "keep_weight": 0.0, "fit.steps": 3, "stop.at": "steps"})
    assert after.digest == trained_lm().digest


def test_forgets(forget, losses):
    after, ctx = forget("grad_diff")
    assert losses(after)["forget"] >= losses(trained_lm())["unseen"] and "unseen" in ctx.notes["stopped"]


def test_keeps(forget, losses):
    """The keep term holds what gradient ascent alone loses."""
    held, lost = losses(forget("grad_diff")[0])["keep"], losses(forget("gradient_ascent")[0])["keep"]
    assert held < 0.5 * lost


def test_limits(forget):
    alone = {"fit.steps": 4, "stop.at": "steps"}
    assert forget("grad_diff", {"keep_weight": 0.0, **alone})[0].digest == forget("gradient_ascent", alone)[0].digest
    assert forget("grad_diff", alone)[0].digest != forget("gradient_ascent", alone)[0].digest
    parts, before = digits("class"), trained_classifier()
    after = GradDiff.set({"fit.lr": 1e-4, "fit.batch": 64, "fit.steps": 60}).run(before, parts.request, context())
    assert mean_loss(after, parts.forget) > 10 * mean_loss(before, parts.forget)
    assert mean_loss(after, parts.keep) < 0.1
