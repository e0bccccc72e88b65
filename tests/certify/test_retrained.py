"""Certificates of exact deletion: what the lineage must show, what is refused, and pieces trained again bit for bit."""

import json

import numpy as np
import pytest
from safetensors.numpy import save_file

from efface import api, exact
from efface.certify.issue import issue, verify
from efface.certify.retrained import look
from efface.core import digest
from efface.core.errors import EffaceError, Unsound
from efface.core.types import Data, Request
from efface.families import lineage
from efface.testing.tiny import context, digits, tiny_classifier

NAMES = ("shard1-slice1", "shard1-slice2", "shard2-slice1")
ROWS = {"shard1-slice1": [1, 2], "shard1-slice2": [1, 2, 3, 4], "shard2-slice1": [5, 6]}


def by_hand(folder, deleted=(3,), **changes):
    """A run of three pieces made by hand; slice 2 of shard 1 once saw row 3 and is switched off."""
    pieces = []
    for at, name in enumerate(NAMES):
        path = f"pieces/{name}/model.safetensors"
        (folder / "pieces" / name).mkdir(parents=True, exist_ok=True)
        save_file({"w": np.full(8, at, np.float32)}, folder / path)
        piece = {"name": name, "files": {path: digest.of_file(folder / path)}, "rows": ROWS[name], "after": [], "seed": at, "active": True}
        if name == "shard1-slice2":
            piece |= {"after": ["shard1-slice1"], "active": False, "files": {}}
            (folder / path).unlink()
        pieces.append(piece | changes.get(name, {}))
    record = {
        "kind": "s3t", "seed": 0, "pieces": pieces, "deleted": list(deleted), "data": {"source": "file:rows.jsonl", "digest": "0" * 64},
        "recipe": "s3t", "settings": {},
    }  # fmt: skip
    (folder / "lineage.json").write_text(json.dumps(record))
    return folder


def names(certificate, basis):
    return {item.name for item in certificate.assumptions if item.basis == basis}


def test_a_sound_lineage(tmp_path):
    certificate = issue(by_hand(tmp_path))
    assert certificate.claim == "retrained" and certificate.system == "s3t" and certificate.evidence["deleted rows"] == [3]
    assert names(certificate, "checked") == {"a deletion", "names", "a whole record", "files", "no deleted row", "inside the run", "digests", "nothing left over"}
    assert names(certificate, "declared") == {"clean start", "recorded rows"}
    assert {file.path for file in certificate.files} == {"lineage.json", "pieces/shard1-slice1/model.safetensors", "pieces/shard2-slice1/model.safetensors"}
    found = verify(tmp_path / "certificate.json")
    assert found.good and "3 files are byte for byte as they were" in found.checked
    assert any(line.startswith("no deleted row: 2 pieces") for line in found.checked) and any("clean start" in line for line in found.unchecked)


@pytest.mark.parametrize(
    ("changes", "deleted", "assumption", "says"),
    [
        ({}, (), "a deletion", "delete rows first"),
        ({}, (5,), "no deleted row", "shard2-slice1 rests on row 5"),
        ({"shard2-slice1": {"after": ["shard1-slice2"]}}, (3,), "no deleted row", "shard2-slice1 rests on row 3"),
        ({"shard2-slice1": {"after": ["shard9"]}}, (3,), "a whole record", "shard9"),
        ({"shard2-slice1": {"name": "shard1-slice1"}}, (3,), "names", "1 names that stand twice"),
        ({"shard2-slice1": {"files": {}}}, (3,), "files", "none for shard2-slice1"),
        ({"shard2-slice1": {"files": {"../other.safetensors": "0" * 64}}}, (3,), "inside the run", "../other.safetensors"),
        ({"shard2-slice1": {"files": {"pieces/none.safetensors": "0" * 64}}}, (3,), "digests", "pieces/none.safetensors (of shard2-slice1) is missing"),
        ({"shard2-slice1": {"active": False}}, (3,), "nothing left over", "pieces/shard2-slice1/model.safetensors"),
    ],
)
def test_refused_with_the_assumption_that_fails(tmp_path, changes, deleted, assumption, says):
    folder = by_hand(tmp_path / "run", deleted, **changes)
    with pytest.raises(Unsound, match=f"the assumption '{assumption}' fails") as raised:
        issue(folder)
    assert says in str(raised.value) and not (folder / "certificate.json").exists()


def test_other_bytes_and_stray_weights_are_refused(tmp_path):
    folder = by_hand(tmp_path)
    save_file({"w": np.full(8, 7, np.float32)}, folder / "pieces" / "shard1-slice1" / "model.safetensors")
    with pytest.raises(Unsound, match=r"'digests' fails.*shard1-slice1/model.safetensors \(of shard1-slice1\) has other bytes"):
        issue(folder)
    by_hand(tmp_path)
    save_file({"w": np.ones(3, np.float32)}, folder / "pieces" / "shard1-slice2" / "left.safetensors")
    with pytest.raises(Unsound, match="'nothing left over' fails.*shard1-slice2/left.safetensors"):
        issue(folder)


def test_verification_names_what_changed(tmp_path):
    issue(by_hand(tmp_path))
    path = tmp_path / "pieces" / "shard2-slice1" / "model.safetensors"
    raw = bytearray(path.read_bytes())
    raw[-1] ^= 1
    path.write_bytes(raw)
    found = verify(tmp_path / "certificate.json")
    assert not found.good and found.problems == (f"pieces/shard2-slice1/model.safetensors has changed: bytes 0 to {len(raw) - 1} (in w)",)


def test_an_altered_certificate_is_found_out(tmp_path):
    issue(by_hand(tmp_path))
    place = tmp_path / "certificate.json"
    text = json.loads(place.read_text())
    place.write_text(json.dumps({**text, "statement": "Everything is forgotten."}))
    assert "seal" in verify(place).problems[0]
    other = api_sealed({**text, "statement": "Everything is forgotten."})
    place.write_text(other)
    assert verify(place).problems == ("the run gives another statement than the certificate says",), "a new seal does not help"
    place.write_text("[]")
    with pytest.raises(EffaceError, match="not a certificate of this version"):
        verify(place)


def api_sealed(value):
    from efface.certify.certificate import Certificate

    return Certificate.model_validate(value).sealed().model_dump_json()


@pytest.fixture(scope="module", params=["sisa", "s3t"])
def served(request, tmp_path_factory):
    """A small run of each exact recipe on 120 digits, from which two rows were deleted."""
    folder = tmp_path_factory.mktemp("exact") / request.param
    folder.mkdir()
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in digits("random").keep[:120]))
    settings = {"sisa": {"shards": 2, "slices": 2, "epochs": 2}, "s3t": {"shards": 2, "slices": 2, "fit.epochs": 1, "fit.batch": 32, "fit.rank": 2, "fit.precision": "no"}}
    after = api.train(tiny_classifier(), Request(keep=Data.file(path)), request.param, settings[request.param], context(seed=3, folder=folder))
    (folder / "model").mkdir()
    after.save(folder / "model")
    with pytest.raises(Unsound, match="'a deletion' fails"):
        issue(folder)
    seen = [piece.rows for piece in lineage.read(folder).pieces if not piece.after]
    exact.delete(folder, [seen[0][0], seen[-1][-1]], "cpu")
    return folder


def test_a_served_deletion_is_certified(served):
    """The served model is put together anew, and two pieces are trained again to the same bytes."""
    certificate = issue(served, recompute=2)
    assert {"served model", "recomputed"} <= names(certificate, "checked") and len(certificate.evidence["pieces trained again"]) == 2
    assert certificate.after == api.load(str(served / "model")).digest and len(certificate.evidence["deleted rows"]) == 2
    found = verify(served / "certificate.json")
    assert found.good and any(line.startswith("served model") for line in found.checked)


def test_another_model_is_refused(served, tmp_path):
    """Weights that no piece gave, served in the model folder."""
    import shutil

    folder = tmp_path / "copy"
    shutil.copytree(served, folder)
    record = lineage.read(folder)
    path = sorted((folder / "model").rglob("*.safetensors"))[-1]
    from safetensors.numpy import load_file

    tensors = load_file(path)
    first = next(iter(tensors))
    tensors[first] = tensors[first] + np.float32(1e-3)
    path.unlink()  # it may be a second name of a piece's file
    save_file(tensors, path)
    with pytest.raises(Unsound, match="'served model' fails"):
        look(folder)
    assert record.deleted


def test_a_piece_that_saw_more_than_its_record_is_found_out(served, tmp_path):
    """Other weights under a right digest in the record pass every check but the retraining."""
    import shutil

    folder = tmp_path / "copy"
    shutil.copytree(served, folder)
    record = lineage.read(folder)
    piece = next(piece for piece in record.pieces if piece.active and piece.rows)
    path = next(folder / name for name in piece.files if name.endswith(".safetensors"))
    from safetensors.numpy import load_file

    tensors = {name: value + np.float32(1e-3) for name, value in load_file(path).items()}
    path.unlink()
    save_file(tensors, path)
    piece.files[path.relative_to(folder).as_posix()] = digest.of_file(path)
    lineage.write(folder, record)
    shutil.rmtree(folder / "model")
    assert look(folder).claim == "retrained"
    with pytest.raises(Unsound, match="'recomputed' fails.*has other bytes"):
        look(folder, recompute=100)
