"""Latent drift: by hand, zero for the same generator, and only latents without the concept count."""

import numpy as np
import pytest

from efface.core.errors import Missing
from efface.core.types import Request
from efface.metrics.latent_drift import LatentDrift, pairs
from efface.testing.tiny import context

RED = Request(kind="concept", names=("red",))


class Painter:
    """Draws gray values, one a latent."""

    def __init__(self, *grays):
        self.grays = grays

    def generate(self, rows, seeds=None):
        return np.stack([np.full((2, 2, 3), self.grays[at % len(self.grays)], np.uint8) for at in range(rows)])


class Reader:
    """Black is red, everything else is not."""

    arguments = {"labels": ["red", "other"], "side": 2}

    def predict(self, rows):
        return np.array([[1.0, 0.0] if row["x"].max() == 0 else [0.0, 1.0] for row in rows])


def run(subject, original):
    return LatentDrift.set({"latents": 12}).run(subject, RED, context(baselines={"judge/color": Reader(), "original": original}))


def test_pairs():
    """Two pictures, 0 and 1, in any order: each stands beside the other, distance 1."""
    assert pairs(np.stack([np.zeros((2, 2, 3)), np.ones((2, 2, 3))])) == 1


def test_by_hand():
    """Latents 51 and 255 (0.2 and 1) of the original do not show the concept; the model moves the first by 0.1 and leaves the second.

    Mean change 0.05 (0.1 would be 25.5 gray values: 26 is drawn, 0.102). On the concept's own latents it moves by all of 1.
    """
    original, now = Painter(0, 51, 255), Painter(255, 77, 255)
    found = run(now, original)
    kept = np.repeat([51 / 255, 1.0], 4)
    scale = pairs(np.stack([np.full((2, 2, 3), value) for value in np.tile([51 / 255, 1.0], 4)]))
    assert found.parts["random_pairs"] == pytest.approx(scale) and 0 < scale <= 0.8 and len(kept) == found.n == 8
    assert found.value == pytest.approx(26 / 255 / 2 / scale) and found.low <= found.value <= found.high
    assert found.parts["on_concept"] == pytest.approx(1 / scale) and len(found.table) == 8


def test_the_same_generator_does_not_drift():
    original = Painter(0, 51, 255)
    assert run(original, original).value == 0
    assert run(Painter(99, 51, 255), original).value == 0, "what happens to the concept's pictures is no drift"


def test_nothing_to_keep():
    with pytest.raises(Missing, match="nothing else to keep"):
        run(Painter(1), Painter(0))
    with pytest.raises(Missing, match="no original"):
        LatentDrift().run(Painter(1), RED, context(baselines={"judge/color": Reader()}))
