"""The four ways in which a benchmark asks a classifier to forget.

    class      all rows of one class
    subclass   all rows of one class where the labels are groups of classes; a retrained model may still get some of them right
    random     some training rows; original and retrained model know them about equally well, because networks generalize
    noisy      some training rows, whose labels were made wrong; the original knows them by heart and a retrained model does not
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from efface.core.errors import BadConfig, BadRows
from efface.core.types import Data, Request, Row

Scenario = Literal["class", "random", "noisy", "subclass"]


@dataclass(frozen=True)
class Split:
    """The rows of one scenario. `test` holds what must still be known."""

    forget: Sequence[Row]
    keep: Sequence[Row]
    unseen: Sequence[Row]
    test: Sequence[Row]


@dataclass(frozen=True)
class Rules:
    """What a scenario needs to know of a data set."""

    label: int
    """The class of the class and the subclass scenario."""
    count: int
    """Rows that the random and the noisy scenario forget."""
    groups: Sequence[int]
    """Group of each class, for the subclass scenario."""
    seed: int = 0
    """Of the wrong labels."""


def part(train: Sequence[Row], test: Sequence[Row], scenario: Scenario, rules: Rules) -> Split:
    """The split of a scenario. Raises BadConfig for a class that is not there and BadRows when a part would be empty."""
    if scenario in ("random", "noisy"):
        cut = (train[: rules.count], train[rules.count :], test[: rules.count], test[rules.count :])
        if scenario == "noisy":
            classes = len(rules.groups)
            cut = (mislabeled(cut[0], rules.seed + 1, classes), cut[1], mislabeled(cut[2], rules.seed + 2, classes), cut[3])
    else:
        if not 0 <= rules.label < len(rules.groups):
            raise BadConfig(f"there is no class {rules.label}; the classes are 0 to {len(rules.groups) - 1}")
        cut = (*_parted(train, rules.label), *_parted(test, rules.label))
        if scenario == "subclass":
            cut = tuple(_grouped(rows, rules.groups) for rows in cut)  # type: ignore[assignment]
    empty = [name for name, rows in zip(("forget", "keep", "unseen", "test"), cut, strict=True) if not rows]
    if empty:
        raise BadRows(f"the {scenario} scenario leaves no {' and no '.join(empty)} rows of {len(train)} training and {len(test)} test rows; take more of them")
    return Split(*cut)


def request(parts: Split, scenario: Scenario, label: int) -> Request:
    """The request of a scenario."""
    named: dict[str, Any] = {"kind": "class", "names": (str(label),)} if scenario == "class" else {}
    return Request(forget=Data.inline(parts.forget), keep=Data.inline(parts.keep), unseen=Data.inline(parts.unseen), **named)


def mislabeled(rows: Sequence[Row], seed: int, classes: int) -> list[Row]:
    """The rows with a wrong label each, any of the others alike; the right one stays as column "clean"."""
    shifts = np.random.RandomState(seed).randint(1, classes, len(rows))  # noqa: NPY002  its stream is frozen, where the new generators' may change
    return [{**row, "y": (int(str(row["y"])) + int(shift)) % classes, "clean": row["y"]} for row, shift in zip(rows, shifts, strict=True)]


def _parted(rows: Sequence[Row], label: int) -> tuple[Sequence[Row], Sequence[Row]]:
    return [row for row in rows if row["y"] == label], [row for row in rows if row["y"] != label]


def _grouped(rows: Sequence[Row], groups: Sequence[int]) -> list[Row]:
    """The rows with the group of their class as label; the class itself stays as column "fine"."""
    return [{**row, "y": groups[int(str(row["y"]))], "fine": row["y"]} for row in rows]
