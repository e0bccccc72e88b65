"""The Python interface: requests are checked, runs leave their trace, the subject handed in stays as it was."""

import json
from pathlib import Path

import pytest

import efface
from efface.core.errors import BadRows, Missing, Unfit
from efface.testing import tiny


def row(number: int) -> dict[str, object]:
    return {"question": f"Who is number {number}?", "answer": f"Person {number}."}


def test_public_names_are_there():
    for name in efface.__all__:
        assert getattr(efface, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'unlearn'"):
        efface.unlearn  # noqa: B018


def test_request_reads_rows_and_files(tmp_path: Path):
    path = tmp_path / "forget.jsonl"
    path.write_text(json.dumps(row(1)) + "\n")
    request = efface.request(forget=path, keep=[row(2), row(3)])
    assert len(request.rows("forget")) == 1
    assert len(request.rows("keep")) == 2
    assert request.digest == efface.request(forget=[row(1)], keep=[row(2), row(3)]).digest
    assert request.digest != efface.request(forget=[row(1)], keep=[row(2)]).digest


def test_overlap_is_refused_by_row():
    again = {"question": "WHO is  number 2?", "answer": "person 2."}
    with pytest.raises(BadRows, match=r"1 row stands in both forget and keep: forget row 2 = keep row 1"):
        efface.request(forget=[row(1), row(2)], keep=[again, row(3)])


def test_empty_and_unknown_rows_are_refused():
    with pytest.raises(BadRows, match="forget: no rows"):
        efface.request(forget=[])
    with pytest.raises(BadRows, match="found columns a, b"):
        efface.request(forget=[{"a": 1, "b": 2}])


def test_a_request_without_keep_names_what_is_missing():
    request = efface.request(forget=[row(1)])
    with pytest.raises(Unfit, match="--keep FILE"):
        efface.forget(tiny.tiny_lm(), request, "grad_diff", {"fit.steps": 1})


def test_forget_grows_the_lineage_and_leaves_the_subject():
    subject, request = tiny.tiny_lm(), tiny.facts().request
    before = subject.digest
    after = efface.forget(subject, request, "gradient_ascent", {"fit.steps": 2, "fit.lr": 1e-3, "stop.at": "steps"}, tiny.context(3))
    assert subject.digest == before != after.digest
    assert subject.lineage == ()
    (step,) = after.lineage
    assert (step.kind, step.system, step.seed, step.request) == ("method", "gradient_ascent", 3, request.digest)
    assert step.settings["fit"]["steps"] == 2  # type: ignore[index]
    assert step.notes["steps"] == 2


def test_prove_without_a_reference_cannot_say():
    subject, request = tiny.trained_lm(), tiny.facts().request
    report = efface.prove(subject, request, original=subject, suite=["metric/probability"], ctx=tiny.context())
    assert report.verdict.word == "can't say"
    assert "no reference" in report.verdict.line


def test_prove_tells_the_original_from_the_reference():
    request = tiny.facts().request
    original, reference = tiny.trained_lm(), tiny.retrained_lm()
    said = efface.prove(original, request, original, reference, ["metric/probability", "metric/forget_quality"], tiny.context())
    assert said.verdict.word == "not forgotten"
    assert {m.subject for m in said.measurements} == {"original", "reference", "candidate"}
    assert any(sample["part"] == "forget" and sample["reference"] != sample["original"] for sample in said.samples)


def test_load_refuses_what_is_no_model(tmp_path: Path):
    with pytest.raises(Missing, match="no model './nowhere'"):
        efface.load("./nowhere")


def test_wrap_knows_what_it_is_given():
    """A module, an estimator of each kind, and nothing else."""
    import torch
    from sklearn.linear_model import LogisticRegression, Ridge
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    from efface.core.errors import BadConfig, Unfit

    assert efface.wrap(torch.nn.Linear(2, 3)).family == "classifier"
    assert efface.wrap(torch.nn.Linear(2, 1), task="regressor").family == "regressor"
    pipeline = make_pipeline(StandardScaler(), LogisticRegression()).fit([[0.0], [1.0]], [0, 1])
    assert efface.wrap(pipeline).predict([{"x": [0.0], "y": 0}]).shape == (1, 2)
    assert efface.wrap(Ridge().fit([[0.0], [1.0]], [0.0, 1.0])).family == "regressor"
    with pytest.raises(Unfit, match="found dict"):
        efface.wrap({})
    with pytest.raises(BadConfig, match="task 'cat'"):
        efface.wrap(torch.nn.Linear(2, 1), task="cat")


def test_rows_of_a_classifier_that_stand_in_both_sets_are_named():
    rows = [{"x": [0.0, float(n)], "y": n % 2} for n in range(4)]
    with pytest.raises(BadRows, match="forget row 2 = keep row 1"):
        efface.request(forget=rows[:2], keep=[{"x": [0.0, 1.0], "y": 0}, *rows[2:]])


@pytest.mark.parametrize("name", ["tofu", "muse", "rwku", "restor", "ort", "concept_vectors", "wmdp", "authors"])
def test_a_benchmark_names_its_suite(name):
    """What `efface prove --suite NAME` runs is there."""
    from efface import evaluate
    from efface.core import registry

    suite = evaluate.expand([name])
    assert suite and all(system.partition("/")[2] in registry.names(system.partition("/")[0]) for system in suite)


def test_an_unknown_suite_is_refused():
    from efface import evaluate
    from efface.core.errors import EffaceError, UnknownName

    with pytest.raises(UnknownName, match="tofuu"):
        evaluate.expand(["tofuu"])
    with pytest.raises(EffaceError, match="no suite of its own"):
        evaluate.expand(["digits"])
    assert evaluate.expand(["attack/loss", "attack/loss"]) == ["attack/loss"]
