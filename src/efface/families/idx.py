"""Files in the idx form of MNIST and its relatives, plain or gzipped: two zero bytes, a type, a number of axes, their lengths, the numbers."""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from pathlib import Path
from typing import IO, Any

import numpy as np

from efface.core.errors import BadRows, Missing

TYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
LARGEST = 2**32
"""Most bytes of numbers in one file."""


def read(path: Path) -> np.ndarray:
    """The array in a file. Raises Missing (no file) or BadRows (not idx, cut off, or longer than its header says)."""
    try:
        with path.open("rb") as plain:
            if plain.read(2) == b"\x1f\x8b":
                plain.seek(0)
                with gzip.open(plain) as file:
                    return _array(file, path)
            plain.seek(0)
            return _array(plain, path)
    except FileNotFoundError:
        raise Missing(f"no file {path}; give an idx file, such as train-images-idx3-ubyte.gz") from None
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise BadRows(f"{path} is a damaged gzip file ({error}); get it again") from None
    except OSError as error:
        raise Missing(f"cannot read {path}: {error.strerror or error}") from None


def read_pair(folder: Path, part: str) -> tuple[np.ndarray, np.ndarray]:
    """(pictures, labels) of `part`, "train" or "t10k", in a folder with the four files of MNIST. Raises Missing or BadRows."""
    pictures, labels = read(_named(folder, f"{part}-images-idx3-ubyte")), read(_named(folder, f"{part}-labels-idx1-ubyte"))
    if pictures.ndim != 3 or labels.ndim != 1 or len(pictures) != len(labels):
        raise BadRows(f"{folder}: {part} pictures have the shape {pictures.shape} and labels {labels.shape}; they must be (n, height, width) and (n,)")
    return pictures, labels


def _named(folder: Path, name: str) -> Path:
    """The file of that name, with or without .gz, and with a dot where some releases have one."""
    for each in (name, name.replace("-idx", ".idx")):
        for end in (".gz", ""):
            if (folder / (each + end)).is_file():
                return folder / (each + end)
    raise Missing(f"{folder} holds no {name}.gz; give the folder with the four idx files")


def _array(file: IO[bytes] | Any, path: Path) -> np.ndarray:
    head = file.read(4)
    if len(head) < 4 or head[:2] != b"\0\0" or head[2] not in TYPES or not head[3]:
        raise BadRows(f"{path} is no idx file: it begins with {head.hex() or 'nothing'}, where 0000, a type (08 to 0e) and a number of axes must stand")
    lengths = file.read(4 * head[3])
    if len(lengths) < 4 * head[3]:
        raise BadRows(f"{path} is cut off within its header; get it again")
    shape = struct.unpack(f">{head[3]}I", lengths)
    kind = np.dtype(TYPES[head[2]])
    size = math.prod(shape) * kind.itemsize
    if not 0 < size <= LARGEST:
        raise BadRows(f"{path}: its header says the shape {shape}, which is empty or larger than {LARGEST >> 30} GiB")
    raw = file.read(size + 1)
    if len(raw) != size:
        raise BadRows(f"{path}: its header says {size} bytes of numbers, and {'more' if len(raw) > size else f'only {len(raw)}'} follow; get it again")
    return np.frombuffer(raw, kind).reshape(shape).astype(kind.newbyteorder("="))
