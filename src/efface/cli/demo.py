"""efface demo: the whole story in one command, on the model that comes with efface."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from efface.cli import options as o
from efface.cli.output import say
from efface.cli.progress import Bars
from efface.cli.prove import finish


def demo(
    out: Annotated[Path, typer.Option("--out", metavar="FOLDER", help="Folder to make.")] = Path("demo-run"),
    method: Annotated[str, typer.Option("--method", metavar="NAME", help="How to forget.")] = "npo",
    fresh: Annotated[bool, typer.Option("--fresh", help="Measure everything again, shipped scores included.")] = False,
    seed: o.Seed = 0,
    as_json: o.Json = False,
) -> None:
    """Make a real language model forget four invented authors, attack it, and report."""
    from efface import runs

    bars = Bars()
    if not (out / "run.json").exists():
        say(f"1 of 2: a 135M language model forgets four of forty invented authors with {method}")
        runs.forget(runs.ForgetOptions(benchmark="authors", method=method, seed=seed, out=out), bars)
    say("2 of 2: the model is measured and attacked, beside the original and one that never saw these authors")
    finish(runs.prove(out, runs.ProveOptions(fresh=fresh), bars), out, [], as_json)
