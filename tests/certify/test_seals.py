"""Digests by regions: a change is named by file, bytes and tensor."""

import json

import numpy as np
import pytest
from safetensors.numpy import save_file

from efface.certify.seals import SMALLEST, changes, seal, seal_all
from efface.core.errors import Missing


@pytest.fixture
def run(tmp_path):
    (tmp_path / "model").mkdir()
    save_file({"head.weight": np.zeros((200, 100), np.float32), "body.weight": np.ones((10, 10), np.float32)}, tmp_path / "model" / "model.safetensors")
    (tmp_path / "model" / "config.json").write_text("{}")
    (tmp_path / "note.txt").write_bytes(b"x" * (3 * SMALLEST + 10))
    return tmp_path


def touch(path, place):
    with path.open("r+b") as file:
        file.seek(place)
        old = file.read(1)
        file.seek(place)
        file.write(bytes([old[0] ^ 1]))


def test_an_untouched_run_has_no_changes(run):
    found = seal_all(run, ["model", "note.txt"])
    assert [file.path for file in found] == ["model/config.json", "model/model.safetensors", "note.txt"]
    assert changes(run, found, ["model"]) == []
    assert found[2].size == 3 * SMALLEST + 10 and len(found[2].regions) == 4


@pytest.mark.parametrize(
    ("place", "says"),
    [(0, "bytes 0 to 16383"), (SMALLEST, "bytes 16384 to 32767"), (3 * SMALLEST + 9, "bytes 49152 to 49161")],
)
def test_one_bit_names_its_region(run, place, says):
    found = seal_all(run, ["note.txt"])
    touch(run / "note.txt", place)
    assert changes(run, found) == [f"note.txt has changed: {says}"]


def test_a_change_in_weights_names_the_tensor(run):
    """80 000 bytes of head.weight behind 400 of body.weight: the last byte of the file is the head's, the first of the data the body's."""
    path = run / "model" / "model.safetensors"
    found = seal_all(run, ["model"])
    header = 8 + int.from_bytes(path.read_bytes()[:8], "little")
    spans = {name: entry["data_offsets"] for name, entry in json.loads(path.read_bytes()[8:header]).items()}
    touch(path, header + spans["head.weight"][1] - 1)
    (line,) = changes(run, found)
    assert "model/model.safetensors has changed: bytes" in line and "(in " in line and "head.weight" in line
    last_region = (header + spans["head.weight"][1] - 1) // SMALLEST * SMALLEST
    assert f"bytes {last_region} to" in line


def test_what_is_gone_longer_or_new_is_named(run):
    found = seal_all(run, ["model", "note.txt"])
    (run / "model" / "config.json").unlink()
    with (run / "note.txt").open("ab") as file:
        file.write(b"more")
    (run / "model" / "extra.safetensors").write_bytes(b"weights")
    lines = changes(run, found, ["model"])
    assert "model/config.json is missing" in lines and "model/extra.safetensors was not there" in lines
    assert any(line.startswith("note.txt has changed: bytes 49152 to 49161; it has 49166 bytes, and had 49162") for line in lines)


def test_a_record_cannot_lead_out_of_the_run(run, tmp_path):
    (file,) = seal_all(run, ["note.txt"])
    assert "outside of the run folder" in changes(run, [file.model_copy(update={"path": "../elsewhere"})])[0]


def test_large_files_have_larger_regions(run, monkeypatch):
    monkeypatch.setattr("efface.certify.seals.MOST", 2)
    found = seal(run, run / "note.txt")
    assert found.region == 2 * SMALLEST and len(found.regions) == 2
    with pytest.raises(Missing, match="cannot read"):
        seal(run, run / "nothing")
