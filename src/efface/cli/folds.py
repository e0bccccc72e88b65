"""efface folds: requests one after another, or growing ones, and what is left of each."""

from __future__ import annotations

from typing import Annotated

import typer

from efface.cli import options as o
from efface.cli.output import emit, result, table
from efface.cli.progress import Bars
from efface.cli.settings import names, parse
from efface.core.errors import BadConfig


def folds(
    out: o.Out,
    method: Annotated[str, typer.Option("--method", metavar="NAME", help="How to forget; `efface list --kind method` lists them.")] = "npo",
    study: Annotated[str, typer.Option("--study", metavar="NAME", help="sequential (each round goes on from the last) or scaling (growing requests, each from the original).")] = "sequential",
    count: Annotated[int, typer.Option("--folds", metavar="NUMBER", help="Parts to make of the forget rows, where the benchmark brings none.", min=1)] = 4,
    suite: Annotated[str, typer.Option("--suite", metavar="LIST", help="Metrics to measure each request with; verbatim memory of the request and knowledge of the kept side if not given.")] = "",
    model: o.Model = "",
    forget: o.Forget = None,
    keep: o.Keep = None,
    unseen: o.Unseen = None,
    benchmark: o.Benchmark = "",
    split: o.Split = "",
    case: o.CaseSet = None,
    settings: o.Set = None,
    seed: o.Seed = 0,
    device: o.Device = "auto",
    as_json: o.Json = False,
) -> None:
    """Forget several requests and measure every earlier one again after each."""
    if study not in ("sequential", "scaling"):
        raise BadConfig(f"--study {study}: it must be sequential or scaling")
    given = parse(settings)
    more = o.source("", None, None, "", case)
    from efface import folds as studies

    options = studies.FoldsOptions.model_validate({
        "model": model, "forget": forget, "keep": keep, "unseen": unseen, "benchmark": benchmark, "split": split, "seed": seed, "device": device,
        "method": method, "settings": given, "out": out, "study": study, "folds": count, "suite": names(suite), **more,
    })
    rounds = studies.study(options, Bars())
    if as_json:
        emit({"rounds": studies.table(rounds), "folder": out})
        return
    head, cells = studies.lines(rounds)
    table(head, cells)
    result("")
    result(f"{out / 'rounds.json'} holds every number with its parts, {out / 'model'} the last model")
