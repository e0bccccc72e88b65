"""Emoji: a text-to-image model that draws 48 objects in three styles must forget an object or a style.

The model is a StableDiffusionPipeline of 2.7 million parameters, trained from nothing on 144 pictures of 32 x 32 (Noto Color
Emoji, Twemoji, Fluent 3D) with captions such as "a cat in noto style". References are the same network from the same start, trained by
the same recipe without the object's or the style's pictures; they share the autoencoder, which never saw a picture of the
grid. Two judges, trained on the real pictures, say which object and which style a picture shows.

The layout is UnlearnCanvas's (arXiv:2402.11846): erase one of a grid of objects x styles, look at all of it.

Made again: the pictures by `python -m efface.data.emoji_pictures`, the autoencoder and the judges by `python -m
efface.data.emoji_parts`, a model by `efface train --benchmark emoji --part original` (or `--part without_cat`).
"""

from __future__ import annotations

import copy
from typing import Any

import numpy as np

from efface.core import registry
from efface.core.card import Card
from efface.core.config import Config
from efface.core.context import Context
from efface.core.errors import UnknownName
from efface.core.types import Benchmark, Case, Data, Request, Row
from efface.data import emoji_rows as grid
from efface.families import diffusion_files, module_files
from efface.families.diffusion import Diffusion

FOLDER = registry.ROOT / "data" / "emoji"
SEED = 0
FIT: dict[str, object] = {"fit.steps": 6500}
"""Settings of text_to_image with which every model was trained."""
SUITE = (
    "metric/unlearn_canvas", "metric/neighbor_damage", "metric/picture_distance", "metric/fid", "attack/paraphrase", "attack/inverse_edit",
    "attack/derived_embedding", "attack/textual_inversion", "attack/unlearn_diff_atk",
)
"""What a run on this benchmark is measured by, unless told otherwise."""
QUICK = tuple(name for name in SUITE if name not in ("attack/unlearn_diff_atk", "metric/fid"))
"""What the demo measures, in under three minutes."""
SENTENCES = ["{} in noto style", "{} in twemoji style", "{} in fluent style"]
SCENES = [f"{grid.named(name)} in {{}}" for name in ("cat", "dog", "car", "apple", "tree", "pizza", "boat")] + ["an image in {}"]
TRCE: dict[str, object] = {"weights": [0, 1, 1, 1], "lam": 1e-3, "steps": 20, "plain": 16, "fit.steps": 60, "fit.batch": 4, "fit.lr": 1e-5}
SHORT: dict[str, object] = {"fit.lr": 1e-3, "fit.batch": 8, "fit.steps": 60}
OBJECT: dict[str, dict[str, object]] = {
    "uce": {"tokens": "last_to_end", "preserve": 0.1, "lam": 0.1, "expansions": SENTENCES},
    "rece": {"start.preserve": 0.1, "start.lam": 0.1, "start.expansions": SENTENCES, "epochs": 2},
    "trce": {**TRCE, "prior": 0.1, "templates": ["{}", *SENTENCES, "a picture of {}"]},
    "esd": {**SHORT, "prompts": "rows", "train": "x-strict", "sampling_steps": 20, "trajectories": 24},
    "concept_ablation": {**SHORT},
    "few_shot": {"templates": "none", "fit.lr": 3e-3, "pictures": 12, "fit.batch": 12, "fit.epochs": 15},
    "salun": {"fit.lr": 5e-4, "fit.batch": 16, "fit.steps": 60},
    "doco": {"fit.lr": 5e-4, "fit.batch": 8, "fit.steps": 120, "warm_up": 40},
    "advunlearn": {**SHORT, "attack.steps": 10},
    "sfd": {"fit.lr": 3e-4, "fake_lr": 1e-3, "fit.steps": 120, "fit.batch": 12, "fit.warmup": 10, "guidance": 3.0, "fake_guidance": 1.0},
    "safree": {"ends": True, "negative": False},
}
STYLE: dict[str, dict[str, object]] = {
    **OBJECT,
    "uce": {"tokens": "last_to_end", "preserve": 0.1, "lam": 0.1, "expansions": SCENES},
    "rece": {"start.preserve": 0.1, "start.lam": 0.1, "start.expansions": SCENES, "epochs": 1},
    "trce": {**TRCE, "prior": 0.02, "safe": "noto style", "templates": ["{}", *SCENES]},
    "esd": {"prompts": "rows", "eta": 16, "fit.lr": 1e-3, "fit.batch": 8, "fit.steps": 100, "sampling_steps": 20, "trajectories": 24},
    "few_shot": {"templates": "none", "fit.lr": 3e-3, "pictures": 16, "fit.batch": 8, "fit.epochs": 20, "most_drift": 0.5},
    "doco": {"fit.lr": 1e-3, "discriminator_lr": 1e-3, "fit.batch": 16, "fit.steps": 200, "warm_up": 50},
}


def tuned(method: str, concept: str = "cat") -> dict[str, object]:
    """Settings of a method or guard for a model of this size, for objects or for styles; {} where the defaults are meant.

    They were chosen by hand on the dog and on noto, with which no published number is made.
    """
    return dict((STYLE if concept in grid.STYLES else OBJECT).get(method, {}))


class EmojiConfig(Config):
    """Settings of the emoji benchmark."""

    concept: str = "cat"
    """What must go: one of the 48 objects, or a style (noto, twemoji, fluent)."""


class Emoji(Benchmark[EmojiConfig]):
    """A small text-to-image model, its retrained references, and judges of what a picture shows."""

    card = Card(
        name="emoji", title="Emoji: an object or a style erased from a text-to-image model", paper="arXiv:2402.11846", families=("diffusion",),
        departs="48 emoji in three styles at 32 x 32 where UnlearnCanvas has 20 objects in 51 styles at 512 x 512",
    )

    def case(self, ctx: Context) -> Case:
        """The original, the request, the reference where one is shipped for the concept, and the judges."""
        concept = self.config.concept
        if concept not in (*grid.OBJECTS, *grid.STYLES):
            raise UnknownName.among("concept of the emoji grid", concept, [*grid.OBJECTS, *grid.STYLES])
        base = original(ctx.device)
        baselines: dict[str, Any] = {"original": base, **judges(ctx.device)}
        said = ""
        if (FOLDER / "references" / concept).is_dir():
            baselines["reference"] = reference(concept, base)
            said = f"the same network from the same start, trained in the same way without the pictures of {concept}"
        return Case(name=f"emoji/{concept}", original=base, request=request(concept), baselines=baselines, reference=said, suite=SUITE)


def original(device: str = "auto") -> Diffusion:
    """The model that knows all of the grid."""
    return diffusion_files.load(str(FOLDER / "original"), device, "float32")


def reference(concept: str, base: Diffusion | None = None) -> Diffusion:
    """The model trained without one object or style. Raises UnknownName when none is shipped for it."""
    from safetensors.torch import load_file

    place = FOLDER / "references" / concept
    if not place.is_dir():
        raise UnknownName.among("reference of the emoji grid", concept, sorted(path.name for path in (FOLDER / "references").glob("*")))
    found = copy.copy(base or original()).fork(("denoiser", "text"))
    for part in ("unet", "text_encoder"):
        weights = {name: tensor.float() for name, tensor in load_file(place / f"{part}.safetensors").items()}
        found.parts[part].load_state_dict(weights)
    found.lineage, found.origin = (), ""
    return found


def judges(device: str = "auto") -> dict[str, Any]:
    """{"judge/object": classifier of 48 objects and "other", "judge/style": of three styles}."""
    return {f"judge/{name}": module_files.load(FOLDER / "judges" / name, device) for name in ("object", "style")}


def pictures() -> np.ndarray:
    """The real pictures (48, 3, 32, 32, 3), uint8, by object and style."""
    from PIL import Image

    with Image.open(FOLDER / "grid.png") as opened:
        sheet = np.asarray(opened.convert("RGB"))
    side = sheet.shape[0] // len(grid.STYLES)
    return sheet.reshape(len(grid.STYLES), side, len(grid.OBJECTS), side, 3).transpose(2, 0, 1, 3, 4)


def request(concept: str) -> Request:
    """What must go and what must stay: the captions of the grid; near stand objects of the same sort, or the other styles."""
    cells = [(name, style) for name in grid.OBJECTS for style in grid.STYLES]
    forget = [row(name, style, concept) for name, style in cells if concept in (name, style)]
    keep = [row(name, style) for name, style in cells if concept not in (name, style)]
    if concept in grid.STYLES:
        names, near = (f"{concept} style",), tuple(f"{style} style" for style in grid.STYLES if style != concept)
    else:
        at = grid.OBJECTS.index(concept)
        others = grid.NEAR.get(concept) or [grid.OBJECTS[(at + step) % len(grid.OBJECTS)] for step in (1, -1, 2)]
        names, near = (grid.named(concept),), tuple(grid.named(other) for other in others)
    return Request(kind="concept", names=names, near=near, forget=Data.inline(forget), keep=Data.inline(keep))


def row(name: str, style: str, forget: str = "") -> Row:
    """One cell of the grid as a row, with other ways to ask for it where it is to be forgotten."""
    more = {"paraphrases": grid.paraphrases(name, style, forget)} if forget else {}
    return {"prompt": grid.prompt(name, style), "object": grid.OBJECTS.index(name), "style": grid.STYLES.index(style), **more}


# -- making the models again --------------------------------------------------------------------------------------------------


def training(part: str) -> tuple[str, Request, dict[str, object], int]:
    """(recipe, request, settings, seed) that make "original" or "without_CONCEPT". Raises UnknownName."""
    without = "" if part == "original" else part.removeprefix("without_")
    if part != "original" and (not part.startswith("without_") or without not in (*grid.OBJECTS, *grid.STYLES)):
        raise UnknownName.among("part of the emoji benchmark", part, ["original", *(f"without_{name}" for name in (*grid.OBJECTS, *grid.STYLES))])
    real = pictures()
    rows = [{**cell, "image": real[cell["object"], cell["style"]]} for cell in grid.rows(without)]  # type: ignore[index]
    return "text_to_image", Request(keep=Data.inline(rows)), dict(FIT), SEED


def start() -> Diffusion:
    """The untrained model with the shipped autoencoder: what every training begins with."""
    from efface.families import small_pipelines
    from efface.families.diffusion import Sampling

    base = original("cpu")
    return Diffusion(small_pipelines.pipeline(grid.WORDS, SEED, vae=base.pipe.vae), Sampling(base.sampling.steps, base.sampling.guidance))

