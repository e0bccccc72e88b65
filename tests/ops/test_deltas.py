"""Records of steps: in memory and on disk they give the same, and a damaged one says so."""

import json

import pytest
import torch

from efface.core.errors import EffaceError, Missing
from efface.ops.deltas import Deltas, key, open_deltas

CHANGES = {3: (["a", "b"], 1.0), 7: (["b", "b"], 2.0), 9: (["c"], 4.0)}


def made(folder=None) -> Deltas:
    deltas = Deltas(["a", "b", "c", "d"], folder)
    for step, (rows, number) in CHANGES.items():
        deltas.add(step, rows, {"w": torch.tensor([[number]]).t()})
    deltas.finish()
    return deltas


@pytest.mark.parametrize(("rows", "steps"), [(["a"], [3]), (["b"], [3, 7]), (["d"], []), (["c", "a"], [3, 9])])
def test_changes_of_rows(tmp_path, rows, steps):
    for deltas in (made(), open_deltas(made(tmp_path / "deltas").folder)):
        found = {step: float(change["w"]) for step, change in deltas.changes(rows)}
        assert list(found) == steps and all(found[step] == CHANGES[step][1] for step in steps)
        assert deltas.watched == {"a", "b", "c", "d"} and deltas.steps[7] == ("b",)


def test_equal_rows_have_one_key():
    assert key({"x": [1.0], "y": 2}) == key({"y": 2, "x": [1.0]}) != key({"x": [1.0], "y": 3})


def test_what_is_missing_or_damaged_is_named(tmp_path):
    with pytest.raises(Missing, match="--recipe recorded"):
        open_deltas(tmp_path / "none")
    folder = made(tmp_path / "deltas").folder
    (folder / "step-00000007.safetensors").unlink()
    with pytest.raises(Missing, match="step-00000007"):
        list(open_deltas(folder).changes(["b"]))
    (folder / "step-00000003.safetensors").write_bytes(b"x")
    with pytest.raises(EffaceError, match="damaged"):
        list(open_deltas(folder).changes(["a"]))
    (folder / "index.json").write_text(json.dumps({"watched": 3}))
    with pytest.raises(EffaceError, match="not the index"):
        open_deltas(folder)
    (folder / "index.json").unlink()
    with pytest.raises(Missing, match="index.json"):
        open_deltas(folder)
