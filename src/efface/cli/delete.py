"""efface delete: row numbers in, a run that never saw these rows out."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from efface.cli import options as o
from efface.cli.output import emit, result
from efface.cli.progress import Bars


def delete(
    lineage: Annotated[Path, typer.Option("--lineage", metavar="RUN", help="Run that `efface train --recipe s3t` or `--recipe sisa` made.", show_default=False)],
    rows: Annotated[Path, typer.Option("--rows", metavar="FILE", help="Numbers of the rows that must go, one a line, counted from 1 in the training file.", show_default=False)],
    device: o.Device = "auto",
    as_json: o.Json = False,
) -> None:
    """Delete training rows exactly: switch off or retrain what saw them, and say what is still served and how much more can go."""
    from efface import exact
    from efface.core.rows import row_numbers

    done = exact.delete(lineage, list(row_numbers(rows)), device, Bars())
    if as_json:
        emit(asdict(done))
    else:
        result("\n".join(done.said))
