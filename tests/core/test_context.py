"""The context: seeds by purpose, baselines or their absence, memory, and budgets."""

import pytest

from efface.core.context import Context
from efface.core.errors import BudgetSpent, Missing
from efface.testing import tiny


def test_seeds_depend_on_seed_and_purpose_alone():
    assert Context(seed=1).seed_for("a") == Context(seed=1).seed_for("a") != Context(seed=2).seed_for("a") != Context(seed=1).seed_for("b")
    assert Context(seed=1).random("a").random() == Context(seed=1).random("a").random() != Context(seed=1).random("b").random()


def test_a_missing_baseline_is_said():
    subject = tiny.tiny_classifier()
    assert Context(baselines={"reference": subject}).baseline("reference") is subject
    with pytest.raises(Missing, match="no reference model was given; give one with --reference MODEL"):
        Context().baseline("reference")


def test_once_computes_once():
    ctx, calls = Context(), []
    for _ in range(3):
        assert ctx.once(("a", 1), lambda: calls.append(1) or len(calls)) == 1
    assert ctx.once(("a", 2), lambda: 5) == 5 and calls == [1]
    assert ctx.alone().once(("a", 1), lambda: 9) == 1  # memory is shared with contexts made from it


def test_budgets():
    ctx = Context(budget={"queries": 3})
    for _ in range(3):
        ctx.spend(queries=1)
    with pytest.raises(BudgetSpent, match="the budget of 3 queries is spent"):
        ctx.spend(queries=1)
    with pytest.raises(BudgetSpent, match="seconds"):
        Context(budget={"seconds": -1}).spend()
    Context().spend(queries=1e9)


def test_alone_has_its_own_log_clock_and_budget():
    ctx = Context(seed=4, budget={"queries": 1})
    ctx.spend(queries=1)
    ctx.log(step=1, loss=0.5)
    ctx.note(why="because")
    own = ctx.alone()
    assert own.seed == 4 and not own.curve and not own.notes and not own.spent
    own.spend(queries=1)
    assert ctx.curve == [{"step": 1, "loss": 0.5}] and ctx.notes == {"why": "because"}
    assert ctx.alone(budget={}).budget == {}


def test_silence_is_the_default():
    assert list(Context().progress(range(3), "nothing", 3)) == [0, 1, 2]
