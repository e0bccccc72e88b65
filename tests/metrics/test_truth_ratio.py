import numpy as np
import pytest

from efface.core.errors import Missing
from efface.core.types import Data, Request
from efface.metrics.truth_ratio import TruthRatio
from efface.testing.tiny import context, facts, retrained_lm, tiny_lm, trained_lm


def test_formula():
    """TR = exp(loss of the paraphrase - mean loss of the wrong answers); the value is mean(min(TR, 1/TR))."""
    subject, rows = tiny_lm(), facts()
    found = TruthRatio().run(subject, rows.request, context())
    for row, got in zip(rows.forget, found.table, strict=True):
        asked = [{"question": row["question"], "answer": text} for text in (row["paraphrased_answer"], *row["perturbed_answer"])]
        right, *wrong = (float(subject.losses(subject.encode([one]))[0]) for one in asked)
        assert got["log_truth_ratio"] == pytest.approx(right - np.mean(wrong), abs=1e-5)
        assert got["value"] == pytest.approx(np.exp(-abs(right - np.mean(wrong))), abs=1e-5)
    assert found.value == pytest.approx(np.mean([row["value"] for row in found.table]), abs=1e-9)


def test_row_order_changes_nothing():
    rows = facts()
    turned = Request(forget=Data.inline(rows.forget[::-1]))
    first, second = (TruthRatio().run(tiny_lm(), request, context()) for request in (rows.request, turned))
    assert first.value == pytest.approx(second.value, abs=1e-6)


def test_right_and_wrong_are_exchangeable_to_who_never_saw_them():
    request = facts().request
    known, unknown = (TruthRatio().run(model(), request, context()) for model in (trained_lm, retrained_lm))
    assert known.parts["median_log_truth_ratio"] < unknown.parts["median_log_truth_ratio"]
    assert known.parts["prefers_right"] >= unknown.parts["prefers_right"]


def test_space_and_set_are_settings():
    """In probability space the average is larger (Jensen), so every TR is; off the forget rows the aggregate is max(0, 1 - TR)."""
    request, ctx = facts().request, context()
    loss, probability = (TruthRatio.set({"space": space}).run(tiny_lm(), request, ctx) for space in ("loss", "probability"))
    assert all(b["log_truth_ratio"] >= a["log_truth_ratio"] - 1e-6 for a, b in zip(loss.table, probability.table, strict=True))
    kept = TruthRatio.set({"on": "keep"}).run(trained_lm(), request, context())
    assert kept.table[0]["value"] == pytest.approx(max(0.0, 1 - np.exp(kept.table[0]["log_truth_ratio"])), abs=1e-9)


def test_rows_without_wrong_answers_are_refused_with_the_column():
    bare = Request(forget=Data.inline([{"prompt": "Who?", "answer": "Runa."}]))
    with pytest.raises(Missing, match="perturbed_answer"):
        TruthRatio().run(tiny_lm(), bare, context())
