"""efface guard: a model that can't be changed, behind a guard, as a run that can be proven like any other."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from efface.cli import options as o
from efface.cli.forget import announce
from efface.cli.output import emit, result
from efface.cli.progress import Bars
from efface.cli.settings import parse
from efface.core.errors import BadConfig

if TYPE_CHECKING:
    from efface.core.types import Case


def guard(
    out: o.Out,
    method: Annotated[str, typer.Option("--method", metavar="NAME", help="The guard; `efface list --kind guard` lists them.")] = "safree",
    model: o.Model = "",
    concept: o.Concept = None,
    near: o.Near = None,
    judge: o.Judge = None,
    forget: o.Forget = None,
    keep: o.Keep = None,
    benchmark: o.Benchmark = "",
    case: o.CaseSet = None,
    settings: o.Set = None,
    prompt: Annotated[list[str] | None, typer.Option("--prompt", metavar="TEXT", help="Draw this without and with the guard, into OUT/pictures.png; repeatable.")] = None,
    seed: o.Seed = 0,
    device: o.Device = "auto",
    dtype: o.Dtype = "auto",
    as_json: o.Json = False,
) -> None:
    """Put a guard before a model whose weights stay as they are. It has not forgotten anything, and its report says so."""
    given = parse(settings)
    more = {**o.source("", None, None, "", case), **o.concept(concept, near, "", judge)}
    announce(forget, keep, prompts=bool(concept))
    from efface import runs, sources

    options = runs.GuardOptions.model_validate({
        "model": model, "forget": forget, "keep": keep, "benchmark": benchmark, "seed": seed, "device": device, "dtype": dtype, "guard": method,
        "settings": given, "out": out, **more,
    })
    found = sources.start(options, "guard", progress=Bars())
    if prompt and found.original.family != "diffusion":
        raise BadConfig(f"--prompt is for models that draw; {model or benchmark} is a {found.original.family}")
    folder = runs.guard(options, Bars(), found)
    if prompt:
        _draw(folder, found, prompt)
    if as_json:
        emit({"run": folder})
    else:
        result(f"{folder} puts {method} before the model; what it still draws: efface prove {folder}")


def _draw(folder: Path, case: Case, prompts: list[str]) -> None:
    """Write one picture: a row for each prompt, without the guard on the left, with it on the right."""
    from efface import runs
    from efface.report import contact

    record = runs.record_of(folder)
    plain: Any = case.original
    guarded = runs.candidate_of(folder, case, record.source, record)
    columns = [(name, subject.generate(prompts)) for name, subject in (("without", plain), ("guarded", guarded))]
    contact.write(folder / "pictures.png", prompts, columns)
    result(f"{folder / 'pictures.png'}: {len(prompts)} prompts, without the guard on the left and with it on the right")
