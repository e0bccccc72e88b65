"""Rows of numbers: shapes, labels and values are checked by row; files of arrays go in and out."""

import numpy as np
import pytest
from safetensors.numpy import save_file

from efface.core.errors import BadRows, Missing
from efface.core.types import Data
from efface.families import tables


def test_columns_of_numbers_are_an_input():
    rows = [{"a": 1, "b": 2.5, "y": 0, "id": "p1"}, {"a": 3, "b": 4, "y": 1, "id": "p2"}]
    assert tables.inputs(rows).tolist() == [[1, 2.5], [3, 4]]
    with pytest.raises(BadRows, match="row 2: column 'b' = 'red' is not a number"):
        tables.inputs([rows[0], {"a": 1, "b": "red", "y": 0}])
    with pytest.raises(BadRows, match="row 1: found columns y"):
        tables.inputs([{"y": 1}])


def test_arrays_go_out_and_come_back(tmp_path):
    rows = [{"x": np.full((1, 4, 4), n, dtype=np.float32), "y": n, "identity": 7 + n, "name": f"p{n}"} for n in range(3)]
    tables.write_arrays(tmp_path / "r.safetensors", rows)
    again = Data.file(tmp_path / "r.safetensors").read()
    assert [row["y"] for row in again] == [0, 1, 2] and [row["identity"] for row in again] == [7, 8, 9] and "name" not in again[0]
    assert np.asarray(again[2]["x"]).shape == (1, 4, 4) and float(np.asarray(again[2]["x"]).max()) == 2


@pytest.mark.parametrize(
    ("tensors", "says"),
    [
        ({"x": np.zeros((2, 3), np.float32)}, "holds x; it needs the tensors y"),
        ({"x": np.zeros((2, 3), np.float32), "y": np.zeros(3, np.int64)}, "must have one length"),
        ({"x": np.zeros((0, 3), np.float32), "y": np.zeros(0, np.int64)}, "at least 1"),
    ],
)
def test_files_that_do_not_fit_say_why(tmp_path, tensors, says):
    save_file(tensors, tmp_path / "bad.safetensors")
    with pytest.raises(BadRows, match=says):
        tables.read_arrays(tmp_path / "bad.safetensors")


def test_files_that_are_none(tmp_path):
    (tmp_path / "junk.safetensors").write_bytes(b"no")
    with pytest.raises(BadRows, match="not a readable safetensors file"):
        tables.read_arrays(tmp_path / "junk.safetensors")
    with pytest.raises(Missing, match="no file"):
        tables.read_arrays(tmp_path / "nowhere.safetensors")


def test_a_table_is_read_as_numbers(tmp_path):
    place = tmp_path / "t.csv"
    place.write_text("a,y,id\n1.5,0,p1\n2,1,p2\n")
    rows = Data.file(place).read()
    assert rows == [{"a": 1.5, "y": 0, "id": "p1"}, {"a": 2.0, "y": 1, "id": "p2"}]
    place.write_text("a,y\n1.5,0\nred,1\n")
    with pytest.raises(BadRows, match=r"t.csv:3: column 'a' holds 'red'"):
        Data.file(place)
    place.write_text("text,y\nhello there,1\n")
    assert Data.file(place).read() == [{"text": "hello there", "y": 1}]


def test_parts_of_a_file(tmp_path):
    place, ids = tmp_path / "t.csv", tmp_path / "ids.txt"
    place.write_text("a,y\n1,0\n2,1\n3,1\n4,2\n")
    ids.write_text("2\n4\n\n")

    def taken(part: str) -> list:
        return [row["a"] for row in Data.file(place, part).read()]

    assert taken("y=1") == [2, 3] and taken("y!=1") == [1, 4]
    assert taken(f"rows={ids}") == [2, 4] and taken(f"rows!={ids}") == [1, 3]
    for part, says in (("y=9", "no row is left of 4 by 'y=9'; y is 0, 1, 2"), ("z=1", "row 1: no column 'z'; found a, y"), ("y", "not of the form")):
        with pytest.raises(BadRows, match=says):
            Data.file(place, part)
    ids.write_text("2\nx\n")
    with pytest.raises(BadRows, match="ids.txt:2: 'x' is no row number"):
        Data.file(place, f"rows={ids}")
    ids.write_text("5\n")
    with pytest.raises(BadRows, match="rows 1 to 4"):
        Data.file(place, f"rows={ids}")


def test_a_part_is_read_again_with_the_same_digest(tmp_path):
    place = tmp_path / "t.csv"
    place.write_text("a,y\n1,0\n2,1\n")
    again = Data.model_validate(Data.file(place, "y=1").model_dump())
    assert [row["a"] for row in again.read()] == [2]
    place.write_text("a,y\n1,0\n3,1\n")
    with pytest.raises(BadRows, match="has changed since the run was made"):
        Data.model_validate(Data.file(place, "y=0").model_copy(update={"digest": "0" * 64}).model_dump()).read()
