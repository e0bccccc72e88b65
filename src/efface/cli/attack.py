"""efface attack: adversaries alone, on a run or on any model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from efface.cli import gate
from efface.cli import options as o
from efface.cli.forget import announce
from efface.cli.progress import Bars
from efface.cli.prove import finish
from efface.core import registry
from efface.core.errors import Missing

if TYPE_CHECKING:
    from efface.core.types import Report


def attack(
    target: Annotated[str, typer.Argument(metavar="RUN_OR_MODEL", help="Folder of a run, or a model.", show_default=False)],
    attacks: Annotated[
        list[str] | None, typer.Option("--attack", metavar="NAME", help="An attack; repeat for more. All by default.")
    ] = None,
    forget: o.Forget = None,
    keep: o.Keep = None,
    unseen: o.Unseen = None,
    reference: o.Reference = "",
    fail_if: o.FailIf = None,
    seed: o.Seed = 0,
    device: o.Device = "auto",
    as_json: o.Json = False,
) -> None:
    """Attack a run (what is found joins its report) or a model (with --forget and --unseen rows)."""
    gates = gate.parse(fail_if)
    wanted = tuple(f"attack/{name}" for name in attacks or registry.names("attack"))
    for full in wanted:
        registry.card("attack", full.removeprefix("attack/"))
    run = Path(target)
    if (run / "run.json").exists():
        finish(_run(run, wanted, reference, device), run, gates, as_json)
        return
    if forget is None:
        raise Missing(f"{target} is not a run folder; to attack a model, give its rows with --forget FILE and --unseen FILE")
    announce(forget, keep, unseen)
    from efface import api
    from efface.core.context import Context

    request = api.request(forget, keep, unseen)
    compared = api.load(reference, device) if reference else None
    ctx = Context(seed=seed, device=device, progress=Bars())
    report = api.prove(api.load(target, device), request, reference=compared, suite=wanted, ctx=ctx)
    finish(report, None, gates, as_json)


def _run(run: Path, wanted: tuple[str, ...], reference: str, device: str) -> Report:
    """The run's report with these attacks added; what it holds already is not measured again."""
    from efface import runs

    held = (m.system for m in runs.load_report(run).measurements) if (run / "report.json").exists() else ()
    suite = tuple(dict.fromkeys((*held, *wanted)))
    return runs.prove(run, runs.ProveOptions(reference=reference, suite=suite, device="" if device == "auto" else device), Bars())
