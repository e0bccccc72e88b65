"""The claim `audited`: no attack of the run's suite finds more than in a model retrained without the rows, up to a bound.

It is as good as the suite. What is looked at again: that the report is of this run and of these weights, that its numbers stand in
the record of measurements and follow from the per-row tables, that its verdict is "forgotten" and, for language models, that the
evidence says "removal"; and then every attack's upper bound, computed anew from the tables, against its margin.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from efface import api
from efface.certify import bounds, reports
from efface.certify.bounds import Bound, Table
from efface.certify.certificate import Found, Ledger
from efface.certify.reports import Models
from efface.core import registry
from efface.core.errors import EffaceError
from efface.core.types import Report
from efface.runs import RunRecord
from efface.verdict import FORGETTING, PRIVACY

SEES = {"outputs": "asks and reads what is said", "logits": "reads its probabilities", "gradients": "reads its gradients", "weights": "has its weights and changes them"}
"""What an adversary can do, weakest first."""


def look(folder: Path, record: RunRecord) -> Found:
    """What the report of a run allows to claim. Raises Unsound, naming the assumption that fails."""
    ledger = Ledger(folder)
    report = reports.read(folder, record, ledger)
    subject: Any = api.load(str(folder / "model"), "cpu", record.source.dtype)
    whole = subject.merged() if getattr(subject, "adapted", False) else subject
    reports.weights(folder, report, ledger, whole.digest, "the run's model")
    models = reports.measured(folder, report, ledger)
    _check_verdict(report, ledger)
    _check_reference(report, models, ledger)
    skipped = _check_suite(models, ledger)
    tables = reports.tables(folder, models, ledger)
    found, silent = _bounds(models, tables)
    _check_bounds(found, ledger)
    ledger.declare("reference", "the reference was made as the model would have been, and never saw the forgotten rows", report.reference or "nothing is said of it")
    ledger.declare("no other attack", "nobody attacks in another way, or spends more", "these attacks, with these budgets")
    return Found(
        claim="audited", system=record.step.system, before=report.weights.get("original", ""), after=whole.digest, request=record.request.digest,
        bound={one.attack: one.upper for one in found}, assumptions=tuple(ledger.held), statement=_statement(found, {**skipped, **silent}),
        evidence={
            "attacks": [{**one._asdict(), "adversary": _access(one.attack)} for one in found], "not covered": {**skipped, **silent},
            "verdict": report.verdict.line, "intent": report.intent.line if report.intent else "", "confidence": 0.95,
        },
        covers=tuple(name for name in (*reports.FILES, "model") if (folder / name).exists()),
    )


def _check_verdict(report: Report, ledger: Ledger) -> None:
    """The verdict is "forgotten", each of its axes is within its margin, and no evidence says that the knowledge was only suppressed."""
    word = report.verdict.word
    ledger.check("verdict", 'the verdict is "forgotten"', word == "forgotten", f'"{word}": {report.verdict.line}' if word != "forgotten" else report.verdict.line)
    off = [f"{axis} is {about.get('says')}" for axis, about in report.verdict.axes.items() if not within(axis, about)]
    ledger.check("axes", "every axis of the verdict is within its margin", not off and "forgetting" in report.verdict.axes, "; ".join(off) or ", ".join(report.verdict.axes) or "no axis")
    if report.intent is not None:
        said = report.intent.measured
        text = 'the evidence says "removal": behavior, membership, relearning, rounding and the trace in the weights are as in the reference'
        ledger.check("removal", text, said == "removal", report.intent.line if said == "removal" else f'"{said}": {report.intent.line}')


def within(axis: str, about: Mapping[str, float | str | None]) -> bool:
    """Whether an axis of a verdict is within its margin; to be better than the reference is no damage."""
    distance, margin = about.get("distance"), about.get("margin")
    if not isinstance(distance, int | float) or not isinstance(margin, int | float):
        return False
    return about.get("says") == "as the reference" and (distance if axis == "utility" else abs(distance)) <= margin


def _check_reference(report: Report, models: Models, ledger: Ledger) -> None:
    there = "reference" in report.weights and any("reference" in some and some["reference"].status == "ok" for some in models.values())
    ledger.check("a reference", "a retrained reference was measured beside the model", there, report.reference or ("one without a name" if there else "none"), "give --reference to efface prove")
    same = report.weights.get("reference") == report.weights.get("candidate")
    ledger.check("another model", "the reference is not the model itself", not same, "the same weights" if same else f"weights {report.weights['reference'][:16]}")


def _check_suite(models: Models, ledger: Ledger) -> dict[str, str]:
    """{attack: reason} of those that were skipped. Raises Unsound when one failed, or none was made."""
    mine = {name: some["candidate"] for name, some in models.items() if name.startswith("attack/") and "candidate" in some}
    failed = [f"{name} ({m.why})" for name, m in mine.items() if m.status == "failed"]
    ledger.check("no failure", "no attack of the suite failed", not failed, "; ".join(failed[:3]) or f"{len(mine)} attacks", "see the log, and measure again")
    done = [name for name, m in mine.items() if m.status == "ok"]
    ledger.check("attacks", "at least one attack was made on the model", bool(done), ", ".join(map(_plain, done)) or "none", "run efface prove without --no-attacks")
    return {_plain(name): m.why for name, m in mine.items() if m.status == "skipped"}


def _bounds(models: Models, tables: Mapping[str, Mapping[str, Table]]) -> tuple[list[Bound], dict[str, str]]:
    """The bound of every attack that was made, and why some say nothing of forgetting here."""
    gap, found, silent = _gap(models), [], {}
    for name, some in models.items():
        there = {who: m for who, m in some.items() if m.status == "ok"}
        if not name.startswith("attack/") or "candidate" not in there:
            continue
        one = bounds.bound(_plain(name), there, tables.get(name, {}), gap)
        if isinstance(one, Bound):
            found.append(one)
        else:
            silent[_plain(name)] = one
    return found, silent


def _gap(models: Models) -> float | None:
    some = {who: m.value for who, m in models.get("metric/probability", {}).items() if m.status == "ok"}
    original, reference = some.get("original"), some.get("reference")
    return None if original is None or reference is None else original - reference


def _check_bounds(found: Sequence[Bound], ledger: Ledger) -> None:
    ledger.check("something to bound", "at least one attack can be read against the reference", bool(found), f"{len(found)} attacks", "give unseen rows, and the model before forgetting")
    worst = max(found, key=lambda one: one.upper / one.margin)
    text = f"the upper bound of every attack is within its margin ({PRIVACY} AUC, or {FORGETTING:.0%} of what the original has beyond the reference)"
    said = f"largest: {worst.attack}, at most {_amount(worst)} with n = {worst.n}"
    ledger.check("bounds", text, all(one.within for one in found), said, "more rows make a bound narrower, where the number itself is within the margin")


def _statement(found: Sequence[Bound], not_covered: Mapping[str, str]) -> str:
    """The claim in plain words: suite, rows, adversary, and what is not covered."""
    parts = []
    for unit in dict.fromkeys(one.unit for one in found):
        worst = max((one for one in found if one.unit == unit), key=lambda one: one.upper)
        does = "tells the forgotten rows apart better or worse by more than" if unit == "AUC" else "brings back more than"
        parts.append(f"none {does} {_amount(worst)}{' from the reference' if unit == 'AUC' else ''} ({worst.attack}, n = {worst.n})")
    accesses = {_access(one.attack) for one in found}
    strongest = [does for access, does in SEES.items() if access in accesses][-1:]
    adversary = f"an adversary who {strongest[0]}" if strongest else "an adversary"
    many = f"{len(found)} attacks" if len(found) > 1 else "the one attack"
    names = ", ".join(one.attack for one in found)
    rest = f" Not covered: {', '.join(not_covered)}." if not_covered else ""
    return (
        f"Of {many} in its suite ({names}), the strongest by {adversary}, {' and '.join(parts)}, with 95 percent confidence for each attack by itself. "
        f"Other attacks, and larger budgets, may find more.{rest}"
    )


def _amount(one: Bound) -> str:
    return f"{one.upper:.2f} AUC" if one.unit == "AUC" else f"{one.upper:.0%} {one.unit}"


def _access(attack: str) -> str:
    try:
        return registry.card("attack", attack).access
    except EffaceError:
        return ""


def _plain(name: str) -> str:
    return name.partition("/")[2]
