"""Runs on disk: the folder that `efface forget` and `efface train` make, and that `efface prove` and `efface report` add to.

    run.json            what was asked: model, rows with digests, method, settings, seed, and the step that was taken
    log.jsonl           the training log, one line a step
    model/              the new model: a transformers folder, or a peft adapter folder where LoRA was asked for
    measurements.jsonl  every finished measurement; rows/ holds their per-row tables
    report.json         the report; report.html and report.md are views of it

Until a run is finished its folder is named OUT.partial; the same command, given again, goes on from its last checkpoint.
"""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable, Hashable, Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from efface import api, sources
from efface.core import files, registry
from efface.core.context import Context, silent
from efface.core.errors import EffaceError, Missing
from efface.core.types import Case, Report, Request, Step, Subject
from efface.families import checkpoint
from efface.sources import Source

Progress = Callable[..., Any]
log = logging.getLogger("efface")
CHECKPOINT_EVERY = 25
"""Steps between two checkpoints of a run on disk, unless fit.checkpoint says otherwise."""


class ForgetOptions(Source):
    """What `efface forget` is given."""

    method: str
    settings: dict[str, object] = {}
    out: Path


class TrainOptions(Source):
    """What `efface train` is given; with a benchmark, `part` names the model of it to remake."""

    recipe: str = "finetune"
    part: str = ""
    settings: dict[str, object] = {}
    out: Path


class GuardOptions(Source):
    """What `efface guard` is given."""

    guard: str
    settings: dict[str, object] = {}
    out: Path


class ProveOptions(BaseModel):
    """What `efface prove` is given."""

    model_config = ConfigDict(extra="forbid")

    reference: str = ""
    original: str = ""
    suite: tuple[str, ...] = ()
    """Systems such as "metric/rouge_recall"; all that fit when empty."""
    attacks: bool = True
    fresh: bool = False
    """Measure again what was measured before, shipped passes included."""
    device: str = ""


class RunRecord(BaseModel):
    """run.json: what was asked and what was done."""

    schema_version: int = 1
    kind: Literal["method", "recipe", "guard"]
    source: Source
    request: Request
    step: Step
    environment: dict[str, str] = {}


def forget(options: ForgetOptions, progress: Progress = silent, case: Case | None = None) -> Path:
    """Run a method and return the finished run folder. Raises EffaceError when it exists already.

    `case` is what the options name, where it has been made before.
    """
    registry.card("method", options.method)
    return _run("method", options.method, options, progress, case)


def train(options: TrainOptions, progress: Progress = silent) -> Path:
    """Run a recipe and return the finished run folder; with a benchmark, remake the model named by `part`."""
    if options.benchmark and options.part:
        recipe, _, settings, seed = sources.benchmark_module(options.benchmark).training(options.part)
        options = options.model_copy(update={"recipe": recipe, "settings": {**settings, **options.settings}, "seed": seed})
    registry.card("recipe", options.recipe)
    return _run("recipe", options.recipe, options, progress)


def guard(options: GuardOptions, progress: Progress = silent, case: Case | None = None) -> Path:
    """Put a guard before a model and return the run folder: it holds what was asked, and no copy of the weights, which stay as they are."""
    registry.card("guard", options.guard)
    return _run("guard", options.guard, options, progress, case)


def prove(
    folder: Path, options: ProveOptions | None = None, progress: Progress = silent, case: Case | None = None, memo: dict[Hashable, object] | None = None,
) -> Report:
    """Measure a finished run, write report.json, report.html and report.md into it, and return the report.

    `case` is what the run was made on, where it is at hand, and `memo` what was computed about its models before.
    """
    from efface import evaluate

    options = options or ProveOptions()
    record = record_of(folder)
    source = record.source.model_copy(update={"device": options.device or record.source.device})
    case = case or _case(source, record.request, options, progress)
    if options.fresh:
        (folder / "measurements.jsonl").unlink(missing_ok=True)
    ctx = Context(
        seed=source.seed, device=source.device, folder=folder, baselines=case.baselines, utility=case.utility, sets=case.sets, progress=progress,
        passes=(folder / "passes",) if options.fresh else pass_folders(), curve=_curve(folder), memo={} if memo is None else memo,
    )
    candidate = candidate_of(folder, case, source, record)
    names = evaluate.expand(options.suite) or list(case.suite) or evaluate.default_suite(candidate)
    if not options.attacks:
        names = [name for name in names if not name.startswith("attack/")]
    title = f"{record.step.system} on {case.name}"
    report = evaluate.prove(candidate, case.request, ctx, names, title)
    report = report.model_copy(update={
        "reference": case.reference, "seconds": {**report.seconds, "forget": record.step.seconds},
        "environment": {**report.environment, "device": source.device, "dtype": source.dtype},
    })
    files.write_text(folder / "report.json", report.model_dump_json(indent=1) + "\n")
    write_report(folder)
    return report


def load_report(folder: Path) -> Report:
    """The report of a run; Missing when it has not been proven yet."""
    path = folder / "report.json"
    if not path.exists():
        raise Missing(f"{folder} holds no report.json; run: efface prove {folder}" if folder.is_dir() else f"no run folder {folder}")
    try:
        return Report.model_validate_json(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise EffaceError(f"{path} is not a report of this version: {str(error).splitlines()[0]}") from None


def write_report(folder: Path) -> Path:
    """Write report.html and report.md from report.json and return the HTML file's path."""
    from efface.report import html, markdown

    report = load_report(folder)
    files.write_text(folder / "report.md", markdown.render(report))
    files.write_text(folder / "report.html", html.render(report))
    return folder / "report.html"


def pass_folders() -> tuple[Path, ...]:
    """Where passes are kept: the user's cache, then those that come with the benchmarks."""
    shipped = sorted(path for path in (registry.ROOT / "data").glob("*/passes") if path.is_dir())
    return (checkpoint.cache() / "passes", *shipped)


def candidate_of(folder: Path, case: Case, source: Source, record: RunRecord) -> Any:
    """The model that the run made, an adapter folded into its weights; of a guard, the original behind it."""
    if record.kind == "guard":
        return api.guard(case.original, case.request, record.step.system, record.step.settings, Context(seed=source.seed, device=source.device))
    place = folder / "model"
    if not place.is_dir():
        raise Missing(f"{folder} holds no model folder; run efface forget again")
    shared = getattr(case.original, "base_view", None)
    if (place / "adapter_config.json").exists() and shared is not None:
        subject: Any = checkpoint.attach(shared(), place)
    else:
        subject = api.load(str(place), source.device, source.dtype)
    # Folded in, an adapter costs nothing at each of the many passes to come.
    whole = subject.merged() if getattr(subject, "adapted", False) else subject
    for step in (*case.original.lineage, record.step):
        whole = whole.after(step)
    return whole


# -- making a run ---------------------------------------------------------------------------------------------------------


def _run(
    kind: Literal["method", "recipe", "guard"], name: str, options: ForgetOptions | TrainOptions | GuardOptions, progress: Progress, case: Case | None = None
) -> Path:
    out = options.out
    if out.exists():
        raise EffaceError(f"{out} exists already; choose another --out, or remove it")
    system = registry.load(kind, name)
    settings = dict(options.settings)
    # A run on disk can be killed, so it keeps checkpoints unless it was told how often.
    if "fit" in system.Config.model_fields and "fit.checkpoint" not in settings and "fit" not in settings:
        settings["fit.checkpoint"] = CHECKPOINT_EVERY
    system.set(settings)
    case = case or sources.start(options, kind, getattr(options, "part", ""), progress)
    partial = out.with_name(out.name + ".partial")
    _make(partial)
    ctx = Context(seed=options.seed, device=options.device, folder=partial, baselines=_blind(case.baselines), progress=progress)
    if (partial / "checkpoint" / "state.json").exists():
        log.warning("going on from the checkpoint in %s", partial)
    act = {"method": api.forget, "recipe": api.train, "guard": api.guard}[kind]
    try:
        after: Any = act(case.original, case.request, name, settings, ctx)
    except EffaceError:
        if not any(path.is_file() for path in partial.rglob("*")):  # refused before anything was done: there is nothing to go on from
            shutil.rmtree(partial, ignore_errors=True)
        raise
    if kind != "guard":
        with files.whole_folder(partial / "model") as fresh:
            checkpoint.save(after, fresh) if after.family == "causal-lm" else after.save(fresh)
    from efface.evaluate import environment

    record = RunRecord(
        kind=kind, source=Source(**options.model_dump(include=set(Source.model_fields))), request=case.request, step=after.lineage[-1],
        environment=environment(ctx),
    )
    shutil.rmtree(partial / "anchors", ignore_errors=True)
    files.write_text(partial / "log.jsonl", "".join(json.dumps(line) + "\n" for line in ctx.curve))
    files.write_text(partial / "run.json", record.model_dump_json(indent=1) + "\n")
    partial.rename(out)
    return out


def _blind(baselines: Mapping[str, Subject]) -> dict[str, Subject]:
    """What a method may see: not the reference or the model before corruption, which nobody has who needs to forget, and not those who judge it."""
    return {name: subject for name, subject in baselines.items() if not name.startswith(("reference", "clean", "judge/"))}


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise EffaceError(f"cannot make the folder {folder}: {error.strerror}; choose another --out") from None


# -- reading a run --------------------------------------------------------------------------------------------------------


def record_of(folder: Path) -> RunRecord:
    path = folder / "run.json"
    if not folder.is_dir():
        raise Missing(f"no run folder {folder}; make one with efface forget --out {folder}")
    if not path.exists():
        raise Missing(f"{folder} holds no run.json; it is not a run of efface")
    try:
        return RunRecord.model_validate_json(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise EffaceError(f"{path} is not a run of this version: {str(error).splitlines()[0]}") from None


def _case(source: Source, request: Request, options: ProveOptions, progress: Progress) -> Case:
    """Original, references and rows to prove a run with."""
    case = sources.again(source, request, options.original, progress)
    if options.reference:
        case.baselines["reference"] = sources.model(source.model_copy(update={"model": options.reference}))
        case.reference = options.reference
    return case


def _curve(folder: Path) -> list[dict[str, float]]:
    path = folder / "log.jsonl"
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []
