"""Concept rate: shares by hand, beside original and reference."""

import numpy as np
import pytest

from efface.core.errors import Missing
from efface.core.types import Request
from efface.metrics.concept_rate import ConceptRate
from efface.testing.tiny import context

RED = Request(kind="concept", names=("red",))


class Painter:
    """Draws gray values, one a latent."""

    def __init__(self, *grays):
        self.grays = grays

    def generate(self, rows, seeds=None):
        return np.stack([np.full((2, 2, 3), self.grays[at % len(self.grays)], np.uint8) for at in range(rows)])


class Reader:
    """Black is red with 0.9, everything else is not."""

    arguments = {"labels": ["red", "other"], "side": 2}

    def predict(self, rows):
        return np.array([[0.9, 0.1] if row["x"].max() == 0 else [0.3, 0.7] for row in rows])


def test_by_hand():
    """3 of 12 where the original has 6 of 12: fallen by half; clarity (3 x 0.9 + 9 x 0.7) / 12 = 0.75. Wilson's interval of 3 of 12: 0.089 to 0.532."""
    baselines = {"judge/color": Reader(), "original": Painter(0, 1), "reference": Painter(1)}
    found = ConceptRate.set({"latents": 12}).run(Painter(0, 1, 2, 3), RED, context(baselines=baselines))
    assert found.value == 0.25 and found.low == pytest.approx(0.089, abs=1e-3) and found.high == pytest.approx(0.532, abs=1e-3)
    assert found.parts["original"] == 0.5 and found.parts["reference"] == 0 and found.parts["fall"] == 0.5
    assert found.parts["likeness"] == 0.5, "all sound pictures are of gray 1: a quarter are that, and a quarter show the concept"
    assert found.parts["reference_likeness"] == 1
    assert found.parts["clarity_color"] == pytest.approx(0.75) and len(found.table) == 12


def test_without_others():
    found = ConceptRate.set({"latents": 12}).run(Painter(0), RED, context(baselines={"judge/color": Reader()}))
    assert found.value == 1 and found.parts["original"] is None and found.parts["reference"] is None and found.parts["fall"] is found.parts["likeness"] is None
    with pytest.raises(Missing, match="what the pictures show"):
        ConceptRate().run(Painter(0), RED, context())
