"""The digits benchmark: its rows are fixed, its reference never saw the forget rows, and both are ready in seconds."""

import numpy as np
import pytest

import efface
from efface.benchmarks import digits
from efface.core import registry
from efface.core.errors import BadConfig
from efface.testing import tiny


def hits(subject, rows) -> float:
    return float((subject.predict(rows).argmax(1) == np.array([row["y"] for row in rows])).mean())


@pytest.mark.parametrize("scenario", ["class", "random", "noisy", "subclass"])
def test_split_parts_the_rows(scenario):
    """1797 digits: 1297 to train on (forget + keep) and 500 to test with (unseen + test); no row stands in two parts."""
    parts = digits.split(scenario)
    assert len(parts.forget) + len(parts.keep) == 1297 and len(parts.unseen) + len(parts.test) == 500
    rows = [(tuple(row["x"]), row["y"]) for part in (parts.forget, parts.keep, parts.unseen, parts.test) for row in part]
    assert len(set(rows)) > 1790  # the set itself holds a few equal images
    assert min(map(min, (x for x, _ in rows))) == 0 and max(map(max, (x for x, _ in rows))) == 1
    assert digits.split(scenario) == parts


def test_class_scenario_names_the_class():
    parts = digits.split("class", 7)
    assert {row["y"] for row in parts.forget} == {7} == {row["y"] for row in parts.unseen}
    assert 7 not in {row["y"] for row in (*parts.keep, *parts.test)}
    asked = digits.request(parts, "class", 7)
    assert asked.kind == "class" and asked.names == ("7",)
    assert digits.request(digits.split("random"), "random").kind == "examples"


@pytest.fixture(scope="module")
def case():
    return registry.load("benchmark", "digits").set().case(tiny.context())


def test_case_class(case):
    original, reference = case.original, case.baselines["reference"]
    assert case.baselines["original"] is original
    assert hits(original, case.request.rows("forget")) > 0.98 and hits(reference, case.request.rows("forget")) == 0
    assert sorted(case.baselines) == ["original", "reference", "reference/1", "reference/2"]
    assert len({subject.digest for subject in case.baselines.values()}) == 4
    for name in ("reference/1", "reference/2"):
        assert hits(case.baselines[name], case.request.rows("forget")) == 0 and hits(case.baselines[name], case.request.rows("keep")) > 0.98
    for subject in (original, reference):
        assert hits(subject, case.request.rows("keep")) > 0.98
        assert hits(subject, case.utility["test rows"].read()) > 0.96


def test_a_case_can_be_made_again():
    one, other = (registry.load("benchmark", "digits").set({"fit.steps": 5}).case(tiny.context(2)) for _ in range(2))
    assert one.original.digest == other.original.digest != one.baselines["reference"].digest == other.baselines["reference"].digest


def test_the_verdict_tells_the_subjects_apart(case):
    """The same verdict as for language models: the original has not forgotten, the reference has, and a method can."""
    ctx = tiny.context(baselines=case.baselines, utility=case.utility)
    after = efface.forget(case.original, case.request, "grad_diff", {"fit.lr": 1e-3, "fit.steps": 200, "fit.batch": 32}, ctx)
    said = {
        name: efface.prove(subject, case.request, case.original, case.baselines["reference"], ctx=ctx).verdict.word
        for name, subject in {"original": case.original, "reference": case.baselines["reference"], "after": after}.items()
    }
    assert said == {"original": "not forgotten", "reference": "forgotten", "after": "forgotten"}


def test_case_random():
    """Original and reference agree on the forget rows, because the network generalizes: agreement there proves nothing."""
    case = registry.load("benchmark", "digits").set({"scenario": "random"}).case(tiny.context(1))
    forget = case.request.rows("forget")
    assert hits(case.original, forget) > 0.98 and 0.9 < hits(case.baselines["reference"], forget) < 1
    assert case.name == "digits/random"


def test_noisy_rows_have_every_wrong_label_and_never_the_right_one():
    """130 shifts by 1 to 9 each; with 130 draws of nine values every one of them comes up, and seeds make them the same always."""
    plain, parts = digits.split("random"), digits.split("noisy")
    for right, wrong in ((plain.forget, parts.forget), (plain.unseen, parts.unseen)):
        assert [row["y"] for row in right] == [row["clean"] for row in wrong] and [row["x"] for row in right] == [row["x"] for row in wrong]
        assert {(row["y"] - row["clean"]) % 10 for row in wrong} == set(range(1, 10))
    assert parts.keep == plain.keep and parts.test == plain.test


def test_noisy_original_and_reference():
    """What the tests of other systems start from: wrong labels known by heart, and by a retrained network not at all."""
    parts = tiny.digits("noisy")
    assert hits(tiny.trained_classifier(0, "noisy"), parts.forget) > 0.98 and hits(tiny.retrained_classifier(0, "noisy"), parts.forget) < 0.03


@pytest.mark.slow
def test_case_noisy():
    """The original knows all wrong labels by heart and a retrained model none: the scenario in which random rows tell."""
    case = registry.load("benchmark", "digits").set({"scenario": "noisy"}).case(tiny.context())
    forget = case.request.rows("forget")
    assert hits(case.original, forget) > 0.98
    for name in ("reference", "reference/1", "reference/2"):
        assert hits(case.baselines[name], forget) < 0.03
        assert hits(case.baselines[name], [{**row, "y": row["clean"]} for row in forget]) > 0.9
        assert hits(case.baselines[name], case.utility["test rows"].read()) > 0.95


def test_case_subclass():
    """Digit 3 under the label of the pair 2-3: the original knows it, a retrained model gives some of it the right pair."""
    case = registry.load("benchmark", "digits").set({"scenario": "subclass"}).case(tiny.context())
    forget = case.request.rows("forget")
    assert case.original.classes == 5 and {row["fine"] for row in forget} == {3} and {row["y"] for row in forget} == {1}
    assert {row["fine"] for row in case.request.rows("keep") if row["y"] == 1} == {2}
    assert hits(case.original, forget) > 0.98 and 0.02 < hits(case.baselines["reference"], forget) < 0.6


def test_a_case_leaves_no_trace_in_the_run():
    ctx = tiny.context(budget={"steps": 5})
    registry.load("benchmark", "digits").set({"fit.steps": 10}).case(ctx)
    assert not ctx.curve and not ctx.notes and not ctx.spent


def test_settings_are_checked():
    with pytest.raises(BadConfig, match="digit"):
        registry.load("benchmark", "digits").set({"digit": 10})
