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


def traced(found):
    return [(row["layer"], row["column"]) for row in found.table if "column" in row]


def without(columns):
    """The tiny model that knows, with columns set to zero in the weights."""
    copy = trained_lm().fork()
    for layer, column in columns:
        value_columns.matrix(copy.modules_of("mlp.out")[layer])[:, column] = 0
    return copy


def losses(subject):
    with torch.no_grad():
        return subject.losses(subject.encode(facts().forget)).numpy()


@pytest.mark.parametrize("how", ["remove", "noise"])
def test_the_original_has_all_of_it(how):
    """Share 1 in every row, and the traced columns matter more than as many drawn at random, and more than to keep rows."""
    one = ctx()
    found = KnowledgeTrace.set({"how": how}).run(trained_lm(), facts().request, one)
    assert (found.value, found.low, found.high) == pytest.approx((1, 1, 1)) and found.n == 16
    assert found.parts["trace"] == found.parts["original trace"] > 2 * abs(found.parts["original random columns"])
    assert abs(found.parts["original keep trace"]) < found.parts["original trace"] and found.parts["cosine"] == pytest.approx(1)
    again = KnowledgeTrace.set({"how": how}).run(retrained_lm(), facts().request, one)
    assert again.value == pytest.approx(found.parts["reference"]) and again.low == pytest.approx(found.parts["reference_low"])
    assert again.value < 0.7


def test_drops_are_those_of_the_weights():
    """The traced columns written to zero in a copy: the table's drops are the differences of its losses, row by row and column by column."""
    found = KnowledgeTrace.set({"top": 3, "candidates": 6, "choose": 16}).run(trained_lm(), facts().request, ctx())
    rows = [row for row in found.table if "row" in row]
    np.testing.assert_allclose([row["value"] for row in rows], losses(without(traced(found))) - losses(trained_lm()), atol=1e-5)
    for row in [row for row in found.table if "column" in row]:
        assert row["original"] == pytest.approx(float((losses(without([(row["layer"], row["column"])])) - losses(trained_lm())).mean()), abs=1e-5)


def test_a_model_without_the_columns_has_no_trace_by_removal_and_a_full_one_by_noise():
    """Nothing is left to remove, whatever the model still knows; noise on an empty column disturbs all the same, as the docstring says."""
    one = ctx()
    for how in ("remove", "noise"):
        metric = KnowledgeTrace.set({"how": how})
        gone = metric.run(without(traced(metric.run(trained_lm(), facts().request, one))), facts().request, one)
        assert gone.parts["cosine"] == pytest.approx(0)
        assert gone.value == pytest.approx(0, abs=1e-4) if how == "remove" else gone.value > 0.5


def test_columns_that_other_columns_replaced_do_not_count():
    """Another column of the model changed: the trace stays where it was."""
    one = ctx()
    found = KnowledgeTrace().run(trained_lm(), facts().request, one)
    other = next((1, column) for column in range(128) if (1, column) not in traced(found))
    assert KnowledgeTrace().run(without([other]), facts().request, one).value > 0.5


def test_without_keep_rows_the_contrast_is_left_out():
    alone = KnowledgeTrace().run(trained_lm(), Request(forget=Data.inline(facts().forget)), ctx())
    assert "original keep trace" not in alone.parts and alone.value == pytest.approx(1)


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


def test_an_original_that_hangs_on_nothing_has_no_trace(monkeypatch):
    monkeypatch.setattr(value_columns, "drops", lambda subject, rows, sets, ctx, label: np.full((len(sets), len(rows)), -0.1))
    with pytest.raises(Missing, match="no column of the original carries the answers"):
        KnowledgeTrace().run(trained_lm(), facts().request, ctx())


def test_a_trace_that_does_not_hold_on_all_rows_is_refused(monkeypatch):
    monkeypatch.setattr(value_columns, "drops", lambda subject, rows, sets, ctx, label: np.full((len(sets), len(rows)), 0.1 if len(rows) == 4 else -0.1))
    with pytest.raises(Missing, match="found on 4 forget rows carry nothing of all 16"):
        KnowledgeTrace.set({"choose": 4}).run(trained_lm(), Request(forget=Data.inline(facts().forget)), ctx())
