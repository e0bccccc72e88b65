"""W1 of prompt scores: scipy's value, zero for the same generator, and which prompts count as unrelated."""

import numpy as np
import pytest
from scipy.stats import wasserstein_distance

from efface.core.errors import Missing
from efface.core.types import Request
from efface.families.two_towers import ImageText
from efface.metrics.score_w1 import ScoreW1, interval, w1
from efface.testing.tiny import context

RED = Request(kind="concept", names=("red",), near=("green",))


class Painter:
    """Draws the gray values that it is given, one a latent."""

    def __init__(self, *classes):
        self.classes = classes

    def generate(self, rows, seeds=None):
        return np.stack([np.full((2, 2, 3), self.classes[at % len(self.classes)], np.uint8) for at in range(rows)])


class Reader:
    """Gives the class that a picture's gray value names 0.8, and the others the rest; counted from `first`, with one class for all else."""

    def __init__(self, labels, which):
        self.arguments, self.which = {"labels": labels, "side": 2}, which

    def predict(self, rows):
        found = np.full((len(rows), len(self.arguments["labels"])), 0.2 / (len(self.arguments["labels"]) - 1))
        found[np.arange(len(rows)), [self.which[round(float(row["x"][0, 0, 0]) * 255)] for row in rows]] = 0.8
        return found


JUDGES = {"judge/color": Reader(["red", "green", "blue"], {0: 0, 1: 1, 2: 2}), "judge/shape": Reader(["circle", "square"], {0: 0, 1: 0, 2: 1})}


def run(subject, settings=None, **baselines):
    return ScoreW1.set({"latents": 12, **(settings or {})}).run(subject, RED, context(baselines={**JUDGES, **baselines}))


def test_by_hand():
    """Four of twelve pictures are red and become green. P(red) falls from 0.8 to 0.1 on a third: W1 = 0.7 / 3. So does P(green), upwards.

    P(blue) and both shapes (a red picture and a green one are circles here) stay. neighbors = (0.7 / 3 + 0) / 2, unrelated = 0.
    """
    before, now = Painter(0, 1, 2), Painter(1, 1, 2)
    found = run(now, original=before, reference=now)
    assert found.value == pytest.approx(0.7 / 3) and found.low <= found.value <= found.high and found.n == 12
    assert found.parts["neighbors"] == pytest.approx(0.35 / 3) and found.parts["unrelated"] == 0 and found.parts["times_unrelated"] is None
    assert found.parts["reference"] == pytest.approx(0.7 / 3)
    assert found.parts["color: green"] == pytest.approx(0.7 / 3) and found.parts["color: blue"] == found.parts["shape: square"] == 0
    shifted = run(Painter(2, 1, 2), original=before)
    assert shifted.parts["unrelated"] == pytest.approx(0.6 / 3), "a red picture that turns blue is a square here, and both shapes move by 0.6"
    assert shifted.parts["times_unrelated"] == pytest.approx(0.7 / 0.6)


def test_equal_generators():
    found = run(Painter(0, 1, 2), original=Painter(0, 1, 2))
    assert found.value == found.low == found.high == 0 and found.parts["reference"] is None


def test_it_is_scipys():
    source = np.random.default_rng(0)
    one, other = source.normal(size=50), source.normal(1, 2, size=50)
    assert w1(one, other) == wasserstein_distance(one, other) > 0.5
    value, low, high = interval(one, other)
    assert value == wasserstein_distance(one, other) and low <= value <= high < value + 2


def test_scores_of_an_encoder():
    """An encoder whose picture vector is (gray, 1 - gray) scores by the very pictures: all of them alike gives one cosine for each."""
    import torch

    eyes = ImageText(lambda pixels: torch.stack([pixels.mean((1, 2, 3)), 1 - pixels.mean((1, 2, 3))], 1), lambda texts: torch.eye(2)[[int(text == "red") for text in texts]], name="gray")
    found = run(Painter(255), {"score": "encoder"}, original=Painter(0), encoder=eyes)
    assert found.value == pytest.approx(1), "black: (0, 1), which is red here, cosine 1; white: (1, 0), cosine 0"
    with pytest.raises(Missing, match="encoder"):
        run(Painter(1), {"score": "encoder"}, original=Painter(0))


def test_it_needs_an_original():
    with pytest.raises(Missing, match="no original"):
        run(Painter(1))
