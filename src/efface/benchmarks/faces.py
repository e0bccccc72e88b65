"""Faces of ten invented people (openpeople, generated pictures): forget a person, keep the task. The stand-in for MUFAC and MUCAC.

`efface fetch openpeople` gets the pictures. No face is looked for in them: each person has a sheet of 16 named expressions
in white frames, four to a row, and a sheet of views; the frames are found by their color and the middle square of each is a
chip, head and shoulders. Twelve expressions train; four others, the front view and the portrait are held out.

    people     six to train with, one of whom is forgotten, two unseen, two to test with; no person stands in two parts
    age        the task: below 35, or 35 and older, as the person's description says
    sex        the task: female or male, as the person's description says
    expression the task: which of the 16 expressions; it says nothing of the person (and all 16 train)

What this can and cannot show: with six people in training nobody learns age or sex of a stranger, so "other people" are near
chance for original and references alike, and what must be kept shows on held-out pictures of kept people. A person here is 12
pictures (16 in the expression task). The photos are generated, evenly lit and alike, so numbers do not carry over to photographs.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from pydantic import Field

from efface.core import files
from efface.core.card import Card
from efface.core.config import Config, Fit
from efface.core.context import Context
from efface.core.errors import BadRows, Missing, UnknownName
from efface.core.types import Benchmark, Case
from efface.data import fetch
from efface.families import people, pictures
from efface.families.people import Net, Photo

EXPRESSIONS = (
    "neutral happy sad angry surprised disgusted scared confused smug flirty thoughtful pensive exhausted shocked playful determined".split()
)
HELD_OUT = ("sad", "smug", "shocked", "determined")
"""Expressions that do not train, but in the expression task."""
WHITE, WIDE = 225, 800
"""Level above which a pixel is of a frame, and the width at which frames are looked for."""
OLDER = 35


class FacesConfig(Config):
    """Settings of the benchmark."""

    forget: str = "P001"
    """The person to forget."""
    task: Literal["age", "sex", "expression"] = "age"
    """What the model must tell, and go on telling, of a picture."""
    side: int = Field(48, ge=16, le=256)
    """Side of a chip in pixels."""
    seed: int = 0
    """Of who is unseen and who is tested with."""
    net: Net = "small"
    """The network: a few convolutions, or ResNet-18."""
    folder: str = ""
    """Folder with P001 to P010; "" for the fetched one."""
    fit: Fit = Fit(lr=1e-3, epochs=60, batch=16, schedule="linear", weight_decay=5e-4, precision="no")
    """Optimizer settings of original and references."""


class Person(NamedTuple):
    """What the description of a person says, and where the pictures are."""

    name: str
    older: int
    male: int
    folder: Path


class Faces(Benchmark[FacesConfig]):
    """Forget one of six people; age group, sex or expression must still be told."""

    card = Card(
        name="faces", title="Invented people: a person forgotten, the task kept", paper="after MUFAC and MUCAC, arXiv:2311.02240", families=("classifier",),
        departs="ten generated people in place of thousands of photographed ones; chips by the frames of a sheet in place of a face detector",
    )

    def case(self, ctx: Context) -> Case:
        """The trained network, the request, three references; other people and other pictures of the kept ones as utility."""
        config = self.config
        found = _people(Path(config.folder) if config.folder else fetch.folder("openpeople"))
        if config.forget not in found:
            raise UnknownName.among("person", config.forget, found)
        parts = _cast(list(found.values()), config)
        photos = [photo for part, held in parts.items() for person in held for photo in _photos(person, part, config)]
        rows = people.read(photos, config.side, ctx, "faces", drop=True)
        plan = people.Plan("faces", config.net, config.side, len(EXPRESSIONS) if config.task == "expression" else 2, config.fit)
        others = {"other pictures of kept people": rows.pop("held out")} if "held out" in rows else {}
        return people.case(plan, rows, ctx, config.task, others)


def _people(folder: Path) -> dict[str, Person]:
    """Everybody in the folder by name. Raises Missing or BadRows."""
    found = {}
    for place in sorted(folder.glob("P*/metadata.json")):
        facts: Any = files.read_json(place)
        try:
            about = facts["character_details"]["demographics"]
            youngest = int(str(about["age_range"]).split("-")[0])
            found[place.parent.name] = Person(place.parent.name, int(youngest >= OLDER), int(about["sex"] == "male"), place.parent / "assets")
        except (KeyError, TypeError, ValueError):
            raise BadRows(f"{place} does not tell age_range and sex of a person; fetch openpeople again") from None
    if len(found) < 6:
        raise Missing(f"{folder} holds {len(found)} people, P*/metadata.json, and the benchmark needs six or more; run: efface fetch openpeople")
    return found


def _cast(everybody: Sequence[Person], config: FacesConfig) -> dict[str, list[Person]]:
    """Who is in which part: for two thirds to train with, the rest halved, and either side of the task in every part where there are enough."""
    rest = [person for person in everybody if person.name != config.forget]
    random.Random(config.seed).shuffle(rest)
    if config.task != "expression":
        side = {0: [], 1: []}  # type: dict[int, list[Person]]
        for person in rest:
            side[_label(person, config.task)].append(person)
        few, many = sorted(side.values(), key=len)
        away = max(1, len(everybody) // 10)
        order = [*few[:away], *many[:away], *few[away : 2 * away], *many[away : 2 * away]]
    else:
        order = rest[: 4 * max(1, len(everybody) // 10)]
    half = len(order) // 2
    keep = [person for person in rest if person not in order]
    return {"forget": [person for person in everybody if person.name == config.forget], "keep": keep, "unseen": order[:half], "test": order[half:]}


def _label(person: Person, task: str) -> int:
    return person.male if task == "sex" else person.older


def _photos(person: Person, part: str, config: FacesConfig) -> list[Photo]:
    """The chips of a person: expressions, and for kept people and those to test with the held-out views too."""
    def photo(name: str, into: str, label: int, place: np.ndarray) -> Photo:
        return Photo(f"{person.name}-{name}", into, person.name, label, place)

    sheet = pictures.open_picture(person.folder / "emotions_sheet.jpg")
    chips = dict(zip(EXPRESSIONS, (_chip(sheet, box, config.side) for row in frames(sheet, 4) for box in row), strict=True))
    if config.task == "expression":
        return [photo(name, part, at, chip) for at, (name, chip) in enumerate(chips.items())]
    label = _label(person, config.task)
    found = [photo(name, part, label, chip) for name, chip in chips.items() if name not in HELD_OUT]
    if part in ("keep", "test"):
        into = "held out" if part == "keep" else part
        views = pictures.open_picture(person.folder / "character_sheet.jpg")
        more = {name: chips[name] for name in HELD_OUT} | {
            "front": _chip(views, frames(views, 2)[0][0], config.side),
            "portrait": pictures.pixels(pictures.open_picture(person.folder / "studio_portrait.jpg"), config.side),
        }
        found += [photo(name, into, label, chip) for name, chip in more.items()]
    return found


def _chip(sheet: Any, box: pictures.Box, side: int) -> np.ndarray:
    """The middle square of a frame."""
    left, upper, right, lower = box
    half, middle = min(right - left, lower - upper) / 2, (left + right) / 2
    return pictures.pixels(sheet, side, (middle - half, upper, middle + half, upper + 2 * half))


def frames(sheet: Any, rows: int) -> list[list[pictures.Box]]:
    """What lies within the white frames of a sheet, four to a row. A frame with a gap takes its place from those of its row and column.

    Raises BadRows when the frames make no such grid.
    """
    from scipy import ndimage

    small = np.asarray(sheet.resize((WIDE, round(sheet.height * WIDE / sheet.width)))).min(2)
    found = []
    for down, across in ndimage.find_objects(ndimage.label(small < WHITE)[0]):
        if 0.15 * WIDE < across.stop - across.start < 0.3 * WIDE and 0.12 * len(small) < down.stop - down.start < 0.5 * len(small):
            found.append((across.start, down.start, across.stop, down.stop))
    columns, lines = _bands([(box[0], box[2]) for box in found]), _bands([(box[1], box[3]) for box in found])
    if len(columns) != 4 or len(lines) != rows:
        raise BadRows(f"a sheet shows {len(lines)} rows and {len(columns)} columns of frames where {rows} and 4 were expected; fetch openpeople again")
    scale = sheet.width / WIDE
    return [[(scale * left, scale * upper, scale * right, scale * lower) for left, right in columns] for upper, lower in lines]


def _bands(spans: Sequence[tuple[int, int]]) -> list[tuple[float, float]]:
    """Spans that begin at about the same place, each such band by its median."""
    bands: list[list[tuple[int, int]]] = []
    for span in sorted(spans):
        if bands and span[0] - bands[-1][-1][0] < WIDE // 20:
            bands[-1].append(span)
        else:
            bands.append([span])
    return [(float(np.median([a for a, _ in band])), float(np.median([b for _, b in band]))) for band in bands]
