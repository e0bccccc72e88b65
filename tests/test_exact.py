"""Exact deletion from runs on disk: bit for bit, at the price that was promised, and whole whenever it is killed."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from efface import api, exact, runs
from efface.core import files, registry
from efface.core.context import Context
from efface.core.errors import BadRows, EffaceError, Missing, Unfit
from efface.core.types import Data, Request
from efface.families import lineage
from efface.families.classifier import Classifier
from efface.families.networks import MLP, seeded
from efface.ops.sequences import capacity
from efface.testing import tiny

DIGITS = tiny.digits("random")
ROWS = [*DIGITS.forget, *DIGITS.keep][:40]
SHAPE = {"inputs": 64, "hidden": [8, 8, 8], "outputs": 10}
SETTINGS = {
    "s3t": {"shards": 2, "slices": 3, "sequences": 2, "fit.epochs": 1, "fit.batch": 8, "fit.lr": 1e-2, "fit.rank": 2, "fit.precision": "no"},
    "sisa": {"shards": 2, "slices": 3, "epochs": 2, "batch": 4, "lr": 0.05},
}
BAD = 7
"""The row that is something else altogether in the runs named dirty."""


class Killed(BaseException):
    """Stands for the end of the process."""


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """A folder with the runs s3t, sisa and, trained on a file with a monstrous row, s3t-dirty and sisa-dirty."""
    place = tmp_path_factory.mktemp("made")
    (place / "start").mkdir()
    Classifier(seeded(MLP, 0, **SHAPE), SHAPE).save(place / "start")
    monster = {"x": [value + 1e4 for value in ROWS[BAD - 1]["x"]], "y": (ROWS[BAD - 1]["y"] + 1) % 10}
    for name, rows in (("clean", ROWS), ("dirty", [*ROWS[: BAD - 1], monster, *ROWS[BAD:]])):
        (place / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        for recipe, settings in SETTINGS.items():
            out = place / (recipe if name == "clean" else f"{recipe}-dirty")
            runs.train(runs.TrainOptions(model=str(place / "start"), data=place / f"{name}.jsonl", recipe=recipe, settings=settings, seed=5, device="cpu", out=out))
    return place


@pytest.fixture
def run(made, tmp_path):
    """A copy of one of the runs."""
    return lambda name, to="run": Path(shutil.copytree(made / name, tmp_path / to))


def digest(folder: Path) -> str:
    return api.load(str(folder), "cpu").digest


def tree(folder: Path) -> dict[str, str]:
    """Every file of a run by its digest, but for those that lie outside of a deletion."""
    from efface.core.digest import of_file

    return {str(path.relative_to(folder)): of_file(path) for path in folder.rglob("*") if path.is_file() and path.name not in (".deleting", "run.json", "log.jsonl")}


@pytest.mark.parametrize("recipe", ["s3t", "sisa"])
def test_nothing_of_a_deleted_row_is_left(run, recipe):
    """Wherever the row came from, what answers afterwards is what training without it gives, bit for bit."""
    clean, dirty = run(recipe), run(f"{recipe}-dirty", "dirty")
    assert digest(clean) != digest(dirty)
    for folder in (clean, dirty):
        exact.delete(folder, [BAD], "cpu")
    record = lineage.read(clean)
    system = registry.load("recipe", recipe).set(record.settings)
    never, named = system.build(api.load(str(clean / "start"), "cpu"), lineage.training(Request(keep=Data.inline(ROWS))), {BAD}, Context(seed=5, device="cpu"))
    assert digest(clean) == digest(dirty) == never.digest
    living = [piece for piece in record.pieces if piece.active]
    assert [(piece.name, piece.rows, piece.seed) for piece in living] == [(piece.name, piece.rows, piece.seed) for piece in named.pieces]
    assert {name: text for name, text in tree(clean).items() if name.startswith(("pieces", "model"))} == {
        name: text for name, text in tree(dirty).items() if name.startswith(("pieces", "model"))
    }


@pytest.mark.parametrize("recipe", ["s3t", "sisa"])
def test_what_saw_the_row_is_gone_from_the_disk(run, recipe):
    folder = run(recipe)
    before = {piece.name: piece for piece in lineage.read(folder).pieces}
    (folder / "report.json").write_text("{}")
    exact.delete(folder, [BAD], "cpu")
    after = lineage.read(folder)
    assert after.deleted == [BAD] and str(BAD) not in json.loads((folder / "rows.json").read_text())["digests"]
    for name, piece in before.items():
        assert all((folder / path).exists() != (BAD in piece.rows) for path in piece.files), name
    held = {path for piece in after.pieces if piece.active for path in piece.files}
    assert held == {str(path.relative_to(folder)) for path in (folder / "pieces").rglob("*") if path.is_file()}
    assert not (folder / "report.json").exists()


def test_s3t_trains_nothing_and_counts_what_is_left(run, monkeypatch):
    """2 shards, 3 slices, 2 orders: 6 H(4) = 12.5 deletions at the start; one after the other until nothing answers."""
    folder = run("s3t")
    record = lineage.read(folder)
    monkeypatch.setattr("efface.ops.loop.descend", lambda *_: pytest.fail("something was trained"))
    assert exact.remaining(record) == pytest.approx(capacity(2, 3, 4)) == pytest.approx(12.5)
    first = {piece.name[:16]: piece.rows for piece in record.pieces if piece.name.endswith("stage1")}  # shard1-sequence1
    one = exact.delete(folder, first["shard1-sequence1"][:1])
    assert one.stopped and not one.trained and one.serving == 2 and one.left == pytest.approx(capacity(2, 3, 3))
    assert one.said[1] == "served: 2 of 2 shards, with 2, 3 of 3 stages"
    assert one.said[2] == "left: about 11 more deletions until no shard answers, if every slice is as likely to lose a row (12 at the start)"
    exact.delete(folder, [first["shard1-sequence2"][0], first["shard2-sequence1"][0]])
    assert len(api.load(str(folder), "cpu").members) == 1
    last = exact.delete(folder, first["shard2-sequence2"][:1])
    assert (last.serving, last.left) == (0, 0.0) and "train again without the 4 deleted rows" in last.said[2]
    with pytest.raises(Unfit, match="nothing is left to answer"):
        api.load(str(folder), "cpu").predict(ROWS[:1])
    assert list((folder / "pieces").iterdir()) == []


@pytest.mark.parametrize("number", [1, 2, 3])
def test_sisa_trains_again_what_saw_the_row_and_nothing_else(run, number):
    """A row of slice r costs R - r + 1 stages of one shard."""
    folder = run("sisa")
    record = lineage.read(folder)
    row = next(row for row in range(1, 41) if min(int(piece.name[-1]) for piece in record.pieces if row in piece.rows) == number)
    done = exact.delete(folder, [row], "cpu")
    shard = next(piece.name[:6] for piece in record.pieces if row in piece.rows)
    assert done.trained == tuple(f"{shard}-slice{stage}" for stage in range(number, 4))
    assert done.stopped == () and done.left is None and done.serving == 2
    words = {1: "3 pieces of 6 were", 2: "2 pieces of 6 were", 3: "1 piece of 6 was"}[number]
    assert done.said[0] == f"deleted: 1 row (1 in all); {words} trained again, in 1 shard"
    assert done.said[1] == "served: 2 of 2 shards, from 39 rows"


def test_one_by_one_is_all_at_once(run):
    for recipe in SETTINGS:
        one, other = run(recipe, f"{recipe}-one"), run(recipe, f"{recipe}-other")
        for row in (3, 21, 8):
            exact.delete(one, [row], "cpu")
        done = exact.delete(other, [8, 3, 21, 3], "cpu")
        assert done.rows == (3, 8, 21) and digest(one) == digest(other) and tree(one) == tree(other)


def test_a_row_is_deleted_once(run):
    folder = run("s3t")
    exact.delete(folder, [3])
    before = tree(folder)
    again = exact.delete(folder, [3])
    assert (again.rows, again.before, again.stopped) == ((), (3,), ()) and tree(folder) == before
    assert again.said[0].startswith("deleted: 0 rows (1 in all); 1 row had been deleted before")


def test_rows_that_equal_a_deleted_one_are_named(tmp_path):
    """They are still learned, and whoever wants the content gone must know."""
    rows = [ROWS[0], *ROWS[1:10], ROWS[0], ROWS[0]]
    Path(tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    start = Classifier(seeded(MLP, 0, **SHAPE), SHAPE)
    ctx = Context(device="cpu", folder=tmp_path / "run")
    api.train(start, Request(keep=Data.file(tmp_path / "rows.jsonl")), "s3t", SETTINGS["s3t"], ctx)
    one = exact.delete(tmp_path / "run", [1])
    assert one.twins == (11, 12)
    assert one.said[3] == "note: 2 rows (11, 12) hold the same as a deleted row and are still learned; delete them too if the content must go"
    assert exact.delete(tmp_path / "run", [11, 12]).twins == ()


def test_all_rows_of_sisa(run):
    folder = run("sisa")
    done = exact.delete(folder, range(1, 41), "cpu")
    assert done.serving == 0 and done.said[1] == "served: 0 of 2 shards, from 0 rows"
    with pytest.raises(Unfit, match="nothing is left to answer"):
        api.load(str(folder), "cpu").predict(ROWS[:1])


@pytest.mark.parametrize(
    ("rows", "says"),
    [([41], r"row 41 was never trained on in this run, and nothing was deleted; its 40 rows are 1 to 40 of .*clean.jsonl"), ([0, -2, 3], r"row -2 \(2 such rows\)"), ([], "no rows to delete")],
)
def test_impossible_rows_are_refused_and_nothing_is_deleted(run, rows, says):
    folder = run("s3t")
    before = tree(folder)
    with pytest.raises(BadRows, match=says):
        exact.delete(folder, rows)
    assert tree(folder) == before


def test_what_is_no_such_run(tmp_path, run):
    with pytest.raises(Missing, match="no run folder"):
        exact.delete(tmp_path / "nowhere", [1])
    with pytest.raises(Missing, match="holds no lineage.json"):
        exact.delete(tmp_path, [1])
    folder = run("s3t")
    text = (folder / "lineage.json").read_text()
    (folder / "lineage.json").write_text(text.replace("shard1-sequence1-stage1", "somewhere"))
    with pytest.raises(EffaceError, match="names a piece 'somewhere'"):
        exact.delete(folder, [1])


def test_a_changed_file_is_noticed_before_anything_is_retrained(run, made, tmp_path):
    folder = run("sisa")
    held = json.loads((folder / "rows.json").read_text())
    held["sources"][0]["source"] = f"file:{made / 'dirty.jsonl'}"
    (folder / "rows.json").write_text(json.dumps(held))
    before = digest(folder)
    with pytest.raises(BadRows, match=f"row {BAD} of .* is not what it was"):
        exact.delete(folder, [1], "cpu")
    assert digest(folder) == before and lineage.read(folder).deleted == []
    assert exact.delete(folder, [BAD], "cpu").rows == (BAD,)  # the row that differs may go


def killed_at(monkeypatch, count: int) -> list[str]:
    """Let the process end at the `count`-th time that something is written, before or after it is in place."""
    seen: list[str] = []
    whole, text = files.whole_folder, files.write_text

    def tick(what: str) -> None:
        seen.append(what)
        if len(seen) == count:
            raise Killed

    from contextlib import contextmanager

    @contextmanager
    def folder(path):
        tick(f"before {path.name}")
        with whole(path) as fresh:
            yield fresh
            tick(f"in {path.name}")
        tick(f"after {path.name}")

    def write(path, content):
        tick(f"before {path.name}")
        text(path, content)
        tick(f"after {path.name}")

    monkeypatch.setattr(files, "whole_folder", folder)
    monkeypatch.setattr(files, "write_text", write)
    return seen


@pytest.mark.parametrize("recipe", ["s3t", "sisa"])
def test_a_kill_at_any_point_leaves_a_run_that_answers_and_can_be_finished(run, recipe, monkeypatch):
    whole, old = run(recipe, "whole"), digest(run(recipe, "old"))
    exact.delete(whole, [BAD, 20], "cpu")
    new, expected = digest(whole), tree(whole)
    for count in range(1, 90, 1 if recipe == "s3t" else 4):
        folder = run(recipe, f"killed-{count}")
        with monkeypatch.context() as patch:
            seen = killed_at(patch, count)
            try:
                exact.delete(folder, [BAD, 20], "cpu")
            except Killed:
                pass
        record = lineage.read(folder)
        assert digest(folder) in ((old, new) if not record.deleted else (new,)), seen
        exact.delete(folder, [BAD, 20], "cpu")
        assert digest(folder) == new and tree(folder) == expected, seen
        if len(seen) < count:
            break
        shutil.rmtree(folder)
    assert len(seen) >= 6 and "after lineage.json" in seen and "in model" in seen


def test_a_kill_between_two_renames_is_put_right(run):
    """The only moment at which there is no model: the old one has been moved away and the new one is not yet in its place."""
    folder = run("s3t")
    (folder / "model").rename(folder / ".model.old-123")
    (folder / ".model.half").mkdir()
    (folder / "pieces" / ".shard1-half").mkdir()
    exact.delete(folder, [BAD])
    assert len(api.load(str(folder), "cpu").members) == 2
    assert not list(folder.glob(".model*")) and not list((folder / "pieces").glob(".*"))


def test_two_at_a_time_are_refused(run):
    folder = run("s3t")
    with exact._alone(folder), pytest.raises(EffaceError, match="another deletion is being served in .*; wait until it is done"):
        exact.delete(folder, [1])
    assert exact.delete(folder, [1]).rows == (1,)


def test_a_language_model(tmp_path):
    """One shard with one adapter: it loses stages until the base alone speaks."""
    facts = tiny.facts()
    (tmp_path / "start").mkdir()
    tiny.tiny_lm().save(tmp_path / "start")
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in facts.keep[:8]))
    settings = {"slices": 2, "modules": "all", "fit.epochs": 1, "fit.batch": 2, "fit.lr": 1e-2, "fit.rank": 2}
    folder = runs.train(runs.TrainOptions(model=str(tmp_path / "start"), keep=tmp_path / "rows.jsonl", recipe="s3t", settings=settings, device="cpu", out=tmp_path / "run"))
    record = lineage.read(folder)
    whole = digest(folder)
    first = {piece.name: piece.rows for piece in record.pieces if piece.name.endswith("stage1")}
    exact.delete(folder, first["shard1-sequence1-stage1"][:1])
    found = lineage.training(Request(keep=Data.inline(facts.keep[:8])))
    never, _ = registry.load("recipe", "s3t").set(record.settings).build(tiny.tiny_lm(), found, {first["shard1-sequence1-stage1"][0]}, Context(device="cpu"))
    assert digest(folder) == never.digest != whole
    done = exact.delete(folder, first["shard1-sequence2-stage1"][:1])
    assert done.serving == 0 and done.said[1] == "served: nothing; no shard is left"
    alone = api.load(str(folder), "cpu").merged()
    assert alone.digest == tiny.tiny_lm().digest


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["s3t", "sisa"])
def test_a_process_that_is_killed(run, recipe):
    """The command is killed at several moments; whatever it left, the same command finishes it."""
    whole = run(recipe, "whole")
    exact.delete(whole, [BAD], "cpu")
    folder = run(recipe)
    (folder.parent / "ids.txt").write_text(f"{BAD}\n")
    command = [sys.executable, "-m", "efface.cli.main", "delete", "--lineage", str(folder), "--rows", str(folder.parent / "ids.txt"), "--device", "cpu"]
    for wait in (0.0, 0.02, 0.1):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        until = time.monotonic() + 120
        while not (folder / ".deleting").exists() and process.poll() is None and time.monotonic() < until:
            time.sleep(0.005)
        time.sleep(wait)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        (folder / ".deleting").unlink(missing_ok=True)
        if (folder / "model").exists():
            assert api.load(str(folder), "cpu").predict(ROWS[:2]).shape == (2, 10)
    assert subprocess.run(command, capture_output=True, check=False).returncode == 0
    assert digest(folder) == digest(whole) and tree(folder) == tree(whole)
