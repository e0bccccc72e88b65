"""efface delete: plain words, JSON, and one clear line for what cannot be."""

import json
from pathlib import Path

import pytest

from efface import exact
from efface.families import lineage
from efface.families.classifier import Classifier
from efface.families.networks import MLP, seeded
from efface.testing import tiny

SHAPE = {"inputs": 64, "hidden": [8, 8], "outputs": 10}
SET = ("shards=2", "slices=2", "sequences=1", "fit.epochs=1", "fit.batch=8", "fit.rank=2", "fit.lr=0.01")


@pytest.fixture
def run(tmp_path, efface) -> Path:
    """A run of s3t over 16 rows, made by the command."""
    (tmp_path / "start").mkdir()
    Classifier(seeded(MLP, 0, **SHAPE), SHAPE).save(tmp_path / "start")
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in tiny.digits().keep[:16]))
    settings = [part for text in SET for part in ("--set", text)]
    done = efface("train", "--recipe", "s3t", "--model", tmp_path / "start", "--data", tmp_path / "rows.jsonl", *settings, "--device", "cpu", "--out", tmp_path / "run")
    assert done.code == 0, done.err
    return tmp_path / "run"


def ids(folder: Path, text: str) -> Path:
    path = folder.parent / "ids.txt"
    path.write_text(text)
    return path


def test_a_deletion_is_served_and_told(efface, run):
    done = efface("delete", "--lineage", run, "--rows", ids(run, "3\n\n 11 \n"))
    assert done.code == 0 and len(done.out.splitlines()) == 3
    first, second, third = done.out.splitlines()
    assert first.startswith("deleted: 2 rows (2 in all); nothing was trained, ") and second.startswith("served: ") and third.startswith("left: ")
    assert lineage.read(run).deleted == [3, 11]


def test_json(efface, run):
    found = json.loads(efface("delete", "--lineage", run, "--rows", ids(run, "3"), "--json").out)
    assert found["rows"] == [3] and found["trained"] == [] and found["stopped"] and found["left"] == exact.remaining(lineage.read(run))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("17\n", "row 17 was never trained on in this run, and nothing was deleted; its 16 rows are 1 to 16 of"),
        ("3\nthree\n", "ids.txt:2: 'three' is no row number"),
        ("-3\n", "ids.txt:1: '-3' is no row number"),
        ("1.5\n", "ids.txt:1: '1.5' is no row number"),
        ("\n", "names no row; give row numbers, one a line"),
    ],
)
def test_impossible_ids_are_refused_in_one_line(efface, run, text, says):
    done = efface("delete", "--lineage", run, "--rows", ids(run, text))
    assert done.code == 2 and says in done.line and lineage.read(run).deleted == []


def test_no_run_and_no_file(efface, tmp_path, run):
    assert "no run folder" in efface("delete", "--lineage", tmp_path / "nowhere", "--rows", ids(run, "1")).line
    assert "holds no lineage.json; rows can be deleted from what" in efface("delete", "--lineage", tmp_path, "--rows", ids(run, "1")).line
    assert "cannot read" in efface("delete", "--lineage", run, "--rows", tmp_path / "nothing.txt").line


def test_it_hands_on_what_it_is_given(efface, monkeypatch, tmp_path):
    asked = []
    monkeypatch.setattr(exact, "delete", lambda *given: asked.append(given[:3]) or exact.Deletion((), (), (), (), 1, (), None, ("done",)))
    (tmp_path / "ids.txt").write_text("\ufeff2\r\n5\r\n", encoding="utf-8")
    assert efface("delete", "--lineage", tmp_path, "--rows", tmp_path / "ids.txt", "--device", "cuda").out == "done\n"
    assert asked == [(tmp_path, [2, 5], "cuda")]
