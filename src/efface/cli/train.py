"""efface train: how the model to be cleaned, and the reference, come to be."""

from __future__ import annotations

from typing import Annotated

import typer

from efface.cli import options as o
from efface.cli.forget import announce
from efface.cli.output import emit, result
from efface.cli.progress import Bars
from efface.cli.settings import parse


def train(
    out: o.Out,
    recipe: Annotated[str, typer.Option("--recipe", metavar="NAME", help="finetune (all rows), retrain (keep rows alone), or another of `efface list --kind recipe`.")] = "finetune",
    model: o.Model = "",
    forget: o.Forget = None,
    keep: o.Keep = None,
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
    part: Annotated[str, typer.Option("--part", metavar="NAME", help="With --benchmark: which of its models to remake.")] = "",
    settings: o.Set = None,
    seed: o.Seed = 0,
    device: o.Device = "auto",
    dtype: o.Dtype = "auto",
    as_json: o.Json = False,
) -> None:
    """Train a model on all rows, or a reference on the kept rows alone."""
    given = parse(settings)
    more = o.source(forget_where, forget_class, forget_rows, arch_args, None)
    announce(forget, keep, data, test)
    from efface import runs

    options = runs.TrainOptions.model_validate({
        "model": model, "forget": forget, "keep": keep, "data": data, "test": test, "arch": arch, "task": o.task(task), "benchmark": benchmark,
        "split": split, "part": part, "seed": seed, "device": device, "dtype": dtype, "recipe": recipe, "settings": given, "out": out, **more,
    })
    folder = runs.train(options, Bars())
    if as_json:
        emit({"run": folder, "model": folder / "model"})
    else:
        result(f"{folder / 'model'} holds the trained model")
