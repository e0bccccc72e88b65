"""efface demo: the whole story in one command, on models that come with efface or are trained in seconds."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from efface.cli import options as o
from efface.cli.output import result, say
from efface.cli.progress import Bars
from efface.cli.prove import finish
from efface.core.errors import BadConfig

if TYPE_CHECKING:
    from efface.runs import TrainOptions

FOLDERS = {"language": "demo-run", "classifier": "demo-classifier-run", "image": "demo-image-run"}
USUAL = {"language": "npo", "classifier": "ssd", "image": "uce"}
"""The method of each, unless told otherwise."""
DELETED = (17, 205, 644)
"""Rows that the exact part deletes, by number."""


def demo(
    what: Annotated[str, typer.Option("--what", metavar="NAME", help="language (a 135M language model, minutes), classifier (digits, under one) or image (a text-to-image model, minutes).")] = "language",
    out: Annotated[Path | None, typer.Option("--out", metavar="FOLDER", help="Folder to make.")] = None,
    method: Annotated[str, typer.Option("--method", metavar="NAME", help="How to forget; npo for language, ssd for a classifier, uce for images, if not given.")] = "",
    fresh: Annotated[bool, typer.Option("--fresh", help="Measure everything again, shipped scores included.")] = False,
    seed: o.Seed = 0,
    as_json: o.Json = False,
) -> None:
    """Make a real model forget, attack it, and report: a language model, a small classifier, or a model that draws."""
    if what not in FOLDERS:
        raise BadConfig(f"--what {what}: it must be {', '.join(FOLDERS)}")
    place, bars, chosen = out or Path(FOLDERS[what]), Bars(), method or USUAL[what]
    if what == "language":
        _language(place, chosen, seed, fresh, as_json, bars)
    elif what == "classifier":
        _classifier(place, chosen, seed, as_json, bars)
    else:
        _image(place, chosen, seed, as_json, bars)


def _language(out: Path, method: str, seed: int, fresh: bool, as_json: bool, bars: Callable[..., object]) -> None:
    from efface import runs

    if not (out / "run.json").exists():
        say(f"1 of 2: a 135M language model forgets four of forty invented authors with {method}")
        runs.forget(runs.ForgetOptions(benchmark="authors", method=method, seed=seed, out=out), bars)
    say("2 of 2: the model is measured and attacked, beside the original and one that never saw these authors")
    finish(runs.prove(out, runs.ProveOptions(fresh=fresh), bars), out, [], as_json)


def _classifier(out: Path, method: str, seed: int, as_json: bool, bars: Callable[..., object]) -> None:
    from efface import runs, sources

    say(f"1 of 3: a network that reads ten digits forgets the 3 with {method}, and is measured beside networks that never saw one")
    case = sources.benchmark(sources.Source(benchmark="digits", seed=seed), bars)
    run = out / f"class-{method}"
    if not (run / "run.json").exists():
        runs.forget(runs.ForgetOptions(benchmark="digits", method=method, seed=seed, out=run), bars, case)
    finish(runs.prove(run, runs.ProveOptions(), bars, case), run, [], as_json)
    say("2 of 3: the same rows must go from a model that was trained for it (sisa): three rows are deleted, exactly")
    served = out / "served"
    if not (served / "run.json").exists():
        runs.train(_for_deletion(out, seed), bars)
    from efface import exact

    done = exact.delete(served, DELETED, progress=bars)
    if not as_json:
        result("\n".join(("", *done.said)))
    say("3 of 3: a certificate, and its check, in which two pieces are trained again and compared bit for bit")
    from efface.certify import issue

    issue.issue(served, progress=bars)
    checked = issue.verify(served / "certificate.json", recompute=2, progress=bars)
    if not as_json:
        result("\n".join(("", checked.certificate.statement, *(f"checked: {line}" for line in checked.checked), *(f"PROBLEM: {line}" for line in checked.problems))))
        result(f"certificate: {served / 'certificate.json'}")


def _image(out: Path, method: str, seed: int, as_json: bool, bars: Callable[..., object]) -> None:
    from efface import runs, sources
    from efface.benchmarks import emoji

    case = sources.benchmark(sources.Source(benchmark="emoji", seed=seed), bars)
    say(f"1 of 2: a model that draws 48 emoji in three styles forgets the cat with {method}, is measured beside one that never saw a cat, and attacked")
    run = out / f"cat-{method}"
    if not (run / "run.json").exists():
        options = runs.ForgetOptions(benchmark="emoji", method=method, settings=emoji.tuned(method), seed=seed, out=run)
        runs.forget(options, bars, case)
    memo: dict[Hashable, object] = {}
    finish(runs.prove(run, runs.ProveOptions(suite=emoji.QUICK), bars, case, memo), run, [], as_json)
    say("2 of 2: the same model, unchanged, behind a guard that filters the words of prompts (safree)")
    guarded = out / "cat-safree"
    if not (guarded / "run.json").exists():
        runs.guard(runs.GuardOptions(benchmark="emoji", guard="safree", settings=emoji.tuned("safree"), seed=seed, out=guarded), bars, case)
    finish(runs.prove(guarded, runs.ProveOptions(suite=emoji.QUICK, attacks=False), bars, case, memo), guarded, [], as_json)


def _for_deletion(out: Path, seed: int) -> TrainOptions:
    """What trains a network on the digits so that rows can be deleted later: rows and an untrained network, written to files."""
    from efface import runs
    from efface.benchmarks import digits
    from efface.core import files
    from efface.families import tables

    parts = digits.split("class")
    out.mkdir(parents=True, exist_ok=True)
    tables.write_arrays(out / "digits.safetensors", [*parts.forget, *parts.keep])
    if not (out / "untrained").exists():
        with files.whole_folder(out / "untrained") as fresh:
            digits.network(seed).save(fresh)
    settings = {"shards": 4, "slices": 4, "lr": 0.05, "momentum": 0.9}
    return runs.TrainOptions(model=str(out / "untrained"), data=out / "digits.safetensors", recipe="sisa", settings=settings, seed=seed, out=out / "served")
