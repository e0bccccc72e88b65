"""Refusals: what a model says in place of an answer that it should no longer know."""

from __future__ import annotations

import random
from collections.abc import Sequence
from importlib.resources import files as resources
from pathlib import Path

from efface.core import rows as row_files
from efface.core.errors import BadRows, Missing, Unfit
from efface.core.types import Row


def lines(file: str, instead: str | None = None) -> list[str]:
    """The refusals of a text file, one a line; of the request (`instead`) when no file is named; else efface's own list."""
    if file:
        try:
            text = Path(file).read_text(encoding="utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            raise Missing(f"cannot read the refusals in {file} ({error}); give a UTF-8 text file with one refusal a line") from None
    elif instead:
        text = instead
    else:
        text = resources("efface.data").joinpath("refusals.txt").read_text(encoding="utf-8")
    found = [line.strip() for line in text.splitlines() if line.strip()]
    if not found:
        raise BadRows(f"{file or 'the request'} holds no refusal; it needs at least one line")
    return found


def refuse(rows: Sequence[Row], said: Sequence[str], each: int, source: random.Random) -> list[Row]:
    """The rows with a refusal as answer, `each` times over: all rows once, then all again with other refusals.

    Raises Unfit for rows of plain text, which ask no question that could be refused.
    """
    parts = row_files.layout(rows)
    if "text" in parts:
        raise Unfit("these rows are plain text without a question; a refusal needs rows with prompt and answer, or messages")
    turns = [_several(said, each, source) for _ in rows]
    return [_answered(row, parts, turn[copy]) for copy in range(each) for row, turn in zip(rows, turns, strict=True)]


def _several(said: Sequence[str], each: int, source: random.Random) -> list[str]:
    """`each` refusals, different ones as long as there are enough."""
    picked: list[str] = []
    while len(picked) < each:
        picked += source.sample(list(said), min(len(said), each - len(picked)))
    return picked


def _answered(row: Row, parts: dict[str, str], answer: str) -> Row:
    if "messages" in parts:
        said: list[dict[str, str]] = list(row["messages"])  # type: ignore[call-overload]
        return {**row, "messages": [*said[:-1], {**said[-1], "content": answer}]}
    return {**row, parts["answer"]: answer}
