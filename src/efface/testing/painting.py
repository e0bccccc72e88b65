"""A text-to-image model whose pictures follow a rule, and a judge that reads them: for tests of who is asked what, and how it is counted."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from efface.core.types import Row
from efface.families.diffusion import Diffusion
from efface.families.drawn import seed_of
from efface.testing import tiny_images

Rule = Callable[[str, int], int]
"""Class number of what is painted for a prompt and a seed."""


class Painter(Diffusion):
    """A pipeline with random weights, whose pictures are plain colors that say which class the rule gave."""

    def __init__(self, rule: Rule, seed: int = 0) -> None:
        made = tiny_images.pipeline(seed)
        super().__init__(made.pipe, made.sampling)
        self.rule = rule
        self.asked: list[tuple[str, int]] = []
        """Prompts and seeds of all pictures so far."""

    def generate(self, prompts: Sequence[Row], seeds: Sequence[int] | None = None, **arguments: Any) -> np.ndarray:
        """One picture (16, 16, 3) a row, as bright as its class is high."""
        asked = [(str(row["prompt"]), seed) for row, seed in zip(prompts, seeds or [seed_of(row) for row in prompts], strict=True)]
        self.asked += asked
        return np.stack([np.full((16, 16, 3), 40 * self.rule(text, seed), np.uint8) for text, seed in asked])


class Reader:
    """The judge that reads a Painter's pictures; a picture of class c has its second choice at the next class."""

    family = "classifier"
    origin = "a reader of painted pictures"

    def __init__(self, labels: Sequence[str]) -> None:
        self.arguments = {"labels": list(labels)}
        self.classes = len(labels)

    def predict(self, rows: Sequence[Row]) -> np.ndarray:
        """Chances (N, classes)."""
        found = [min(round(float(np.asarray(row["x"]).mean()) * 255 / 40), self.classes - 1) for row in rows]
        chances = np.full((len(rows), self.classes), 0.1)
        for at, number in enumerate(found):
            chances[at, number], chances[at, (number + 1) % self.classes] = 0.6, 0.3
        return chances
