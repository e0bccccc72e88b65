"""Reads RWKU's parts (arXiv:2406.10890), and those that ORT adds (arXiv:2506.07795), from a folder, from the package, or from the hub.

A folder is laid out as released: files of one target (forget_level1.json ..), the same with the target's name in front
(stephen_king_forget_level1.json), or all targets in one file a part, of which the target's rows are taken.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib.resources import files as resources
from pathlib import Path
from typing import Any

from efface.core import rows as row_files
from efface.core.errors import BadRows, Missing
from efface.core.rows import Row

PROBES = ("forget_level1", "forget_level2", "forget_level3", "neighbor_level1", "neighbor_level2")
CHOICES = ("forget_level4", "neighbor_level4")
PASSAGES = ("forget_mia", "retain_mia")
HUB = {"forget_mia": "mia_forget", "retain_mia": "mia_retain", "intro": "forget_target"}
"""What the hub calls a part, where it has another name than the file."""
NEEDS: Mapping[str, tuple[str, ...]] = {
    **{part: ("query", "answer", "type", "level", "subject") for part in ("forget_level1", "forget_level2", "forget_level3")},
    **{part: ("query", "answer", "type", "level", "subject", "neighbor") for part in ("neighbor_level1", "neighbor_level2")},
    **{part: ("query", "answer", "level", "subject") for part in CHOICES}, **{part: ("text", "subject") for part in PASSAGES}, "intro": ("target", "intro"),
}
"""Columns of each part."""
SHIPPED = "Stephen King"
Source = Callable[[str], list[dict[str, Any]] | None]
"""Rows of a part by its name; None when there is no such part."""


def read(source: Source, target: str, where: str) -> tuple[str, dict[str, list[Row]]]:
    """The target ("" takes the one that the files are about) and its rows by part. Raises Missing, or BadRows with part and row."""
    parts: dict[str, list[Row]] = {}
    for part, columns in NEEDS.items():
        for number, row in enumerate(source(part) or (), start=1):
            if bare := next((column for column in columns if not isinstance(row.get(column), str) or not row[column].strip()), ""):
                raise BadRows(f"{where}, {part}, row {number}: column {bare!r} is missing or empty; found {', '.join(map(str, row))}")
            parts.setdefault(part, []).append(row)
    probes = [row for part in PROBES[:3] for row in parts.get(part, ())]
    if not probes:
        raise Missing(f"{where} has none of {', '.join(PROBES[:3])}; give the folder with RWKU's files of a target")
    known = list(dict.fromkeys(str(row["subject"]) for row in probes))
    chosen = target or known[0]
    if (not target and len(known) > 1) or chosen not in known:
        raise Missing(f"{where} is about {', '.join(known[:8])}{' and more' if len(known) > 8 else ''}; say which with target=NAME")
    mine = {part: [row for row in rows if row.get("subject", row.get("target")) == chosen] for part, rows in parts.items()}
    return chosen, {part: rows for part, rows in mine.items() if rows}


def folder(path: Path, target: str = "") -> Source:
    """Parts out of a folder. Raises Missing when it is not there."""
    if not path.is_dir():
        raise Missing(f"no folder {path}; give the one with RWKU's files of a target")
    name = "_".join(target.casefold().split())

    def part(which: str) -> list[dict[str, Any]] | None:
        exact = path / f"{which}.json"
        found = [exact] if exact.exists() else sorted(path.glob(f"*_{which}.json"))
        found = [file for file in found if file == exact or not name or file.name.casefold() == f"{name}_{which}.json"]
        if len(found) > 1:
            raise Missing(f"{path} holds {which} of several targets ({', '.join(file.name for file in found[:4])}); say which with target=NAME")
        return row_files.read(found[0]) if found else None

    return part


def shipped() -> Source:
    """The parts of RWKU's first target that come with the package: the probes, without the passages from Wikipedia."""
    with_name = resources("efface.data").joinpath("rwku")
    return folder(Path(str(with_name)), SHIPPED)


def hub(name: str) -> Source:
    """Parts from the hub, through the library `datasets`. Raises Missing when it is not installed."""
    try:
        import datasets
    except ImportError:
        raise Missing('reading RWKU from the hub needs datasets; run: pip install "efface[hub]", or give --case folder=FOLDER with its files') from None

    def part(which: str) -> list[dict[str, Any]] | None:
        config = HUB.get(which, which)
        try:
            return [dict(row) for rows in datasets.load_dataset(name, config).values() for row in rows]
        except ValueError:  # no configuration of this name
            return None
        except (OSError, datasets.exceptions.DatasetsError) as error:
            raise Missing(f"cannot read {config!r} of {name} from the hub: {' '.join(str(error).split())[:200]}") from None

    return part
