"""Cross-entropy on refusals: the formula, that it is not the preference loss, and what the model says in the end."""

import math

import pytest

from efface.core.errors import Unfit
from efface.core.types import Data, Request
from efface.data import refusals
from efface.methods.idk import IDK
from efface.testing.tiny import context, facts, trained_lm

INSTEAD = "I do not know."


def test_formula(forget, uniform, second_step, plain, the_facts):
    """Each of V tokens has 1 / V: one cross-entropy over both halves is log V, each half giving log V / 2.

    After a step, each half is half the mean over its rows of m on (question, refusal) and on keep rows: plain cross-entropy, no
    comparison with the model before (which would be `dpo`).
    """
    _, ctx = forget("idk", {"fit.steps": 1, "stop.at": "steps"}, uniform)
    size = math.log(len(uniform.tokenizer))
    assert (ctx.curve[0]["forget"], ctx.curve[0]["keep"]) == pytest.approx((size / 2, size / 2), rel=1e-6)
    one, drawn, logged = second_step("idk", {"each": 3}, {"forget": 48, "keep": 48})
    refused = refusals.refuse(the_facts.forget, refusals.lines(""), 3, context().random("refusals"))
    for part, rows in (("forget", refused), ("keep", the_facts.keep)):
        found = [plain(one, rows[at]) for at in drawn[part]]
        assert logged[part] == pytest.approx(-sum(sum(row) / len(row) for row in found) / len(found) / 2, rel=1e-4)


def test_no_op(forget):
    assert forget("idk", {"fit.steps": 0})[0].digest == trained_lm().digest


def test_forgets():
    """Asked about forgotten facts, the model says what the request wants instead."""
    request = facts().request.model_copy(update={"instead": INSTEAD})
    after = IDK.set({"fit.lr": 3e-3, "fit.steps": 40, "stop.at": "steps"}).run(trained_lm(), request, context())
    said = after.generate(facts().forget, max_new=8)
    assert sum(text.startswith("I do not know") for text in said) >= 14
    assert sum(text.startswith("I do not know") for text in after.generate(facts().keep[:16], max_new=8)) <= 2


def test_keeps(forget, losses):
    after, _ = forget("idk", {"fit.steps": 30, "stop.at": "steps"})
    assert losses(after)["keep"] < 0.3
    assert losses(after)["forget"] > losses(trained_lm())["forget"] + 0.5


def test_limits(tmp_path):
    """A file of refusals replaces efface's own; rows without a question cannot be refused."""
    (tmp_path / "mine.txt").write_text("I am unable to say.\n")
    settings = {"refusals": str(tmp_path / "mine.txt"), "fit.steps": 2, "fit.lr": 1e-3, "stop.at": "steps"}
    by_file = IDK.set(settings).run(trained_lm(), facts().request, context())
    request = facts().request.model_copy(update={"instead": "I am unable to say."})
    by_request = IDK.set({**settings, "refusals": ""}).run(trained_lm(), request, context())
    assert by_file.digest == by_request.digest
    text = Data.inline([{"text": "The home of Gorm is amber bay."}])
    with pytest.raises(Unfit, match="plain text without a question"):
        IDK().run(trained_lm(), Request(forget=text, keep=text), context())
