"""Prompts that ask for a concept: what is used where a request names a concept and brings no rows of its own."""

from __future__ import annotations

from collections.abc import Sequence

from efface.core.errors import BadRows, Unfit
from efface.core.registry import ROOT
from efface.core.types import Row
from efface.ops import erasing

TEMPLATES = ("{}", "a photo of {}", "a picture of {}", "an image of {}", "a painting of {}", "a drawing of {}", "{} in the distance", "a close-up of {}")
"""Ways to ask for an object."""
STYLE_TEMPLATES = ("{}", "a house in {}", "a tree in {}", "a person in {}", "a landscape in {}", "a bowl of fruit in {}", "a street in {}", "an image in {}")
"""Ways to ask for a style, for concepts that end with the word style."""
CAPTIONS = ROOT / "data" / "captions.txt"
"""Everyday captions (MS COCO, CC BY 4.0)."""


def forget_rows(names: Sequence[str]) -> list[Row]:
    """Prompts that ask for the concepts."""
    return [{"prompt": text} for name in names for text in asked(name)]


def keep_rows(near: Sequence[str], captions: int = 40) -> list[Row]:
    """Prompts that ask for what must stay: the neighbors, and everyday captions."""
    lines = [line for line in CAPTIONS.read_text(encoding="utf-8").splitlines() if line and not line.startswith("#")]
    return [{"prompt": text} for text in dict.fromkeys([*(text for name in near for text in asked(name)), *lines[:captions]])]


def asked(name: str) -> list[str]:
    """The ways to ask for one concept."""
    return [template.format(name) for template in (STYLE_TEMPLATES if name.lower().split()[-1:] == ["style"] else TEMPLATES)]


def check(names: Sequence[str], near: Sequence[str], instead: str | None) -> None:
    """Raise Unfit for a concept that is empty, or that is to be kept as well."""
    if not names:
        raise Unfit('no concept was named; say in words what must go, such as "a cat"')
    for name in (*names, *near):
        if not name.strip():
            raise Unfit('a concept is empty; say in words what it is, such as "a cat"')
    plain = {_plain(name): name for name in names}
    for other in near:
        if _plain(other) in plain:
            raise Unfit(f"{other!r} is to be forgotten and to be kept; leave it out of one of them")
    if instead is not None and _plain(instead) in plain:
        raise Unfit(f"{instead!r} is to be forgotten and to be drawn in its own place; name something else")


def check_rows(rows: Sequence[Row], where: str) -> None:
    """Raise BadRows, with the row's number, for a row without a prompt."""
    if not rows:
        raise BadRows(f"{where}: no rows; give at least one")
    for number, row in enumerate(rows, start=1):
        if not isinstance(row.get("prompt"), str):
            raise BadRows(f"{where}, row {number}: found columns {', '.join(map(str, row)) or 'none'}; a row for a model that draws needs prompt")


def _plain(phrase: str) -> str:
    return erasing.bare(" ".join(phrase.lower().split()))
