"""The trace: which columns carry the answers, and what is left of them."""

import numpy as np
import pytest
import torch

from efface.core.errors import Missing
from efface.core.types import Data, Request
from efface.families import value_columns
from efface.metrics.knowledge_trace import KnowledgeTrace, share
from efface.testing.tiny import context, facts, retrained_lm, tiny_lm, trained_lm

BASELINES = ("original", "reference")


def ctx(**changes):
    return context(baselines=dict(zip(BASELINES, (trained_lm(), retrained_lm()), strict=True)), **changes)


@pytest.mark.parametrize("how", ["remove", "noise"])
def test_the_original_has_all_of_it_and_the_reference_less(how):
    one = ctx()
    found = KnowledgeTrace.set({"how": how}).run(trained_lm(), facts().request, one)
    assert (found.value, found.low, found.high) == pytest.approx((1, 1, 1)) and found.n == 16
    assert found.parts["trace"] == found.parts["original trace"] > 5 * abs(found.parts["original random columns"])
    assert found.parts["cosine"] == pytest.approx(1)
    assert found.parts["reference_high"] < 1 and found.parts["reference_low"] <= found.parts["reference"] <= found.parts["reference_high"]
    again = KnowledgeTrace.set({"how": how}).run(retrained_lm(), facts().request, one)
    assert again.value == pytest.approx(found.parts["reference"])


def test_drops_are_those_of_the_weights():
    """Each traced column written to zero in a copy: the table's drops are the differences of its losses."""
    found = KnowledgeTrace.set({"top": 2, "candidates": 4}).run(trained_lm(), facts().request, ctx())
    rows = facts().forget
    for entry in [row for row in found.table if "column" in row]:
        copy = trained_lm().fork()
        value_columns.matrix(copy.modules_of("mlp.out")[entry["layer"]])[:, entry["column"]] = 0
        with torch.no_grad():
            lost = copy.losses(copy.encode(rows)) - trained_lm().losses(trained_lm().encode(rows))
        assert entry["value"] == entry["original"] == pytest.approx(float(lost.mean()), abs=1e-5)


def test_a_model_without_the_columns_has_no_trace():
    """Removing them from the weights leaves nothing to remove, whatever else the model still knows."""
    one = ctx()
    found = KnowledgeTrace().run(trained_lm(), facts().request, one)
    copy = trained_lm().fork()
    for entry in [row for row in found.table if "column" in row]:
        value_columns.matrix(copy.modules_of("mlp.out")[entry["layer"]])[:, entry["column"]] = 0
    gone = KnowledgeTrace().run(copy, facts().request, one)
    assert gone.value == pytest.approx(0, abs=1e-4) and gone.parts["cosine"] == pytest.approx(0)


def test_columns_that_carry_every_answer_are_not_the_trace():
    """Chosen are columns whose removal costs forget rows more than keep rows."""
    found = KnowledgeTrace().run(trained_lm(), facts().request, ctx())
    assert abs(found.parts["original keep trace"]) < found.parts["original trace"]
    alone = KnowledgeTrace().run(trained_lm(), Request(forget=Data.inline(facts().forget)), ctx())
    assert alone.parts["original keep trace"] is None and alone.value == pytest.approx(1)


def test_the_share_and_its_interval_are_of_the_same_rows():
    """(0 + 1 + 2) / (2 + 2 + 2) = 1/2; where the ratio is the same in every row, the interval is a point."""
    assert share(np.array([0.0, 1, 2]), np.array([2.0, 2, 2])).value == pytest.approx(0.5)
    same = share(np.array([1.0, 2, 3, 4]) / 4, np.array([1.0, 2, 3, 4]))
    assert (same.value, same.low, same.high) == pytest.approx((0.25, 0.25, 0.25))


def test_the_trace_is_found_once(monkeypatch, tmp_path):
    one, calls = ctx(passes=(tmp_path,)), []
    real = value_columns.screen
    monkeypatch.setattr(value_columns, "screen", lambda *given: calls.append(1) or real(*given))
    for model in (trained_lm(), retrained_lm()):
        KnowledgeTrace().run(model, facts().request, one)
    KnowledgeTrace().run(tiny_lm(2), facts().request, ctx(passes=(tmp_path,)))
    assert len(calls) == 2, "once for the forget rows and once for the keep rows"


def test_an_original_that_knows_nothing_has_no_trace(monkeypatch):
    monkeypatch.setattr(value_columns, "drops", lambda subject, rows, sets, ctx, label: np.full((len(sets), len(rows)), -0.1))
    with pytest.raises(Missing, match="no column of the original carries the answers"):
        KnowledgeTrace().run(trained_lm(), facts().request, ctx())
