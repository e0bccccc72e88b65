"""efface forget: a model and rows in, a run folder with the new model out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from efface.cli import options as o
from efface.cli.output import detected, emit, result, say
from efface.cli.progress import Bars
from efface.cli.settings import parse


def forget(
    out: o.Out,
    method: Annotated[str, typer.Option("--method", metavar="NAME", help="How to forget; `efface list --kind method` lists them.")] = "npo",
    model: o.Model = "",
    concept: o.Concept = None,
    near: o.Near = None,
    instead: o.Instead = "",
    judge: o.Judge = None,
    forget: o.Forget = None,
    keep: o.Keep = None,
    unseen: o.Unseen = None,
    data: o.Table = None,
    test: o.Test = None,
    forget_class: o.ForgetClass = None,
    forget_rows: o.ForgetRows = None,
    forget_where: o.ForgetWhere = "",
    arch: o.Arch = "",
    arch_args: o.ArchArgs = "",
    task: o.Task = "classifier",
    benchmark: o.Benchmark = "",
    split: o.Split = "",
    case: o.CaseSet = None,
    settings: o.Set = None,
    reason: o.Reason = "",
    seed: o.Seed = 0,
    device: o.Device = "auto",
    dtype: o.Dtype = "auto",
    as_json: o.Json = False,
) -> None:
    """Make a model forget rows, or a concept that it draws. A run that was stopped goes on when the same command is given again."""
    given = parse(settings)
    more = {**o.source(forget_where, forget_class, forget_rows, arch_args, case), **o.concept(concept, near, instead, judge)}
    announce(forget, keep, unseen, data, test, prompts=bool(concept))
    from efface import runs

    options = runs.ForgetOptions.model_validate({
        "model": model, "forget": forget, "keep": keep, "unseen": unseen, "data": data, "test": test, "arch": arch, "task": o.task(task),
        "benchmark": benchmark, "split": split, "reason": reason, "seed": seed, "device": device, "dtype": dtype, "method": method,
        "settings": given, "out": out, **more,
    })
    folder = runs.forget(options, Bars())
    if as_json:
        emit({"run": folder, "model": folder / "model"})
    else:
        result(f"{folder / 'model'} holds the new model; whether it forgot: efface prove {folder}")


def announce(*paths: Path | None, prompts: bool = False) -> None:
    """Say what was found in each file of rows, or of prompts for a model that draws."""
    for path in paths:
        if path is not None and prompts:
            from efface.families import prompt_files

            say(f"{path.name}: {len(prompt_files.read(path))} prompts")
        elif path is not None:
            say(detected(path))
