"""Removal or suppression: what the evidence says was done to the knowledge, whatever the method claims.

    damaged         what must be kept is lost; nothing else counts then
    not forgotten   asked outright, the model still tells what the retrained reference does not
    suppression     asked outright it does not tell, and something deeper still differs from the reference: statistics of its
                    probabilities, a membership attack, relearning, rounding, another form of the question, a trace in the weights;
                    or a guard answers for weights that nobody changed
    removal         every one of these was measured, and on each the reference is within margin and interval
    can't say       evidence is missing, or its intervals are too wide

The axis is SoK's (arXiv:2506.09227); margins are the verdict's. Because there are many attacks, their intervals are widened from
95 to 99.5 percent, so that a model retrained with another seed is not called a suppressor by the one attack in twenty that errs.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal, NamedTuple

from efface.core import registry
from efface.core.errors import EffaceError
from efface.core.types import Finding, Intent, Measurement
from efface.verdict import FORGETTING, PRIVACY, Distance

Kind = Literal["behavior", "deeper statistics", "membership", "relearning", "rounding", "trace", "prompts", "other changes of the weights"]
OUTRIGHT = ("generated answers, ROUGE-L recall", "log-probability of the answers")
"""Statistics of what the model says when it is asked outright, the first that there is."""
KINDS: Mapping[str, Kind] = {
    "attack/relearn": "relearning", "attack/quantize": "rounding", "metric/knowledge_trace": "trace", "attack/logit_lens": "trace",
}
"""Kind of evidence of single systems; of other attacks, their access says it."""
REQUIRED: tuple[Kind, ...] = ("behavior", "membership", "relearning", "rounding", "trace")
"""What must have been measured before a removal is called one (SoK: behavior, membership, relearning, quantization, intrinsic trace)."""
WIDER = 2.807 / 1.96
"""From 95 to 99.5 percent."""


class Cell(NamedTuple):
    """One model's number with its interval."""

    value: float
    low: float
    high: float


def judge(word: str, found: Mapping[str, Sequence[Distance]], measurements: Sequence[Measurement], guarded: bool = False) -> Intent:
    """The measured intent from the verdict's word, its distances by axis, and the suite's measurements."""
    findings = [*_of_distances(found), *of_measurements(measurements)]
    missing = _missing(findings, measurements)
    if word == "damaged":
        return Intent(measured="damaged", line="Damaged: what must be kept is lost, so that nothing can be said of the rest.", findings=tuple(findings))
    known = [f for f in findings if f.says != "can't say"]
    outright = [f for f in known if f.evidence == "behavior"]
    if any(f.says == "still there" for f in outright):
        line = f"Not forgotten: asked outright, the model still tells it ({_told(_worst(outright))})."
        return Intent(measured="not forgotten", line=line, findings=tuple(findings), missing=missing)
    if guarded:
        line = "Suppression: a guard answers for weights that still know; nothing was removed."
        return Intent(measured="suppression", line=line, findings=tuple(findings), missing=missing)
    bad = [f for f in known if f.says in ("still there", "over-forgotten")]
    if bad:
        line = f"Suppression: {_reason(_worst(bad))}."
        return Intent(measured="suppression", line=line, findings=tuple(findings), missing=missing)
    if missing:
        return Intent(measured="can't say", line=f"Can't say whether it was removed: {'; '.join(missing)}.", findings=tuple(findings), missing=missing)
    line = f"Removal: on each of {len(known)} lines of evidence ({', '.join(dict.fromkeys(f.evidence for f in known))}) the model is within the margins of one retrained without the data."
    return Intent(measured="removal", line=line, findings=tuple(findings))


def of_measurements(measurements: Sequence[Measurement]) -> list[Finding]:
    """One finding for each attack and probe that can be read against the reference."""
    by_system: dict[str, dict[str, Measurement]] = {}
    for m in measurements:
        if m.status == "ok" and m.value is not None and math.isfinite(m.value):
            by_system.setdefault(m.system, {})[m.subject] = m
    gap = _gap(by_system.get("metric/probability", {}))
    found = (_finding(system, models, gap) for system, models in by_system.items() if "candidate" in models)
    return [finding for finding in found if finding is not None]


def against_claim(intent: Intent, steps: Iterable[object]) -> Intent:
    """The same, and its line says so where the method that was used claims removal and behaves as suppression."""
    methods = [str(getattr(step, "system", "")) for step in steps if getattr(step, "kind", "") == "method"]
    claims = [name for name in methods if _intent_of(name) == "remove"]
    if intent.measured != "suppression" or not claims:
        return intent
    return intent.model_copy(update={"line": intent.line.replace("Suppression:", f"Suppression: {claims[-1]} claims removal and behaves as suppression;", 1)})


def _intent_of(method: str) -> str:
    try:
        return registry.card("method", method).intent
    except EffaceError:
        return ""


def _of_distances(found: Mapping[str, Sequence[Distance]]) -> list[Finding]:
    outright = next((name for name in OUTRIGHT for d in found.get("forgetting", ()) if d.name == name and not math.isnan(d.value)), None)
    result = []
    for axis, kind in (("forgetting", "deeper statistics"), ("privacy", "membership")):
        for d in found.get(axis, ()):
            wide = WIDER if axis == "privacy" else 1.0
            cell = Cell(d.value, d.value - wide * (d.value - d.low), d.value + wide * (d.high - d.value))
            result.append(_made("behavior" if d.name == outright else kind, d.name, cell, d.margin))  # type: ignore[arg-type]
    return result


def _finding(system: str, models: Mapping[str, Measurement], gap: float | None) -> Finding | None:
    """The distance of one system's number; None for a metric that is no evidence of knowledge, or where nothing can be compared."""
    kind = _kind(system)
    if kind is None:
        return None
    mine = models["candidate"]
    reference = models["reference"].value if "reference" in models else mine.parts.get("reference", mine.parts.get("reference_auc"))
    if reference is None or mine.value is None:
        return None
    spread = _half(models["reference"]) if "reference" in models else 0.0
    if kind == "relearning" and mine.parts.get("collapsed"):  # a collapsed model learns nothing quickly, these rows included
        return Finding(evidence=kind, name=_name(system), margin=FORGETTING, says="can't say")
    distance = mine.value - reference
    half = math.hypot(_half(mine), spread) * WIDER
    if kind == "membership":
        return _made(kind, _name(system), Cell(distance, distance - half, distance + half), PRIVACY)
    paired = next((name for name in ("gain", "leak") if mine.parts.get(name) is not None), "")
    if paired:  # row by row, which is narrower than the difference of two means
        distance, low, high = (float(mine.parts.get(f"{paired}{end}") or 0.0) for end in ("", "_low", "_high"))
        half = WIDER * max(distance - low, high - distance)
    scale = _scale(models, reference, gap)
    if scale is None:
        return None
    return _made(kind, _name(system), Cell(distance / scale, (distance - half) / scale, (distance + half) / scale), FORGETTING)


def _scale(models: Mapping[str, Measurement], reference: float, gap: float | None) -> float | None:
    """What the original has beyond the reference in the system's own number, in answer probability where it was not measured on it."""
    original = models["original"].value if "original" in models else models["candidate"].parts.get("original")
    own = None if original is None else original - reference
    return next((found for found in (own, gap) if found is not None and found > 0.05), None)


def _gap(models: Mapping[str, Measurement]) -> float | None:
    if not {"original", "reference"} <= set(models):
        return None
    return float(models["original"].value) - float(models["reference"].value)  # type: ignore[arg-type]


def _kind(system: str) -> Kind | None:
    if system in KINDS:
        return KINDS[system]
    kind, _, name = system.partition("/")
    if kind != "attack":
        return None
    try:
        card = registry.card(kind, name)
    except EffaceError:
        return None
    if "unseen" in card.uses:
        return "membership"
    return "prompts" if card.access == "outputs" else "other changes of the weights"


def _name(system: str) -> str:
    return system.partition("/")[2]


def _half(m: Measurement) -> float:
    """Half the width of an interval; 0 where there is none."""
    return 0.0 if m.low is None or m.high is None else (m.high - m.low) / 2


def _made(kind: Kind, name: str, cell: Cell, margin: float) -> Finding:
    if math.isnan(cell.value):
        return Finding(evidence=kind, name=name, margin=margin, says="can't say")
    says: Literal["as the reference", "still there", "over-forgotten", "can't say"] = "as the reference"
    if abs(cell.value) > margin:
        says = "can't say" if cell.low <= 0 <= cell.high else "still there" if cell.value > 0 else "over-forgotten"
    if says == "over-forgotten" and kind not in ("behavior", "deeper statistics", "membership"):
        says = "as the reference"  # an attack that brings back less than it does from the reference is no sign of knowledge
    return Finding(evidence=kind, name=name, distance=cell.value, low=cell.low, high=cell.high, margin=margin, says=says)


def _missing(findings: Sequence[Finding], measurements: Sequence[Measurement]) -> tuple[str, ...]:
    """Why removal cannot be called so: kinds of evidence, required or tried, of which no finding is clear."""
    kinds = [*REQUIRED, *dict.fromkeys(f.evidence for f in findings if f.evidence not in REQUIRED)]
    said = []
    for kind in kinds:
        here = [f for f in findings if f.evidence == kind]
        if all(f.says == "can't say" for f in here):
            said.append(f"{kind}: {'the intervals are too wide to say' if here else _why(kind, measurements)}")
    return tuple(said)


def _why(kind: Kind, measurements: Sequence[Measurement]) -> str:
    skipped = [m for m in measurements if m.subject == "candidate" and m.status != "ok" and _kind(m.system) == kind]
    return f"not measured ({_name(skipped[0].system)}: {skipped[0].why})" if skipped else "not measured"


def _worst(findings: Sequence[Finding]) -> Finding:
    return max(findings, key=lambda f: abs(f.distance or 0.0) / f.margin)


def _told(f: Finding) -> str:
    return f"{f.distance:.0%} of what the original tells beyond the retrained model; {f.name}"


def _reason(f: Finding) -> str:
    amount = f"{f.distance:+.2f} AUC from the retrained model's" if f.evidence == "membership" else f"{abs(f.distance or 0):.0%} of what the original knew beyond the retrained model"
    if f.says == "over-forgotten":
        return f"the rows stand out as known too little ({f.name}, {f.distance:+.2f} where retraining gives 0)"
    by = {
        "deeper statistics": "its probabilities still show it", "membership": "a membership attack still finds the rows", "relearning": "relearning brings it back faster than in the retrained model",
        "rounding": "rounding the weights brings it back", "trace": "its trace is still inside the model", "prompts": "asked in another way it still tells",
    }.get(f.evidence, "a change of the weights brings it back")
    return f"{by} ({f.name}: {amount})"
