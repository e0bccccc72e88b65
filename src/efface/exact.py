"""Exact deletion from a run that was trained for it: what saw the rows is switched off (s3t) or trained again without them (sisa).

    from efface import exact

    done = exact.delete("RUN", [17, 205])
    print("\\n".join(done.said))

New pieces are made first, then the served model is swapped, then the record, and last the files of what saw the rows are
removed. A call that was killed leaves a run that answers, and is finished by the same call: pieces that stand there already are
not made again, and rows that were deleted before are no error.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from efface.core import digest, files, registry
from efface.core.context import Context, silent
from efface.core.errors import BadRows, EffaceError
from efface.families import lineage
from efface.families.lineage import Lineage, Piece, Store
from efface.ops import sequences

VIEWS = ("report.json", "report.html", "report.md")


@dataclass(frozen=True)
class Deletion:
    """What a deletion changed, and what is left."""

    rows: tuple[int, ...]
    """Rows that were deleted now."""
    before: tuple[int, ...]
    """Rows of the request that had been deleted before."""
    stopped: tuple[str, ...]
    """Pieces that are no longer used; their files are gone."""
    trained: tuple[str, ...]
    """Pieces that were trained again."""
    serving: int
    """Shards that answer."""
    twins: tuple[int, ...]
    """Rows that hold exactly what a row deleted now did, and are still learned."""
    left: float | None
    """Deletions to expect until no shard answers; None where there is no end to them."""
    said: tuple[str, ...]
    """All of it in plain words, a line each."""


def delete(run: str | Path, rows: Iterable[int], device: str = "auto", progress: Callable[..., Any] = silent) -> Deletion:
    """Delete rows, by number, from a run of s3t or sisa, and say what changed.

    Raises Missing when there is no such run, BadRows for rows that it never saw or that cannot be read again for a retraining.
    """
    folder, asked = Path(run), sorted(set(rows))
    _check(asked, lineage.read(folder))
    with _alone(folder):
        _tidy(folder)
        record = lineage.read(folder)
        fresh = [row for row in asked if row not in set(record.deleted)]
        gone = sorted({*record.deleted, *fresh})
        after = record
        if fresh:
            after = _switched_off(folder, record, gone) if record.kind == "s3t" else _retrained(folder, record, gone, device, progress)
            lineage.write(folder, after)
            for name in VIEWS:  # they speak of a model that no longer answers
                (folder / name).unlink(missing_ok=True)
        Store(folder).sweep(after.pieces)
        twins = lineage.forget_digests(folder, gone)
    return _told(record, after, (fresh, [row for row in asked if row not in fresh], twins))


def _check(asked: Sequence[int], record: Lineage) -> None:
    known = record.known
    if not asked:
        raise BadRows("no rows to delete were given")
    if strange := [row for row in asked if row not in known]:
        where = record.data.source.removeprefix("file:")
        more = f" ({len(strange)} such rows)" if len(strange) > 1 else ""
        raise BadRows(f"row {strange[0]}{more} was never trained on in this run, and nothing was deleted; its {len(known)} rows are {min(known)} to {max(known)} of {where}")


# -- switching off ------------------------------------------------------------------------------------------------------------


def _switched_off(folder: Path, record: Lineage, gone: Collection[int]) -> Lineage:
    """Serve with the stages that never saw these rows; nothing is trained."""
    dead: set[str] = set()
    pieces: list[Piece] = []
    for piece in record.pieces:
        if not piece.active or not set(gone).isdisjoint(piece.rows) or not dead.isdisjoint(piece.after):
            dead.add(piece.name)
            piece = piece.model_copy(update={"active": False, "files": {}})
        pieces.append(piece)
    after = record.model_copy(update={"pieces": pieces, "deleted": list(gone)})
    _serve(folder, longest(record), longest(after), (_name(record.deleted), _name(gone)))
    return after


def longest(record: Lineage) -> dict[int, list[Piece]]:
    """The sequence with most stages left of each shard, the first of equals; empty where none is left."""
    chains: dict[tuple[int, int], list[Piece]] = {}
    for piece in record.pieces:
        shard, number, _ = place_of(piece.name)
        chain = chains.setdefault((shard, number), [])
        if piece.active:
            chain.append(piece)
    best: dict[int, list[Piece]] = {}
    for (shard, _), chain in chains.items():
        if shard not in best or len(chain) > len(best[shard]):
            best[shard] = chain
    return best


def place_of(name: str) -> tuple[int, int, int]:
    """Shard, sequence and stage in the name of a piece."""
    found = re.fullmatch(r"shard(\d+)-(?:sequence(\d+)-stage|slice)(\d+)", name)
    if found is None:
        raise EffaceError(f"the lineage names a piece {name!r}; expected shard1-sequence1-stage1 or shard1-slice1")
    shard, number, stage = found.groups()
    return int(shard), int(number or 1), int(stage)


def _serve(folder: Path, was: dict[int, list[Piece]], now: dict[int, list[Piece]], without: tuple[str, str]) -> None:
    """Swap the model folder for one that holds these stages alone. What stays is linked and not copied, since files are never changed.

    `without` names the rows that were deleted before and those that are deleted now.
    """
    from efface.families import ensemble, stages

    old = folder / "model"
    living = [shard for shard, chain in now.items() if chain]
    places = {shard: [(folder / next(iter(piece.files))).parent for piece in now[shard]] for shard in living}
    with files.whole_folder(old) as fresh:
        if (old / stages.CONFIG).exists():  # a language model with one adapter
            _link(old, fresh, (stages.CONFIG, stages.ADAPTER))
            base: Any = files.read_json(old / stages.CONFIG)
            if living:
                stages.join(fresh, places[living[0]], base["base_model_name_or_path"])
            else:
                stages.silence(old, fresh)
            return
        _link(old / "base" if old.exists() else folder / "start", fresh / "base")
        held: Any = files.read_json(old / "config.json") if old.exists() else {"without": None}
        usable = held.get("without", "") == without[0]  # or else a call was killed after it had swapped the model
        before = {shard: number for number, shard in enumerate((shard for shard, chain in was.items() if chain), start=1)}
        for number, shard in enumerate(living, start=1):
            place = fresh / f"member-{number}"
            if usable and was[shard] == now[shard]:
                _link(old / f"member-{before[shard]}", place)
            else:
                place.mkdir()
                stages.join(place, places[shard])
        ensemble.write_config(fresh, "logits", [1] * len(living), without[1])


def _name(deleted: Collection[int]) -> str:
    return digest.of_value(sorted(deleted)) if deleted else ""


def _link(source: Path, target: Path, but: Collection[str] = ()) -> None:
    def link(one: str, other: str) -> object:
        try:
            os.link(one, other)
        except OSError:  # another file system, or one without links
            shutil.copy2(one, other)
        return other

    shutil.copytree(source, target, ignore=lambda place, names: [name for name in names if name in but], copy_function=link, dirs_exist_ok=True)


# -- training again -----------------------------------------------------------------------------------------------------------


def _retrained(folder: Path, record: Lineage, gone: Collection[int], device: str, progress: Callable[..., Any]) -> Lineage:
    """Train what saw these rows again without them, and serve with it."""
    from efface.families import module_files

    start, found = module_files.load(folder / "start", device), lineage.read_rows(folder, record, gone)
    ctx = Context(seed=record.seed, device=device, folder=folder, progress=progress)
    recipe: Any = registry.load("recipe", record.recipe).set(record.settings)
    served, after = recipe.build(start, found, gone, ctx)
    with files.whole_folder(folder / "model") as fresh:
        served.save(fresh)
    return after  # type: ignore[no-any-return]


# -- what is said -------------------------------------------------------------------------------------------------------------


def _told(before: Lineage, after: Lineage, rows: tuple[Sequence[int], Sequence[int], Sequence[int]]) -> Deletion:
    """The deletion in numbers and words. `rows` are those deleted now, those deleted before, and those that equal them."""
    fresh, known, twins = rows
    was = {piece.name: piece.files for piece in before.pieces if piece.active}
    now = {piece.name: piece.files for piece in after.pieces if piece.active}
    changed = [name for name, held in was.items() if now.get(name) != held]
    trained = [name for name in changed if name in now] if after.kind == "sisa" else []
    again = f"; {_count(known, 'row')} had been deleted before" if known else ""
    head = f"deleted: {_count(fresh, 'row')} ({len(after.deleted)} in all){again}"
    said: tuple[str, ...]
    if after.kind == "sisa":
        living = [piece for piece in after.pieces if place_of(piece.name)[2] == after.settings["slices"] and piece.rows]
        serving, left = len(living), None
        said = (
            f"{head}; {_count(trained, 'piece')} of {len(after.pieces)} {'was' if len(trained) == 1 else 'were'} trained again, in {_count({place_of(name)[0] for name in trained}, 'shard')}",
            f"served: {serving} of {after.settings['shards']} shards, from {sum(len(piece.rows) for piece in living)} rows",
            f"left: no limit; a further deletion costs up to {_count(range(int(str(after.settings['slices']))), 'stage')} of one shard",
        )
    else:
        serving, left, said = _told_s3t(before, after, head, len(changed))
    if twins:
        named = ", ".join(map(str, twins[:5])) + (" ..." if len(twins) > 5 else "")
        verb, hold = ("are", "hold") if len(twins) > 1 else ("is", "holds")
        said += (f"note: {_count(twins, 'row')} ({named}) {hold} the same as a deleted row and {verb} still learned; delete {'them' if len(twins) > 1 else 'it'} too if the content must go",)
    return Deletion(tuple(fresh), tuple(known), tuple(changed) if after.kind == "s3t" else (), tuple(trained), serving, tuple(twins), left, said)


def _told_s3t(before: Lineage, after: Lineage, head: str, stopped: int) -> tuple[int, float, tuple[str, ...]]:
    shards, slices = int(str(after.settings["shards"])), int(str(after.settings["slices"]))
    lengths = [len(chain) for chain in longest(after).values()]
    serving = sum(length > 0 for length in lengths)
    left, full = remaining(after), remaining(after, whole=True)
    first = f"{head}; nothing was trained, {_count(range(stopped), 'piece')} of {len(after.pieces)} {'was' if stopped == 1 else 'were'} switched off"
    if not serving:
        return 0, 0.0, (first, "served: nothing; no shard is left", f"left: nothing; train again without the {len(after.deleted)} deleted rows (efface train --recipe s3t)")
    return serving, left, (
        first,
        f"served: {serving} of {shards} shards, with {', '.join(map(str, lengths))} of {slices} stages",
        f"left: about {left:.0f} more deletions until no shard answers, if every slice is as likely to lose a row ({full:.0f} at the start)",
    )


def remaining(record: Lineage, whole: bool = False) -> float:
    """Deletions to expect until no shard of an s3t run answers; with `whole`, as when none had been deleted."""
    firsts = {(place_of(piece.name)[0], tuple(piece.rows)) for piece in record.pieces if not piece.after and (piece.active or whole)}
    return sequences.capacity(int(str(record.settings["shards"])), int(str(record.settings["slices"])), len(firsts))


def _count(items: Collection[object], what: str) -> str:
    return f"{len(items)} {what}{'' if len(items) == 1 else 's'}"


# -- one at a time, and what a kill leaves behind -----------------------------------------------------------------------------


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Keep other deletions out; the lock goes with the process, however it ends."""
    with (folder / ".deleting").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise EffaceError(f"another deletion is being served in {folder}; wait until it is done") from None
        yield


def _tidy(folder: Path) -> None:
    """Put back a model that was being swapped when a call was killed, and remove what was unfinished."""
    old = sorted(folder.glob(".model.old-*"))
    if old and not (folder / "model").exists():
        old[-1].rename(folder / "model")
    for place in (*folder.glob(".model.*"), *folder.glob(".start.*"), *(folder / "pieces").glob(".*")):
        shutil.rmtree(place, ignore_errors=True)
    for place in (*folder.glob(".lineage.json.*"), *folder.glob(".rows.json.*")):
        place.unlink(missing_ok=True)
