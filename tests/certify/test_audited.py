"""The claim `audited`: issued for a run whose attacks all stay within their margins, and refused by name for everything else."""

import json

import pytest

from efface.certify.issue import issue, verify
from efface.core import files
from efface.core.errors import EffaceError, Missing, Unsound
from efface.ops import stats


def names(certificate, basis):
    return {item.name for item in certificate.assumptions if item.basis == basis}


def one(report, system, subject="candidate"):
    return next(m for m in report["measurements"] if (m["system"], m["subject"]) == (system, subject))


def refused(folder, assumption, says=""):
    with pytest.raises(Unsound, match=rf"the assumption '{assumption}' fails") as caught:
        issue(folder)
    assert says in str(caught.value) and "\n" not in str(caught.value)
    assert not (folder / "certificate.json").exists()


def test_issued_and_verified(run):
    certificate = issue(run)
    assert certificate.claim == "audited" and certificate.system == "finetune"
    assert set(certificate.bound) == {"loss", "relearn", "quantize"}
    assert names(certificate, "checked") == {
        "request", "this run", "weights", "record", "verdict", "axes", "removal", "a reference", "another model", "no failure", "attacks", "tables",
        "recomputed", "something to bound", "bounds",
    }
    assert names(certificate, "declared") == {"reference", "no other attack"}
    assert "3 attacks in its suite (loss, relearn, quantize)" in certificate.statement and "who has its weights and changes them" in certificate.statement
    assert "none tells the forgotten rows apart better or worse by more than" in certificate.statement and "n = 32" in certificate.statement
    assert {file.path for file in certificate.files} >= {"run.json", "report.json", "measurements.jsonl", "rows/attack-loss-candidate.jsonl", "model/model.safetensors"}
    found = verify(run / "certificate.json")
    assert found.good and any(line.startswith("bounds: largest: ") for line in found.checked)
    assert any(line.startswith("no other attack") for line in found.unchecked)


def test_the_bound_is_that_of_the_table(run):
    """The AUC of each model and the paired interval follow from the table alone."""
    certificate = issue(run)
    table = [json.loads(line) for line in (run / "rows" / "attack-loss-candidate.jsonl").read_text().splitlines()]
    sides = {who: [[row[who] for row in table if row["set"] == side] for side in ("forget", "unseen")] for who in ("value", "reference")}
    told = next(line for line in certificate.evidence["attacks"] if line["attack"] == "loss")
    assert told["value"] == pytest.approx(stats.auc(*sides["value"])) and told["reference"] == pytest.approx(stats.auc(*sides["reference"]))
    assert abs(told["value"] - told["reference"]) <= told["upper"] == certificate.bound["loss"] <= told["margin"] == 0.2
    assert told["adversary"] == "logits" and told["n"] == 32


def test_a_changed_byte_is_named(run):
    issue(run)
    path = run / "rows" / "attack-loss-candidate.jsonl"
    path.write_bytes(path.read_bytes().replace(b"forget", b"Forget", 1))
    assert verify(run / "certificate.json").problems[0].startswith("rows/attack-loss-candidate.jsonl has changed: bytes 0 to")
    path.unlink()
    assert verify(run / "certificate.json").problems[0] == "rows/attack-loss-candidate.jsonl is missing"


def test_an_added_table_is_named(run):
    issue(run)
    (run / "rows" / "more.jsonl").write_text("{}\n")
    assert "rows/more.jsonl was not there" in verify(run / "certificate.json").problems


def test_an_edited_statement_is_noticed(run):
    issue(run)
    value = json.loads((run / "certificate.json").read_text())
    value["bound"]["loss"] += 0.01
    files.write_json(run / "certificate.json", value)
    assert not verify(run / "certificate.json").good


def test_a_certificate_of_another_version_is_refused_in_one_line(run):
    issue(run)
    value = json.loads((run / "certificate.json").read_text())
    files.write_json(run / "certificate.json", {**value, "schema_version": 7, "environment": {"efface": "9.1"}})
    with pytest.raises(EffaceError, match=r"certificate of version 7, and this efface reads version 1; .*issued by efface 9\.1") as caught:
        verify(run / "certificate.json")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "assumption", "says"),
    [
        (lambda r: r["verdict"].update(word="not forgotten", line="Not forgotten: 80%."), "verdict", "Not forgotten: 80%."),
        (lambda r: r["verdict"]["axes"]["forgetting"].update(distance=0.6), "axes", "forgetting"),
        (lambda r: r["intent"].update(measured="suppression", line="Suppression: relearning."), "removal", "Suppression: relearning."),
        (lambda r: r["intent"].update(measured="can't say", line="Can't say."), "removal", "Can't say."),
        (lambda r: r["weights"].update(candidate="0" * 64), "weights", "0000 in the report"),
        (lambda r: r["weights"].clear(), "weights", "does not say which weights"),
        (lambda r: r["weights"].update(reference=r["weights"]["candidate"]), "another model", "the same weights"),
        (lambda r: r["weights"].pop("reference"), "a reference", "--reference"),
        (lambda r: r["request"].update(reason="another"), "request", "in the report"),
        (lambda r: r["steps"][-1].update(seed=99), "this run", "seed 99"),
        (lambda r: one(r, "attack/loss").update(value=0.5), "record", "attack/loss on candidate gives 0.5 there"),
        (lambda r: one(r, "attack/loss").update(status="failed", why="ValueError: x"), "no failure", "attack/loss (ValueError: x)"),
        (lambda r: r.update(measurements=[m for m in r["measurements"] if not m["system"].startswith("attack/")]), "attacks", "none"),
    ],
    ids=["verdict", "axis", "suppression", "cannot say", "other weights", "no weights", "itself", "no reference", "other request", "other step", "edited", "failed", "no attacks"],
)
def test_an_assumption_that_fails_is_named(run, edit, change, assumption, says):
    refused(edit(run, change), assumption, says)


def test_a_number_that_its_table_does_not_give_is_refused(run, edit):
    """Whoever edits the report and the record of measurements alike is found out by the table."""
    refused(edit(run, lambda r: one(r, "attack/loss").update(value=0.5, low=0.4, high=0.6), record=True), "recomputed", "attack/loss on candidate: the report says 0.5, and its table gives")


def test_a_missing_table_is_refused(run):
    (run / "rows" / "attack-relearn-candidate.jsonl").unlink()
    refused(run, "tables", "rows/attack-relearn-candidate.jsonl")


def test_a_skipped_attack_is_listed_as_not_covered(run, edit):
    certificate = issue(edit(run, lambda r: one(r, "attack/quantize").update(status="skipped", why="no time", value=None)))
    assert certificate.evidence["not covered"] == {"quantize": "no time"} and certificate.statement.endswith("Not covered: quantize.")
    assert set(certificate.bound) == {"loss", "relearn"}


def test_a_bound_beyond_its_margin_is_refused(run, edit):
    """What relearning brings back is found in its parts, so that the record has to be edited as well."""
    refused(edit(run, lambda r: one(r, "attack/relearn")["parts"].update(gain_high=0.5), record=True), "bounds", "largest: relearn, at most 5")


@pytest.mark.parametrize(
    ("name", "text", "error", "says"),
    [
        ("report.json", "{", EffaceError, "is not a report of this version"),
        ("report.json", '{"verdict": 3}', EffaceError, "is not a report of this version"),
        ("run.json", '{"kind": "method"}', EffaceError, "is not a run of this version"),
        ("measurements.jsonl", "{\n", EffaceError, "line 1: not valid JSON"),
        ("rows/attack-loss-candidate.jsonl", "[]\n", EffaceError, "line 1: an object is needed"),
        ("measurements.jsonl", None, Unsound, "cannot read"),
        ("report.json", None, Unsound, "promises nothing that can be proven"),
        ("run.json", None, Missing, "no run.json"),
    ],
)
def test_a_broken_run_is_one_line(run, name, text, error, says):
    (run / name).unlink() if text is None else (run / name).write_text(text)
    with pytest.raises(error, match=says) as caught:
        issue(run)
    assert "\n" not in str(caught.value) and not (run / "certificate.json").exists()


def test_on_the_command_line(run, capsys):
    from efface.cli.main import run as efface

    assert efface(["certify", str(run)]) == 0
    assert capsys.readouterr().out.startswith("audited: Of 3 attacks in its suite")
    assert efface(["certify", "--verify", str(run / "certificate.json")]) == 0
    assert "holds: recomputed: " in capsys.readouterr().out
    (run / "model" / "model.safetensors").unlink()
    assert efface(["certify", "--verify", str(run / "certificate.json")]) == 3
    assert "model/model.safetensors is missing" in capsys.readouterr().err
