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
    concept: o.Concept = None,
    near: o.Near = None,
    judge: o.Judge = None,
    original: Annotated[str, typer.Option("--original", metavar="MODEL", help="The model before forgetting, where an attack compares with it.")] = "",
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
    if forget is None and not concept:
        raise Missing(f"{target} is not a run folder; to attack a model, give its rows with --forget FILE and --unseen FILE, or what it draws with --concept TEXT")
    announce(forget, keep, unseen, prompts=bool(concept))
    from efface import api, sources
    from efface.core.context import Context

    said = o.concept(concept, near, "", judge)
    request = api.concept(concept, near or (), None, forget, keep) if concept else api.request(forget or Path(), keep, unseen)
    others = {name: api.load(model, device) for name, model in (("original", original), ("reference", reference)) if model}
    subject = api.load(target, device)
    ctx = Context(seed=seed, device=device, progress=Bars(), baselines=sources.judges(sources.Source.model_validate({"device": device, **said})))
    fitting = wanted if attacks else tuple(full for full in wanted if subject.family in registry.card("attack", full.removeprefix("attack/")).families)
    report = api.prove(subject, request, others.get("original"), others.get("reference"), fitting, ctx)
    finish(report, None, gates, as_json)


def _run(run: Path, wanted: tuple[str, ...], reference: str, device: str) -> Report:
    """The run's report with these attacks added; what it holds already is not measured again."""
    from efface import runs

    held = (m.system for m in runs.load_report(run).measurements) if (run / "report.json").exists() else ()
    suite = tuple(dict.fromkeys((*held, *wanted)))
    return runs.prove(run, runs.ProveOptions(reference=reference, suite=suite, device="" if device == "auto" else device), Bars())
