"""The verdict: how far a candidate is from the model retrained without the data, on three axes, in both directions.

    forgetting   share of the distance between original and reference that is still there:
                 D = mean(k_candidate - k_reference) / mean(k_original - k_reference) over the forget rows,
                 k = how well a row is known. 1 = as the original, 0 = as the reference, below 0 = known worse than by a
                 model that never saw the row, which gives the row away just as well.
    privacy      AUC of a membership attack on the candidate minus that on the reference (the reference need not be at 0.5).
    utility      share of what the reference can do that is lost: L = 1 - mean(u_candidate) / mean(u_reference).

Where there are references of several seeds, "the reference" is their mean, row by row, and every distance's 95 % interval,
from a paired bootstrap over rows, is widened by their scatter around it. A distance counts only when it is beyond its margin
*and* its interval excludes zero; beyond the margin with an interval that covers zero means that the rows are too few to say.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from efface.core.types import Verdict
from efface.ops import stats

FORGETTING, PRIVACY, UTILITY = 0.25, 0.20, 0.20
"""Margins, in units of each axis. Chosen on the tiny models so that references of other seeds pass; then frozen."""
DRAWS = 1000
Says = Literal["as the reference", "still there", "over-forgotten", "damaged", "can't say"]


@dataclass(frozen=True)
class Rows:
    """One score a row, higher = known better (or done better), of each model; `others` are references of other seeds."""

    candidate: np.ndarray
    reference: np.ndarray
    original: np.ndarray | None = None
    others: Sequence[np.ndarray] = ()


@dataclass(frozen=True)
class Members:
    """Membership scores, higher = more likely a member: (forget rows, unseen rows) of each model."""

    candidate: tuple[np.ndarray, np.ndarray]
    reference: tuple[np.ndarray, np.ndarray]
    others: Sequence[tuple[np.ndarray, np.ndarray]] = ()


@dataclass(frozen=True)
class Evidence:
    """All that a verdict is made of, by name of the statistic."""

    forgetting: Mapping[str, Rows] = field(default_factory=dict)
    privacy: Mapping[str, Members] = field(default_factory=dict)
    utility: Mapping[str, Rows] = field(default_factory=dict)


@dataclass(frozen=True)
class Distance:
    """One distance to the reference, and what it says."""

    name: str
    value: float
    low: float
    high: float
    margin: float
    says: Says

    def as_axis(self) -> dict[str, float | str | None]:
        """Plain values for a report."""
        numbers = {"distance": self.value, "low": self.low, "high": self.high, "margin": self.margin}
        return {"statistic": self.name, **{name: None if np.isnan(value) else value for name, value in numbers.items()}, "says": self.says}


def judge(evidence: Evidence, without: str = "") -> Verdict:
    """The verdict on the evidence. `without` says why there is no reference; then the word is "can't say"."""
    if without:
        return Verdict(word="can't say", line=f"Can't say: {without}", reasons=(without,))
    return of_distances(distances(evidence))


def distances(evidence: Evidence) -> dict[str, list[Distance]]:
    """Every distance to the reference, by axis: forgetting, privacy, utility."""
    return {
        "forgetting": [forgetting_distance(name, rows) for name, rows in evidence.forgetting.items()],
        "privacy": [privacy_distance(name, members) for name, members in evidence.privacy.items()],
        "utility": [utility_distance(name, rows) for name, rows in evidence.utility.items()],
    }


def of_distances(found_of: Mapping[str, Sequence[Distance]]) -> Verdict:
    """The verdict on the distances of all axes."""
    forgetting, privacy, utility = (found_of[axis] for axis in ("forgetting", "privacy", "utility"))
    worst = {
        axis: max(found, key=_weight).as_axis()
        for axis, found in (("forgetting", forgetting), ("privacy", privacy), ("utility", utility))
        if found
    }
    every = [*forgetting, *privacy, *utility]
    reasons = tuple(_reason(axis, d) for axis, found in (("forgetting", forgetting), ("privacy", privacy), ("utility", utility)) for d in found)
    said = {d.says for d in every if not np.isnan(d.value)}
    for says, word in (("damaged", "damaged"), ("still there", "not forgotten"), ("over-forgotten", "over-forgotten"), ("can't say", "can't say")):
        if says in said:
            first = max((d for d in every if d.says == says and not np.isnan(d.value)), key=_weight)
            return Verdict(word=word, line=_line(word, first), reasons=reasons, axes=worst)  # type: ignore[arg-type]
    if all(np.isnan(d.value) for d in forgetting):
        line = "Can't say: the original does not know the forget rows measurably better than the retrained model, so there is nothing to forget."
        return Verdict(word="can't say", line=line, reasons=reasons, axes=worst)
    held = [said for found, said in ((forgetting, "on the forget rows"), (privacy, "under membership attack"), (utility, "in what it can still do")) if found]
    line = f"Forgotten: {' and '.join(', '.join(held).rsplit(', ', 1))}, the model is within the margins of one retrained without the data."
    return Verdict(word="forgotten", line=line, reasons=reasons, axes=worst)


def forgetting_distance(name: str, rows: Rows) -> Distance:
    """D of one statistic; "can't say" when the original does not know the rows better than the reference does."""
    if rows.original is None:
        return Distance(name, float("nan"), float("nan"), float("nan"), FORGETTING, "can't say")
    references = [rows.reference, *rows.others]
    center = np.mean(references, axis=0)
    gap, left = rows.original - center, rows.candidate - center
    drawn_gap, drawn_left = _means(gap), _means(left)
    if np.percentile(drawn_gap, 2.5) <= 0:
        return Distance(name, float("nan"), float("nan"), float("nan"), FORGETTING, "can't say")
    scale = float(gap.mean())
    between = [float((one - center).mean()) / scale for one in references]
    value = float(left.mean()) / scale
    low, high = _widened(value, drawn_left / np.maximum(drawn_gap, 1e-12), between)
    return Distance(name, value, low, high, FORGETTING, _two_sided(value, low, high, FORGETTING))


def privacy_distance(name: str, members: Members) -> Distance:
    """AUC of the candidate minus AUC of the reference, resampling forget and unseen rows alike for both."""
    references = [members.reference, *members.others]
    inside, outside = members.candidate
    rng = np.random.default_rng(0)
    drawn = np.empty(DRAWS)
    for i in range(DRAWS):
        a, b = rng.integers(len(inside), size=len(inside)), rng.integers(len(outside), size=len(outside))
        drawn[i] = stats.auc(inside[a], outside[b]) - np.mean([stats.auc(one[a], other[b]) for one, other in references])
    areas = [stats.auc(*pair) for pair in references]
    base = float(np.mean(areas))
    value = stats.auc(inside, outside) - base
    low, high = _widened(value, drawn, [area - base for area in areas])
    return Distance(name, value, low, high, PRIVACY, _two_sided(value, low, high, PRIVACY))


def utility_distance(name: str, rows: Rows) -> Distance:
    """L of one statistic; being better than the reference is no damage."""
    references = [rows.reference, *rows.others]
    center = np.mean(references, axis=0)
    scale = float(center.mean())
    if scale <= 0:
        return Distance(name, float("nan"), float("nan"), float("nan"), UTILITY, "can't say")
    between = [float(1 - one.mean() / scale) for one in references]
    value = float(1 - rows.candidate.mean() / scale)
    pick = _picks(len(rows.candidate))
    drawn = 1 - rows.candidate[pick].mean(1) / np.maximum(center[pick].mean(1), 1e-12)
    low, high = _widened(value, drawn, between)
    says: Says = "as the reference"
    if value > UTILITY:
        says = "damaged" if low > 0 else "can't say"
    return Distance(name, value, low, high, UTILITY, says)


def _two_sided(value: float, low: float, high: float, margin: float) -> Says:
    if abs(value) <= margin:
        return "as the reference"
    if low <= 0 <= high:
        return "can't say"
    return "still there" if value > 0 else "over-forgotten"


def _widened(value: float, drawn: np.ndarray, between: Sequence[float]) -> tuple[float, float]:
    """The 95 % interval over rows, with the scatter of the references around their mean added in quadrature."""
    low, high = np.percentile(drawn, [2.5, 97.5])
    seeds = 1.96 * float(np.sqrt(np.square(between).sum() / (len(between) - 1))) if len(between) > 1 else 0.0
    return value - float(np.hypot(value - low, seeds)), value + float(np.hypot(high - value, seeds))


def _picks(n: int) -> np.ndarray:
    return np.random.default_rng(0).integers(n, size=(DRAWS, n))


def _means(values: np.ndarray) -> np.ndarray:
    return values[_picks(len(values))].mean(1)


def _weight(d: Distance) -> float:
    """How much a distance matters: in margins, those that say something first."""
    if np.isnan(d.value):
        return 0.0
    return abs(d.value) / d.margin + (100.0 if d.says not in ("as the reference", "can't say") else 0.0)


def _line(word: str, d: Distance) -> str:
    """The verdict in one plain sentence, with the number that decided it."""
    share = f"{abs(d.value):.0%}"
    return {
        "damaged": f"Damaged: the model has lost {share} of what the retrained one can do ({d.name}).",
        "not forgotten": f"Not forgotten: {_amount(d)} ({d.name}).",
        "over-forgotten": f"Over-forgotten: the rows stand out as known too little, which gives them away ({d.name}, {d.value:+.2f} where retraining gives 0).",
        "can't say": f"Can't say: {_why_not(d)} ({d.name}).",
    }[word]


def _amount(d: Distance) -> str:
    if "attack" in d.name:
        return f"a membership attack still finds the forgotten rows, {d.value:+.2f} AUC above what retraining gives"
    return f"{d.value:.0%} of what the original knew beyond the retrained model is still there"


def _why_not(d: Distance) -> str:
    return f"the distance to the reference is {d.value:+.2f}, with an interval of {d.low:+.2f} to {d.high:+.2f} that the rows are too few to narrow"


def _reason(axis: str, d: Distance) -> str:
    if np.isnan(d.value):
        return f"{axis}, {d.name}: can't say; original and reference do not differ on it"
    return f"{axis}, {d.name}: {d.value:+.2f} [{d.low:+.2f}, {d.high:+.2f}], margin {d.margin:.2f}: {d.says}"
