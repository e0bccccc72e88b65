"""What judges say of latents: the concept's probability, clarity, and the overlap of mixtures, by hand."""

import numpy as np
import pytest

from efface.core.errors import Missing
from efface.core.types import Request
from efface.families import concept_chances
from efface.testing.tiny import context

RED = Request(kind="concept", names=("red",), near=("green",))


class Painter:
    """Draws the gray values that it is given, one a latent; its judge reads the class off them."""

    def __init__(self, classes):
        self.classes, self.calls = classes, 0

    def generate(self, rows, seeds=None):
        self.calls += 1
        return np.stack([np.full((2, 2, 3), self.classes[at % len(self.classes)], np.uint8) for at in range(rows)])


class Reader:
    """Gives the class that a picture's gray value names (from 100 on its hundreds) 0.8, and each of the two others 0.1."""

    arguments = {"labels": ["red", "green", "blue"], "side": 2}

    def predict(self, rows):
        numbers = [round(float(row["x"][0, 0, 0]) * 255) for row in rows]
        return np.array([[0.8 if at == (number if number < 100 else number // 100) else 0.1 for at in range(3)] for number in numbers])


def run(**more):
    return context(baselines={"judge/color": Reader(), **more})


def test_the_concept():
    ctx, painter = run(), Painter([0, 1, 2, 0])
    assert concept_chances.concept(painter, RED, ctx, 4).tolist() == [0.8, 0.1, 0.1, 0.8]
    assert concept_chances.shows(painter, RED, ctx, 4).tolist() == [True, False, False, True]
    assert concept_chances.clarity(painter, ctx, 4)["color"].tolist() == [0.8] * 4
    assert painter.calls == 1, "one drawing a run"
    with pytest.raises(Missing, match="no judge has a class for purple"):
        concept_chances.concept(painter, Request(kind="concept", names=("purple",)), ctx, 4)
    with pytest.raises(Missing, match="what the pictures show"):
        concept_chances.clarity(painter, context(), 4)


def test_coverage():
    """Reference: green and blue, half each. A model with green 3/4 and blue 1/4 overlaps in 1/2 + 1/4 = 3/4.

    By latent: green counts (1/2) / (3/4) = 2/3 and blue 1, so (3 x 2/3 + 1) / 4 = 3/4. All green: 1/2. Pictures of the concept count 1,
    and what is left of the others is compared among itself.
    """
    reference = Painter([1, 2, 1, 2])

    def found(classes):
        return concept_chances.coverage(Painter(classes), reference, RED, run(), 4)["color"]

    assert found([1, 1, 1, 2]).tolist() == pytest.approx([2 / 3, 2 / 3, 2 / 3, 1])
    assert found([1, 1, 1, 1]).mean() == pytest.approx(0.5)
    assert found([2, 1, 1, 2]).tolist() == found([0, 0, 1, 2]).tolist() == [1, 1, 1, 1]
    assert found([0, 1, 1, 1]).tolist() == pytest.approx([1, 0.5, 0.5, 0.5])
    assert found([0, 0, 0, 0]).tolist() == [1, 1, 1, 1]


def test_likeness():
    """Sound pictures: gray 100 and 200, 100 apart (the reference draws the same two). Gray 150 lies 50 from the nearest: 1/2; 250 too;
    1 lies 99 away: 0.01. What the original draws of the concept (gray 0 here) is not sound, and counts 1 where the model draws it.
    """
    def found(subject, count=2, **others):
        return concept_chances.likeness(subject, RED, run(**others), count).tolist()

    original, reference = Painter([100, 200]), Painter([200, 100])
    assert found(Painter([100, 150]), original=original) == [1, 0.5]
    assert found(Painter([250, 1]), original=original, reference=reference) == pytest.approx([0.5, 0.01])
    assert found(Painter([0, 1, 2, 0]), 4, original=Painter([0, 100, 200, 0])) == pytest.approx([1, 0.01, 0.02, 1])
    assert found(original, original=original, reference=reference) == [1, 1]
    with pytest.raises(Missing, match="no other model"):
        found(original, original=original)


def test_the_models_of_a_run():
    one, other = Painter([0]), Painter([1])
    ctx = run(original=one, reference=other, encoder=one, **{"reference/1": other})
    assert set(concept_chances.models(one, ctx)) == {"candidate", "original", "reference", "reference/1"}
