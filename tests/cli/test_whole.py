"""The command on real, tiny models: nothing is replaced here."""

import json
from pathlib import Path

import pytest

from efface.testing.tiny import facts, retrained_lm, trained_lm


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder with a language model, its reference, and rows."""
    for part in ("forget", "keep", "unseen"):
        (tmp_path / f"{part}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in getattr(facts(), part)))
    for name, subject in (("model", trained_lm()), ("reference", retrained_lm())):
        (tmp_path / name).mkdir()
        subject.save(tmp_path / name)
    return tmp_path


def test_forget_prove_report(efface, place) -> None:
    rows = [argument for part in ("forget", "keep", "unseen") for argument in (f"--{part}", place / f"{part}.jsonl")]
    command = ("forget", "--model", place / "model", *rows, "--method", "npo", "--set", "fit.lr=1e-3", "--set", "fit.steps=4")
    done = efface(*command, "--set", "fit.precision=no", "--out", place / "run")
    assert done.code == 0 and "forget.jsonl: 16 rows, prompt = question, answer = answer" in done.err
    from transformers import AutoModelForCausalLM

    assert AutoModelForCausalLM.from_pretrained(place / "run" / "model").config.hidden_size == 64

    again = efface(*command, "--out", place / "run")
    assert again.code == 2 and "exists already" in again.err

    suite = "metric/probability,metric/forget_quality,attack/loss"
    done = efface("prove", place / "run", "--reference", place / "reference", "--suite", suite, "--fail-if", "attack.loss>0.9")
    assert done.code == 3 and "gate failed: attack.loss>0.9: loss = 1" in done.err
    assert done.out.startswith("Not forgotten: ") and "worst attack: loss" in done.out
    page = (place / "run" / "report.html").read_text()
    assert "Not forgotten" in page and "What is the home of" in page

    (place / "run" / "report.html").unlink()
    assert efface("report", place / "run").out.strip() == str(place / "run" / "report.html")
    assert (place / "run" / "report.html").read_text() == page


def test_without_a_reference_it_cannot_say(efface, place) -> None:
    forget = (
        "forget",
        "--model",
        place / "model",
        "--forget",
        place / "forget.jsonl",
        "--method",
        "gradient_ascent",
        "--set",
        "fit.steps=1",
    )
    assert efface(*forget, "--out", place / "run").code == 0
    done = efface("prove", place / "run", "--suite", "metric/probability,metric/forget_quality", "--fail-if", "metric.forget_quality<0.05")
    assert done.out.startswith("Can't say: no reference") and done.code == 3
    assert "skipped: metric/forget_quality" in done.out and "--reference" in done.out


def test_a_classifier_goes_the_same_way(efface, tmp_path) -> None:
    settings = ("--set", "fit.steps=20", "--set", "fit.lr=1e-3")
    assert efface("forget", "--benchmark", "digits", "--method", "grad_diff", *settings, "--out", tmp_path / "run").code == 0
    done = efface("prove", tmp_path / "run", "--json")
    assert done.code == 0 and json.loads(done.out)["verdict"]["word"] != "can't say"
    assert "<figcaption><b>Forgetting against utility</b>" in (tmp_path / "run" / "report.html").read_text()
