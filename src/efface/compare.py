"""Many methods on one benchmark, one run folder each: a table that can be continued after a kill.

A cell (method, seed) that is finished has its report.json and is never run again; everything else is. The table and the
chart are made from the reports alone.
"""

from __future__ import annotations

import logging
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from efface import runs
from efface.core import files, registry
from efface.core.context import silent
from efface.core.errors import EffaceError, UnknownName
from efface.core.types import Measurement, Report

log = logging.getLogger("efface")
Progress = Callable[..., Any]
COLUMNS = ("method", "seed", "verdict", "forget quality (p)", "forgetting left", "model utility", "worst attack", "seconds", "peak MB")


READING = (
    "Forget quality is the p-value of the test against the reference, to be read at one number of rows only. Forgetting left is the worst "
    "distance of the verdict: 1 as the original, 0 as the reference, below 0 known worse than by the reference. The worst attack is the one "
    "farthest from the reference, with both values. Seconds and peak memory are those of the forgetting run."
)


class CompareOptions(BaseModel):
    """What `efface compare` is given."""

    model_config = ConfigDict(extra="forbid")

    benchmark: str = "authors"
    split: str = ""
    methods: tuple[str, ...] = ()
    """Names of methods; all that fit the benchmark when empty."""
    seeds: tuple[int, ...] = (0, 1)
    settings: dict[str, dict[str, object]] = {}
    """Settings by method; those under "all" go to every method that has them."""
    attacks: bool = True
    out: Path
    table: Path | None = None
    """Where the table goes, its chart and its JSON beside it; OUT/table.md if not given."""


def compare(options: CompareOptions, progress: Progress = silent) -> Path:
    """Run what is missing and return the path of the table; its JSON and its chart lie beside it."""
    card = registry.card("benchmark", options.benchmark)
    known = [name for name in registry.names("method") if set(registry.card("method", name).families) & set(card.families)]
    methods = list(options.methods) or known
    for name in methods:
        if name not in known:
            raise UnknownName.among(f"method for {options.benchmark}", name, known)
    _check_settings(options, methods)
    cells = [(method, seed) for seed in options.seeds for method in methods]
    reports: dict[tuple[str, int], Report] = {}
    failed: dict[tuple[str, int], str] = {}
    for method, seed in progress(cells, "comparing", len(cells)):
        folder = options.out / f"{method}-seed{seed}"
        try:
            if not (folder / "report.json").exists():
                _cell(method, seed, options, folder)
            reports[method, seed] = runs.load_report(folder)
        except EffaceError as error:
            failed[method, seed] = str(error)
        _write(options, reports, failed)
    return _table(options)


def _table(options: CompareOptions) -> Path:
    return options.table or options.out / "table.md"


def _cell(method: str, seed: int, options: CompareOptions, folder: Path) -> None:
    """One run in a process of its own, so that its peak memory is its own."""
    settings = _settings_of(method, options)
    if not (folder / "run.json").exists():
        shutil.rmtree(folder, ignore_errors=True)
        command = ["forget", "--benchmark", options.benchmark, "--method", method, "--seed", str(seed), "--out", str(folder)]
        command += ["--split", options.split] if options.split else []
        for name, value in settings.items():
            command += ["--set", f"{name}={value}"]
        _efface(command)
    _efface(["prove", str(folder), *([] if options.attacks else ["--no-attacks"])])


def _efface(arguments: Sequence[str]) -> None:
    done = subprocess.run([sys.executable, "-m", "efface.cli.main", *arguments], stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, check=False)
    if done.returncode not in (0, 3):
        lines = [line for line in done.stderr.strip().splitlines() if line.strip()] or [f"exit code {done.returncode}"]
        raise EffaceError(f"efface {arguments[0]}: {lines[-1][:300]}")


def _settings_of(method: str, options: CompareOptions) -> dict[str, object]:
    config = registry.load("method", method).Config
    common = {name: value for name, value in options.settings.get("all", {}).items() if name.split(".")[0] in config.model_fields}
    return {**common, **options.settings.get(method, {})}


def _check_settings(options: CompareOptions, methods: Sequence[str]) -> None:
    for name in options.settings:
        if name not in ("all", *methods):
            raise UnknownName.among("method with settings", name, methods)
    for method in methods:
        registry.load("method", method).set(_settings_of(method, options))


def _find(report: Report, system: str, subject: str = "candidate") -> Measurement | None:
    return next((m for m in report.measurements if m.system == system and m.subject == subject and m.status == "ok"), None)


def row_of(method: str, seed: int | str, report: Report, subject: str = "candidate") -> dict[str, object]:
    """One line of the table, out of a report."""
    quality, utility = _find(report, "metric/forget_quality", subject), _find(report, "metric/model_utility", subject)
    left = report.verdict.axes.get("forgetting", {}).get("distance") if subject == "candidate" else None
    notes = report.steps[-1].notes if report.steps else {}
    return {
        "method": method, "seed": seed, "verdict": report.verdict.word if subject == "candidate" else "",
        "forget quality (p)": quality.value if quality else None, "forgetting left": left,
        "model utility": utility.value if utility else None, "worst attack": worst_attack(report) if subject == "candidate" else "",
        "seconds": report.seconds.get("forget") if subject == "candidate" else None,
        "peak MB": notes.get("peak_mb") if subject == "candidate" else None,
    }


def worst_attack(report: Report) -> str:
    """The attack whose value lies farthest from the reference's, by name, with both values."""
    found = []
    for m in report.measurements:
        if m.system.startswith("attack/") and m.subject == "candidate" and m.status == "ok" and m.value is not None:
            other = _find(report, m.system, "reference")
            base = other.value if other and other.value is not None else m.parts.get("reference")
            if base is not None:
                found.append((abs(m.value - base), m.system.removeprefix("attack/"), m.value, base))
    if not found:
        return ""
    _, name, value, base = max(found)
    return f"{name} {value:.2f} (reference {base:.2f})"


def _write(options: CompareOptions, reports: Mapping[tuple[str, int], Report], failed: Mapping[tuple[str, int], str]) -> None:
    rows: list[dict[str, object]] = []
    if reports:
        first = next(iter(reports.values()))
        rows += [row_of(name, "", first, name) for name in ("original", "reference")]
    rows += [row_of(method, seed, report) for (method, seed), report in sorted(reports.items())]
    files.write_json(_table(options).with_suffix(".json"), {"options": options.model_dump(mode="json"), "rows": rows, "failed": {f"{m}-seed{s}": why for (m, s), why in failed.items()}})
    lines = [f"# {options.benchmark}{' forget' + options.split if options.split else ''}", "", f"Made by `{_command(options)}`.", READING, "", _header()]
    lines += ["| " + " | ".join(_cell_text(row[name]) for name in COLUMNS) + " |" for row in rows]
    lines += ["", *(f"- {method}, seed {seed}: failed: {why}" for (method, seed), why in failed.items())]
    lines += _settings_lines(reports)
    files.write_text(_table(options), "\n".join(lines) + "\n")
    if reports:
        files.write_text(_table(options).with_suffix(".svg"), _chart(rows))


def _command(options: CompareOptions) -> str:
    sets = [f"--set {'' if method == 'all' else method + ':'}{name}={value}" for method, given in options.settings.items() for name, value in given.items()]
    parts = [
        f"efface compare --benchmark {options.benchmark}", f"--split {options.split}" if options.split else "",
        f"--methods {','.join(options.methods) or 'all'}", f"--seeds {','.join(map(str, options.seeds))}", *sets, "" if options.attacks else "--no-attacks",
        f"--out {options.out}", f"--table {options.table}" if options.table else "",
    ]
    return " ".join(part for part in parts if part)


def _header() -> str:
    return "| " + " | ".join(COLUMNS) + " |\n|" + " --- |" * len(COLUMNS)


def _cell_text(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.3g}" if abs(value) < 100 else f"{value:.0f}"
    return "" if value is None else str(value)


def _settings_lines(reports: Mapping[tuple[str, int], Report]) -> list[str]:
    lines = ["", "Settings, and why each run ended:", ""]
    for (method, seed), report in sorted(reports.items()):
        if report.steps:
            step = report.steps[-1]
            lines.append(f"- {method}, seed {seed}: {step.notes.get('steps', '')} steps ({step.notes.get('stopped', '')}); {step.settings}")
    return lines


def _chart(rows: Sequence[Mapping[str, object]]) -> str:
    from efface.report import charts

    points = [
        (f"{row['method']}{'' if row['seed'] == '' else ' ' + str(row['seed'])}", row["forget quality (p)"], row["model utility"])
        for row in rows if row["forget quality (p)"] is not None and row["model utility"] is not None
    ]
    return charts.quality_utility(points)
