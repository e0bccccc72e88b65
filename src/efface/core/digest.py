"""Digests: of values that JSON can hold, and of files."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

LONG = 256
"""Numbers beyond which an array is hashed as bytes: as text, a set of pictures takes minutes."""


def of_value(value: object) -> str:
    """SHA-256 (hex) of `value` as canonical JSON: equal values give equal digests, whatever the order of keys.

    Arrays count by all their numbers, in full.
    """
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"), default=_plain)
    return hashlib.sha256(text.encode()).hexdigest()


def _plain(value: object) -> object:
    """A long array by type, shape and bytes, any other as nested lists (its text is rounded), what else there is as text."""
    shape, raw = getattr(value, "shape", None), getattr(value, "tobytes", None)
    if shape and raw is not None and getattr(value, "size", 0) > LONG:
        return [str(getattr(value, "dtype", "")), list(shape), hashlib.sha256(raw()).hexdigest()]
    return value.tolist() if hasattr(value, "tolist") else str(value)


def of_file(path: Path) -> str:
    """SHA-256 (hex) of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def seed_from(*parts: object) -> int:
    """A 63-bit seed that depends on every part and on nothing else."""
    return int(of_value([str(part) for part in parts])[:16], 16) >> 1
