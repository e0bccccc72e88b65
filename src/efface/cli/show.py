"""efface show: one system, with its settings."""

from __future__ import annotations

from typing import Annotated

import typer

from efface.cli.options import Json
from efface.cli.output import emit, result, say, table
from efface.cli.settings import describe
from efface.core import registry
from efface.core.card import TAXONOMY
from efface.core.errors import Missing, UnknownName

LABELS = {key: key for key in ("paper", "families", "needs", "uses", "access", "better", "extra", "departs")} | {"uses": "reads"}


def show(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name of a system, such as npo or attack/min_k.", show_default=False)],
    as_json: Json = False,
) -> None:
    """Show a system's card and its settings, with types, defaults and meaning."""
    found = [_one(kind, short) for kind, short in _places(name)]
    if as_json:
        emit(found[0] if len(found) == 1 else found)
        return
    for entry in found:
        _print(entry)


def _places(name: str) -> list[tuple[str, str]]:
    """(kind, name) of every system that is meant by `name`."""
    head, _, rest = name.partition("/")
    if head in registry.kinds() and rest:
        return [(head, rest)]
    there = {kind: registry.names(kind) for kind in registry.kinds()}
    places = [(kind, name) for kind, names in there.items() if name in names]
    if not places:
        raise UnknownName.among("system", name, {each for names in there.values() for each in names})
    return places


def _one(kind: str, name: str) -> dict[str, object]:
    entry = registry.as_dict(registry.card(kind, name), kind) | {"name": name}
    try:
        return entry | {"settings": describe(registry.load(kind, name).Config)}
    except Missing as error:
        say(f"settings of {name} cannot be shown: {error}")
        return entry | {"settings": []}


def _print(entry: dict[str, object]) -> None:
    result(f"{entry['kind']} {entry['name']}: {entry['title']}")
    for key, label in LABELS.items():
        value = entry[key]
        text = ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)
        if text and text != "none":
            result(f"  {label:<10} {text}")
    for key in TAXONOMY if entry["intent"] else ():  # with the word "none", which says something here
        value = entry[key]
        text = ", ".join(map(str, value)) if isinstance(value, tuple) else {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value)
        result(f"  {key:<10} {text}")
    settings = entry["settings"]
    if isinstance(settings, list) and settings:
        result("")
        table(
            ["SETTING", "TYPE", "DEFAULT", "MEANING"], [[str(row[key]) for key in ("name", "type", "default", "help")] for row in settings]
        )
    result("")
