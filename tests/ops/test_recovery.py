"""The recovery index, worked out by hand."""

import numpy as np
import pytest

from efface.core.errors import Missing
from efface.ops import facts, recovery

CLEAN = np.array([1, 1, 1, 1, 1, 1, 1, 0.0])
BEFORE = np.array([0, 0, 0, 1, 0, 0, 0, 0.0])
AFTER = np.array([1, 1, 0, 1, 1, 0, 0, 0.0])
GROUPS = list("aabbccdd")


def test_index_by_hand():
    """acc_c = 7/8, acc_x = 1/8, acc_u = 4/8: (4 - 1) / (7 - 1) = 0.5."""
    assert recovery.index(AFTER, BEFORE, CLEAN) == pytest.approx(0.5, abs=1e-12)


def test_corrupted_is_0_and_clean_is_1_in_every_draw():
    for after, value in ((BEFORE, 0.0), (CLEAN, 1.0)):
        found, drawn = recovery.interval(after, BEFORE, CLEAN, GROUPS)
        assert tuple(found) == (value, value, value)
        assert (drawn == value).all()


def test_little_lost_is_refused():
    """7/8 against 1/8 + 0.675 = 0.8: 0.075 was lost."""
    with pytest.raises(Missing, match="less than 0.1"):
        recovery.index(AFTER, CLEAN - 0.075, CLEAN)
    recovery.index(AFTER, CLEAN - 0.11, CLEAN)


def test_bootstrap_draws_entities_and_pairs_the_models():
    """Of two entities one is back whole and one not at all: a draw holds 0, 1 or 2 of them, so the index is 0, 0.5 or 1."""
    clean, before, after = np.ones(8), np.zeros(8), np.array([1.0] * 4 + [0.0] * 4)
    found, drawn = recovery.interval(after, before, clean, ["a"] * 4 + ["b"] * 4)
    assert set(drawn) == {0.0, 0.5, 1.0} and tuple(found) == (0.5, 0.0, 1.0)
    fine, _ = recovery.interval(after, before, clean, [str(at) for at in range(8)])
    assert fine.high - fine.low < 1, "questions of their own tell more than two entities"


def test_no_interval_where_draws_lost_nothing():
    """Only one of four entities lost anything: three draws of four do without it about a third of the time."""
    clean, before = np.ones(4), np.array([0.0, 1, 1, 1])
    found, drawn = recovery.interval(before, before, clean, list("abcd"))
    assert found.value == 0 and np.isnan(found.low) and np.isnan(found.high)
    assert 0.25 < np.isnan(drawn).mean() < 0.4  # 0.75^4 = 0.316


def test_mean_over_groups():
    found = recovery.grouped(np.array([1.0, 1, 0, 0]), list("aabb"))
    assert tuple(found) == (0.5, 0.0, 1.0)


def row(entity, kind, *answers, **more):
    return {"entity": entity, "property": kind, "question": f"What is the {kind} of {entity}?", "answer": answers[0], "answers": list(answers), **more}


def test_majority_by_property():
    """home: bay is right for two of three; craft: each value once, the first by name (baker) is right for one of two."""
    asked = facts.of_rows([row("A", "home", "bay"), row("B", "home", "cliff", "The Bay"), row("C", "home", "dale"), row("A", "craft", "weaver"), row("B", "craft", "baker")])
    assert recovery.majority(asked).tolist() == [1, 1, 0, 0, 1]


def test_options_by_category():
    asked = facts.of_rows([row("A", "home", "bay", "the old bay", corrupted="dale"), row("B", "home", "cliff", corrupted=["bay"]), row("C", "home", "dale", corrupted="cliff"), row("D", "home", "fen", perturbed_answer=["moor"])])
    found = recovery.options(asked, 2)
    assert found[0] == {"correct": ("bay", "the old bay"), "corrupted": ("dale",), "random": ("cliff", "fen")}
    assert found[1] == {"correct": ("cliff",), "corrupted": ("bay",), "random": ("dale", "fen")}
    assert found[3]["corrupted"] == ("moor",), "where no column says what is corrupted, the wrong answers"
