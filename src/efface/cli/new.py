"""efface new: a system to start from."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from efface.cli import options as o
from efface.cli import scaffold
from efface.cli.output import emit, result
from efface.core.card import FOLDERS
from efface.core.errors import BadConfig


def new(
    kind: Annotated[str, typer.Argument(metavar="KIND", help="method.", show_default=False)],
    name: Annotated[str, typer.Argument(metavar="NAME", help="File stem of the new system, such as my_idea.", show_default=False)],
    folder: Annotated[Path, typer.Option("--folder", metavar="FOLDER", help="A checkout of efface, or your own package.")] = Path("."),
    as_json: o.Json = False,
) -> None:
    """Write a new method and its five tests; both run as they stand."""
    if kind != "method":
        where = f"; for a {kind}, start from a file in src/efface/{FOLDERS[kind]}" if kind in FOLDERS else ""
        raise BadConfig(f"efface new writes a method, not {kind!r}{where}")
    source, tests = scaffold.method(name, folder)
    if as_json:
        emit({"source": source, "tests": tests})
    else:
        result(f"{source}\n{tests}")
