"""Stand-ins for models that draw and for judges, in which every number can be worked out by hand."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from efface.core.context import Context
from efface.core.types import Row
from efface.testing import tiny_images


class Painter:
    """Draws one flat color that says object (red) and style (green); `lies` changes what it shows."""

    family = "diffusion"

    def __init__(self, lies: Callable[[int, int], tuple[int, int]] = lambda thing, style: (thing, style)) -> None:
        self.lies = lies

    def generate(self, rows: Sequence[Row], seeds: Sequence[int] | None = None) -> np.ndarray:
        """Pictures (N, 4, 4, 3) of prompts with one object and one style of the tiny pipeline."""
        found = []
        for row in rows:
            words = str(row["prompt"]).split()
            thing = next(at for at, name in enumerate(tiny_images.OBJECTS) if name in words)
            style = next(at for at, name in enumerate(tiny_images.STYLES) if name in words)
            found.append(np.full((4, 4, 3), (*self.lies(thing, style), 0), np.uint8))
        return np.stack(found)

    def embed_text(self, prompts: Sequence[str]) -> Any:
        """The tiny pipeline's own states."""
        return tiny_images.pipeline().embed_text(prompts)


class Eye:
    """A perfect judge of such pictures: channel 0 is the object, channel 1 the style."""

    def __init__(self, channel: int, labels: Sequence[str]) -> None:
        self.channel, self.model = channel, None
        self.arguments: dict[str, Any] = {"labels": list(labels), "side": 4}

    def predict(self, rows: Sequence[Row]) -> np.ndarray:
        """Probability 1 for what the color says."""
        seen = np.array([round(float(np.asarray(row["x"])[self.channel].mean()) * 255) for row in rows])
        found: np.ndarray = np.eye(len(self.arguments["labels"]))[seen]
        return found


def context(original: Any = None) -> Context:
    """A context with both perfect judges."""
    given: Any = {"judge/object": Eye(0, tiny_images.OBJECTS), "judge/style": Eye(1, tiny_images.STYLES)}
    return Context(baselines=given if original is None else {**given, "original": original})
