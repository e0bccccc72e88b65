"""Rows of classifiers and regressors: {"x": numbers in any fixed shape, "y": label or value}, and files that hold them.

A table with named numeric columns does as well: without a column "x", all columns but "y" and those of NAMES are the input.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from efface.core.errors import BadRows, EffaceError, Missing
from efface.core.rows import NAMES
from efface.core.types import Row


def inputs(rows: Sequence[Row]) -> np.ndarray:
    """Inputs (rows, ...) as float32; BadRows names the first row that does not fit."""
    if not rows:
        raise BadRows("no rows")
    found: list[np.ndarray] = []
    for number, row in enumerate(rows, start=1):
        x = _input(row, number)
        if not x.size or not np.isfinite(x).all():
            raise BadRows(f"row {number}: x is empty or holds a number that is not finite")
        if found and x.shape != found[0].shape:
            raise BadRows(f"row {number}: x has the shape {x.shape}, and row 1 has {found[0].shape}")
        found.append(x)
    return np.stack(found)


def labels(rows: Sequence[Row], classes: int | None = None) -> np.ndarray:
    """Class numbers (rows,); BadRows names the first row whose y is none, or not below `classes`."""
    found = np.empty(len(rows), dtype=np.int64)
    for number, row in enumerate(rows, start=1):
        _has_y(row, number, "class number")
        y = row["y"]
        if isinstance(y, bool) or not isinstance(y, int | np.integer) or y < 0 or (classes is not None and y >= classes):
            raise BadRows(f"row {number}: y = {y!r}; it must be a class number {f'below {classes}' if classes else 'from 0 on'}")
        found[number - 1] = y
    return found


def values(rows: Sequence[Row]) -> np.ndarray:
    """Target values (rows,) as float32; BadRows names the first row whose y is no finite number."""
    found = np.empty(len(rows), dtype=np.float32)
    for number, row in enumerate(rows, start=1):
        _has_y(row, number, "number")
        y = row["y"]
        if isinstance(y, bool) or not isinstance(y, int | float | np.number) or not np.isfinite(y):
            raise BadRows(f"row {number}: y = {y!r}; it must be a finite number")
        found[number - 1] = y
    return found


def _has_y(row: Row, number: int, what: str) -> None:
    if "y" not in row:
        raise BadRows(f"row {number}: found columns {', '.join(map(str, row)) or 'none'}; a row needs x (numbers) and y ({what})")


def _input(row: Row, number: int) -> np.ndarray:
    given = row["x"] if "x" in row else [value for name, value in row.items() if name not in NAMES]
    if "x" not in row and not given:
        raise BadRows(f"row {number}: found columns {', '.join(map(str, row)) or 'none'}; a row needs x (numbers), or columns of numbers, and y")
    try:
        return np.asarray(given, dtype=np.float32)
    except (TypeError, ValueError):
        if "x" in row:
            raise BadRows(f"row {number}: x is not an array of numbers") from None
        wrong = next((name for name, value in row.items() if name not in NAMES and not isinstance(value, int | float | np.number)), "")
        raise BadRows(f"row {number}: column {wrong!r} = {str(row[wrong])[:40]!r} is not a number; a row needs x (numbers), or columns of numbers, and y") from None


def read_arrays(path: Path) -> list[dict[str, object]]:
    """Rows of a safetensors file with tensors x (rows, ...) and y (rows,); further tensors (rows,) become columns.

    Raises Missing (no file) or BadRows (no x or y, or lengths that differ).
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    if not path.is_file():
        raise Missing(f"no file {path}; give a .safetensors file with tensors x and y")
    try:
        found = load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise BadRows(f"{path} is not a readable safetensors file: {error}") from None
    if lacking := [name for name in ("x", "y") if name not in found]:
        raise BadRows(f"{path} holds {', '.join(sorted(found)) or 'no tensor'}; it needs the tensors {' and '.join(lacking)}")
    lengths = {name: len(tensor) if tensor.ndim else 0 for name, tensor in found.items()}
    if len(set(lengths.values())) > 1 or not lengths["x"]:
        raise BadRows(f"{path}: the tensors must have one length, at least 1; found {lengths}")
    flat = {name: tensor.tolist() for name, tensor in found.items() if name != "x" and tensor.ndim == 1}
    return [{"x": x, **{name: column[at] for name, column in flat.items()}} for at, x in enumerate(found["x"])]


def write_arrays(path: Path, rows: Sequence[Row]) -> None:
    """Write rows as a safetensors file that `read_arrays` reads; columns that hold text are left out."""
    from safetensors.numpy import save_file

    columns: dict[str, Any] = {"x": inputs(rows)}
    for name in rows[0]:
        if name != "x" and all(isinstance(row.get(name), int | float | np.number) for row in rows):
            columns[str(name)] = np.array([row[name] for row in rows])
    try:
        save_file(columns, path)
    except OSError as error:
        raise EffaceError(f"cannot write {path}: {error.strerror or error}") from None
