"""Concept rows from files and from the rows themselves, and what inputs add to a class."""

import json

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from efface.core.errors import BadConfig, BadRows, Missing
from efface.families import concept_rows
from efface.families.classifier import Classifier
from efface.families.networks import MLP, seeded
from efface.testing.tiny import context, digits, trained_classifier

ROWS = digits().keep[:6]


def write(path, rows):
    path.write_text("\n".join(json.dumps(row) for row in rows))
    return path


def read(path):
    return concept_rows.from_file(trained_classifier(), path, context())


def test_names_in_a_text_file(tmp_path):
    """A list of names, one name, or none; rows need no label."""
    named = [["round", "tall"], "round", [], ["tall"], "", ["tall"]]
    rows = [{"x": row["x"], "concepts": some} for row, some in zip(ROWS, named, strict=True)]
    sides = read(write(tmp_path / "c.jsonl", rows))
    features = concept_rows.read(trained_classifier(), ROWS, context())
    assert list(sides) == ["round", "tall"] and [len(side) for side in sides["round"]] == [2, 4]
    assert np.array_equal(sides["tall"][0], features[[0, 3, 5]]) and np.array_equal(sides["tall"][1], features[[1, 2, 4]])


def test_numbers_in_a_safetensors_file(tmp_path):
    x = np.array([row["x"] for row in ROWS], np.float32)
    save_file({"x": x, "concepts": np.array([0, 1, 1, 2, 0, 1])}, tmp_path / "one.safetensors")
    save_file({"x": x, "concepts": np.array([[1, 0], [1, 1], [0, 0], [0, 1], [0, 1], [0, 1]], np.uint8)}, tmp_path / "many.safetensors")
    one, many = read(tmp_path / "one.safetensors"), read(tmp_path / "many.safetensors")
    assert {name: len(side[0]) for name, side in one.items()} == {"0": 2, "1": 3, "2": 1}
    assert {name: len(side[0]) for name, side in many.items()} == {"0": 2, "1": 4}


def test_bad_files(tmp_path):
    with pytest.raises(Missing, match="no file"):
        read(tmp_path / "none.safetensors")
    (tmp_path / "broken.safetensors").write_bytes(b"nothing")
    with pytest.raises(BadRows, match="not a readable safetensors file"):
        read(tmp_path / "broken.safetensors")
    save_file({"x": np.zeros((2, 64), np.float32), "concepts": np.zeros(3, np.int64)}, tmp_path / "lengths.safetensors")
    with pytest.raises(BadRows, match="concepts"):
        read(tmp_path / "lengths.safetensors")
    save_file({"x": np.zeros((2, 64), np.float32), "concepts": np.zeros(2, np.float32)}, tmp_path / "kind.safetensors")
    with pytest.raises(BadRows, match="whole numbers"):
        read(tmp_path / "kind.safetensors")
    with pytest.raises(BadRows, match="row 2: concepts = None"):
        read(write(tmp_path / "lacks.jsonl", [{"x": ROWS[0]["x"], "concepts": ["a"]}, {"x": ROWS[1]["x"]}]))
    with pytest.raises(BadRows, match="row 1: concepts = 3"):
        read(write(tmp_path / "number.jsonl", [{"x": ROWS[0]["x"], "concepts": 3}]))
    with pytest.raises(BadRows, match="names no concept"):
        read(write(tmp_path / "empty.jsonl", [{"x": ROWS[0]["x"], "concepts": []}]))


@pytest.mark.parametrize(
    ("shape", "picture"), [((64,), (8, 8)), ((8, 8), (8, 8)), ((3, 6, 5), (3, 6, 5)), ((10,), None), ((9,), None), ((3, 2, 9), None)]
)
def test_pictures(shape, picture):
    found = concept_rows.as_pictures([{"x": np.zeros(shape)}] * 2)
    assert found is None if picture is None else found.shape == (2, *picture)


def test_derived():
    """Pictures have six plain concepts, upper against lower quarter; other rows, or rows so wanted, have groups."""
    rows = [*digits().forget, *digits().keep[:267]]
    features = concept_rows.read(trained_classifier(), rows, context())
    plain = concept_rows.derived(rows, features, "auto", 5, 0)
    assert len(plain) == 6 and all(0.2 * len(rows) < len(side) < 0.4 * len(rows) for sides in plain.values() for side in sides)
    grouped = concept_rows.derived(rows, features, "groups", 5, 0)
    assert list(grouped) == [f"group {at}" for at in range(5)] and all(len(a) + len(b) == len(rows) for a, b in grouped.values())
    flat = [{"x": row["x"][:10]} for row in rows]
    assert list(concept_rows.derived(flat, features, "auto", 3, 0)) == ["group 0", "group 1", "group 2"]
    with pytest.raises(BadConfig, match="the rows are no pictures"):
        concept_rows.derived(flat, features, "ink", 3, 0)


def test_a_linear_model_adds_weight_times_input():
    """Mean of w x over rows, by place, the largest first; nothing is missing."""
    subject = Classifier(seeded(MLP, 0, inputs=3, hidden=(), outputs=2))
    with torch.no_grad():
        subject.model.stack[0].weight.copy_(torch.tensor([[0.0, 0, 0], [1, -2, 3]]))
    found = concept_rows.attributed(subject, [{"x": [1.0, 1, 1], "y": 1}, {"x": [3.0, 1, 0], "y": 1}], 1, 10)
    assert [name for name, _ in found.adds] == ["0", "2", "1"] and [value for _, value in found.adds] == pytest.approx([2, 1.5, -2], abs=1e-5)
    assert found.gap < 1e-5
