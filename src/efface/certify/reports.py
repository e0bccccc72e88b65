"""What a claim that rests on a report must know of it: that it is of this run, that its numbers stand in the run's own record and tables."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path

from efface import runs
from efface.certify import bounds
from efface.certify.bounds import Table
from efface.certify.certificate import Ledger
from efface.core.errors import EffaceError, Unsound
from efface.core.types import Measurement, Report
from efface.runs import RunRecord

FILES = ("run.json", "report.json", "measurements.jsonl", "rows")
"""Files and folders of a run that a report's numbers stand in."""
TOOK = {"seconds", "notes"}
"""What a step says of its own course; a guard is put up anew for each measuring."""
Models = Mapping[str, Mapping[str, Measurement]]
"""{system: {model: measurement}} of what was measured."""


def read(folder: Path, record: RunRecord, ledger: Ledger) -> Report:
    """The report of the run. Raises Missing or EffaceError where it cannot be read, Unsound where it is another run's."""
    report = runs.load_report(folder)
    same = report.request.digest == record.request.digest == record.step.request
    ledger.check("request", "the report is of the request that the run was made for", same, _short(report.request.digest, record.request.digest), _again(folder))
    last = report.steps[-1] if report.steps else None
    found = f"{last.system}, seed {last.seed}" if last is not None else "a report of a model to which nothing was done"
    done = last is not None and last.model_dump(exclude=TOOK) == record.step.model_dump(exclude=TOOK)
    ledger.check("this run", "the last thing done to the measured model is what the run says it did", done, found, _again(folder))
    return report


def measured(folder: Path, report: Report, ledger: Ledger) -> Models:
    """What was measured, by system and model, after comparing it with the run's own record of measurements."""
    held = _record(folder)
    strange = [m for m in report.measurements if m.status == "ok" and _bare(m) not in held]
    there = sum(m.status == "ok" for m in report.measurements)
    found = f"{strange[0].system} on {strange[0].subject} gives {strange[0].value} there and not here ({len(strange)} such)" if strange else f"{there} measurements"
    ledger.check("record", "every number of the report stands in measurements.jsonl as it was measured", not strange, found, _again(folder))
    by: dict[str, dict[str, Measurement]] = {}
    for m in report.measurements:
        by.setdefault(m.system, {})[m.subject] = m
    return by


def tables(folder: Path, models: Models, ledger: Ledger) -> Mapping[str, Mapping[str, Table]]:
    """{attack: {model: per-row table}}, read and recomputed. Raises Unsound for a table that is not there or gives another number."""
    attacks = {name: some for name, some in models.items() if name.startswith("attack/")}
    named = [m for some in attacks.values() for m in some.values() if m.rows]
    lost = [m.rows for m in named if not _inside(folder, m.rows)]
    ledger.check("tables", "the per-row table of every attack is there", not lost, f"no {lost[0]} ({len(lost)} such)" if lost else f"{len(named)} tables", _again(folder))
    found = {name: {who: _table(folder / m.rows) for who, m in some.items() if m.rows} for name, some in attacks.items()}
    wrong, count = "", 0
    for name, some in found.items():
        for who, table in some.items():
            pair = bounds.recomputed(models[name][who], table) if models[name][who].status == "ok" else None
            count += pair is not None
            if pair is not None and not math.isclose(*pair, rel_tol=bounds.AGREES, abs_tol=bounds.AGREES):
                wrong = wrong or f"{name} on {who}: the report says {pair[0]:.6g}, and its table gives {pair[1]:.6g}"
    text = "what can be recomputed of the attacks' numbers from their tables is what the report says"
    ledger.check("recomputed", text, not wrong, wrong or f"{count} of {len(named)}, the others hold more than one number a row", _again(folder))
    return found


def weights(folder: Path, report: Report, ledger: Ledger, digest: str, what: str) -> None:
    """Check that the weights which were measured have this digest."""
    said = report.weights.get("candidate", "")
    found = _short(said, digest) if said else "the report does not say which weights it measured"
    ledger.check("weights", f"the weights that were measured are those of {what}", said == digest, found, _again(folder))


def _again(folder: Path) -> str:
    return f"measure again: efface prove {folder}"


def _short(one: str, other: str) -> str:
    return f"both {one[:16]}" if one == other else f"{one[:16]} in the report, {other[:16]} in the run"


def _bare(m: Measurement) -> str:
    """What a measurement says, without what it cost."""
    return m.model_dump_json(exclude={"seconds", "spent", "table"})


def _record(folder: Path) -> set[str]:
    path = folder / "measurements.jsonl"
    try:
        return {_bare(Measurement.model_validate(line["measurement"])) for line in _lines(path) if isinstance(line.get("measurement"), dict)}
    except ValueError as error:
        raise EffaceError(f"{path} is not of this version: {str(error).splitlines()[0]}") from None


def _table(path: Path) -> Table:
    return _lines(path)


def _lines(path: Path) -> list[dict[str, object]]:
    """The objects of a file with one a line. Raises Unsound where it is not there, EffaceError for a line that is none."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise Unsound(f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from None
    found = []
    for number, line in enumerate(text.splitlines(), start=1):
        try:
            value = json.loads(line)
        except json.JSONDecodeError as error:
            raise EffaceError(f"{path}, line {number}: not valid JSON: {error}") from None
        if not isinstance(value, dict):
            raise EffaceError(f"{path}, line {number}: an object is needed; found {type(value).__name__}")
        found.append(value)
    return found


def _inside(folder: Path, name: str) -> bool:
    path = (folder / name).resolve()
    return path.is_file() and path.is_relative_to(folder.resolve())
