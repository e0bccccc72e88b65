"""Which rows every piece of a model saw: the record that exact deletion works on, and the folder that the pieces are kept in.

    RUN/lineage.json   the record
    RUN/rows.json      where the rows came from, and a digest of each that is still learned
    RUN/pieces/        one folder a piece, named by the digest of all that made it
    RUN/start/         the model that every piece begins with

Rows go by numbers from 1: those of the training file; or, when the rows came out of several files, their places in these files
taken together, forget rows first.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ValidationError

from efface.core import digest, files
from efface.core import rows as row_files
from efface.core.errors import BadRows, EffaceError, Missing, Unfit
from efface.core.types import Data, Request, Row

NUMBER = "row number, for efface alone"


class Piece(BaseModel):
    """One trained piece: files with their SHA-256, the rows that trained it, and the pieces that it builds on."""

    name: str
    files: dict[str, str] = {}
    """{path in the run folder: SHA-256}; none once the piece has been switched off, for its files are removed."""
    rows: list[int]
    after: list[str] = []
    seed: int
    active: bool = True


class Origin(BaseModel):
    """Where the rows came from, and their digest when the pieces were trained."""

    source: str
    digest: str


class Lineage(BaseModel):
    """Every piece of one run, and every row that was deleted from it."""

    kind: Literal["sisa", "s3t"]
    seed: int
    pieces: list[Piece]
    deleted: list[int] = []
    data: Origin
    recipe: str
    settings: dict[str, object]

    @property
    def known(self) -> set[int]:
        """Numbers of all rows that were ever trained on."""
        return {row for piece in self.pieces for row in piece.rows} | set(self.deleted)


@dataclass(frozen=True)
class Training:
    """The rows of a run by number, with the digest of each. A deleted row has no digest, and may be empty."""

    rows: dict[int, Row]
    digests: dict[int, str]
    origin: Origin
    sources: list[dict[str, str]]

    def digest_of(self, numbers: Collection[int]) -> str:
        """One digest for some of the rows; what the others hold plays no part in it."""
        return digest.of_value([[number, self.digests[number]] for number in sorted(numbers)])


def training(request: Request) -> Training:
    """The forget and keep rows of a request, all of which are trained on, by number. Unfit when there are none."""
    parts = [data for data in (request.forget, request.keep) if data is not None]
    if not parts:
        raise Unfit("the request has neither forget nor keep rows, and there is nothing to train on; give rows with --data FILE or --keep FILE")
    if len({data.source for data in parts}) == 1 and parts[0].source.startswith("file:"):
        found = dict(sorted(row for data in parts for row in _numbered(data)))
    else:
        found = dict(enumerate((row for data in parts for row in data.read()), start=1))
    name = " and ".join(dict.fromkeys(data.source for data in parts))
    digests = {number: digest.of_value(dict(row)) for number, row in found.items()}
    origin = Origin(source=name, digest=digest.of_value(list(digests.values())))
    return Training(found, digests, origin, [{"source": data.source, "part": data.part} for data in parts])


def _numbered(data: Data) -> Iterator[tuple[int, Row]]:
    """(number in the file, row) of the rows that a part of a file takes."""
    name = data.source.partition(":")[2]
    held = data.read()  # with the checks that belong to it
    if not data.part:
        yield from enumerate(held, start=1)
        return
    whole: list[dict[str, object]] = [{**row, NUMBER: number} for number, row in enumerate(row_files.read(Path(name)), start=1)]
    for row in row_files.select(whole, data.part, name):
        yield int(str(row[NUMBER])), {key: value for key, value in row.items() if key != NUMBER}


# -- the record on disk -------------------------------------------------------------------------------------------------------


def read(folder: Path) -> Lineage:
    """The record of a run. Raises Missing where there is none, EffaceError where it is damaged."""
    path = folder / "lineage.json"
    if not path.exists():
        what = f"{folder} holds no lineage.json" if folder.is_dir() else f"no run folder {folder}"
        raise Missing(f"{what}; rows can be deleted from what `efface train --recipe s3t` or `--recipe sisa` has made")
    try:
        return Lineage.model_validate(files.read_json(path))
    except ValidationError as error:
        first = error.errors()[0]
        raise EffaceError(f"{path} is not a lineage of this version: {'.'.join(map(str, first['loc']))}: {first['msg']}") from None


def write(folder: Path, record: Lineage) -> None:
    """Write the record, whole or not at all; one line a piece, so that a reader finds his way."""
    held = record.model_dump(mode="json")
    head = "".join(f" {json.dumps(name)}: {json.dumps(value, ensure_ascii=False)},\n" for name, value in held.items() if name != "pieces")
    lines = ",\n".join(f"  {json.dumps(piece, ensure_ascii=False)}" for piece in held["pieces"])
    files.write_text(folder / "lineage.json", f'{{\n{head} "pieces": [\n{lines}\n ]\n}}\n')


def write_rows(folder: Path, found: Training) -> None:
    """Write where the rows came from, and the digest of each."""
    _write_digests(folder, found.sources, {str(number): text for number, text in found.digests.items()})


def forget_digests(folder: Path, deleted: Collection[int]) -> list[int]:
    """Take the digests of deleted rows out of rows.json, for a short row can be guessed from its digest.

    Returns the numbers of rows that are left and have the digest of one that was taken out.
    """
    held: Any = files.read_json(folder / "rows.json")
    gone = set(deleted)
    kept = {number: text for number, text in held["digests"].items() if int(number) not in gone}
    taken = {text for number, text in held["digests"].items() if number not in kept}
    if taken:
        _write_digests(folder, held["sources"], kept)
    return [int(number) for number, text in kept.items() if text in taken]


def _write_digests(folder: Path, sources: Sequence[Mapping[str, str]], digests: Mapping[str, str]) -> None:
    files.write_text(folder / "rows.json", json.dumps({"sources": sources, "digests": digests}) + "\n")


def read_rows(folder: Path, record: Lineage, going: Collection[int] = ()) -> Training:
    """The rows of a run, read again. What stands in the place of a deleted row, or of one that is going, does not matter; any other
    must be as it was.

    Raises Missing or BadRows, naming the row.
    """
    held: Any = files.read_json(folder / "rows.json")
    gone, known = set(going), record.known
    expected = {int(number): text for number, text in held["digests"].items() if int(number) not in gone}
    one_file = len({source["source"] for source in held["sources"]}) == 1
    whole: list[Row] = []
    for source in held["sources"][:1] if one_file else held["sources"]:
        scheme, _, name = source["source"].partition(":")
        if scheme != "file":
            raise BadRows(f"{folder}: its rows came from {source['source']!r} and cannot be read again, so nothing can be retrained; train from a file of rows")
        whole += row_files.select(row_files.read(Path(name)), "" if one_file else source["part"], name)
    rows = {number: whole[number - 1] if number <= len(whole) else {} for number in sorted(known)}
    digests = {number: digest.of_value(dict(row)) for number, row in rows.items() if number in expected}
    changed = [number for number, text in expected.items() if digests.get(number) != text]
    if changed:
        raise BadRows(f"row {changed[0]} of {record.data.source.removeprefix('file:')} is not what it was when the run was made ({len(changed)} such rows); give back the original file, in which only deleted rows may differ")
    return Training(rows, digests, record.data, held["sources"])


def keep_start(folder: Path, start: Any) -> None:
    """Write the model that every piece begins with: a retraining needs it."""
    with files.whole_folder(folder / "start") as fresh:
        start.save(fresh)


# -- pieces on disk -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Store:
    """The folder of pieces of one run; without a folder nothing is kept and everything is trained."""

    folder: Path | None

    def place(self, name: str, key: str) -> Path | None:
        """Where a piece stands; None when it has not been made."""
        found = self.folder / "pieces" / f"{name}-{key[:16]}" if self.folder else None
        return found if found is not None and found.is_dir() else None

    @contextmanager
    def new(self, name: str, key: str) -> Iterator[Path | None]:
        """A folder to fill with a piece, there as a whole once the block ends; None where nothing is kept."""
        if self.folder is None:
            yield None
            return
        with files.whole_folder(self.folder / "pieces" / f"{name}-{key[:16]}") as fresh:
            yield fresh

    def files(self, name: str, key: str) -> dict[str, str]:
        """{path in the run folder: SHA-256} of a piece."""
        place = self.place(name, key)
        if place is None or self.folder is None:
            return {}
        return {str(path.relative_to(self.folder)): digest.of_file(path) for path in sorted(place.rglob("*")) if path.is_file()}

    def sweep(self, pieces: Sequence[Piece]) -> None:
        """Remove every folder that belongs to no active piece: what was learned from a deleted row must not lie about."""
        if self.folder is None:
            return
        kept = {path.split("/")[1] for piece in pieces if piece.active for path in piece.files}
        for place in (self.folder / "pieces").glob("*"):
            if place.name not in kept:
                shutil.rmtree(place, ignore_errors=True)


def key_of(parts: Mapping[str, object]) -> str:
    """Names a piece by all that made it: rows, seed, settings, version of efface, what it builds on."""
    import efface

    return digest.of_value({**parts, "version": efface.__version__})
