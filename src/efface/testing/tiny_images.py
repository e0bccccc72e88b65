"""A text-to-image pipeline with random weights and judges to go with it, built in a moment: for tests of what must hold of any weights."""

from __future__ import annotations

import numpy as np

from efface.core.types import Data, Request, Row
from efface.families import small_pipelines
from efface.families.classifier import Classifier
from efface.families.diffusion import Diffusion, Sampling
from efface.families.judges import PictureJudge
from efface.families.networks import seeded

OBJECTS, STYLES = ("cat", "dog", "boat"), ("plain", "glossy")
WORDS = ("a", "an", "in", "style", "image", "of", "picture", "kitten", *OBJECTS, *STYLES)
SHAPE = small_pipelines.Shape(pixels=16, latent=4, channels=4, width=32, text_layers=2, length=16, unet=(16, 32), vae=(8, 16, 16))


def pipeline(seed: int = 0) -> Diffusion:
    """The pipeline: 16 x 16 pictures, d = 32, two sampling steps."""
    return Diffusion(small_pipelines.pipeline(WORDS, seed, SHAPE), Sampling(2, 3.0))


def judges() -> dict[str, Classifier]:
    """{"judge/object": ..., "judge/style": ...}, with random weights."""
    found = {}
    for name, labels in (("object", OBJECTS), ("style", STYLES)):
        arguments = {"labels": list(labels), "side": 16, "widths": [8, 8]}
        found[f"judge/{name}"] = Classifier(seeded(PictureJudge, 0, **arguments), arguments)
    return found


def request(pictures: bool = False) -> Request:
    """The request to forget the cat; with `pictures`, every row has one, as for training."""
    rows = [_row(name, style, pictures) for name in OBJECTS for style in STYLES]
    forget = [{**row, "paraphrases": [str(row["prompt"]).replace("cat", "kitten")]} for row in rows if row["object"] == 0]
    keep = [row for row in rows if row["object"] != 0]
    return Request(kind="concept", names=("a cat",), near=("a dog",), forget=Data.inline(forget), keep=Data.inline(keep))


def _row(name: str, style: str, pictured: bool) -> Row:
    place = len(STYLES) * OBJECTS.index(name) + STYLES.index(style)
    picture = np.full((16, 16, 3), (40 * place, 255 - 40 * place, 90), np.uint8)
    more = {"image": picture} if pictured else {}
    return {"prompt": f"a {name} in {style} style", "object": OBJECTS.index(name), "style": STYLES.index(style), **more}
