"""A generator, an image-text encoder and judges with random weights, built in a moment: for tests of what must hold of any weights."""

from __future__ import annotations

from efface.core.types import Data, Request
from efface.families import shapes, two_towers
from efface.families.classifier import Classifier
from efface.families.gan import Gan
from efface.families.generators import StyleGenerator
from efface.families.judges import PictureJudge
from efface.families.networks import seeded

SHAPE = {"channels": 4, "hidden": 16}


def generator(seed: int = 0) -> Gan:
    """A generator R^8 -> 16 x 16 x 3 in two stages."""
    return Gan(seeded(StyleGenerator, seed, **SHAPE), (8,), SHAPE)


def encoder(seed: int = 0) -> two_towers.ImageText:
    """An image-text encoder over the words of the toy captions."""
    return two_towers.untrained(shapes.rows(9), seed, {"channels": 4})


def judges() -> dict[str, Classifier]:
    """{"judge/color": ..., "judge/shape": ...}."""
    found = {}
    for name, labels in (("color", shapes.COLORS), ("shape", shapes.SHAPES)):
        arguments = {"labels": list(labels), "side": 16, "widths": [8, 8]}
        network = seeded(PictureJudge, 0, **arguments)
        found[f"judge/{name}"] = Classifier(network, arguments)
    return found


def request() -> Request:
    """The request to forget red; its keep rows are captioned toy pictures without it."""
    return Request(kind="concept", names=("red",), near=("green", "blue"), keep=Data.inline([row for row in shapes.rows(27) if row["color"] != 0]))
