"""efface compare: many methods on one benchmark, in one table."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from efface.cli import options as o
from efface.cli.output import emit, result
from efface.cli.progress import Bars
from efface.cli.settings import by_method, names, parse
from efface.core.errors import BadConfig

Settings = Annotated[
    list[str] | None, typer.Option("--set", metavar="[METHOD:]NAME=VALUE", help="A setting, for one method or for all that have it.")
]


def compare(
    out: o.Out,
    benchmark: o.Benchmark = "authors",
    split: o.Split = "",
    case: Annotated[
        list[str] | None, typer.Option("--case", metavar="NAME=VALUES", help="A setting of the benchmark with one or more values, such as scenario=class,noisy.")
    ] = None,
    methods: Annotated[str, typer.Option("--methods", metavar="LIST", help="all, or names with commas.")] = "all",
    seeds: Annotated[str, typer.Option("--seeds", metavar="LIST", help="Seeds with commas.")] = "0,1",
    settings: Settings = None,
    where: Annotated[Path | None, typer.Option("--table", metavar="FILE", help="Where to write the table; FOLDER/table.md if not given.")] = None,
    tuned: Annotated[bool, typer.Option("--tuned", help="Begin with the settings that the benchmark has for its own models.")] = False,
    no_attacks: Annotated[bool, typer.Option("--no-attacks", help="Metrics only.")] = False,
    as_json: o.Json = False,
) -> None:
    """Run and prove every method with every seed; what is finished is never run again."""
    given, numbers = by_method(settings), _seeds(seeds)
    from efface import compare as comparing

    chosen = () if methods.strip() == "all" else names(methods)
    options = comparing.CompareOptions(
        benchmark=benchmark, split=split, case={name: names(str(value)) for name, value in parse(case).items()}, methods=chosen, seeds=numbers, settings=given, tuned=tuned, attacks=not no_attacks, out=out, table=where
    )
    path = comparing.compare(options, Bars())
    if as_json:
        emit({"table": path, "json": path.with_suffix(".json"), "chart": path.with_suffix(".svg")})
    else:
        result(path.read_text(encoding="utf-8"))
        result(str(path))


def _seeds(text: str) -> tuple[int, ...]:
    try:
        found = tuple(int(name) for name in names(text))
    except ValueError:
        raise BadConfig(f"--seeds {text}: give whole numbers with commas, such as 0,1") from None
    if not found:
        raise BadConfig("--seeds: give at least one seed")
    return found
