"""How much an attack can have found at most: from measurements and their per-row tables to an upper bound on its distance from the reference.

    membership      AUC on the candidate minus AUC on the reference; the bound is the interval's end that lies farther from 0, on either
                    side, for rows that are known too little stand out as well
    all others      (value - reference) / (original - reference), the share of what the original has beyond the reference; its upper end

Intervals are of 95 percent, paired over rows where the tables of candidate and reference allow that.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from efface.core.types import Measurement
from efface.ops import stats
from efface.verdict import FORGETTING, PRIVACY, Members, privacy_distance

Table = Sequence[Mapping[str, object]]
AGREES = 1e-9
"""How far a recomputed number may be from the recorded one: an order of summation."""
APART = 0.05
"""Least head start of the original over the reference that an attack's distance can be a share of."""


class Bound(NamedTuple):
    """What an attack found at most beyond the reference."""

    attack: str
    value: float
    reference: float
    upper: float
    margin: float
    unit: str
    n: int
    how: str

    @property
    def within(self) -> bool:
        """Whether even the bound is within the margin."""
        return self.upper <= self.margin


class Sides(NamedTuple):
    """Membership scores, higher = more likely a member."""

    members: np.ndarray
    others: np.ndarray


def recomputed(found: Measurement, table: Table) -> tuple[float, float] | None:
    """(recorded number, the same out of the table): an AUC of two sets, or the mean over rows. None where the table holds something else."""
    if sides := membership(found, table, "value"):
        return _recorded(found), stats.auc(*sides)
    values = by_row(table)
    if values is None or found.value is None:
        return None
    return found.value, float(np.mean(list(values.values())))


def bound(name: str, models: Mapping[str, Measurement], tables: Mapping[str, Table], gap: float | None) -> Bound | str:
    """The bound of one attack by the measurements of each model; in words where the attack says nothing of forgetting here.

    `gap` is the head start of the original in the probability of answers, for attacks that do not measure the original themselves.
    """
    mine = models["candidate"]
    reference = models["reference"].value if "reference" in models else mine.parts.get("reference", mine.parts.get("reference_auc"))
    if mine.value is None or reference is None:
        return "there is no number of the reference beside it"
    table = tables.get("candidate", ())
    if membership(mine, table, "value"):
        paired = [row for row in table if row.get("value") is not None and row.get("reference") is not None]
        own, theirs = membership(mine, paired, "value"), membership(mine, paired, "reference")
        if own is None or theirs is None:
            return "its table holds no scores of the reference"
        found = privacy_distance(name, Members(own, theirs))
        upper = max(found.high, -found.low)
        return Bound(name, _recorded(mine), stats.auc(*theirs), upper, PRIVACY, "AUC", mine.n, "paired over rows")
    original = models["original"].value if "original" in models else mine.parts.get("original")
    scale = original - reference if original is not None else gap
    if scale is None or abs(scale) < APART:
        return f"the original gives {'no known number' if scale is None else f'{scale:+.2f} beyond the reference'} under it, so that nothing can be brought back"
    high, how = _upper(models, tables, reference, 1.0 if scale > 0 else -1.0)
    return Bound(name, mine.value, reference, high / abs(scale), FORGETTING, "of what the original has beyond the reference", mine.n, how)


def membership(found: Measurement, table: Table, column: str) -> Sides | None:
    """Scores of forget rows and of unseen rows in one column of the table; None for a table of another kind, or without both."""
    if not table or not all(row.get("set") in ("forget", "unseen") for row in table):
        return None
    sign = -1.0 if "auc" in found.parts else 1.0  # tables of losses, where the AUC is a part
    sides = [np.array([_number(row.get(column)) for row in table if row["set"] == side and row.get(column) is not None]) for side in ("forget", "unseen")]
    return Sides(sign * sides[0], sign * sides[1]) if all(len(side) for side in sides) else None


def by_row(table: Table) -> dict[object, float] | None:
    """{row: value} of a table with one number a row; None for a table of another kind."""
    rows = [row.get("row") for row in table]
    if not table or None in rows or len(set(rows)) != len(rows) or "set" in table[0]:
        return None
    values = [_number(row.get("value")) for row in table]
    return None if any(math.isnan(value) for value in values) else dict(zip(rows, values, strict=True))


def _recorded(found: Measurement) -> float:
    """The AUC that a membership attack reports: its value, or a part where the value is an accuracy."""
    area = found.parts.get("auc", found.value)
    return math.nan if area is None else area


def _upper(models: Mapping[str, Measurement], tables: Mapping[str, Table], reference: float, sign: float) -> tuple[float, str]:
    """Upper end of value - reference (reference - value, where the original lies below), in the attack's own unit, and how it was found."""
    mine = models["candidate"]
    if sign > 0 and (high := mine.parts.get("gain_high")) is not None:
        return float(high), "gain over the reference, paired over rows by the attack"
    here, there = by_row(tables.get("candidate", ())), by_row(tables.get("reference", ()))
    if here and there and set(here) == set(there):
        apart = stats.bootstrap(sign * np.array([here[row] - there[row] for row in here]))
        return apart.high, "paired over rows"
    end = mine.high if sign > 0 else mine.low
    half = abs(end - mine.value) if end is not None and mine.value is not None else 0.0
    other = models.get("reference")
    spread = (other.high - other.low) / 2 if other is not None and other.high is not None and other.low is not None else 0.0
    return sign * (float(mine.value or 0.0) - reference) + math.hypot(half, spread), "interval of the attack" + (" and of the reference" if spread else "")


def _number(value: object) -> float:
    return float(value) if isinstance(value, int | float) else math.nan
