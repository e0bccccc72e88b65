"""Writing to the terminal: results to standard output, everything else to standard error."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

import typer

from efface.report.text import clean


def emit(value: object) -> None:
    """Write one JSON value to standard output."""
    typer.echo(json.dumps(value, indent=1, ensure_ascii=False, default=str))


def result(text: str) -> None:
    """Write a result to standard output."""
    typer.echo(clean(text))


def say(text: str) -> None:
    """Write one line about what is going on to standard error."""
    typer.echo(f"efface: {' '.join(clean(text).split())}", err=True)


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Write a table: ruled on a terminal, aligned plain text elsewhere."""
    cells = [[clean(cell).replace("\n", " ") for cell in row] for row in rows]
    if sys.stdout.isatty():
        _ruled(head, cells)
    else:
        _plain(head, cells)


def _ruled(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    try:
        from rich import box
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text
    except ImportError:
        _plain(head, rows)
        return
    ruled = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in head:
        ruled.add_column(name, overflow="fold")
    for row in rows:
        ruled.add_row(*map(Text, row))
    Console().print(ruled)


def _plain(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    for row in (head, *rows):
        typer.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def detected(path: Path) -> str:
    """How many rows a file holds and which columns play which part. Raises Missing or BadRows."""
    from efface.core import rows

    held = rows.read(path)
    if "y" in held[0] or ("prompt" in held[0] and not set(rows.ANSWER) & set(held[0])):
        return f"{path.name}: {len(held)} rows, columns {', '.join(map(str, held[0]))}"
    parts = rows.layout(held, str(path))
    return f"{path.name}: {len(held)} rows, {', '.join(f'{part} = {column}' for part, column in parts.items())}"
