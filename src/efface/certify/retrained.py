"""The claim `retrained`, by lineage: no piece that answers was trained on a deleted row, or on top of one that was.

What is looked at: the lineage record, the bytes of every piece, and whether the served model is put together from these pieces.
What can be asked for besides: pieces trained again from lineage and seed, and compared bit for bit.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from efface.certify.certificate import Found, Ledger
from efface.core import digest, files, registry
from efface.core.context import Context, silent
from efface.core.errors import EffaceError, Unsound
from efface.families import lineage
from efface.families.lineage import Lineage, Piece

Progress = Callable[..., Any]


def look(folder: Path, recompute: int = 0, progress: Progress = silent) -> Found:
    """What a run with a lineage allows to claim. Raises Unsound, naming the assumption that fails."""
    record, ledger = lineage.read(folder), Ledger(folder)
    pieces = {piece.name: piece for piece in record.pieces}
    active = [piece for piece in record.pieces if piece.active]
    _check_record(record, pieces, active, ledger)
    _check_files(folder, record, active, ledger)
    evidence: dict[str, Any] = {
        "deleted rows": list(record.deleted), "pieces that answer": len(active), "pieces trained again": [], "seed": "stands in lineage.json",
    }
    after = digest.of_value({piece.name: piece.files for piece in active})
    if (folder / "model").is_dir():
        after = _check_model(folder, record, ledger, progress)
    if recompute:
        names = again(folder, record, recompute, progress)
        text = "a piece trained again from its recorded rows and seed has the same bytes"
        ledger.check("recomputed", text, True, f"{len(names)} of {len(active)} pieces were trained again, and each is bit for bit what it was")
        evidence["pieces trained again"] = list(names)
    ledger.declare("clean start", "the model that every piece begins with never saw a deleted row", "declared by whoever chose it; it is no part of the lineage")
    if not recompute:
        ledger.declare("recorded rows", "each piece saw the rows that the record says, and no others", "not trained again for this certificate (--recompute N)")
    count = len(record.deleted)
    return Found(
        claim="retrained", system=record.recipe, after=after, request=digest.of_value(record.deleted), assumptions=tuple(ledger.held), evidence=evidence,
        statement=f"What answers was trained as if {'the deleted row' if count == 1 else f'the {count} deleted rows'} had never been there: no piece of it, nor any piece below it, saw {'it' if count == 1 else 'one of them'}.",
        covers=tuple(name for name in ("lineage.json", "rows.json", "pieces", "start", "model") if (folder / name).exists())
        + tuple(sorted({path for piece in active for path in piece.files if not path.startswith("pieces/")})),
    )


def _check_record(record: Lineage, pieces: dict[str, Piece], active: Sequence[Piece], ledger: Ledger) -> None:
    """The record is whole, something was deleted, and nothing that answers has seen it."""
    ledger.check("a deletion", "rows were deleted from this run", bool(record.deleted), f"{len(record.deleted)} deleted rows", "there is nothing to certify yet; delete rows first")
    twice = len(record.pieces) - len(pieces)
    ledger.check("names", "every piece has a name of its own", not twice, f"{twice} names that stand twice" if twice else f"{len(pieces)} names")
    lost = sorted({name for piece in record.pieces for name in piece.after} - set(pieces))
    unknown = f"pieces that nobody describes: {', '.join(lost[:5])}" if lost else f"{len(pieces)} pieces"
    ledger.check("a whole record", "every piece that another builds on is in the record", not lost, unknown)
    bare = [piece.name for piece in active if not piece.files]
    ledger.check("files", "every piece that answers has files", not bare, f"none for {', '.join(bare[:5])}" if bare else f"{len(active)} pieces answer")
    deleted = set(record.deleted)
    tainted = [(piece.name, sorted(seen)) for piece in active if (seen := deleted & _seen(piece, pieces))]
    text = "no piece that answers, nor any that it builds on, was trained on a deleted row"
    found = f"{tainted[0][0]} rests on row {tainted[0][1][0]} ({len(tainted)} such pieces)" if tainted else f"{len(active)} pieces, none with one of the {len(deleted)} deleted rows"
    ledger.check("no deleted row", text, not tainted, found, "serve this deletion first, or switch the piece off")


def _seen(piece: Piece, pieces: dict[str, Piece]) -> set[int]:
    """The rows of a piece and of all that it builds on."""
    rows, waiting, done = set[int](), [piece.name], set[str]()
    while waiting:
        name = waiting.pop()
        if name not in done:
            done.add(name)
            rows |= set(pieces[name].rows)
            waiting += pieces[name].after
    return rows


def _check_files(folder: Path, record: Lineage, active: Sequence[Piece], ledger: Ledger) -> None:
    """Every piece has the bytes that the record says, and no other weights lie beside them."""
    held = {path: (piece.name, sha) for piece in active for path, sha in piece.files.items()}
    outside = [path for path in held if not (folder / path).resolve().is_relative_to(folder.resolve())]
    ledger.check("inside the run", "every file of a piece lies in the run folder", not outside, ", ".join(outside[:3]) or f"{len(held)} files")
    wrong = [f"{path} (of {name}) {'is missing' if not (folder / path).is_file() else 'has other bytes'}" for path, (name, sha) in held.items()
             if not (folder / path).is_file() or digest.of_file(folder / path) != sha]
    ledger.check("digests", "every file of a piece has the digest that the record gives", not wrong, "; ".join(wrong[:3]) or f"{len(held)} files as recorded")
    off = {path for piece in record.pieces if not piece.active for path in piece.files}
    lying = sorted(path for path in off - set(held) if (folder / path).exists())
    lying += [path.relative_to(folder).as_posix() for path in sorted((folder / "pieces").rglob("*"))
              if path.is_file() and path.relative_to(folder).as_posix() not in held and path.relative_to(folder).as_posix() not in off]
    text = "no file of a piece that was switched off, or that nobody describes, is left in the run"
    ledger.check("nothing left over", text, not lying, ", ".join(lying[:3]) or "none", "remove what was learned from deleted rows")


def _check_model(folder: Path, record: Lineage, ledger: Ledger, progress: Progress) -> str:
    """Digest of the served model, put together anew from the pieces and compared; declared where the rows cannot be read again."""
    from efface import api

    served: str = api.load(str(folder / "model"), "cpu").digest
    text = "the served model is put together from these pieces and nothing else"
    try:
        built, _ = _build(folder, record, (), progress)
    except Unsound:
        raise
    except EffaceError as error:
        ledger.declare("served model", text, f"not put together again: {error}")
        return served
    ledger.check("served model", text, built.digest == served, "the same digest, put together anew" if built.digest == served else "a model with another digest")
    return served


def again(folder: Path, record: Lineage, count: int, progress: Progress = silent) -> tuple[str, ...]:
    """Train pieces again and return their names; they are spread over the record. Raises Unsound when one has other bytes."""
    active = [piece for piece in record.pieces if piece.active]
    picked = active if count >= len(active) else [active[at * len(active) // count] for at in range(count)]
    names = tuple(piece.name for piece in picked)
    _, fresh = _build(folder, record, names, progress)
    made = {piece.name: piece for piece in fresh.pieces}
    for piece in picked:
        if piece.name not in made:
            raise Unsound(f"no certificate for {folder}: the assumption 'recomputed' fails. {piece.name} does not come about from the recorded rows and settings")
        differing = sorted(name for name, sha in _weights(piece).items() if _weights(made[piece.name]).get(name) != sha)
        if differing:
            raise Unsound(
                f"no certificate for {folder}: the assumption 'recomputed' fails. {piece.name}, trained again from its recorded rows and seed, "
                f"has other bytes in {differing[0]}; it saw something else, or was made on another machine or version"
            )
    return names


def _weights(piece: Piece) -> dict[str, str]:
    """{file name: SHA-256} of the weights of a piece; what describes them may name another place."""
    return {Path(path).name: sha for path, sha in piece.files.items() if path.endswith(".safetensors")}


def _build(folder: Path, record: Lineage, without: Sequence[str], progress: Progress) -> tuple[Any, Lineage]:
    """The served model and its lineage, built from the run's pieces; those in `without` are trained again, into a folder of their own."""
    from efface import api

    recipe: Any = registry.load("recipe", record.recipe).set(record.settings)
    if not hasattr(recipe, "build"):
        raise EffaceError(f"the recipe {record.recipe} cannot train single pieces")
    start, rows = api.load(_start(folder), "cpu"), lineage.read_rows(folder, record)
    left_out = {Path(path).parts[1] for piece in record.pieces if piece.name in without for path in piece.files if path.startswith("pieces/")}
    with tempfile.TemporaryDirectory(prefix="efface-") as name:
        place = Path(name) / "pieces"
        place.mkdir()
        for path in (folder / "pieces").iterdir():
            if path.name not in left_out:
                (place / path.name).symlink_to(path.resolve(), target_is_directory=True)
        built, fresh = recipe.build(start, rows, record.deleted, Context(seed=record.seed, device="cpu", folder=Path(name), progress=progress))
        return built, fresh


def _start(folder: Path) -> str:
    """The model that every piece begins with: kept in the run, or the base that a language model's adapter names."""
    if (folder / "start").is_dir() or not (folder / "model" / "adapter_config.json").exists():
        return str(folder / "start")
    config: Any = files.read_json(folder / "model" / "adapter_config.json")
    return str(config["base_model_name_or_path"])
