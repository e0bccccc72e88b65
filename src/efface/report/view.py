"""What every view of a report shows, as plain values: texts ready to print, with the floats that charts need beside them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

NAMES = {"original": "Before", "candidate": "After", "reference": "Reference"}
"""What the models are called on paper."""


PICTURE = re.compile(r"data:image/png;base64,[A-Za-z0-9+/]+={0,2}")


def is_picture(text: str) -> bool:
    """Whether an answer is a picture: the data: address of a PNG and nothing else."""
    return PICTURE.fullmatch(text) is not None


class Cell(NamedTuple):
    """One number of one model, as text and as floats."""

    text: str
    interval: str
    value: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Line:
    """One metric or attack, over all models."""

    kind: str
    name: str
    title: str
    wish: str
    cells: Mapping[str, Cell]
    distance: float | None
    """Candidate minus reference; None where one of them has no number."""
    distance_text: str
    n: str
    note: str
    membership: bool
    parts: tuple[tuple[str, tuple[str, ...]], ...]
    """Named parts, each with one text for every model."""
    curves: Mapping[str, tuple[tuple[float, float], ...]]
    """Points of a curve, by model."""

    @property
    def compared(self) -> bool:
        """Whether a reference's number stands beside the candidate's."""
        return self.distance is not None


class Axis(NamedTuple):
    """What the verdict says on one axis."""

    name: str
    statistic: str
    distance: str
    interval: str
    margin: str
    says: str
    value: float | None
    low: float | None
    high: float | None
    limit: float | None


class Found(NamedTuple):
    """One line of evidence on removal or suppression."""

    evidence: str
    name: str
    distance: str
    interval: str
    margin: str
    says: str


class Skip(NamedTuple):
    """What has no number, and why."""

    system: str
    models: str
    status: str
    why: str


class Sample(NamedTuple):
    """One prompt, what was expected, and what each model says."""

    part: str
    """Whether the row was to be forgotten or kept, where that is known."""
    prompt: str
    expected: str
    answers: tuple[tuple[str, str], ...]


class Done(NamedTuple):
    """One step of the model's history, with its exact settings."""

    title: str
    facts: tuple[tuple[str, str], ...]
    settings: tuple[tuple[str, str], ...]


class Point(NamedTuple):
    """One model in the chart of forgetting against utility."""

    subject: str
    x: Cell
    y: Cell


class Plane(NamedTuple):
    """The chart of forgetting against utility."""

    x_label: str
    y_label: str
    points: tuple[Point, ...]


@dataclass(frozen=True)
class View:
    """All that a page shows."""

    title: str
    word: str
    tone: str
    first_line: str
    rest: str
    """The first line without the verdict's word, to stand below it."""
    guarded: bool
    reasons: tuple[str, ...]
    measured: str
    """What the evidence says was done to the knowledge; "" where that was not asked."""
    findings: tuple[Found, ...]
    missing: tuple[str, ...]
    excluded: str
    axes: tuple[Axis, ...]
    subjects: tuple[str, ...]
    reference: str
    metrics: tuple[Line, ...]
    attacks: tuple[Line, ...]
    worst: Line | None
    worst_text: str
    skipped: tuple[Skip, ...]
    samples: tuple[Sample, ...]
    request: tuple[tuple[str, str], ...]
    steps: tuple[Done, ...]
    cost: tuple[tuple[str, str], ...]
    environment: tuple[tuple[str, str], ...]
    curve: Mapping[str, tuple[tuple[float, float], ...]]
    plane: Plane | None

    @property
    def draws(self) -> bool:
        """Whether the models draw: answers are pictures."""
        return any(is_picture(text) for sample in self.samples for _, text in sample.answers)

    @property
    def parts(self) -> tuple[Line, ...]:
        """The lines that have parts."""
        return tuple(line for line in (*self.metrics, *self.attacks) if line.parts)

    def heading(self, subject: str) -> str:
        """What a model is called on paper."""
        return NAMES.get(subject, subject.capitalize())
