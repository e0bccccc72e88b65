"""Toy generator: circles, squares and triangles in red, green and blue, of which one color or shape must go.

A generator R^8 -> 16 x 16 x 3 was trained adversarially on all nine kinds (recipe `adversarial`), the references on the six kinds that
stay. Judges of color and of shape are classifiers of real pictures; the image-text encoder, from which methods take directions, was
trained on captions and is another network than either judge. All are shipped, 1.5 MB; `anew` trains them again, in some minutes.

Reading the result: a retrained generator has a latent space of its own, so rates and mixtures are compared with it, and never
its picture at a latent. The shipped references forget "red"; for other concepts there is none unless they are trained anew.
"""

from __future__ import annotations

from typing import Any

from efface.core import registry
from efface.core.card import Card
from efface.core.config import Config
from efface.core.context import Context
from efface.core.errors import UnknownName
from efface.core.types import Benchmark, Case, Data, Request, Row
from efface.families import module_files, shapes, two_towers
from efface.families.classifier import Classifier
from efface.families.gan import Gan
from efface.families.generators import StyleGenerator
from efface.families.judges import PictureJudge
from efface.families.networks import seeded

FOLDER = registry.ROOT / "data" / "gan_shapes"
SHIPPED = "red"
"""The concept that the shipped references were trained without."""
REFERENCES = {"reference": 1, "reference/1": 2, "reference/2": 3}
"""Name and seed of each reference; the original's is 0."""
ROWS = 1800
"""Pictures that a generator is trained on, before those of the concept are left out."""
SHAPE = {"latent": 8, "width": 32, "side": shapes.SIDE, "channels": 8, "hidden": 128}
SUITE = ("metric/concept_rate", "metric/score_w1", "metric/latent_drift")
NAMES = {"color": shapes.COLORS, "shape": shapes.SHAPES}


class GanShapesConfig(Config):
    """Settings of the toy generator."""

    concept: str = SHIPPED
    """What must go: red, green, blue, circle, square or triangle."""
    anew: bool = False
    """Train original, references, judges and encoder again, rather than take the shipped ones."""


class GanShapes(Benchmark[GanShapesConfig]):
    """A small generator that must forget a color or a shape, with references that were trained without it."""

    card = Card(
        name="gan_shapes", title="Toy generator: a color or a shape forgotten", paper="", families=("gan",),
        departs="16 x 16 drawings where the papers have faces",
    )

    def case(self, ctx: Context) -> Case:
        """The generator, the request, judges, encoder, and references where there are any. Raises UnknownName for another concept."""
        concept = self.config.concept
        asked = request(concept)
        if self.config.anew:
            baselines = everything(concept, ctx)
        else:
            names = ("original", "encoder", "judge/color", "judge/shape", *(REFERENCES if concept == SHIPPED else ()))
            baselines = {name: shipped(name, ctx.device) for name in names}
        there = "reference" in baselines
        return Case(
            name=f"gan_shapes/{concept}", original=baselines["original"], request=asked, baselines=baselines, suite=SUITE,
            reference=f"the same generator from another start, trained on the pictures without {concept}" if there else "",
        )


def request(concept: str = SHIPPED) -> Request:
    """The request to forget a color or a shape; the others of its kind are near. Raises UnknownName."""
    kind = next((kind for kind in NAMES.values() if concept in kind), None)
    if kind is None:
        raise UnknownName.among("concept", concept, [name for names in NAMES.values() for name in names])
    return Request(kind="concept", names=(concept,), near=tuple(name for name in kind if name != concept))


def shipped(name: str, device: str = "cpu") -> Any:
    """One of the shipped models: "original", "reference", "reference/1", "reference/2", "encoder", "judge/color" or "judge/shape"."""
    return module_files.load(FOLDER / name.replace("/", "-"), device)


def everything(concept: str, ctx: Context) -> dict[str, Any]:
    """All models by name, trained anew; equal seeds on equal machines give equal weights."""
    whole, stay = shapes.rows(ROWS), [row for row in shapes.rows(ROWS) if not shown(row, concept)]
    jobs = {"original": (whole, 0), **{name: (stay, seed) for name, seed in REFERENCES.items()}}
    found: dict[str, Any] = {}
    for name, (rows, seed) in ctx.progress(jobs.items(), "generators", len(jobs)):
        found[name] = generator(rows, seed, ctx)
    return {**found, "encoder": encoder(0, ctx), **{f"judge/{name}": judge(name, 0, ctx) for name in NAMES}}


def shown(row: Row, concept: str) -> bool:
    """Whether a row's picture shows the concept."""
    return any(concept in kind and kind[int(str(row[name]))] == concept for name, kind in NAMES.items())


def untrained(seed: int) -> Gan:
    """The generator with random weights."""
    return Gan(seeded(StyleGenerator, seed, **SHAPE), (SHAPE["latent"],), SHAPE)


def generator(rows: list[Row], seed: int, ctx: Context, settings: dict[str, object] | None = None) -> Any:
    """A generator trained on these rows' pictures."""
    own = ctx.alone(seed=seed, folder=None, budget={}, curve=[], notes={})
    return registry.load("recipe", "adversarial").set(settings).run(untrained(seed), _keeping(rows), own)


def encoder(seed: int, ctx: Context, settings: dict[str, object] | None = None) -> Any:
    """An image-text encoder trained on captioned pictures of its own."""
    rows = shapes.rows(900, seed=1000 + seed)
    own = ctx.alone(seed=seed, folder=None, budget={}, curve=[], notes={})
    return registry.load("recipe", "contrastive").set(settings).run(two_towers.untrained(rows, seed), _keeping(rows), own)


def judge(name: str, seed: int, ctx: Context, settings: dict[str, object] | None = None) -> Any:
    """A classifier of colors or shapes, trained on real pictures of its own with some noise on them."""
    import numpy as np

    source = np.random.default_rng(2000 + seed)
    rows = [{"x": _noisy(row["image"], source), "y": row[name]} for row in shapes.rows(900, seed=2000 + seed)]
    arguments: dict[str, Any] = {"labels": list(NAMES[name]), "side": shapes.SIDE, "widths": [12, 24]}
    own = ctx.alone(seed=seed, folder=None, budget={}, curve=[], notes={})
    chosen = {"fit.lr": 3e-3, "fit.steps": 150, "fit.batch": 64, "fit.schedule": "linear", "fit.precision": "no", **(settings or {})}
    return registry.load("recipe", "finetune").set(chosen).run(Classifier(seeded(PictureJudge, seed, **arguments), arguments), _keeping(rows), own)


def _keeping(rows: list[Any]) -> Request:
    return Request(keep=Data.inline(rows))


def _noisy(picture: Any, source: Any) -> Any:
    """Pixels (3, side, side) in 0..1 with noise of a random strength, so that a generator's faults do not decide."""
    import numpy as np

    pixels = picture.transpose(2, 0, 1).astype(np.float32) / 255
    return np.clip(pixels + source.uniform(0, 0.15) * source.standard_normal(pixels.shape), 0, 1).astype(np.float32)
