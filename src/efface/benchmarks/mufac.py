"""MUFAC (Choi and Na, arXiv:2311.02240): Korean families; forget some households, go on telling age groups.

Reads the released folder as it is: `custom_train_dataset.csv` with `train_images/`, `custom_val_dataset.csv` with `val_images/`
(the test part), and `custom_test_dataset.csv` with `test_images/` (the unseen part). A file name such as F0001_AGE_D_18_c1.jpg
holds household, role, age, and age group (a to h) with a number. As published, the first 1,500 rows of the training list are
to be forgotten; here the household in which that cut falls goes whole, so that forget and keep rows share none.

Known of the released pictures: more than 250 of the training part are byte-identical to another, some across households and
parts. Copies, and pictures stored anew that look the same, are looked for over all parts and written to a file; of two in
different parts the later is left out (`drop_copies`), because a reference that saw a copy of a forget row is none. Flipped or
cropped copies are not found. The data set has a license of its own and must be asked for; nothing of it comes with efface.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import Field

from efface.core.card import Card
from efface.core.config import Config, Fit
from efface.core.context import Context
from efface.core.errors import BadRows, Missing
from efface.core.types import Benchmark, Case
from efface.families import people, splits
from efface.families.people import Net, Photo

AGES = ("0-6", "7-12", "13-19", "20-30", "31-45", "46-55", "56-66", "67-80")
"""Years of the age groups a to h."""
LISTS = {"train": ("custom_train_dataset.csv", "train_images"), "test": ("custom_val_dataset.csv", "val_images"), "unseen": ("custom_test_dataset.csv", "test_images")}
"""List and folder of each part."""
NAME = re.compile(r"(F\d{4})_AGE_([A-Za-z]+\d*)_(\d+)_([a-h])(\d+)\.(?:jpe?g|png)", re.IGNORECASE)
"""Household, role, age, age group, number."""


class MufacConfig(Config):
    """Settings of the benchmark."""

    folder: str = ""
    """Folder of the released data set, with its three .csv lists and three folders of pictures."""
    forget_rows: int = Field(1500, ge=1)
    """Rows of the training list to forget, from its beginning."""
    whole_households: bool = True
    """Forget the household in which that cut falls as a whole; the published split cuts through it."""
    drop_copies: bool = True
    """Leave out rows that are copies of a row in an earlier part; off for the published rows."""
    train_rows: int = Field(0, ge=0)
    """Most rows to train on; 0 for all. The forget rows come first."""
    side: int = Field(64, ge=16, le=256)
    """Side of a picture in pixels; published with 128."""
    net: Net = "resnet18"
    """The network: ResNet-18 as published, or a few convolutions."""
    fit: Fit = Fit(lr=1e-2, optimizer="sgd", momentum=0.9, epochs=30, batch=64, schedule="linear", clip=0)
    """Optimizer settings of original and references."""


class Mufac(Benchmark[MufacConfig]):
    """Forget households of MUFAC; the age group must still be told."""

    card = Card(
        name="mufac", title="MUFAC: households forgotten, age groups kept", paper="arXiv:2311.02240", families=("classifier",),
        departs="whole households and no copies across parts, unless told otherwise; 64 pixels; no augmentation, and a rate that falls steadily where the paper's falls twice",
    )

    def case(self, ctx: Context) -> Case:
        """The trained network, the request, three references, people of other households as utility. Raises Missing or BadRows."""
        config = self.config
        if not config.folder:
            raise Missing("mufac reads the released folder custom_korean_family_dataset_resolution_128, which must be asked for; set folder=FOLDER")
        photos = photos_of(Path(config.folder), config)
        splits.check_disjoint(_households(photos, config.whole_households))
        rows = people.read(photos, config.side, ctx, "mufac", config.drop_copies)
        plan = people.Plan("mufac", config.net, config.side, len(AGES), config.fit)
        return people.case(plan, rows, ctx, "age group")


def photos_of(folder: Path, config: MufacConfig) -> list[Photo]:
    """Every picture that takes part, with its part. Raises Missing or BadRows, naming list and line."""
    train = _listed(folder, "train", "keep")
    cut = min(config.forget_rows, len(train))
    if config.whole_households:
        inside = {photo.identity for photo in train[:cut]}
        train = sorted(train, key=lambda photo: photo.identity not in inside)  # sorting leaves equals in their order
        cut = sum(photo.identity in inside for photo in train)
    if config.train_rows:
        train = train[: config.train_rows]
    if cut >= len(train):
        raise BadRows(f"forget_rows = {config.forget_rows} takes {cut} of {len(train)} training rows, whole households included; leave some to keep")
    named = [photo._replace(part="forget") for photo in train[:cut]] + train[cut:]
    return named + _listed(folder, "test", "test") + _listed(folder, "unseen", "unseen")


def _listed(folder: Path, part: str, into: str) -> list[Photo]:
    """The pictures of a list."""
    name, place = LISTS[part]
    found = []
    try:
        with (folder / name).open(encoding="utf-8-sig", newline="") as file_of_list:
            rows = list(csv.DictReader(file_of_list))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise Missing(f"cannot read {folder / name} ({getattr(error, 'strerror', None) or error}); give the released folder, with its three .csv lists") from None
    if not rows:
        raise BadRows(f"{folder / name} lists no pictures")
    for number, row in enumerate(rows, start=2):
        file, group = row.get("image_path"), str(row.get("age_class") or "").strip().lower()
        parsed = NAME.fullmatch(Path(str(file)).name)
        if file is None or parsed is None or group not in tuple("abcdefgh"):
            raise BadRows(f"{folder / name}:{number}: image_path {file!r} and age_class {group!r}; need a name like F0001_AGE_D_18_c1.jpg and a group from a to h")
        found.append(Photo(f"{part}/{Path(str(file)).name}", into, parsed[1].upper(), ord(group) - ord("a"), folder / place / str(file)))
    return found


def _households(photos: Sequence[Photo], whole: bool) -> dict[str, list[str]]:
    """Households by part; forget and keep rows as one where the published cut may part a household."""
    found: dict[str, list[Any]] = {}
    for photo in photos:
        found.setdefault("keep" if photo.part == "forget" and not whole else photo.part, []).append(photo.identity)
    return found
