"""efface audit: what a model still knows, for an auditor who did not make it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from efface.cli import gate
from efface.cli import options as o
from efface.cli.output import result, say, table
from efface.cli.progress import Bars
from efface.cli.prove import finish
from efface.cli.settings import names
from efface.core.errors import BadConfig

if TYPE_CHECKING:
    from efface.core.types import Report


def audit(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="The model that should have forgotten: a folder, a run's folder, a hub name.", show_default=False)],
    out: o.Out,
    against: Annotated[str, typer.Option("--against", metavar="MODEL", help="The model before forgetting.")] = "",
    reference: o.Reference = "",
    request: Annotated[Path | None, typer.Option("--request", metavar="FILE", help="Rows that should be forgotten (.jsonl, .json or .csv).")] = None,
    keep: o.Keep = None,
    unseen: o.Unseen = None,
    benchmark: Annotated[str, typer.Option("--benchmark", metavar="NAME", help="Take original, reference and rows from a benchmark.")] = "",
    split: o.Split = "",
    preset: Annotated[str, typer.Option("--preset", metavar="NAME", help="quick: 20 rows of each set and the cheaper attacks; full: 200 rows and everything that fits.")] = "quick",
    suite: Annotated[str, typer.Option("--suite", metavar="LIST", help="Only these systems or benchmarks' suites: attack/relearn,tofu,...")] = "",
    minutes: Annotated[float, typer.Option("--minutes", metavar="N", help="Spend at most so long, where intervals are widest.")] = 0.0,
    fail_if: o.FailIf = None,
    seed: o.Seed = 0,
    device: o.Device = "auto",
    dtype: o.Dtype = "auto",
    as_json: o.Json = False,
) -> None:
    """Say what a model still knows, in which form, by which attack and at what cost, and whether that is removal or suppression. Goes on where it was stopped."""
    gates = gate.parse(fail_if)
    if preset not in ("quick", "full"):
        raise BadConfig(f"--preset {preset}: it must be quick or full")
    from efface import audit as audits

    given = audits.AuditOptions.model_validate({
        "model": model, "against": against, "reference": reference, "forget": request, "keep": keep, "unseen": unseen, "benchmark": benchmark,
        "split": split, "preset": preset, "suite": names(suite), "minutes": minutes, "out": out, "seed": seed, "device": device, "dtype": dtype,
    })
    bars = Bars()
    plan = audits.plan(given, bars)
    say(plan.line)
    report = audits.run(plan)
    if not as_json:
        _intent(report)
        rows = [list(line) for line in audits.attack_costs(report)]
    finish(report, out, gates, as_json)
    if not as_json and rows:
        result("")
        table(["ATTACK", "NEEDS", "SPENT"], rows)


def _intent(report: Report) -> None:
    """Print what the evidence says of the intent, and what speaks for it."""
    if report.intent is None:
        result("Can't say whether it was removed or suppressed: that needs the original and the retrained reference.")
        return
    result(report.intent.line)
    against = [f for f in report.intent.findings if f.says in ("still there", "over-forgotten") and f.distance is not None]
    for f in sorted(against, key=lambda f: -abs(f.distance or 0) / (f.margin or 1))[:6]:
        result(f"  {f.says}: {f.evidence}, {f.name}: {f.distance:+.2f} [{f.low:+.2f}, {f.high:+.2f}], margin {f.margin:.2f}")
    result("")
