"""efface prove: measures a run and says whether it forgot."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from efface.cli import gate
from efface.cli import options as o
from efface.cli.output import result, say, table
from efface.cli.progress import Bars
from efface.cli.settings import names

if TYPE_CHECKING:
    from efface.core.types import Report
    from efface.report.view import View


def prove(
    run: o.Run,
    reference: o.Reference = "",
    original: Annotated[str, typer.Option("--original", metavar="MODEL", help="The model before forgetting, where it has moved.")] = "",
    suite: Annotated[str, typer.Option("--suite", metavar="LIST", help="Only these: metric/rouge_recall,attack/min_k,...")] = "",
    no_attacks: Annotated[bool, typer.Option("--no-attacks", help="Metrics only.")] = False,
    fresh: Annotated[bool, typer.Option("--fresh", help="Measure everything again, shipped scores included.")] = False,
    fail_if: o.FailIf = None,
    device: o.Device = "",
    as_json: o.Json = False,
) -> None:
    """Measure and attack the run's model, and give the verdict against the retrained reference."""
    gates = gate.parse(fail_if)
    from efface import runs

    options = runs.ProveOptions(
        reference=reference, original=original, suite=names(suite), attacks=not no_attacks, fresh=fresh, device=device
    )
    report = runs.prove(run, options, Bars())
    finish(report, run, gates, as_json)


def finish(report: Report, run: Path | None, gates: list[gate.Gate], as_json: bool) -> None:
    """Print the report; exit with 3 when a gate fails."""
    from efface.report import build

    view = build.view(report)
    if as_json:
        typer.echo(report.model_dump_json(indent=1))
    else:
        summary(view)
        if run is not None and (run / "report.html").exists():
            result(f"report: {run / 'report.html'}")
    bad = gate.failed(gates, view)
    for line in bad:
        say(f"gate failed: {line}")
    if bad:
        raise typer.Exit(3)


def summary(view: View) -> None:
    """Print the verdict, all numbers, the worst attack, and what was not measured."""
    result(view.first_line)
    result("")
    rows = [
        [line.name, *(f"{line.cells[s].text} {line.cells[s].interval}".strip() for s in view.subjects), line.distance_text]
        for line in (*view.metrics, *view.attacks)
    ]
    if rows:
        table(["", *(view.heading(subject).upper() for subject in view.subjects), "DISTANCE"], rows)
        result("")
    result(f"worst attack: {view.worst_text}")
    for skip in view.skipped:
        result(f"{skip.status}: {skip.system} ({skip.models}): {skip.why}")
