"""The claim `guarded`: outputs alone, and a statement that says so; never more."""

import json

import pytest

from efface.certify.issue import issue, verify
from efface.core.errors import Unsound


def test_issued_and_verified(guarded_run):
    certificate = issue(guarded_run)
    assert certificate.claim == "guarded" and certificate.system == "swap"
    assert "The weights still know" in certificate.statement and "nothing was removed" in certificate.statement
    assert "Asked around: paraphrase gives" in certificate.statement
    assert "It tells less than such a model would" in certificate.statement, "its wrong values come in other words than the reference's"
    assert certificate.after == certificate.before
    assert {item.name for item in certificate.assumptions if item.basis == "checked"} == {
        "request", "this run", "guard", "measured weights", "weights", "record", "a reference", "behavior", "tables", "recomputed",
    }
    assert {item.name for item in certificate.assumptions if item.basis == "declared"} == {"outputs only", "settings"}
    assert "loss" not in certificate.evidence["attacks through the guard"], "who reads probabilities is not before the guard"
    found = verify(guarded_run / "certificate.json")
    assert found.good and any(line.startswith("behavior: ") for line in found.checked)
    assert not (guarded_run / "model").exists()


def test_a_guard_is_never_audited(guarded_run, edit):
    """Not even when its report says that everything was removed."""
    folder = edit(guarded_run, lambda r: (r["verdict"].update(word="forgotten"), r["intent"].update(measured="removal")))
    assert issue(folder).claim == "guarded"


@pytest.mark.parametrize(
    ("change", "assumption"),
    [
        (lambda r: r["verdict"].update(line="Forgotten: all of it."), "guard"),
        (lambda r: r.update(steps=r["steps"][:-1]), "this run"),
        (lambda r: [f.update(says="still there") for f in r["intent"]["findings"] if f["evidence"] == "behavior"], "behavior"),
        (lambda r: r["intent"].update(findings=[]), "behavior"),
        (lambda r: r["verdict"]["axes"].update(utility={"statistic": "kept rows", "distance": 0.6, "margin": 0.2, "says": "damaged"}), "behavior"),
        (lambda r: r["weights"].update(candidate="0" * 64), "weights"),
        (lambda r: r["weights"].pop("reference"), "a reference"),
    ],
    ids=["no guard", "other step", "told outright", "never asked", "damaged", "other weights", "no reference"],
)
def test_an_assumption_that_fails_is_named(guarded_run, edit, change, assumption):
    with pytest.raises(Unsound, match=rf"the assumption '{assumption}' fails") as caught:
        issue(edit(guarded_run, change))
    assert "\n" not in str(caught.value) and not (guarded_run / "certificate.json").exists()


def test_weights_that_are_not_there_are_declared(guarded_run):
    """The model may stand elsewhere by now; then its weights are taken on the report's word, and the certificate says so."""
    run = json.loads((guarded_run / "run.json").read_text())
    run["source"]["model"] = "gone/elsewhere"
    (guarded_run / "run.json").write_text(json.dumps(run))
    (weights,) = [item for item in issue(guarded_run).assumptions if item.name == "weights"]
    assert weights.basis == "declared" and "not looked at" in weights.found


def test_without_a_report_nothing_is_claimed(guarded_run):
    (guarded_run / "report.json").unlink()
    with pytest.raises(Unsound, match="swap promises nothing that can be proven"):
        issue(guarded_run)


def test_a_changed_report_is_named(guarded_run):
    issue(guarded_run)
    path = guarded_run / "report.json"
    path.write_text(path.read_text().replace("Guarded", "guarded", 1))
    assert verify(guarded_run / "certificate.json").problems[0].startswith("report.json has changed: bytes")
