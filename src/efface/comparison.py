"""The table and the chart of a comparison, out of the reports alone: one line a run for language models, one a method for the rest."""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from efface.core import registry
from efface.core.types import Measurement, Report

LANGUAGE = ("method", "case", "seed", "verdict", "forget quality (p)", "forgetting left", "model utility", "worst attack", "seconds", "peak MB")
BASELINES = ("original", "reference")


@dataclass(frozen=True)
class Comparison:
    """What goes into the files: Markdown lines of the table, every run as plain values, and the chart as SVG."""

    lines: list[str]
    every: list[dict[str, object]]
    chart: str
    reading: str
    caption: str


def of_language_models(reports: Mapping[Any, Report]) -> Comparison:
    """One line a run. `reports` is keyed by (case, method, seed)."""
    rows: list[dict[str, object]] = []
    if reports:
        first = next(iter(reports.values()))
        rows += [row_of(name, "", first, name) for name in BASELINES]
    rows += [{**row_of(cell.method, cell.seed, report), "case": cell.case} for cell, report in sorted(reports.items())]
    columns = [name for name in LANGUAGE if name != "case" or any(row["case"] for row in rows)]
    reading = (
        "Forget quality is the p-value of the test against the reference, to be read at one number of rows only. Forgetting left is the worst "
        "distance of the verdict: 1 as the original, 0 as the reference, below 0 known worse than by the reference. The worst attack is the one "
        "farthest from the reference, with both values. Seconds and peak memory are those of the forgetting run."
    )
    points = [
        (f"{row['method']}{'' if row['seed'] == '' else ' ' + str(row['seed'])}", row["forget quality (p)"], row["model utility"])
        for row in rows if row["forget quality (p)"] is not None and row["model utility"] is not None
    ]
    return Comparison(_table(columns, rows), rows, _charts().quality_utility(points) if rows else "", reading, "Forget quality against model utility")


def of_predictors(reports: Mapping[Any, Report], family: str) -> Comparison:
    """One line a case and method: mean and standard deviation over seeds. `reports` is keyed by (case, method, seed)."""
    every: list[dict[str, object]] = []
    for case in sorted({cell.case for cell in reports}):
        mine = {cell: report for cell, report in sorted(reports.items()) if cell.case == case}
        seen: set[int] = set()
        for cell, report in mine.items():
            if cell.seed not in seen:
                every += [{"case": case, "seed": cell.seed, **_numbers(name, report, name)} for name in BASELINES]
                seen.add(cell.seed)
        every += [{"case": case, "seed": cell.seed, **_numbers(cell.method, report, "candidate")} for cell, report in mine.items()]
    metrics = sorted({name for row in every for name in row if name.startswith("metric/")})
    attacks = sorted({name for row in every for name in row if name.startswith("attack/")})
    groups = _grouped(every)
    plain = ("forgetting left", "privacy distance", "utility lost", *metrics, *attacks, "seconds")
    rows = [
        {"case": case, "method": method, "seeds": len(mine), "verdict": _counted(mine), **{name: _spread(mine, name) for name in plain}}
        for (case, method), mine in groups.items()
    ]
    heads = ["method", "seeds", "verdict", *(name for name in plain if any(row[name] for row in rows))]
    reading = (
        "Each number is the mean over seeds, with the standard deviation where there are several. Forgetting left, privacy distance and utility "
        "lost are the worst distances of the verdict on its three axes: forgetting is 1 as the original, 0 as the retrained reference, below 0 "
        "known worse than by the reference; privacy is an attack's AUC minus the reference's; utility is the share lost. The lines `original` "
        "and `reference` show what the same measurements give there: every number is to be read against the reference's, not against 0 or 1. "
        f"A {family}'s verdict margins are those of efface prove. Seconds are those of the forgetting run."
    )
    return Comparison(_by_case(heads, rows), every, _left_lost(groups), reading, "Forgetting left and utility lost, by method")


PICTURES = ("verdict", "forgetting left", "utility lost", "UA", "IRA", "CRA", "near", "far", "worst attack", "reference's", "seconds")
"""Columns of models that draw."""


def of_pictures(reports: Mapping[Any, Report]) -> Comparison:
    """One line a case and method, over seeds, for models that draw. `reports` is keyed by (case, method, seed)."""
    every: list[dict[str, object]] = []
    for case in sorted({cell.case for cell in reports}):
        mine = {cell: report for cell, report in sorted(reports.items()) if cell.case == case}
        first = next(iter(mine.values()))
        every += [{"case": case, "seed": "", **_drawn(name, first, name)} for name in BASELINES if any(m.subject == name for m in first.measurements)]
        every += [{"case": case, "seed": cell.seed, **_drawn(cell.method, report, "candidate")} for cell, report in mine.items()]
    groups = _grouped(every)
    rows: list[dict[str, object]] = []
    for (case, method), mine_rows in groups.items():
        names = Counter(str(row["attack"]) for row in mine_rows if row.get("attack"))
        row = {"case": case, "method": method, "seeds": len(mine_rows) if mine_rows[0]["seed"] != "" else "", **{name: _spread(mine_rows, name) for name in PICTURES}}
        row["verdict"] = _counted(mine_rows)
        row["worst attack"] = f"{row['worst attack']} ({', '.join(names)})" if row["worst attack"] else ""
        rows.append(row)
    heads = ["method", "seeds", *PICTURES]
    reading = (
        "UA is the share of pictures of the concept's prompts in which a judge no longer sees it; IRA and CRA the shares of kept prompts whose object "
        "and style (for an erased style: style and object) it recognizes; near and far those of the concept's neighbors and of the prompts farthest from it. The worst "
        "attack is the one with the highest success, with its name; beside it what the same attack reaches on the retrained reference. Forgetting left and utility lost are "
        "the worst distances of the verdict: 0 is the reference. Numbers are means over seeds with the standard deviation. Never read UA without the columns beside it: a model that draws "
        "nothing has UA 1."
    )
    return Comparison(_by_case(heads, rows), every, _left_lost(groups), reading, "Forgetting left and utility lost, by method")


def _drawn(method: str, report: Report, subject: str) -> dict[str, object]:
    """One model's numbers out of a report of a model that draws."""
    found: dict[str, object] = {"method": method, "verdict": report.verdict.word if subject == "candidate" else ""}
    canvas, near = _find(report, "metric/unlearn_canvas", subject), _find(report, "metric/neighbor_damage", subject)
    found |= {name: canvas.parts.get(name) if canvas else None for name in ("UA", "IRA", "CRA")}
    found |= {name: near.parts.get(name) if near else None for name in ("near", "far")}
    attacks = [m for m in report.measurements if m.subject == subject and m.system.startswith("attack/") and m.status == "ok" and m.value is not None]
    if attacks:
        worst = max(attacks, key=lambda m: m.value or 0.0)
        beside = worst.parts.get("reference", next((m.value for m in report.measurements if m.system == worst.system and m.subject == "reference"), None))
        found |= {"worst attack": worst.value, "attack": worst.system.removeprefix("attack/"), "reference's": beside}
    if subject == "candidate":
        found |= {"forgetting left": _axis(report, "forgetting"), "utility lost": _axis(report, "utility"), "seconds": report.seconds.get("forget")}
    return found


def row_of(method: str, seed: int | str, report: Report, subject: str = "candidate") -> dict[str, object]:
    """One line of a language model's table, out of a report."""
    quality, utility = _find(report, "metric/forget_quality", subject), _find(report, "metric/model_utility", subject)
    own = subject == "candidate"
    notes = report.steps[-1].notes if report.steps else {}
    return {
        "method": method, "case": "", "seed": seed, "verdict": report.verdict.word if own else "",
        "forget quality (p)": quality.value if quality else None, "forgetting left": _axis(report, "forgetting") if own else None,
        "model utility": utility.value if utility else None, "worst attack": worst_attack(report) if own else "",
        "seconds": report.seconds.get("forget") if own else None, "peak MB": notes.get("peak_mb") if own else None,
    }


def worst_attack(report: Report) -> str:
    """The attack whose value lies farthest from the reference's, by name, with both values; as the report itself names it."""
    from efface.report import build

    worst = build.view(report).worst
    if worst is None:
        return ""
    return f"{worst.name} {worst.cells['candidate'].text} (reference {worst.cells['reference'].text})"


def settings_lines(reports: Mapping[Any, Report]) -> list[str]:
    """What each method ran with besides its defaults, and why runs ended; runs that say the same share a line."""
    lines = ["", "Settings other than the defaults, and why each run ended:", ""]
    said: dict[tuple[str, str], dict[str, list[str]]] = {}
    for cell, report in sorted(reports.items()):
        if report.steps:
            step = report.steps[-1]
            steps = f"{step.notes['steps']:g} steps, " if isinstance(step.notes.get("steps"), float | int) else ""
            ends = said.setdefault((cell.method, _changed(cell.method, step.settings)), {})
            ends.setdefault(f"{steps}{step.notes.get('stopped', 'no training loop')}", []).append(f"{cell.case} seed {cell.seed}".strip())
    for (method, settings), ends in said.items():
        told = "; ".join(f"{end} ({', '.join(cells) if len(cells) < 4 else f'{len(cells)} runs'})" for end, cells in ends.items())
        lines.append(f"- `{method}`: {settings}. {told}")
    return lines


def _changed(method: str, settings: Mapping[str, object]) -> str:
    """The settings that are not the method's defaults, as name=value; checkpoints change no result and are left out."""
    kind = "method" if method in registry.names("method") else "guard"
    default = _flat(registry.load(kind, method)().config.model_dump())
    mine = {name: value for name, value in _flat(settings).items() if not name.endswith(".checkpoint") and default.get(name, ...) != value}
    return ", ".join(f"{name}={value}" for name, value in mine.items()) or "defaults"


def _flat(settings: Mapping[str, object], prefix: str = "") -> dict[str, object]:
    found: dict[str, object] = {}
    for name, value in settings.items():
        if isinstance(value, Mapping):
            found |= _flat(value, f"{prefix}{name}.")
        else:
            found[f"{prefix}{name}"] = list(value) if isinstance(value, tuple) else value
    return found


def _numbers(method: str, report: Report, subject: str) -> dict[str, object]:
    found: dict[str, object] = {m.system: m.value for m in report.measurements if m.subject == subject and m.status == "ok"}
    own = subject == "candidate"
    if own:
        found |= {"forgetting left": _axis(report, "forgetting"), "privacy distance": _axis(report, "privacy"), "utility lost": _axis(report, "utility")}
        found |= {"seconds": report.seconds.get("forget"), "worst attack": worst_attack(report)}
    return {"method": method, "verdict": report.verdict.word if own else "", **found}


def _axis(report: Report, axis: str) -> object:
    return report.verdict.axes.get(axis, {}).get("distance")


def _find(report: Report, system: str, subject: str) -> Measurement | None:
    return next((m for m in report.measurements if m.system == system and m.subject == subject and m.status == "ok"), None)


Groups = dict[tuple[object, object], list[dict[str, object]]]


def _grouped(every: Sequence[dict[str, object]]) -> Groups:
    """The lines of each case and method."""
    groups: Groups = {}
    for row in every:
        groups.setdefault((row["case"], row["method"]), []).append(row)
    return groups


def _by_case(heads: Sequence[str], rows: Sequence[dict[str, object]]) -> list[str]:
    """One table a case."""
    lines: list[str] = []
    for case in dict.fromkeys(row["case"] for row in rows):
        lines += [*([f"## {case}", ""] if case else []), *_table(heads, [row for row in rows if row["case"] == case]), ""]
    return lines


def _left_lost(groups: Groups) -> str:
    """The chart of forgetting left and utility lost; "" without a method."""
    points = [
        (str(method), str(case), _mean(mine, "forgetting left"), _mean(mine, "utility lost"))
        for (case, method), mine in groups.items() if method not in BASELINES
    ]
    return _charts().left_lost(points) if points else ""  # type: ignore[no-any-return]


def _counted(rows: Sequence[Mapping[str, object]]) -> str:
    words = Counter(str(row["verdict"]) for row in rows if row["verdict"])
    return ", ".join(word if len(words) == 1 else f"{word} {count}" for word, count in words.most_common())


def _values(rows: Sequence[Mapping[str, object]], name: str) -> list[float]:
    return [float(value) for row in rows if isinstance(value := row.get(name), int | float) and math.isfinite(value)]


def _mean(rows: Sequence[Mapping[str, object]], name: str) -> float | None:
    return statistics.mean(found) if (found := _values(rows, name)) else None


def _spread(rows: Sequence[Mapping[str, object]], name: str) -> str:
    found = _values(rows, name)
    if not found:
        return ""
    return f"{statistics.mean(found):.3g}" + (f" ± {statistics.stdev(found):.2g}" if len(found) > 1 else "")


def _table(columns: Sequence[str], rows: Sequence[Mapping[str, object]]) -> list[str]:
    heads = [name.removeprefix("metric/").removeprefix("attack/") for name in columns]
    return [
        "| " + " | ".join(heads) + " |", "|" + " --- |" * len(columns),
        *("| " + " | ".join(_text(row[name]) for name in columns) + " |" for row in rows),
    ]


def _text(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.3g}" if abs(value) < 100 else f"{value:.0f}"
    return "" if value is None else str(value)


def _charts() -> Any:
    from efface.report import charts

    return charts
