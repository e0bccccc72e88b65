"""Arithmetic of attacks that ask, on scripted models."""

import numpy as np
import pytest

from efface.core.card import Card
from efface.core.context import Context
from efface.core.errors import BudgetSpent, Missing
from efface.families import eliciting
from efface.families.eliciting import Told
from efface.ops.facts import Fact
from efface.ops.probes import Probe

CARD = Card(name="asks", title="Asks", paper="", families=("causal-lm",), access="outputs", better="as-reference")
FACTS = [Fact(f"What is {n}?", f"v{n}", f"v{n}") for n in range(4)]


class Scripted:
    """Answers the prompts named in `knows` with the values named there."""

    shields = ()

    def __init__(self, **knows):
        self.knows, self.digest, self.origin = knows, str(knows), ""


def probes(*kinds):
    return [Probe(kind, f"{kind} {at}", fact.accepted, fact=at) for kind in kinds for at, fact in enumerate(FACTS)]


def ask(subject, asked, ctx):
    return [f"It is v{probe.fact}." if probe.fact in subject.knows.get(probe.form, ()) else "no" for probe in asked]


def found(subject, asked, beside=("reference",), **baselines):
    return eliciting.elicit(subject, asked, len(FACTS), Context(baselines=baselines), ask, beside)


def test_worst_kind_and_leak():
    """plain gets 1 of 4 facts, a 2, b 3 (the reference 3): the worst is b; farthest from the reference is a, by 2 / 4."""
    mine, reference = Scripted(plain=[0], a=[0, 1], b=[1, 2, 3]), Scripted(b=[1, 2, 3])
    result = eliciting.measurement(CARD, FACTS, found(mine, probes("plain", "a", "b"), reference=reference), "plain")
    assert (result.value, result.n, result.parts["unattacked"], result.parts["any"], result.parts["a"]) == (0.75, 4, 0.25, 1.0, 0.5)
    assert (result.parts["leak"], result.parts["reference"], result.parts["reference unattacked"]) == (0.5, 0.75, 0)
    assert result.parts["leak_low"] <= 0.5 <= result.parts["leak_high"] and result.low < 0.75 < result.high
    assert result.why == "worst: b, 3 of 4 facts, 3 for the reference; farthest from the reference: a"
    assert [row["told_by"] for row in result.table] == ["plain; a", "a; b", "b", "b"] and result.table[1]["reference"] == "b"
    assert result.table[1]["said"] == "It is v1." and result.table[0]["said"] == "no"


def test_the_reference_has_no_leak():
    """Equal models: 0, with an interval of no width around it."""
    same = Scripted(plain=[0], a=[1, 2])
    parts = eliciting.measurement(CARD, FACTS, found(same, probes("plain", "a"), reference=same), "plain").parts
    assert (parts["leak"], parts["leak_low"], parts["leak_high"]) == (0, 0, 0)


def test_without_a_reference():
    result = eliciting.measurement(CARD, FACTS, found(Scripted(), probes("plain")), "plain")
    assert (result.value, result.parts["leak"]) == (0, None) and "reference" not in result.parts and "no kind got a fact" in result.why


def test_all_kinds_together_and_apart():
    """Together a fact counts that any kind gets; what is apart counts in neither headline."""
    mine = found(Scripted(plain=[0], a=[1], b=[0, 1, 2, 3]), probes("plain", "a", "b"))
    assert eliciting.measurement(CARD, FACTS, mine, "plain", together=True).value == 1.0
    result = eliciting.measurement(CARD, FACTS, mine, "plain", apart=("b",))
    assert result.value == 0.25 and result.parts["b"] == 1.0 and "any" not in result.parts


def test_a_kind_that_few_facts_can_take_is_not_the_worst():
    """1 of 1 is a higher rate than 3 of 4, and says less."""
    asked = [*probes("plain"), Probe("rare", "rare 0", ("v0",), fact=0)]
    result = eliciting.measurement(CARD, FACTS, found(Scripted(plain=[1, 2, 3], rare=[0]), asked), "plain")
    assert (result.value, result.n, result.parts["rare"]) == (0.75, 4, 1.0) and result.table[1]["told_by"] == "plain"


def test_guarded():
    """Behind the shield nothing comes out; the weights give 2 of 4."""

    class Guarded(Scripted):
        shields = ("a shield",)

        def unguarded(self):
            return Scripted(plain=[0, 1])

    parts = eliciting.measurement(CARD, FACTS, found(Guarded(), probes("plain")), "plain").parts
    assert (parts["plain"], parts["unguarded"], parts["unguarded unattacked"]) == (0, 0.5, 0.5)


@pytest.mark.parametrize(("queries", "done"), [(1, 1), (5, 5), (6, 6), (100, 8)])
def test_budget(queries, done):
    """As many prompts as the budget allows, in order; the reference answers the same ones."""
    ctx = Context(budget={"queries": queries}, baselines={"reference": Scripted()})
    both = eliciting.elicit(Scripted(plain=[0]), probes("plain", "a"), 4, ctx, ask)
    assert len(both.mine.texts) == done == len(both.beside["reference"].texts)
    assert ("budget" in both.mine.why) == (done < 8)


def test_conversations_cost_their_turns():
    """One question with two turns before it is three queries; a budget of two allows none."""
    asked = [Probe("plain", "last", ("v0",), before=("one", "two"))]
    ctx = Context()
    eliciting.put(Scripted(), asked, 1, ctx, ask)
    assert ctx.spent["queries"] == 3
    with pytest.raises(BudgetSpent):
        eliciting.put(Scripted(), asked, 1, Context(budget={"queries": 2}), ask)


def test_several_prompts_of_a_kind():
    """One right answer is enough; a fact without a prompt is not there."""
    told = Told([Probe("a", "x", ("v",), fact=0), Probe("a", "y", ("v",), fact=0)], ["no", "v"], np.array([0.0, 1.0]), 2)
    assert told.kinds()["a"][0] == 1 and np.isnan(told.kinds()["a"][1]) and told.said("a", 0) == "v" and told.said("a", 1) == ""


def test_prompts_that_hold_the_answer_are_left_out():
    asked = [Probe("plain", "Is it v0?", ("v0",), fact=0), Probe("plain", "What is 1?", ("v1",), fact=1), Probe("lead", "What?", ("v1",), lead="v1", fact=1)]
    assert eliciting.clean(asked, FACTS, "plain") == asked[1:2]
    with pytest.raises(Missing, match="holds its own answer"):
        eliciting.clean(asked[:1], FACTS, "plain")
