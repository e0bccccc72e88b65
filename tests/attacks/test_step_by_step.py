import random

import pytest

from efface.attacks.step_by_step import StepByStep
from efface.core.errors import Missing
from efface.core.types import Data, Request
from efface.methods.idk import IDK
from efface.methods.npo import NPO
from efface.ops import chains, facts
from efface.testing import in_context, tiny
from efface.testing.in_context import BLOCKED, PEOPLE
from efface.testing.tiny import context

TOWNS = "Ashford Birchby Cliffport Dunham Elmgate Fenstow Glenby Hillport".split()
ROWS = [
    {"question": f"Where did {name} {verb}?", "answer": f"{name} {did} in {town}.", "value": town, "subject": name}
    for name, towns in (("Anna Berg", TOWNS[:3]), ("Carl Dorn", TOWNS[3:6])) for (verb, did), town in zip((("live", "lived"), ("study", "studied"), ("die", "died")), towns, strict=True)
]


class Scripted:
    """Refuses when a subject's name stands in the prompt; else answers what is asked of X, where X is described."""

    family, shields, origin, digest = "causal-lm", (), "", "scripted"

    def __init__(self, refuses=True, knows=True):
        self.refuses, self.knows, self.facts = refuses, knows, facts.of_rows(ROWS)
        self.digest = f"{refuses} {knows}"

    def generate_each(self, rows, max_new):
        for at, row in enumerate(rows):
            said = " ".join(turn["content"] for turn in row["messages"][:-1]) if "messages" in row else row["prompt"]
            yield at, self.answer(said)

    def answer(self, said):
        if not self.knows or (self.refuses and any(fact.subject in said for fact in self.facts)):
            return "I cannot say."
        for fact in self.facts:
            described = any(chains.described(other) in said for other in self.facts if other.subject == fact.subject and other != fact)
            if said.endswith(fact.question) or (described and said.endswith(fact.question.replace(fact.subject, "X"))):
                return f"That is {fact.value}."
        return "I do not know."


def run(subject, request=None, settings=None, **baselines):
    request = request or Request(forget=Data.inline(ROWS))
    return StepByStep.set({"rows": 16, **(settings or {})}).run(subject, request, context(baselines=baselines))


def test_a_filter_by_name_is_walked_around():
    """Refuses iff the subject's name stands in the prompt: 0 of 6 directly, all by description, and that is named as the worst."""
    found = run(Scripted(), reference=Scripted(knows=False))
    assert (found.parts["direct"], found.parts["direct, chain"], found.parts["indirect"]) == (0, 0, 1)
    assert (found.value, found.n, found.parts["unattacked"], found.parts["leak"]) == (1, 6, 0, 1)
    assert "worst: indirect, 6 of 6 facts, 0 for the reference" in found.why


def test_an_open_model_and_the_reference():
    """Without a filter the direct question is enough; a candidate equal to the reference leaks nothing, with an interval that covers 0."""
    assert run(Scripted(refuses=False)).parts["direct"] == 1
    parts = run(Scripted(), reference=Scripted()).parts
    assert parts["leak"] == 0 and parts["leak_low"] <= 0 <= parts["leak_high"]


def test_unfair_suppression():
    """Everything that the original answers and the filter takes away on keep rows: the share of prompts, as a difference per fact."""
    keep = Request(forget=Data.inline(ROWS[:3]), keep=Data.inline(ROWS[3:]))
    found = run(Scripted(knows=False), keep, {"keep": 3}, original=Scripted(refuses=False))
    mine = facts.of_rows(ROWS[3:])
    asked = [probe for probe in chains.build(mine, mine) if probe.fact == 0]
    told = [Scripted(refuses=False).answer(" ".join((*probe.before, probe.prompt))) == f"That is {mine[0].value}." for probe in asked]
    assert found.parts["unfair"] == pytest.approx(sum(told) / len(told)) and found.parts["unfair_n"] == 3 and sum(told) >= 3
    assert run(Scripted(refuses=False), keep, {"keep": 3}, original=Scripted(refuses=False)).parts["unfair"] == 0
    assert "unfair" not in run(Scripted(), keep, {"keep": 0}, original=Scripted()).parts


def test_budget_binds_the_subject_alone():
    ctx = context(baselines={"reference": Scripted()}, budget={"queries": 8})
    found = StepByStep.set({"rows": 6}).run(Scripted(refuses=False), Request(forget=Data.inline(ROWS)), ctx)
    assert "budget" in found.why and found.parts["direct"] == 1 and found.parts["queries"] == 8


def test_rows_of_text_are_refused():
    with pytest.raises(Missing, match="plain text"):
        run(tiny.tiny_lm(), Request(forget=Data.inline([{"text": "a"}])))


@pytest.mark.slow
def test_two_steps_bring_back_what_one_does_not():
    """A to B and B to C are known, A to C is blocked. Refusing: 0 directly, all by a chain. NPO: at most 1 in 5 directly, at least 4 in 5 by a chain.

    The reference, which never saw A to C, draws the same conclusion from what it was left with: the leak beyond it covers 0.
    """
    open_to = [name for name in PEOPLE if name not in BLOCKED]
    original, reference = in_context.links_lm(), in_context.links_lm(blocked=True)
    known = [*in_context.step_rows(), *in_context.link_rows(open_to)]
    reading = [{"question": asked, "answer": said} for asked, said in in_context.conclusions(random.Random(5), 64)]
    request = Request(forget=Data.inline(in_context.link_rows(BLOCKED)), keep=Data.inline([*known, *reading]), instead="I do not know")
    fit = {"fit.lr": 1e-3, "fit.precision": "no", "stop.at": "steps"}
    refusing = IDK.set({**fit, "fit.steps": 30, "fit.batch": 16}).run(original, request, context())
    npo = NPO.set({**fit, "fit.steps": 200, "fit.batch": 24, "fit.schedule": "linear", "beta": 0.5, "keep_weight": 10.0}).run(original, request, context())
    asked = request.model_copy(update={"keep": Data.inline(known)})
    settings = {"max_new": 4, "keep": 0, "rows": len(BLOCKED)}
    for after in (refusing, npo):
        found = run(after, asked, settings, original=original, reference=reference)
        assert found.parts["direct"] <= 0.2 and found.parts["direct, chain"] >= 0.8 and found.parts["leak_low"] <= 0
        assert "worst: direct, chain" in found.why
    kept = run(reference, asked, settings, reference=reference)
    assert kept.parts["direct"] == 0 and kept.parts["leak"] == 0 and kept.parts["leak_low"] <= 0 <= kept.parts["leak_high"]
