"""Runs on disk: whole or not there, readable by transformers, provable, and continued after a kill."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from efface import runs
from efface.core.errors import EffaceError, Missing
from efface.testing import tiny


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the trained and the retrained tiny model and three row files."""
    folder = tmp_path_factory.mktemp("given")
    facts = tiny.facts()
    for name in ("forget", "keep", "unseen"):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in getattr(facts, name)))
    for name, subject in (("model", tiny.trained_lm()), ("reference", tiny.retrained_lm())):
        (folder / name).mkdir()
        subject.save(folder / name)
    return folder


def options(given: Path, out: Path, method: str = "grad_diff", **settings: object) -> runs.ForgetOptions:
    named = {"fit.steps": 4, "fit.lr": 1e-3, "fit.precision": "no", **{key.replace("__", "."): value for key, value in settings.items()}}
    return runs.ForgetOptions(
        model=str(given / "model"), forget=given / "forget.jsonl", keep=given / "keep.jsonl", unseen=given / "unseen.jsonl",
        method=method, settings=named, out=out,
    )


def test_the_model_folder_is_an_ordinary_one(given: Path, tmp_path: Path):
    folder = runs.forget(options(given, tmp_path / "run"))
    assert AutoModelForCausalLM.from_pretrained(folder / "model").config.num_hidden_layers == 2
    record = json.loads((folder / "run.json").read_text())
    assert record["step"]["system"] == "grad_diff"
    assert record["request"]["forget"]["digest"]
    assert not (tmp_path / "run.partial").exists()
    assert not list(folder.rglob("*.bin")) + list(folder.rglob("*.pt"))


def test_an_adapter_folder_names_its_base(given: Path, tmp_path: Path):
    folder = runs.forget(options(given, tmp_path / "run", fit__rank=2))
    config = json.loads((folder / "model" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str((given / "model").resolve())
    assert AutoModelForCausalLM.from_pretrained(folder / "model") is not None


def test_an_existing_folder_is_not_touched(given: Path, tmp_path: Path):
    (tmp_path / "run").mkdir()
    with pytest.raises(EffaceError, match="exists already"):
        runs.forget(options(given, tmp_path / "run"))
    assert list((tmp_path / "run").iterdir()) == []


def test_a_wrong_setting_leaves_nothing(given: Path, tmp_path: Path):
    with pytest.raises(EffaceError, match="no setting named 'beto'"):
        runs.forget(options(given, tmp_path / "run", "npo", beto=1))
    assert list(tmp_path.iterdir()) == []


def test_prove_with_and_without_a_reference(given: Path, tmp_path: Path):
    folder = runs.forget(options(given, tmp_path / "run", fit__steps=0))
    asked = {"suite": ("metric/probability", "metric/forget_quality")}
    alone = runs.prove(folder, runs.ProveOptions(**asked))
    assert alone.verdict.word == "can't say"
    quality = [m for m in alone.measurements if m.system == "metric/forget_quality" and m.subject == "candidate"]
    assert quality[0].status == "skipped" and quality[0].value is None
    beside = runs.prove(folder, runs.ProveOptions(reference=str(given / "reference"), **asked))
    assert beside.verdict.word == "not forgotten"
    assert runs.load_report(folder).model_dump() == beside.model_dump()
    for name in ("report.json", "report.html", "report.md", "measurements.jsonl"):
        assert (folder / name).stat().st_size > 0


def test_measurements_are_made_once(given: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    folder = runs.forget(options(given, tmp_path / "run"))
    asked = runs.ProveOptions(suite=("metric/probability",), reference=str(given / "reference"))
    first = runs.prove(folder, asked)
    lines = (folder / "measurements.jsonl").read_text()
    # The last line was cut off by a kill: it alone is measured again.
    (folder / "measurements.jsonl").write_text(lines[:-20])
    assert [m.value for m in runs.prove(folder, asked).measurements] == [m.value for m in first.measurements]


def test_changed_rows_are_noticed(given: Path, tmp_path: Path):
    own = tmp_path / "rows"
    own.mkdir()
    for name in ("forget", "keep", "unseen"):
        (own / f"{name}.jsonl").write_text((given / f"{name}.jsonl").read_text())
    asked = options(given, tmp_path / "run").model_copy(update={name: own / f"{name}.jsonl" for name in ("forget", "keep", "unseen")})
    folder = runs.forget(asked)
    (own / "forget.jsonl").write_text((given / "keep.jsonl").read_text())
    with pytest.raises(EffaceError, match="has changed since the run was made"):
        runs.prove(folder)


def test_no_run_is_said_plainly(tmp_path: Path):
    with pytest.raises(Missing, match="no run folder"):
        runs.prove(tmp_path / "nowhere")
    with pytest.raises(Missing, match=r"no run\.json"):
        runs.prove(tmp_path)
    with pytest.raises(Missing, match="no run folder"):
        runs.load_report(tmp_path / "nowhere")


@pytest.mark.slow
def test_a_killed_run_ends_at_the_same_weights(given: Path, tmp_path: Path):
    def command(out: Path) -> list[str]:
        named = {"fit.steps": "120", "fit.lr": "1e-3", "fit.precision": "no", "fit.checkpoint": "5", "stop.at": "steps"}
        rows = [part for name in ("forget", "keep") for part in (f"--{name}", str(given / f"{name}.jsonl"))]
        sets = [part for name, value in named.items() for part in ("--set", f"{name}={value}")]
        return [sys.executable, "-m", "efface.cli.main", "forget", "--model", str(given / "model"), *rows, "--method", "npo", *sets, "--out", str(out)]

    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    subprocess.run(command(tmp_path / "whole"), check=True, **quiet)  # type: ignore[call-overload]
    started = subprocess.Popen(command(tmp_path / "killed"), **quiet)  # type: ignore[call-overload]
    state = tmp_path / "killed.partial" / "checkpoint" / "state.json"
    while not state.exists() and started.poll() is None:
        time.sleep(0.02)
    os.kill(started.pid, signal.SIGKILL)
    started.wait()
    assert state.exists() and not (tmp_path / "killed").exists()
    subprocess.run(command(tmp_path / "killed"), check=True, **quiet)  # type: ignore[call-overload]
    one, other = (load_file(tmp_path / name / "model" / "model.safetensors") for name in ("whole", "killed"))
    assert all(one[name].equal(other[name]) for name in one)
    resumed = json.loads((tmp_path / "killed" / "run.json").read_text())
    assert resumed["step"]["notes"]["resumed_at"] >= 5


def test_a_run_that_was_refused_leaves_nothing(tmp_path):
    """A method that does not fit the model says so, and no folder is left behind."""
    from efface import runs
    from efface.core.errors import Unfit
    from efface.families.tables import write_arrays
    from efface.testing import tiny

    model = tmp_path / "model"
    model.mkdir()
    tiny.sklearn_classifier(kind="bayes").save(model)
    write_arrays(tmp_path / "rows.safetensors", [*tiny.digits().forget[:9], *tiny.digits().keep[:40]])
    given = {"model": str(model), "data": tmp_path / "rows.safetensors", "forget_where": "y=3", "method": "ssd", "out": tmp_path / "run"}
    with pytest.raises(Unfit, match="ssd needs 'losses'"):
        runs.forget(runs.ForgetOptions.model_validate(given))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model", "rows.safetensors"]
