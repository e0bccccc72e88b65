"""Requests that come one after another, and requests that grow: MUSE's two studies over several forget sets (arXiv:2407.06460).

Sequential: round j starts from the model that round j - 1 left, and after it every request so far is measured again. Scaling:
every fold starts from the original, and fold j holds fold j - 1. Both take any callables, so a method of efface's or of anybody's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple, TypeVar

from efface import api, evaluate, runs, sources
from efface.core import files, registry
from efface.core.context import Context, silent
from efface.core.errors import BadConfig, EffaceError
from efface.core.types import Case, Data, Measurement, Request, Row, Subject
from efface.families import checkpoint

T = TypeVar("T")
Forget = Callable[[Subject, Request, int], Subject]
"""Makes a model forget a request; the number of the round, from 1, is for its seed or its folder."""
Measure = Callable[[Subject, Request], Mapping[str, Measurement]]
"""Measurements of a model on one request, by name."""


STUDIES = {"sequential": "sust", "scaling": "scal"}
"""What MUSE calls the folds of each study."""
SUITE: tuple[tuple[str, dict[str, object]], ...] = (("metric/verbatim_memory", {"on": "forget"}), ("metric/knowledge_memory", {"on": "keep"}))
"""What is measured when nothing else is asked for: what is left of a request, and what the model still knows of what it keeps."""


class FoldsOptions(runs.ForgetOptions):
    """What `efface folds` is given."""

    study: Literal["sequential", "scaling"] = "sequential"
    folds: int = 4
    """Forget sets to make of the forget rows, where the benchmark brings none."""
    suite: tuple[str, ...] = ()
    """Metrics and attacks to measure each request with, by their defaults."""


class Round(NamedTuple):
    """What one round left behind."""

    number: int
    """From 1."""
    subject: Subject
    rows: int
    """Rows forgotten in it."""
    measured: dict[int, dict[str, Measurement]]
    """By number of the request: in a sequence all so far, in a scaling study its own."""


def nested(rows: Sequence[Row], count: int) -> list[list[Row]]:
    """Forget sets of which each holds the one before: the first 1, 2, .. of `count` equal parts. Raises BadConfig for too few rows."""
    parts = disjoint(rows, count)
    return [[row for part in parts[: at + 1] for row in part] for at in range(count)]


def disjoint(rows: Sequence[Row], count: int) -> list[list[Row]]:
    """`count` forget sets of about equal size that share no row, in the order of the rows. Raises BadConfig for too few rows."""
    if not 1 <= count <= len(rows):
        raise BadConfig(f"{count} folds of {len(rows)} rows; give from 1 to as many as there are rows")
    cuts = [at * len(rows) // count for at in range(count + 1)]
    return [list(rows[start:end]) for start, end in zip(cuts, cuts[1:], strict=False)]


def requests(whole: Request, sets: Sequence[Sequence[Row]]) -> list[Request]:
    """One request for each forget set, all else as in `whole`."""
    return [
        whole.model_copy(update={"forget": Data.inline(rows, f"fold {number}"), "reason": f"{whole.reason}, fold {number} of {len(sets)}".lstrip(", ")})
        for number, rows in enumerate(sets, start=1)
    ]


def sequential(original: Subject, asked: Sequence[Request], forget: Forget, measure: Measure) -> list[Round]:
    """The rounds of a sequence. Raises BadRows when a row is to be forgotten that another request keeps."""
    _refuse_kept(asked)
    rounds: list[Round] = []
    subject = original
    for number, request in enumerate(asked, start=1):
        subject = forget(subject, request, number)
        measured = {earlier: dict(measure(subject, before)) for earlier, before in enumerate(asked[:number], start=1)}
        rounds.append(Round(number, subject, len(request.rows("forget")), measured))
    return rounds


def scaling(original: Subject, asked: Sequence[Request], forget: Forget, measure: Measure) -> list[Round]:
    """The folds of a scaling study, each from the original."""
    _refuse_kept(asked)
    rounds = []
    for number, request in enumerate(asked, start=1):
        subject = forget(original, request, number)
        rounds.append(Round(number, subject, len(request.rows("forget")), {number: dict(measure(subject, request))}))
    return rounds


def first_crossing(levels: Sequence[tuple[T, float | None]], target: float) -> T | None:
    """The first checkpoint (epoch, or smallest strength) whose knowledge of the forget set is at most the reference's; None when none is.

    MUSE takes the first and not the best: a later one may know less, or more again, and has lost more besides. A level
    that was not measured (None) crosses nothing.
    """
    return next((name for name, level in levels if level is not None and level <= target), None)


def study(options: FoldsOptions, progress: Callable[..., Any] = silent) -> list[Round]:
    """The rounds of a study; the folder gets rounds.json and the last model. Raises EffaceError when the folder is there."""
    if options.out.exists():
        raise EffaceError(f"{options.out} exists already; choose another --out, or remove it")
    registry.load("method", options.method).set(options.settings)
    suite = tuple((name, dict[str, object]()) for name in evaluate.expand(options.suite)) or SUITE
    systems: dict[str, Any] = {}
    for full, settings in suite:
        kind, _, name = full.partition("/")
        systems[name] = registry.load(kind, name).set(settings)
    case = sources.start(options, "method", "", progress)
    asked = _asked(case, options)
    # The benchmark's passages are of the whole corpus; a request is measured on its own rows.
    ctx = Context(
        seed=options.seed, device=options.device, baselines={"original": case.original, **case.baselines}, utility=case.utility, progress=progress,
        sets={name: data for name, data in case.sets.items() if name != "verbatim" and not name.startswith("privleak_")},
    )

    def forget(subject: Subject, request: Request, number: int) -> Subject:
        blind = {name: base for name, base in ctx.baselines.items() if name == "original"}
        return api.forget(subject, request, options.method, options.settings, ctx.alone(seed=options.seed + number - 1, baselines=blind, curve=[]))

    def measure(subject: Subject, request: Request) -> dict[str, Measurement]:
        return {name: evaluate.measure(system, subject, request, ctx) for name, system in systems.items()}

    rounds = (sequential if options.study == "sequential" else scaling)(case.original, asked, forget, measure)
    files.write_json(options.out / "rounds.json", {"options": options.model_dump(mode="json"), "rows": table(rounds)})
    with files.whole_folder(options.out / "model") as fresh:
        last: Any = rounds[-1].subject
        checkpoint.save(last, fresh) if last.family == "causal-lm" else last.save(fresh)
    return rounds


def _asked(case: Case, options: FoldsOptions) -> list[Request]:
    """The requests of a study: the benchmark's own folds, else parts of its forget rows."""
    named = STUDIES[options.study]
    own = [case.sets[name].read() for number in range(1, len(case.sets) + 1) if (name := f"{named}_{number}") in case.sets]
    make = disjoint if options.study == "sequential" else nested
    return requests(case.request, own or make(case.request.rows("forget"), options.folds))


def table(rounds: Sequence[Round]) -> list[dict[str, object]]:
    """One row for each round, request and measurement: value, interval, n, and parts; a measurement that was skipped says why."""
    return [
        {
            "round": each.number, "rows": each.rows, "request": request, "measure": name, "value": found.value, "low": found.low, "high": found.high,
            "n": found.n, "status": found.status, "why": found.why, "parts": found.parts,
        }
        for each in rounds
        for request, measured in each.measured.items()
        for name, found in measured.items()
    ]


def lines(rounds: Sequence[Round]) -> tuple[list[str], list[list[str]]]:
    """Heading and cells of the table that a reader wants: a line for each round and request, a column for each measure."""
    names = list(dict.fromkeys(name for each in rounds for measured in each.measured.values() for name in measured))
    cells = [
        [str(each.number), str(request), *(_cell(measured.get(name)) for name in names)]
        for each in rounds
        for request, measured in each.measured.items()
    ]
    return ["ROUND", "REQUEST", *(name.upper() for name in names)], cells


def _cell(found: Any) -> str:
    if found is None or found.value is None:
        return "" if found is None else found.status
    interval = "" if found.low is None or found.high is None else f" {found.low:.3f}..{found.high:.3f}"
    return f"{found.value:.3f}{interval} (n {found.n})"


def _refuse_kept(asked: Sequence[Request]) -> None:
    """A row that one request forgets and another keeps would be taught again; such a sequence measures nothing."""
    if not asked:
        raise EffaceError("no requests; give at least one")
    kept: dict[str, list[Row]] = {}
    for request in asked:
        if request.keep is not None:
            kept.setdefault(request.keep.digest, request.rows("keep"))
    for number, request in enumerate(asked, start=1):
        for rows in kept.values():
            api.refuse_overlap(f"request {number}", request.rows("forget"), "keep", rows)
