"""Numbers of rows, the record on disk, rows read again, and the folder of pieces."""

import json

import pytest

from efface.core.errors import BadRows, EffaceError, Missing, Unfit
from efface.core.types import Data, Request
from efface.families import lineage
from efface.families.lineage import Lineage, Piece, Store

ROWS = [{"x": [float(at), 1.0], "y": at % 3} for at in range(1, 7)]


def record(pieces=(), **changes) -> Lineage:
    named = {"kind": "s3t", "seed": 1, "data": {"source": "inline:", "digest": "d"}, "recipe": "s3t", "settings": {}, **changes}
    return Lineage(pieces=list(pieces), **named)


def piece(name: str, rows, **changes) -> Piece:
    return Piece(name=name, rows=list(rows), seed=0, **changes)


@pytest.fixture
def table(tmp_path):
    """A file of the six rows."""
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return path


def test_rows_of_one_file_keep_its_numbers(table, tmp_path):
    """Whether it is taken whole, in two parts, or in one part of it."""
    ids = tmp_path / "ids.txt"
    ids.write_text("2\n5\n")
    parts = Request(forget=Data.file(table, "y=0"), keep=Data.file(table, "y!=0"))
    whole = lineage.training(Request(keep=Data.file(table)))
    assert lineage.training(parts).rows == whole.rows == dict(enumerate(ROWS, start=1))
    assert lineage.training(parts).digests == whole.digests and lineage.training(parts).origin == whole.origin
    some = lineage.training(Request(keep=Data.file(table, f"rows={ids}")))
    assert some.rows == {2: ROWS[1], 5: ROWS[4]} and some.origin.source == f"file:{table}"


def test_rows_of_several_sources_are_counted_together():
    found = lineage.training(Request(forget=Data.inline(ROWS[4:]), keep=Data.inline(ROWS[:2])))
    assert found.rows == dict(enumerate([*ROWS[4:], *ROWS[:2]], start=1)) and found.origin.source == "inline:"
    with pytest.raises(Unfit, match="nothing to train on; give rows with --data FILE or --keep FILE"):
        lineage.training(Request(unseen=Data.inline(ROWS)))


def test_a_digest_depends_on_the_rows_that_it_is_of():
    one = lineage.training(Request(keep=Data.inline(ROWS)))
    other = lineage.training(Request(keep=Data.inline([*ROWS[:5], {"x": [9.0, 9.0], "y": 0}])))
    assert one.digest_of([1, 2, 5]) == other.digest_of([5, 1, 2]) and one.digest_of([6]) != other.digest_of([6])
    assert one.digest_of([1]) != one.digest_of([4]) and one.origin.digest != other.origin.digest


def test_to_disk_and_back(tmp_path):
    """The file has the agreed fields, and one line a piece."""
    held = record([piece("shard1-sequence1-stage1", [1, 2], files={"pieces/a/x": "ff"}), piece("shard1-sequence1-stage2", [1], after=["shard1-sequence1-stage1"], active=False)], deleted=[1])
    lineage.write(tmp_path, held)
    assert lineage.read(tmp_path) == held and held.known == {1, 2}
    text = (tmp_path / "lineage.json").read_text()
    assert set(json.loads(text)) == {"kind", "seed", "pieces", "deleted", "data", "recipe", "settings"}
    assert set(json.loads(text)["pieces"][0]) == {"name", "files", "rows", "after", "seed", "active"}
    assert sum("shard1" in line for line in text.splitlines()) == 2


def test_what_is_no_lineage(tmp_path):
    with pytest.raises(Missing, match="holds no lineage.json; rows can be deleted from what `efface train --recipe s3t`"):
        lineage.read(tmp_path)
    with pytest.raises(Missing, match="no run folder"):
        lineage.read(tmp_path / "nowhere")
    (tmp_path / "lineage.json").write_text('{"kind": "magic"}')
    with pytest.raises(EffaceError, match="not a lineage of this version: kind"):
        lineage.read(tmp_path)
    (tmp_path / "lineage.json").write_text("{")
    with pytest.raises(EffaceError, match="not valid JSON"):
        lineage.read(tmp_path)


def test_deleted_rows_may_be_emptied_in_the_file_and_no_others(table, tmp_path):
    found = lineage.training(Request(keep=Data.file(table)))
    lineage.write_rows(tmp_path, found)
    held = record([piece("shard1-slice1", range(1, 7))], data=found.origin.model_dump())
    assert lineage.read_rows(tmp_path, held) == found
    assert lineage.forget_digests(tmp_path, [2, 6]) == []
    assert set(json.loads((tmp_path / "rows.json").read_text())["digests"]) == {"1", "3", "4", "5"}
    lines = table.read_text().splitlines()
    table.write_text("\n".join([lines[0], "{}", *lines[2:5]]))
    again = lineage.read_rows(tmp_path, held)
    assert again.rows == {**found.rows, 2: {}, 6: {}} and again.digest_of([1, 3, 4, 5]) == found.digest_of([1, 3, 4, 5])
    table.write_text("\n".join([*lines[:2], lines[3], lines[2], *lines[4:]]))
    with pytest.raises(BadRows, match=r"row 3 of .*rows.jsonl is not what it was .*\(2 such rows\); give back the original file"):
        lineage.read_rows(tmp_path, held)


def test_rows_from_memory_cannot_be_read_again(tmp_path):
    found = lineage.training(Request(keep=Data.inline(ROWS)))
    lineage.write_rows(tmp_path, found)
    with pytest.raises(BadRows, match="came from 'inline:' and cannot be read again.*train from a file of rows"):
        lineage.read_rows(tmp_path, record([piece("shard1-slice1", range(1, 7))]))


def test_two_files_are_read_again_in_their_order(table, tmp_path):
    more = tmp_path / "more.jsonl"
    more.write_text(json.dumps({"x": [7.0, 7.0], "y": 1}) + "\n")
    found = lineage.training(Request(forget=Data.file(more), keep=Data.file(table)))
    lineage.write_rows(tmp_path, found)
    assert found.rows[1]["x"] == [7.0, 7.0] and lineage.read_rows(tmp_path, record([piece("shard1-slice1", range(1, 8))], data=found.origin.model_dump())) == found


def test_the_store_keeps_whole_pieces_and_sweeps_the_rest(tmp_path):
    store = Store(tmp_path)
    assert store.place("a", "0" * 64) is None
    for name, key in (("a", "0" * 64), ("b", "1" * 64)):
        with store.new(name, key) as folder:
            (folder / "weights").write_text(name)
    with pytest.raises(KeyError), store.new("c", "2" * 64) as folder:
        (folder / "weights").write_text("half")
        raise KeyError
    assert store.place("c", "2" * 64) is None and store.place("a", "1" * 64) is None
    files = store.files("a", "0" * 64)
    assert list(files) == ["pieces/a-0000000000000000/weights"]
    store.sweep([piece("a", [1], files=files), piece("b", [2], files=store.files("b", "1" * 64), active=False)])
    assert [place.name for place in (tmp_path / "pieces").iterdir()] == ["a-0000000000000000"]


def test_no_folder_keeps_nothing():
    store = Store(None)
    with store.new("a", "0" * 64) as folder:
        assert folder is None
    store.sweep([])
    assert store.place("a", "0" * 64) is None and store.files("a", "0" * 64) == {}


def test_a_key_depends_on_the_version(monkeypatch):
    import efface

    one = lineage.key_of({"seed": 1})
    assert one == lineage.key_of({"seed": 1}) != lineage.key_of({"seed": 2})
    monkeypatch.setattr(efface, "__version__", "9.9")
    assert lineage.key_of({"seed": 1}) != one
