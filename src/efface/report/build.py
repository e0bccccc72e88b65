"""From a Report to what every view shows of it: text already formatted, rows already ordered, so that all views say the same."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence

from efface.core import registry
from efface.core.card import Card
from efface.core.errors import EffaceError
from efface.core.types import Data, Intent, Measurement, Report, Step
from efface.report.text import NONE, clean, duration, memory, number, short, signed
from efface.report.view import NAMES, Axis, Cell, Done, Found, Line, Plane, Point, Sample, Skip, View

TONES = {"forgotten": "good", "not forgotten": "bad", "over-forgotten": "warn", "damaged": "bad", "can't say": "unknown", "guarded": "warn"}
WISHES = {"higher": "higher", "lower": "lower", "as-reference": "as reference"}
SAMPLE_NAMES = {"prompt": "Prompt", "question": "Prompt", "answer": "Expected", "gold": "Expected", "expected": "Expected", **NAMES}
FORGETTING = ("rouge_recall", "probability", "accuracy", "exact_memorization", "truth_ratio")
UTILITY = ("model_utility",)
"""Metrics for the chart of forgetting against utility, the first that there is."""
OWN = ("reference", "reference_area", "reference_auc")
"""Parts in which an attack that runs on the candidate alone says what the reference gives."""
CURVE = re.compile(r"^(?:(?P<name>.+)[ /])?step[ /](?P<at>\d+)$")
"""Parts that are points of a curve: "step 4", or "reference step 4" for a curve of another model than the measured one."""


def view(report: Report) -> View:
    """The view model of a report; the same report gives the same view."""
    word, line, guarded = _verdict(report)
    subjects = _subjects(report.measurements)
    lines = _lines(report.measurements, subjects)
    metrics = tuple(line for line in lines if line.kind != "attack")
    attacks = tuple(sorted((line for line in lines if line.kind == "attack"), key=_by_distance))
    worst = attacks[0] if attacks and attacks[0].compared else None
    return View(
        title=clean(report.title) or "Report of forgetting",
        word=word[0].upper() + word[1:],
        tone=TONES[word],
        first_line=line,
        rest=_rest(line, word),
        guarded=guarded,
        reasons=tuple(map(clean, report.verdict.reasons)),
        measured=report.intent.measured if report.intent else "",
        findings=_findings(report.intent),
        missing=tuple(map(clean, report.intent.missing)) if report.intent else (),
        excluded=_excluded(report.excluded),
        axes=tuple(_axis(name, axis) for name, axis in report.verdict.axes.items()),
        subjects=subjects,
        reference=clean(report.reference),
        metrics=metrics,
        attacks=attacks,
        worst=worst,
        worst_text=_worst_text(worst, attacks),
        skipped=_skipped(report.measurements, subjects),
        samples=tuple(map(_sample, report.samples)),
        request=_request(report),
        steps=tuple(map(_done, report.steps)),
        cost=_cost(report),
        environment=tuple((clean(name), clean(value)) for name, value in report.environment.items()),
        curve=_training(report.curve),
        plane=_plane(metrics, subjects, report.measurements),
    )


def _verdict(report: Report) -> tuple[str, str, bool]:
    """Word, first line, and whether outputs are filtered: a guarded model is never called one that forgot."""
    word, line = str(report.verdict.word), clean(report.verdict.line)
    if report.intent is not None:
        line = f"{line} {clean(report.intent.line)}"
    methods, guards = ([step.system for step in report.steps if step.kind == kind] for kind in ("method", "guard"))
    changed = clean(f"Its weights were changed ({', '.join(methods)})." if methods else "No method changed its weights.")
    if not guards and not line.startswith("Guarded"):
        return word, f"{line} {changed}", False
    if word == "forgotten":
        word, line = (
            "guarded",
            "Guarded, not forgotten: it answers like a model retrained without the data because its outputs are filtered.",
        )
    by = clean(f" ({', '.join(guards)})" if guards else "")
    return word, f"{line} Behind the guard{by} the weights can still know. {changed}", True


def _findings(intent: Intent | None) -> tuple[Found, ...]:
    """The lines of evidence, those that speak against removal first."""
    order = {"still there": 0, "over-forgotten": 1, "can't say": 2, "as the reference": 3}
    found = sorted(intent.findings if intent else (), key=lambda f: (order[f.says], -abs(f.distance or 0.0) / (f.margin or 1.0)))
    return tuple(Found(f.evidence, clean(f.name), signed(f.distance), f"[{signed(f.low)}, {signed(f.high)}]" if f.low is not None else "", number(f.margin), f.says) for f in found)


def _excluded(numbers: Sequence[int]) -> str:
    """Which forget rows were left out, in words; "" for none."""
    return f"{len(numbers)} forget rows that the original never knew were left out: {', '.join(map(str, numbers))}." if numbers else ""


def _rest(line: str, word: str) -> str:
    rest = line[len(word) + 1 :].strip() if line.lower().startswith(f"{word}:") else line
    return rest[:1].upper() + rest[1:]


def _subjects(measurements: Iterable[Measurement]) -> tuple[str, ...]:
    """Models in the order of the story: before, after, reference, then any others."""
    order = ["original", "candidate", "reference"]
    there = {m.subject for m in measurements}
    return (*order, *sorted(there - set(order)))


def _lines(measurements: Sequence[Measurement], subjects: tuple[str, ...]) -> list[Line]:
    by_system: dict[str, dict[str, Measurement]] = {}
    for measurement in measurements:
        by_system.setdefault(measurement.system, {})[measurement.subject] = measurement
    return [_line(system, found, subjects) for system, found in by_system.items() if any(m.status == "ok" for m in found.values())]


def _line(system: str, found: Mapping[str, Measurement], subjects: tuple[str, ...]) -> Line:
    kind, name, card = _card(system)
    cells = {subject: _cell(found.get(subject)) for subject in subjects}
    own = _own(found.get("candidate"))
    if cells["reference"].value is None and own is not None:
        cells["reference"] = Cell(number(own), "", own, None, None)
    candidate, reference = cells["candidate"].value, cells["reference"].value
    distance = None if candidate is None or reference is None else candidate - reference
    shown = found.get("candidate") or next(iter(found.values()))
    if card is not None:
        membership = "unseen" in card.uses
    else:
        membership = candidate is not None and 0 <= candidate <= 1 and cells["reference"].low is not None
    parts = list(dict.fromkeys(part for m in found.values() for part in m.parts if part not in OWN and not CURVE.match(part)))
    return Line(
        kind=kind,
        name=clean(name),
        title=clean(card.title if card else name),
        wish=WISHES[shown.better],
        cells=cells,
        distance=distance,
        distance_text=signed(distance),
        n=str(shown.n) if shown.n else NONE,
        note=clean(shown.why) if shown.status == "ok" else clean(f"{shown.status}: {shown.why}"),
        membership=kind == "attack" and membership,
        parts=tuple((clean(part), tuple(number(found[s].parts.get(part)) if s in found else NONE for s in subjects)) for part in parts),
        curves=_curves(found),
    )


def _card(system: str) -> tuple[str, str, Card | None]:
    """Kind, name and card of "metric/rouge_recall"; no card for a system that is not installed here."""
    kind, _, name = system.partition("/")
    if not name:
        return "metric", kind, None
    try:
        return kind, name, registry.card(kind, name)
    except EffaceError:
        return kind, name, None


def _cell(measurement: Measurement | None) -> Cell:
    if measurement is None:
        return Cell(NONE, "", None, None, None)
    if measurement.status != "ok":
        return Cell(measurement.status, "", None, None, None)
    value, low, high = (None if x is None or math.isnan(x) else x for x in (measurement.value, measurement.low, measurement.high))
    interval = f"[{number(low)}, {number(high)}]" if low is not None and high is not None else ""
    return Cell(number(value), interval, value, low, high)


def _own(measurement: Measurement | None) -> float | None:
    """What the reference gives, out of a measurement of the candidate that says so."""
    if measurement is None or measurement.status != "ok":
        return None
    return next((value for part in OWN if (value := measurement.parts.get(part)) is not None and math.isfinite(value)), None)


def _curves(found: Mapping[str, Measurement]) -> dict[str, tuple[tuple[float, float], ...]]:
    """The curves that parts hold, by model."""
    curves: dict[str, list[tuple[float, float]]] = {}
    for subject, measurement in found.items():
        for part, value in measurement.parts.items():
            if (match := CURVE.match(part)) and value is not None and math.isfinite(value):
                curves.setdefault(match["name"] or subject, []).append((float(match["at"]), value))
    return {clean(name): tuple(sorted(points)) for name, points in curves.items() if len(points) > 1}


def _by_distance(line: Line) -> tuple[bool, float]:
    """Farthest from the reference first; what has no distance comes last."""
    return (not line.compared, -abs(line.distance or 0.0))


def _worst_text(worst: Line | None, attacks: Sequence[Line]) -> str:
    if worst is None:
        return "No attack could be read against a reference." if attacks else "No attack was run."
    mine, reference = worst.cells["candidate"], worst.cells["reference"]
    interval = f" {mine.interval}" if mine.interval else ""
    found = f"{worst.name}, {short(worst.title)}: {mine.text}{interval}"
    return f"{found} where the reference gives {reference.text} (distance {worst.distance_text})."


def _skipped(measurements: Iterable[Measurement], subjects: tuple[str, ...]) -> tuple[Skip, ...]:
    """What has no number, one entry for each system, status and reason."""
    found: dict[tuple[str, str, str], list[str]] = {}
    for m in measurements:
        if m.status != "ok":
            found.setdefault((m.system, m.status, m.why), []).append(m.subject)
    order = {subject: at for at, subject in enumerate(subjects)}
    return tuple(
        Skip(
            clean(system),
            ", ".join(NAMES.get(s, s.capitalize()).lower() for s in sorted(who, key=lambda s: order[s])),
            status,
            clean(why) or "no reason was given",
        )
        for (system, status, why), who in found.items()
    )


def _sample(row: Mapping[str, str]) -> Sample:
    said: dict[str, str] = {}
    answers = []
    for key, text in row.items():
        name = SAMPLE_NAMES.get(key, clean(key).capitalize())
        if name in ("Part", "Prompt", "Expected"):
            said.setdefault(name, clean(text))
        else:
            answers.append((name, clean(text)))
    order = list(NAMES.values())
    answers.sort(key=lambda pair: order.index(pair[0]) if pair[0] in order else len(order))
    part = said.get("Part", "")
    return Sample(
        {"forget": "to forget", "keep": "to keep", "forget, in other words": "to forget, in other words"}.get(part, part), said.get("Prompt", ""), said.get("Expected", ""), tuple(answers)
    )


def _request(report: Report) -> tuple[tuple[str, str], ...]:
    request = report.request
    rows = [("Kind", request.kind), ("Names", ", ".join(request.names)), ("Reason", request.reason)]
    rows += [
        (label, _data(data))
        for label, data in (("Forget", request.forget), ("Keep", request.keep), ("Unseen", request.unseen))
        if data is not None
    ]
    rows += [("Near", ", ".join(request.near)), ("Instead", request.instead or ""), ("Digest", request.digest)]
    return tuple((label, clean(text)) for label, text in rows if text)


def _data(data: Data) -> str:
    source = "given in memory" if data.source == "inline:" else data.source.removeprefix("file:")
    pieces = [
        source + (f" ({data.part})" if data.part else ""),
        f"columns {', '.join(data.columns)}" if data.columns else "",
        f"SHA-256 {data.digest[:16]}" if data.digest else "",
    ]
    return "; ".join(piece for piece in pieces if piece)


def _done(step: Step) -> Done:
    facts = [("Seed", str(step.seed))]
    if step.seconds:
        facts.append(("Time", duration(step.seconds)))
    facts += [_note(name, value) for name, value in step.notes.items()]
    settings = tuple((clean(name), clean(value)) for name, value in _flat(step.settings))
    return Done(clean(f"{step.kind} {step.system}"), tuple((clean(name), clean(text)) for name, text in facts), settings)


def _note(name: str, value: float | str) -> tuple[str, str]:
    label = name.replace("_", " ").capitalize()
    if isinstance(value, str):
        return label, value
    if name.endswith("_mb"):
        return label.removesuffix(" mb") + " memory", memory(value)
    if name.endswith("seconds"):
        return label, duration(value)
    return label, f"{value:g}"


def _flat(settings: Mapping[str, object], prefix: str = "") -> list[tuple[str, str]]:
    """Nested settings by dotted name."""
    rows: list[tuple[str, str]] = []
    for name, value in settings.items():
        if isinstance(value, Mapping):
            rows += _flat(value, f"{prefix}{name}.")
        else:
            rows.append((f"{prefix}{name}", value if isinstance(value, str) else json.dumps(value, default=str)))
    return rows


def _cost(report: Report) -> tuple[tuple[str, str], ...]:
    """Seconds of every stage, and the most memory that any step or stage has noted."""
    rows = [(clean(name).replace("_", " ").capitalize(), duration(seconds)) for name, seconds in report.seconds.items()]
    peaks = [value for step in report.steps for name, value in step.notes.items() if name == "peak_mb" and not isinstance(value, str)]
    return (*rows, *([("Peak memory while forgetting", memory(max(peaks)))] if peaks else []))


def _training(curve: Iterable[Mapping[str, float]]) -> dict[str, tuple[tuple[float, float], ...]]:
    """Every logged number over the steps, but for the gradient's norm."""
    series: dict[str, list[tuple[float, float]]] = {}
    for at, entry in enumerate(curve):
        for name, value in entry.items():
            if name not in ("step", "gradient_norm") and math.isfinite(value):
                series.setdefault(clean(name), []).append((entry.get("step", float(at)), value))
    return {name: tuple(points) for name, points in series.items() if len(points) > 1}


def _plane(metrics: Sequence[Line], subjects: Sequence[str], measurements: Iterable[Measurement]) -> Plane | None:
    """Forgetting against utility, where both were measured of the candidate and the reference."""
    x, y = _pick(metrics, FORGETTING), _pick(metrics, UTILITY)
    if x is None:
        return None
    if y is not None:
        up, label = y.cells, short(y.title)
    else:  # the same number on the rows to keep
        kept = {m.subject: m.parts.get("keep") for m in measurements if m.system == f"{x.kind}/{x.name}"}
        up, label = {s: Cell(number(v := kept.get(s)), "", v, None, None) for s in subjects}, f"{short(x.title)} on keep rows"
    there = [s for s in subjects if x.cells[s].value is not None and up[s].value is not None]
    if not {"candidate", "reference"} <= set(there):
        return None
    return Plane(short(x.title), label, tuple(Point(s, x.cells[s], up[s]) for s in there))


def _pick(lines: Iterable[Line], wanted: Sequence[str]) -> Line | None:
    """The first wanted line that has the candidate's number."""
    by_name = {line.name: line for line in lines if line.cells["candidate"].value is not None}
    return next((by_name[name] for name in wanted if name in by_name), None)


def _axis(name: str, axis: Mapping[str, float | str | None]) -> Axis:
    value, low, high, limit = (_float(axis.get(key)) for key in ("distance", "low", "high", "margin"))
    interval = f"[{signed(low)}, {signed(high)}]" if low is not None and high is not None else ""
    says, statistic = clean(axis.get("says") or ""), clean(axis.get("statistic") or "")
    return Axis(clean(name), statistic, signed(value), interval, number(limit), says, value, low, high, limit)


def _float(value: float | str | None) -> float | None:
    return float(value) if isinstance(value, int | float) and not math.isnan(value) else None
