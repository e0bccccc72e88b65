import json

import pytest
from safetensors.numpy import save_file

from efface.core import digest


@pytest.fixture
def run(tmp_path):
    """A run made by hand: one piece that answers, and a deleted row."""
    path = "pieces/shard1-slice1/model.safetensors"
    (tmp_path / "pieces" / "shard1-slice1").mkdir(parents=True)
    import numpy as np

    save_file({"w": np.zeros(8, np.float32)}, tmp_path / path)
    piece = {"name": "shard1-slice1", "files": {path: digest.of_file(tmp_path / path)}, "rows": [1, 2], "after": [], "seed": 1, "active": True}
    record = {"kind": "sisa", "seed": 0, "pieces": [piece], "deleted": [7], "data": {"source": "inline:", "digest": ""}, "recipe": "sisa", "settings": {}}
    (tmp_path / "lineage.json").write_text(json.dumps(record))
    return tmp_path


def test_issue_and_verify(efface, run) -> None:
    done = efface("certify", run)
    assert done.code == 0 and done.out.startswith("retrained: What answers was trained as if the deleted row had never been there")
    assert "checked: no piece that answers" in done.out and "declared: the model that every piece begins with" in done.out
    done = efface("certify", "--verify", run / "certificate.json")
    assert done.code == 0 and "holds: 2 files are byte for byte as they were" in done.out and "not checked: clean start" in done.out


def test_a_change_fails_the_check(efface, run) -> None:
    assert efface("certify", run, "--json").code == 0
    path = run / "pieces" / "shard1-slice1" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\x01")
    done = efface("certify", "--verify", run / "certificate.json")
    assert done.code == 3 and done.line.startswith("certificate failed: pieces/shard1-slice1/model.safetensors has changed: bytes 0 to")
    done = efface("certify", "--verify", run / "certificate.json", "--json")
    told = json.loads(done.out)
    assert done.code == 3 and told["good"] is False and told["problems"] and told["certificate"]["claim"] == "retrained"


def test_an_unsound_claim_is_refused_in_one_line(efface, run) -> None:
    record = json.loads((run / "lineage.json").read_text())
    record["deleted"] = [2]
    (run / "lineage.json").write_text(json.dumps(record))
    done = efface("certify", run)
    assert done.code == 2 and "the assumption 'no deleted row' fails" in done.line and "shard1-slice1 rests on row 2" in done.line
    assert not (run / "certificate.json").exists()


def test_a_certificate_kept_elsewhere_finds_its_run(efface, run, tmp_path_factory) -> None:
    place = tmp_path_factory.mktemp("kept") / "proof.json"
    done = efface("certify", run, "--out", place, "--json")
    assert done.code == 0 and json.loads(done.out)["certificate"] == str(place)
    assert efface("certify", "--verify", place).code == 0
    moved = run.rename(run.with_name("moved"))
    assert efface("certify", "--verify", place).code == 3
    assert efface("certify", moved, "--verify", place).code == 0


@pytest.mark.parametrize(
    ("arguments", "says"),
    [((), "neither a run nor a certificate"), (("--verify", "x.json", "--out", "y.json"), "--verify writes nothing"), (("--verify", "x.json"), "no file x.json"), (("nowhere",), "no run folder nowhere")],
)
def test_wrong_use_is_one_line(efface, arguments, says, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    done = efface("certify", *arguments)
    assert done.code == 2 and says in done.line
