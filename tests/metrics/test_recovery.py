"""The recovery index on tiny models; that it tells recovery from forgetting stands in tests/benchmarks/test_restor.py."""

import numpy as np
import pytest

from efface.core.errors import Missing
from efface.core.types import Data, Request
from efface.metrics.recovery import Recovery, by_property
from efface.ops import facts as fact_rows
from efface.testing.tiny import context, facts, tiny_lm, trained_lm

NO_REPAIR = {"fit.steps": 0}


def run(subject, settings=NO_REPAIR, request=None, **baselines):
    ctx = context(baselines={"original": tiny_lm(), "clean": trained_lm(), **baselines})
    return Recovery.set(settings).run(subject, request or facts().request, ctx)


def test_forget_rows_are_asked_where_there_are_no_questions():
    found = run(trained_lm())
    assert (found.value, found.low, found.high, found.n) == (1, 1, 1, 16)
    assert found.parts["clean"] == 1 and found.parts["original"] == 0
    assert {row["value"] for row in found.table} == {1.0} and "answer" not in found.table[0], "what is false of people stays out of tables"


def test_the_reference_stands_for_a_clean_model_that_is_not_given():
    request = facts().request
    ctx = context(baselines={"original": tiny_lm(), "reference": trained_lm()})
    assert Recovery.set(NO_REPAIR).run(trained_lm(), request, ctx).value == 1
    with pytest.raises(Missing, match="no reference model"):
        Recovery.set(NO_REPAIR).run(trained_lm(), request, context(baselines={"original": tiny_lm()}))
    with pytest.raises(Missing, match="no original model"):
        Recovery.set(NO_REPAIR).run(trained_lm(), request, context(baselines={"clean": trained_lm()}))


def test_nothing_lost_is_refused():
    with pytest.raises(Missing, match="less than 0.1 was lost"):
        run(trained_lm(), original=trained_lm())


def test_repair_is_reported_of_candidate_and_original():
    """The original as candidate: both are repaired alike, so nothing is beyond; training on the keep rows does not teach the forget rows."""
    found = run(tiny_lm(), {"fit.rank": 0, "fit.lr": 5e-3, "fit.steps": 12, "fit.batch": 16, "fit.precision": "no"})
    assert found.value == 0
    assert found.parts["repaired"] == found.parts["original repaired"]
    assert found.parts["repaired beyond original"] == found.parts["repaired beyond original low"] == found.parts["repaired beyond original high"] == 0
    assert "repaired" not in run(tiny_lm()).parts


def test_repair_by_itself_can_restore_facts():
    """Repair on rows that hold the asked facts: the original comes back by repair alone, and the report says so."""
    base = facts().request
    leaky = Request(forget=base.forget, keep=base.forget)
    settings = {"fit.rank": 0, "fit.lr": 5e-3, "fit.steps": 90, "fit.batch": 16, "fit.warmup": 5, "fit.precision": "no"}
    found = run(tiny_lm(), settings, leaky)
    assert found.value == 0 and found.parts["original repaired"] > 0.5 and found.parts["repaired beyond original"] == 0


def test_drawn_answers_are_averaged():
    """A model that is sure of its answers draws the same ones; at a high temperature it does not."""
    sure = run(trained_lm(), {**NO_REPAIR, "draws": 3, "temperature": 0.05})
    assert sure.parts["accuracy"] == 1
    loose = run(trained_lm(), {**NO_REPAIR, "draws": 3, "temperature": 1.7})
    assert 0.1 < loose.parts["accuracy"] < 0.95
    assert {round(3 * row["value"], 9) for row in loose.table} <= {0, 1, 2, 3}


def test_numbers_by_property():
    """Two properties by hand."""
    rows = [{"entity": "A", "property": kind, "question": f"{kind} of A?", "answer": "bay"} for kind in ("home", "home", "craft")]
    found = by_property(fact_rows.of_rows(rows), {"accuracy": np.array([1.0, 0.0, 1.0])})
    assert found == {"craft: accuracy": 1.0, "home: accuracy": 0.5}
    assert by_property(fact_rows.of_rows([{"question": "Who?", "answer": "Ada"}]), {"accuracy": np.array([1.0])}) == {}


def test_rows_without_a_question_are_refused():
    request = Request(forget=Data.inline([{"text": "The home of Runa."}]), keep=facts().request.keep)
    with pytest.raises(Missing, match="plain text"):
        run(trained_lm(), request=request)
