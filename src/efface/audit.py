"""The audit of a language model by somebody who did not make it: what it still knows, in which form, by which attack, at what cost.

    plan = audit.plan(AuditOptions(model="model", against="original", reference="retrained", forget=..., keep=...))
    print(plan.line)             # what will be done, and how long it should take
    report = audit.run(plan)

The folder of an audit keeps every finished measurement and every pass, so that the same command, given again, goes on where it was
stopped, and costs next to nothing over an unchanged checkpoint.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict

from efface import api, evaluate, runs, sources
from efface.core import files, registry
from efface.core import rows as row_files
from efface.core.context import Context, silent
from efface.core.errors import BadConfig, BadRows, EffaceError, Missing, Unfit
from efface.core.types import Case, Data, Measurement, Report, Request, Row, Subject
from efface.families import passes
from efface.ops import facts

Progress = Callable[..., Any]
ROWS: Mapping[str, int] = {"quick": 20, "full": 200}
"""Most rows of each set that a preset reads."""
FIRST = 10
"""Rows of each set that every system reads before a budget is spent where intervals are widest."""
KNOWN, TWICE = 0.8, 2.0
"""A row counts as known to the original when it says the answer's value, or from this probability a token, or at so many times the reference's."""


class Work(BaseModel):
    """What a system costs a row: answers read, tokens written, answers trained on (each about three readings), on how many of the models."""

    model_config = ConfigDict(frozen=True)

    reads: float = 0.0
    writes: float = 0.0
    trains: float = 0.0
    models: int = 3


SETTINGS: Mapping[str, Mapping[str, object]] = {
    "attack/quantize": {"bits": (4,)}, "attack/interpolate": {"shares": (0.25, 0.5), "max_new": 0}, "attack/paraphrase": {"most": 2, "max_new": 24},
    "attack/jailbreak": {"rows": 5, "draws": 4, "max_new": 24}, "attack/step_by_step": {"rows": 5, "keep": 3, "max_new": 24},
    "metric/form_dependence": {"rows": 10, "answered": 0},
}
"""Settings of the quick preset, where a system's own would take too long."""
QUICK: Mapping[str, Work] = {
    "metric/rouge_recall": Work(writes=64), "metric/probability": Work(reads=1), "metric/truth_ratio": Work(reads=5), "metric/exact_memorization": Work(),
    "metric/extraction_strength": Work(), "metric/forget_quality": Work(), "metric/form_dependence": Work(reads=14), "attack/loss": Work(reads=1), "attack/zlib": Work(),
    "attack/lower_case": Work(reads=1), "attack/reference": Work(), "attack/min_k": Work(), "attack/min_k_plus_plus": Work(),
    "attack/relearn": Work(reads=2, trains=2, models=2), "attack/quantize": Work(reads=1), "attack/interpolate": Work(reads=4, models=2),
    "attack/logit_lens": Work(reads=2), "attack/paraphrase": Work(writes=96), "attack/jailbreak": Work(writes=128), "attack/step_by_step": Work(writes=128),
}
"""The systems of the quick preset and what each costs a row; the full preset is everything that fits the model."""
COSTLY = Work(reads=10, writes=200, trains=4)
"""What a system is taken to cost that is not listed above."""


class AuditOptions(BaseModel):
    """What `efface audit` is given."""

    model_config = ConfigDict(extra="forbid")

    model: str
    against: str = ""
    """The model before forgetting."""
    reference: str = ""
    """The model retrained without the rows; "" for none."""
    forget: Path | None = None
    keep: Path | None = None
    unseen: Path | None = None
    benchmark: str = ""
    """Takes original, reference and rows from a benchmark instead."""
    split: str = ""
    preset: Literal["quick", "full"] = "quick"
    suite: tuple[str, ...] = ()
    """Systems to run in place of the preset's."""
    minutes: float = 0.0
    """Budget; 0 for none."""
    out: Path
    seed: int = 0
    device: str = "auto"
    dtype: str = "auto"


class Plan(BaseModel):
    """An audit that is ready to run."""

    model_config = ConfigDict(arbitrary_types_allowed=True)

    options: AuditOptions
    case: Case
    candidate: Subject
    names: tuple[str, ...]
    settings: dict[str, dict[str, object]]
    excluded: tuple[int, ...] = ()
    """Numbers of the forget rows that the original never knew."""
    seconds: float = 0.0
    """How long it should take."""
    ctx: Context

    @property
    def line(self) -> str:
        """What will be done, on how many rows, and how long it should take, in one sentence."""
        sets = ", ".join(f"{len(data)} {name}" for name in ("forget", "keep", "unseen") if (data := getattr(self.case.request, name)) is not None)
        left = f"; {len(self.excluded)} forget rows that the original never knew are left out ({_some(self.excluded)})" if self.excluded else ""
        budget = f", at most {self.options.minutes:g} min" if self.options.minutes else ""
        return f"{self.options.preset} audit: {len(self.names)} systems on {len(self.ctx.baselines) + 1} models, rows: {sets}{left}; about {_about(self.seconds)}{budget}"


def plan(options: AuditOptions, progress: Progress = silent) -> Plan:
    """Load and compare the models, leave out rows that the original never knew, and estimate the time.

    Raises EffaceError, Unfit, BadRows or Missing, each in one line; nothing is written before all is known to fit.
    """
    if options.minutes < 0:
        raise BadConfig(f"--minutes {options.minutes:g}: give the minutes to spend, more than 0")
    candidate, case = _models(options, progress)
    _alike(candidate, case)
    record = options.model_dump(mode="json", exclude={"out", "minutes"}) | {"digest": candidate.digest}
    _folder(options.out, record)
    ctx = Context(
        seed=options.seed, device=options.device, folder=options.out, baselines=case.baselines, utility=case.utility, sets=case.sets, progress=progress,
        passes=(options.out / "passes", *runs.pass_folders()),
    )
    most = ROWS[options.preset]
    case.request = _cut(case.request, most)
    ctx.utility = {name: Data.inline(row_files.evenly(data.read(), most), name) for name, data in case.utility.items()}
    request, excluded = _known(case, ctx)
    case.request = request
    names = tuple(evaluate.expand(options.suite)) or _preset(options.preset, candidate)
    settings = {name: dict(chosen) for name, chosen in SETTINGS.items() if options.preset == "quick" and name in names}
    made = Plan(options=options, case=case, candidate=candidate, names=names, settings=settings, excluded=excluded, ctx=ctx)
    files.write_json(options.out / "audit.json", record)
    return made.model_copy(update={"seconds": _estimate(made)})


def run(plan: Plan) -> Report:
    """Measure, conclude, write report.json, report.html and report.md into the audit's folder, and return the report."""
    began = time.monotonic()
    ctx, request = plan.ctx, plan.case.request
    if plan.options.minutes:
        found = _within(plan, began + 60 * plan.options.minutes)
    else:
        found = evaluate.measured(plan.candidate, plan.names, request, ctx, plan.settings)
    report = evaluate.conclude(plan.candidate, request, ctx, found, f"Audit of {plan.options.model}", began)
    report = report.model_copy(update={"reference": plan.case.reference, "seconds": {"audit": time.monotonic() - began}, "excluded": plan.excluded})
    files.write_text(plan.options.out / "report.json", report.model_dump_json(indent=1) + "\n")
    runs.write_report(plan.options.out)
    return report


# -- models and rows ----------------------------------------------------------------------------------------------------------


def _models(options: AuditOptions, progress: Progress) -> tuple[Subject, Case]:
    if options.benchmark:
        if options.against or options.forget or options.reference:
            raise BadConfig("--benchmark brings original, reference and rows; leave --against, --reference and --request out")
        case = sources.benchmark(sources.Source(benchmark=options.benchmark, split=options.split, seed=options.seed, device=options.device, dtype=options.dtype), progress)
    else:
        if not options.against:
            raise Missing("no original to audit against; give the model before forgetting with --against MODEL")
        if options.forget is None:
            raise Missing("no rows to audit; give those that should be forgotten with --request FILE")
        original = api.load(options.against, options.device, options.dtype)
        baselines = {"original": original} | ({"reference": api.load(options.reference, options.device, options.dtype)} if options.reference else {})
        request = api.request(options.forget, options.keep, options.unseen)
        case = Case(name=options.forget.name, original=original, request=request, baselines=baselines, reference=options.reference)
    candidate = sources.model(sources.Source(model=options.model, device=options.device, dtype=options.dtype))
    # Folded in, an adapter costs nothing at each of the many passes to come.
    return _whole(candidate), case.model_copy(update={"baselines": {name: _whole(s) for name, s in case.baselines.items()}})


def _whole(subject: Any) -> Any:
    if not getattr(subject, "adapted", False):
        return subject
    whole = subject.merged()
    whole.lineage, whole.origin = subject.lineage, subject.origin
    return whole


def _alike(candidate: Any, case: Case) -> None:
    """Raise Unfit where the models cannot be compared, and EffaceError for a reference that is the model itself."""
    if candidate.family != "causal-lm":
        raise Unfit(f"the model is a {candidate.family}; efface audit is for language models, efface prove for the others")
    baselines: Mapping[str, Any] = case.baselines
    for name, other in baselines.items():
        if other.family != candidate.family:
            raise Unfit(f"the {name} is a {other.family} and the model a {candidate.family}; give models of one architecture")
        ours, theirs = _shapes(candidate), _shapes(other)
        if ours != theirs:
            first = next(iter(sorted(set(ours.items()) ^ set(theirs.items()))))
            raise Unfit(f"the {name} has another architecture than the model: {first[0]} is {ours.get(first[0], 'missing')} there and {theirs.get(first[0], 'missing')} here; an audit compares models that differ in their weights alone")
        if candidate.tokenizer.get_vocab() != other.tokenizer.get_vocab():
            raise Unfit(f"the {name} has another tokenizer than the model ({len(other.tokenizer)} against {len(candidate.tokenizer)} tokens, or other ones); an audit compares models that read alike")
    if (reference := case.baselines.get("reference")) is not None and reference.digest == candidate.digest:
        raise EffaceError("the reference is the model itself, weight for weight; give the model that was retrained without the rows, or leave --reference out")


def _shapes(subject: Any) -> dict[str, tuple[int, ...]]:
    return {name: tuple(p.shape) for name, p in subject.model.named_parameters()}


def _cut(request: Request, most: int) -> Request:
    """The request with at most `most` rows in each set, evenly spaced."""
    sets = {name: Data.inline(row_files.evenly(data.read(), most), data.part) for name in ("forget", "keep", "unseen") if (data := getattr(request, name)) is not None}
    return request.model_copy(update=sets)


def _known(case: Case, ctx: Context) -> tuple[Request, tuple[int, ...]]:
    """The request without the forget rows that the original never knew, and their numbers. Raises BadRows when none is left."""
    rows = case.request.rows("forget")
    known = knows(case.baselines["original"], case.baselines.get("reference"), rows, ctx)
    excluded = tuple(number for number, yes in enumerate(known, start=1) if not yes)
    if len(excluded) == len(rows):
        raise BadRows(f"the original knows none of the {len(rows)} forget rows, so that there is nothing to forget; is --against the model that was trained on them?")
    if not excluded:
        return case.request, ()
    return case.request.model_copy(update={"forget": Data.inline([row for row, yes in zip(rows, known, strict=True) if yes], "known to the original")}), excluded


def knows(original: Any, reference: Any, rows: Sequence[Row], ctx: Context) -> list[bool]:
    """Whether the original knows each row: asked, it says what the answer comes down to, or finds the answer likely by itself or beside the reference."""
    chances = np.exp([-score.loss for score in passes.scores(original, rows, ctx)])
    known = chances >= KNOWN
    if reference is not None:
        known |= chances >= TWICE * np.exp([-score.loss for score in passes.scores(reference, rows, ctx)])
    if "text" not in row_files.layout(rows):
        said = passes.answers(original, rows, ctx)
        known |= [facts.says(text, fact.accepted, fact.question) for text, fact in zip(said, facts.of_rows(rows), strict=True)]
    return [bool(yes) for yes in known]


def _folder(out: Path, record: Mapping[str, object]) -> None:
    """Make the audit's folder. Raises EffaceError for one that holds something else."""
    if (out / "audit.json").exists():
        held = files.read_json(out / "audit.json")
        if not isinstance(held, dict) or held != dict(record):
            other = [name for name in record if not isinstance(held, dict) or held.get(name) != record[name]]
            raise EffaceError(f"{out} holds the audit of another model or with other options ({', '.join(other)} differ); choose another --out")
    elif out.exists() and any(out.iterdir()):
        raise EffaceError(f"{out} exists and is no audit; choose another --out")
    out.mkdir(parents=True, exist_ok=True)


# -- what is run, and for how long ----------------------------------------------------------------------------------------------


def _preset(preset: str, candidate: Subject) -> tuple[str, ...]:
    fitting = evaluate.everything(candidate)
    return tuple(fitting) if preset == "full" else tuple(name for name in QUICK if name in fitting)


def _estimate(made: Plan) -> float:
    """Seconds, from the speed of the candidate on a few rows; what is in the audit's folder already is not counted out."""
    rows = made.case.request.rows("forget")[:4]
    began = time.monotonic()
    list(made.candidate.score(rows))  # type: ignore[attr-defined]
    read = (time.monotonic() - began) / len(rows)
    began = time.monotonic()
    if "text" not in row_files.layout(rows):
        made.candidate.generate(rows, 8)  # type: ignore[attr-defined]
    write = (time.monotonic() - began) / (8 * len(rows))
    count, models = len(made.case.request.rows("forget")), len(made.ctx.baselines) + 1
    total = 0.0
    for name in made.names:
        work = QUICK.get(name, COSTLY)
        total += min(work.models, models) * count * (work.reads * read + work.writes * write / 4 + 3 * work.trains * read)
    return total + models * count * (2 * read + 64 * write / 4)


def _within(plan: Plan, until: float) -> tuple[Measurement, ...]:
    """All systems on few rows, and then, while the time lasts, more rows for the one whose interval is widest."""
    ctx, whole = plan.ctx, plan.case.request
    size = dict.fromkeys(plan.names, FIRST)
    took: dict[str, float] = {}
    found: dict[str, tuple[Measurement, ...]] = {}
    for name in plan.names:
        if time.monotonic() > until and found:
            found[name] = (Measurement.skipped(name, "candidate", f"the budget of {plan.options.minutes:g} minutes was spent"),)
            continue
        found[name], took[name] = _timed(plan, name, size[name])
    while True:
        left = until - time.monotonic()
        open_ = [name for name in took if size[name] < len(whole.rows("forget")) and 2.5 * took[name] < left and _width(found[name]) > 0]
        if not open_:
            return tuple(m for name in plan.names for m in found[name])
        widest = max(open_, key=lambda name: _width(found[name]))
        size[widest] *= 2
        found[widest], took[widest] = _timed(plan, widest, size[widest])
        ctx.log(rows=size[widest])


def _timed(plan: Plan, name: str, count: int) -> tuple[tuple[Measurement, ...], float]:
    began = time.monotonic()
    found = evaluate.measured(plan.candidate, [name], _cut(plan.case.request, count), plan.ctx, plan.settings)
    return found, time.monotonic() - began


def _width(found: Sequence[Measurement]) -> float:
    """Width of the candidate's interval; 0 where there is none."""
    return max((m.high - m.low for m in found if m.subject == "candidate" and m.high is not None and m.low is not None and m.status == "ok"), default=0.0)


def _about(seconds: float) -> str:
    return f"{max(1, round(seconds))} s" if seconds < 90 else f"{max(2, round(seconds / 60))} min"


def _some(numbers: Sequence[int]) -> str:
    return f"row{'s' if len(numbers) > 1 else ''} {', '.join(map(str, numbers[:8]))}{' ...' if len(numbers) > 8 else ''}"


def attack_costs(report: Report) -> list[tuple[str, str, str]]:
    """(attack, what the adversary must have, what was spent) of each attack that was measured on the candidate."""
    found: list[tuple[str, str, str]] = []
    for m in report.measurements:
        kind, _, name = m.system.partition("/")
        if kind == "attack" and m.subject == "candidate" and m.status == "ok":
            spent = ", ".join(f"{amount:g} {what}" for what, amount in m.spent.items()) or "-"
            found.append((name, registry.card(kind, name).access, spent))
    return found
