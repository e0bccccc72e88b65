"""Many methods on one benchmark, one run folder each: a table that can be continued after a kill.

A cell (method, case, seed) that is finished has its report.json and is never run again; everything else is. The table and
the chart are made from the reports alone (see comparison.py).
"""

from __future__ import annotations

import itertools
import json
import logging
import shutil
import subprocess
import sys
from collections.abc import Callable, Hashable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import BaseModel, ConfigDict

from efface import comparison, runs, sources
from efface.core import files, registry
from efface.core.context import silent
from efface.core.errors import EffaceError, UnknownName
from efface.core.types import Case, Report

log = logging.getLogger("efface")
Progress = Callable[..., Any]


class CompareOptions(BaseModel):
    """What `efface compare` is given."""

    model_config = ConfigDict(extra="forbid")

    benchmark: str = "authors"
    split: str = ""
    case: dict[str, tuple[str, ...]] = {}
    """Settings of the benchmark, each with one or more values; every combination is a case."""
    methods: tuple[str, ...] = ()
    """Names of methods, or of guards; all methods that fit the benchmark when empty."""
    seeds: tuple[int, ...] = (0, 1)
    settings: dict[str, dict[str, object]] = {}
    """Settings by method; those under "all" go to every method that has them."""
    tuned: bool = False
    """Begin with the settings that the benchmark has for its own models."""
    attacks: bool = True
    out: Path
    table: Path | None = None
    """Where the table goes, its chart and its JSON beside it; OUT/table.md if not given."""


class Held(NamedTuple):
    """A case that several runs share, and what was computed once about its models."""

    case: Case
    memo: dict[Hashable, object]

    def forget(self) -> None:
        """Drop what was computed about anything but the case's own models, so that candidates do not pile up."""
        own = [self.case.original, *self.case.baselines.values()]
        for key in list(self.memo):
            first = key[0] if isinstance(key, tuple) and key else None
            if not any(first is subject for subject in own):
                del self.memo[key]


class Cell(NamedTuple):
    """One run: a method with a seed on one case of the benchmark ("" when it has but one)."""

    case: str
    method: str
    seed: int

    @property
    def folder(self) -> str:
        """Name of the run's folder."""
        return "-".join(part for part in (self.method, self.case.replace("=", "-").replace(" ", "-"), f"seed{self.seed}") if part)


def compare(options: CompareOptions, progress: Progress = silent) -> Path:
    """Run what is missing and return the path of the table; its JSON and its chart lie beside it."""
    card = registry.card("benchmark", options.benchmark)
    fitting = {kind: [name for name in registry.names(kind) if set(registry.card(kind, name).families) & set(card.families)] for kind in ("method", "guard")}
    known = [*fitting["method"], *fitting["guard"]]
    methods = list(options.methods) or fitting["method"]
    for name in methods:
        if name not in known:
            raise UnknownName.among(f"method for {options.benchmark}", name, known)
    _check_settings(options, methods)
    cases = _cases(options)
    cells = [Cell(case, method, seed) for case in cases for seed in options.seeds for method in methods]
    reports: dict[Cell, Report] = {}
    failed: dict[Cell, str] = {}
    held: dict[str, Held] = {}
    for cell in progress(cells, "comparing", len(cells)):
        folder = options.out / cell.folder
        try:
            if not (folder / "report.json").exists():
                (_alone if "causal-lm" in card.families else _here)(cell, options, folder, held)
            reports[cell] = runs.load_report(folder)
        except EffaceError as error:
            failed[cell] = str(error)
        _write(options, reports, failed)
    return _table(options)


def _cases(options: CompareOptions) -> dict[str, dict[str, str]]:
    """{label: settings of the benchmark} of every combination; checks them all before the first run."""
    combined = [dict(zip(options.case, values, strict=True)) for values in itertools.product(*options.case.values())]
    system = registry.load("benchmark", options.benchmark)
    for settings in combined:
        system.set(settings)
    # A single value stands in the label too: folders of another command with another value must not be taken for these.
    return {" ".join(f"{name}={value}" for name, value in settings.items()): settings for settings in combined}


def _table(options: CompareOptions) -> Path:
    return options.table or options.out / "table.md"


def _alone(cell: Cell, options: CompareOptions, folder: Path, held: dict[str, Held]) -> None:
    """One run in processes of its own, so that its peak memory is its own."""
    settings = _settings_of(cell.method, options, cell.case)
    if not (folder / "run.json").exists():
        shutil.rmtree(folder, ignore_errors=True)
        command = ["forget", "--benchmark", options.benchmark, "--method", cell.method, "--seed", str(cell.seed), "--out", str(folder)]
        command += ["--split", options.split] if options.split else []
        for name, given in _cases(options)[cell.case].items():
            command += ["--case", f"{name}={given}"]
        for name, value in settings.items():
            command += ["--set", f"{name}={json.dumps(value) if isinstance(value, list | dict) else value}"]
        _efface(command)
    _efface(["prove", str(folder), *([] if options.attacks else ["--no-attacks"])])


def _here(cell: Cell, options: CompareOptions, folder: Path, held: dict[str, Held]) -> None:
    """One run in this process: small models are done before another process would have begun. The case is made once."""
    source: dict[str, Any] = {"benchmark": options.benchmark, "split": options.split, "benchmark_settings": _cases(options)[cell.case], "seed": cell.seed}
    key = f"{cell.case}|{cell.seed}"
    if key not in held:
        held.clear()
        held[key] = Held(sources.benchmark(sources.Source.model_validate(source)), {})
    if not (folder / "run.json").exists():
        shutil.rmtree(folder, ignore_errors=True)
        shutil.rmtree(folder.with_name(folder.name + ".partial"), ignore_errors=True)
        kind = _kind(cell.method)
        given = {**source, kind: cell.method, "settings": _settings_of(cell.method, options, cell.case), "out": folder}
        if kind == "guard":
            runs.guard(runs.GuardOptions.model_validate(given), case=held[key].case)
        else:
            runs.forget(runs.ForgetOptions.model_validate(given), case=held[key].case)
    runs.prove(folder, runs.ProveOptions(attacks=options.attacks), case=held[key].case, memo=held[key].memo)
    held[key].forget()


def _kind(name: str) -> str:
    """Whether a name is a method's or a guard's."""
    return "guard" if name in registry.names("guard") and name not in registry.names("method") else "method"


def _efface(arguments: Sequence[str]) -> None:
    done = subprocess.run([sys.executable, "-m", "efface.cli.main", *arguments], stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, check=False)
    if done.returncode not in (0, 3):
        lines = [line for line in done.stderr.strip().splitlines() if line.strip()] or [f"exit code {done.returncode}"]
        raise EffaceError(f"efface {arguments[0]}: {lines[-1][:300]}")


def _settings_of(method: str, options: CompareOptions, case: str = "") -> dict[str, object]:
    config = registry.load(_kind(method), method).Config
    own: dict[str, object] = {}
    if options.tuned:
        module = import_module(registry.load("benchmark", options.benchmark).__module__)
        if not hasattr(module, "tuned"):
            raise EffaceError(f"the benchmark {options.benchmark} has no settings of its own; leave --tuned away")
        own = module.tuned(method, **_cases(options).get(case, {}))
    common = {name: value for name, value in options.settings.get("all", {}).items() if name.split(".")[0] in config.model_fields}
    return {**own, **common, **options.settings.get(method, {})}


def _check_settings(options: CompareOptions, methods: Sequence[str]) -> None:
    for name in options.settings:
        if name not in ("all", *methods):
            raise UnknownName.among("method with settings", name, methods)
    for method in methods:
        registry.load(_kind(method), method).set(_settings_of(method, options))


def _write(options: CompareOptions, reports: Mapping[Cell, Report], failed: Mapping[Cell, str]) -> None:
    family = registry.card("benchmark", options.benchmark).families[0]
    if family == "causal-lm":
        found = comparison.of_language_models(reports)
    else:
        found = comparison.of_pictures(reports) if family == "diffusion" else comparison.of_predictors(reports, family)
    table, what = _table(options), {"options": options.model_dump(mode="json"), "rows": found.every}
    files.write_json(table.with_suffix(".json"), {**what, "failed": {cell.folder: why for cell, why in failed.items()}})
    lines = [f"# {options.benchmark}{' forget' + options.split if options.split else ''}", "", f"Made by `{_command(options)}`.", found.reading, ""]
    lines += found.lines
    lines += ["", *(f"- {cell.folder}: failed: {why}" for cell, why in failed.items())]
    lines += comparison.settings_lines(reports)
    if reports:
        files.write_text(table.with_suffix(".svg"), found.chart)
        lines += ["", f"![{found.caption}]({table.with_suffix('.svg').name})"]
    files.write_text(table, "\n".join(lines) + "\n")


def _command(options: CompareOptions) -> str:
    sets = [f"--set {'' if method == 'all' else method + ':'}{name}={value}" for method, given in options.settings.items() for name, value in given.items()]
    parts = [
        f"efface compare --benchmark {options.benchmark}", f"--split {options.split}" if options.split else "",
        *(f"--case {name}={','.join(values)}" for name, values in options.case.items()),
        f"--methods {','.join(options.methods) or 'all'}", f"--seeds {','.join(map(str, options.seeds))}", *sets, "--tuned" if options.tuned else "", "" if options.attacks else "--no-attacks",
        f"--out {options.out}", f"--table {options.table}" if options.table else "",
    ]
    return " ".join(part for part in parts if part)
