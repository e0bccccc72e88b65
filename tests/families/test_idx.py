"""idx files: what they hold comes back, and a bad one is named with what is wrong with it."""

import gzip
import struct

import numpy as np
import pytest

from efface.core.errors import BadRows, Missing
from efface.families import idx

GOOD = b"\0\0\x08\x03" + struct.pack(">III", 2, 1, 3) + bytes(range(6))


@pytest.mark.parametrize("name", ["a-idx3-ubyte", "a-idx3-ubyte.gz"])
def test_read(tmp_path, name):
    """Two pictures of 1 x 3 pixels; gzip is told by its first bytes, whatever the name says."""
    (tmp_path / name).write_bytes(gzip.compress(GOOD) if name.endswith("gz") else GOOD)
    found = idx.read(tmp_path / name)
    assert found.tolist() == [[[0, 1, 2]], [[3, 4, 5]]] and found.dtype == np.uint8 and found.flags.writeable
    (tmp_path / "named-wrongly.gz").write_bytes(GOOD)
    assert idx.read(tmp_path / "named-wrongly.gz").tolist() == found.tolist()


@pytest.mark.parametrize(("code", "raw", "value"), [(0x09, b"\xff", -1), (0x0B, b"\x01\x00", 256), (0x0C, b"\xff\xff\xff\xfe", -2), (0x0D, struct.pack(">f", 1.5), 1.5), (0x0E, struct.pack(">d", -0.25), -0.25)])
def test_types_are_big_endian(tmp_path, code, raw, value):
    (tmp_path / "a").write_bytes(bytes([0, 0, code, 1]) + struct.pack(">I", 1) + raw)
    assert idx.read(tmp_path / "a").tolist() == [value]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "begins with nothing"),
        (b"PK\x03\x04rest", "begins with 504b0304"),
        (b"\0\0\x07\x01" + struct.pack(">I", 1) + b"a", "no idx file"),
        (b"\0\0\x08\x00", "no idx file"),
        (GOOD[:9], "cut off within its header"),
        (GOOD[:-1], "6 bytes of numbers, and only 5"),
        (GOOD + b"\0", "6 bytes of numbers, and more"),
        (b"\0\0\x08\x01" + struct.pack(">I", 0), "empty or larger"),
        (b"\0\0\x0e\x02" + struct.pack(">II", 2**31, 2**31), "empty or larger"),
        (gzip.compress(GOOD)[:-9], "damaged gzip"),
        (gzip.compress(GOOD)[:12] + b"\0\0\0\0", "damaged gzip"),
    ],
    ids=range(11),  # packed bytes hold the time, and names of tests must not
)
def test_bad_files_are_refused(tmp_path, content, says):
    (tmp_path / "bad").write_bytes(content)
    with pytest.raises(BadRows, match=says) as caught:
        idx.read(tmp_path / "bad")
    assert str(tmp_path / "bad") in str(caught.value) and "\n" not in str(caught.value)


def test_no_file(tmp_path):
    with pytest.raises(Missing, match="no file"):
        idx.read(tmp_path / "nowhere")
    with pytest.raises(Missing, match="cannot read"):
        idx.read(tmp_path)


def test_a_pair_must_fit_together(tmp_path):
    (tmp_path / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(GOOD))
    with pytest.raises(Missing, match="train-labels-idx1-ubyte"):
        idx.read_pair(tmp_path, "train")
    labels = tmp_path / "train-labels.idx1-ubyte"
    labels.write_bytes(b"\0\0\x08\x01" + struct.pack(">I", 2) + b"\x07\x09")
    pictures, found = idx.read_pair(tmp_path, "train")
    assert pictures.shape == (2, 1, 3) and found.tolist() == [7, 9]
    labels.write_bytes(b"\0\0\x08\x01" + struct.pack(">I", 1) + b"\x07")
    with pytest.raises(BadRows, match="must be"):
        idx.read_pair(tmp_path, "train")
