"""Digests of files, whole and by regions, so that a change can be named: which file, which bytes, which tensor."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from efface.core.errors import Missing

SMALLEST = 1 << 14
"""Bytes of a region in a small file."""
MOST = 4096
"""Most regions of a file; in a large file they are larger."""
SHORT = 16
"""Hexadecimal digits kept of a region's digest; the digest of the whole file is kept in full."""


class Sealed(BaseModel):
    """A file as it was: its length, its SHA-256, and a short SHA-256 of each region of `region` bytes."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    path: str
    """Relative to the run folder, with forward slashes."""
    size: int
    sha256: str
    region: int
    regions: tuple[str, ...]


def seal(root: Path, path: Path) -> Sealed:
    """The record of one file. Raises Missing when it is not there."""
    try:
        size = path.stat().st_size
        region = SMALLEST
        while size > region * MOST:
            region *= 2
        whole, regions = _digests(path, region)
    except OSError as error:
        raise Missing(f"cannot read {path}: {error.strerror or error}") from None
    return Sealed(path=path.relative_to(root).as_posix(), size=size, sha256=whole, region=region, regions=regions)


def seal_all(root: Path, names: Iterable[str]) -> tuple[Sealed, ...]:
    """The records of files, and of all files below folders, by their paths in `root`; in the order of their paths."""
    found = {path for name in names for path in _below(root / name)}
    return tuple(seal(root, path) for path in sorted(found))


def _below(place: Path) -> list[Path]:
    if place.is_dir():
        return [path for path in place.rglob("*") if path.is_file()]
    if not place.exists():
        raise Missing(f"no file {place}")
    return [place]


def changes(root: Path, files: Sequence[Sealed], covers: Sequence[str] = ()) -> list[str]:
    """One line for each file that is gone or not as it was, with the bytes; and for each that is new in a folder of `covers`."""
    found = [line for file in files for line in _changed(root, file)]
    known = {file.path for file in files}
    for name in covers:
        if (root / name).is_dir():
            here = sorted(path.relative_to(root).as_posix() for path in _below(root / name))
            found += [f"{path} was not there" for path in here if path not in known]
    return found


def _changed(root: Path, file: Sealed) -> list[str]:
    path = root / file.path
    if not _inside(root, path):
        return [f"{file.path} lies outside of the run folder; the certificate has been altered"]
    if not path.is_file():
        return [f"{file.path} is missing"]
    whole, regions = _digests(path, file.region)
    if whole == file.sha256:
        return []
    size = path.stat().st_size
    length = f"; it has {size} bytes, and had {file.size}" if size != file.size else ""
    wrong = [place for place, (now, then) in enumerate(zip(regions, file.regions, strict=False)) if now != then]
    spans = [f"bytes {a * file.region} to {min((b + 1) * file.region, file.size) - 1}{_tensors(path, a * file.region, (b + 1) * file.region)}" for a, b in _runs(wrong)]
    return [f"{file.path} has changed: {', '.join(spans) or 'its end'}{length}"]


def _inside(root: Path, path: Path) -> bool:
    return path.resolve().is_relative_to(root.resolve())


def _digests(path: Path, region: int) -> tuple[str, tuple[str, ...]]:
    """SHA-256 of a file, and the short ones of its regions, in one reading."""
    whole, regions = hashlib.sha256(), []
    with path.open("rb") as file:
        while piece := file.read(region):
            whole.update(piece)
            regions.append(hashlib.sha256(piece).hexdigest()[:SHORT])
    return whole.hexdigest(), tuple(regions)


def _runs(places: Sequence[int]) -> list[tuple[int, int]]:
    """First and last of each stretch of consecutive numbers."""
    found: list[tuple[int, int]] = []
    for place in places:
        if found and found[-1][1] == place - 1:
            found[-1] = (found[-1][0], place)
        else:
            found.append((place, place))
    return found


def _tensors(path: Path, start: int, end: int) -> str:
    """" (in NAMES)" of the tensors of a safetensors file that lie in these bytes; "" where that cannot be told."""
    if path.suffix != ".safetensors":
        return ""
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if not 0 < length <= path.stat().st_size:
                return ""
            header = json.loads(file.read(length))
        spans = {name: entry["data_offsets"] for name, entry in header.items() if name != "__metadata__"}
        names = [name for name, (a, b) in spans.items() if 8 + length + a < end and 8 + length + b > start]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return ""
    return f" (in {', '.join(names[:3])}{' ...' if len(names) > 3 else ''})" if names else ""
