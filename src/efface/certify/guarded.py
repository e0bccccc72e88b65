"""The claim `guarded`: what comes out behind a guard tells no more than a retrained model does. The weights still know.

Nothing is claimed of the weights, and of attacks it is only said what they found: a guard holds as long as nobody reaches the weights
or asks around it. The run holds no copy of the model, so its weights are looked at where they were when the run was made.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from efface import api
from efface.certify import reports
from efface.certify.audited import within
from efface.certify.certificate import Found, Ledger
from efface.certify.reports import Models
from efface.core import registry
from efface.core.errors import EffaceError
from efface.core.types import Report
from efface.runs import RunRecord


def look(folder: Path, record: RunRecord) -> Found:
    """What the report of a guard's run allows to claim. Raises Unsound, naming the assumption that fails."""
    ledger = Ledger(folder)
    report = reports.read(folder, record, ledger)
    _check_guard(report, record, ledger)
    _check_weights(folder, report, record, ledger)
    models = reports.measured(folder, report, ledger)
    less = _check_behavior(report, ledger)
    reports.tables(folder, models, ledger)
    around, skipped = _around(models)
    ledger.declare("outputs only", "nobody who must not have the knowledge reaches the weights, or the model without its guard", "declared by whoever serves the model")
    ledger.declare("settings", "the guard is served with the settings of this run", f"{record.step.system} as run.json says")
    return Found(
        claim="guarded", system=record.step.system, before=report.weights.get("original", ""), after=report.weights["candidate"],
        request=record.request.digest, assumptions=tuple(ledger.held), statement=_statement(record, around, less),
        evidence={"attacks through the guard": around, "not covered": skipped, "verdict": report.verdict.line, "axes": report.verdict.axes},  # type: ignore[dict-item]
        covers=tuple(name for name in reports.FILES if (folder / name).exists()),
    )


def _check_guard(report: Report, record: RunRecord, ledger: Ledger) -> None:
    there = [step.system for step in report.steps if step.kind == "guard"]
    said = report.verdict.line.startswith("Guarded")
    ledger.check("guard", "the model was measured behind the guard of this run", record.step.system in there and said, ", ".join(there) or "no guard")


def _check_weights(folder: Path, report: Report, record: RunRecord, ledger: Ledger) -> None:
    """The weights that were measured are those of the model before the guard, where that can be read again."""
    said = report.weights.get("candidate", "")
    ledger.check("measured weights", "the report says which weights it measured", bool(said), said[:16] or "nothing said", f"measure again: efface prove {folder}")
    text = f"the weights that were measured are those of {record.source.model or 'the benchmark'}"
    try:
        if not record.source.model or record.source.arch:
            raise EffaceError("its model is not in a folder of its own")
        subject: Any = api.load(record.source.model, "cpu", record.source.dtype)
    except EffaceError as error:
        ledger.declare("weights", text, f"not looked at: {error}")
        return
    whole = subject.merged() if getattr(subject, "adapted", False) else subject
    reports.weights(folder, report, ledger, whole.digest, record.source.model)


def _check_behavior(report: Report, ledger: Ledger) -> bool:
    """Whether the guard tells less than the reference would, after checking that it tells no more, and that what must stay is not lost.

    A guard that refuses tells less; that gives away that there is something to hide, and is no fault of a guard.
    """
    there = "reference" in report.weights
    ledger.check("a reference", "a retrained reference was measured beside the model", there, report.reference or ("one without a name" if there else "none"), "give --reference to efface prove")
    axes = report.verdict.axes
    kept = "utility" not in axes or within("utility", axes["utility"])
    if report.intent is None:  # families whose evidence of forgetting is behavior alone
        asked = {str(about.get("statistic")): str(about.get("says")) for axis, about in axes.items() if axis == "forgetting"}
    else:
        asked = {f.name: f.says for f in report.intent.findings if f.evidence == "behavior"}
    good = kept and bool(asked) and all(says in ("as the reference", "over-forgotten") for says in asked.values())
    said = "; ".join(f"{name}: {says}" for name, says in asked.items()) or "nothing was asked outright"
    said += "" if kept else f"; utility is {axes['utility'].get('says')}"
    ledger.check("behavior", "asked outright, the model behind its guard tells no more than the reference, and what must stay is within the margin", good, said)
    return "over-forgotten" in asked.values()


def _around(models: Models) -> tuple[dict[str, dict[str, float | int | None]], dict[str, str]]:
    """What attacks that only ask found through the guard, and those that were not made, with the reason."""
    found, skipped = {}, {}
    for name, some in models.items():
        mine, plain = some.get("candidate"), name.partition("/")[2]
        if not name.startswith("attack/") or mine is None or not _asks(plain):
            continue
        if mine.status != "ok":
            skipped[plain] = mine.why
            continue
        reference = some["reference"].value if "reference" in some else mine.parts.get("reference")
        found[plain] = {"value": mine.value, "low": mine.low, "high": mine.high, "reference": reference, "n": mine.n}
    return found, skipped


def _asks(attack: str) -> bool:
    """Whether the attack needs outputs alone."""
    try:
        return registry.card("attack", attack).access == "outputs"
    except EffaceError:
        return False


def _statement(record: RunRecord, around: dict[str, dict[str, float | int | None]], less: bool) -> str:
    """The claim in plain words, with what was found by asking around the guard."""
    told = [f"{name} gives {about['value']:.2f}" + (f", and {about['reference']:.2f} in the reference" if about["reference"] is not None else "") + f" (n = {about['n']})"
            for name, about in around.items() if about["value"] is not None]  # fmt: skip
    asked = f"Asked around: {'; '.join(told)}." if told else "Nobody has tried to ask around it."
    shows = " It tells less than such a model would, which shows that something is hidden." if less else ""
    return (
        f"Behind the guard {record.step.system}, what comes out tells no more of the data than a model retrained without it.{shows} The weights still know: "
        f"nothing was removed, and whoever reaches them, or takes the guard off, has it all. {asked}"
    )
