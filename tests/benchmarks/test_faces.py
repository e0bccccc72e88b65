"""The faces benchmark from small sheets in openpeople's layout, drawn here; the real ones are slow and only where they were fetched."""

import json

import numpy as np
import pytest
from PIL import Image, ImageDraw

from efface.benchmarks import faces
from efface.core import files, registry
from efface.core.errors import BadRows, Missing, UnknownName
from efface.data import fetch
from efface.data.sources import find
from efface.testing import tiny

WIDE, HIGH = 600, 448
QUICK = {"side": 16, "fit.epochs": 0, "fit.steps": 4, "fit.batch": 8}


def hits(subject, rows) -> float:
    return float((subject.predict(rows).argmax(1) == np.array([row["y"] for row in rows])).mean())


def sheet(draw_cell, rows, high, gap=None):
    """A gray sheet with white frames, four to a row, pictures inside; `gap` leaves one frame open."""
    picture = Image.new("RGB", (WIDE, HIGH), (130, 130, 125))
    pen = ImageDraw.Draw(picture)
    for row in range(rows):
        for column in range(4):
            left, upper = 15 + 145 * column, 20 + row * (HIGH // rows)
            cell = draw_cell(row, column).resize((126, high))
            picture.paste(cell, (left, upper))
            pen.rectangle((left, upper, left + 126, upper + high), outline=(255, 255, 255), width=3)
            if gap == (row, column):
                pen.rectangle((left + 40, upper - 2, left + 60, upper + 4), fill=(130, 130, 125))
    return picture


@pytest.fixture
def folder(tmp_path, portrait):
    """Eight people, every second one 35 or older and every second pair male, with the three files that are read."""
    for number in range(1, 9):
        place = tmp_path / f"P{number:03}" / "assets"
        place.mkdir(parents=True)
        older, male = number % 2, (number // 2) % 2
        facts = {"demographics": {"age_range": "35-45" if older else "18-25", "sex": "male" if male else "female"}}
        (place.parent / "metadata.json").write_text(json.dumps({"person_id": place.parent.name, "character_details": facts}))
        sheet(lambda row, column, n=number, o=older: portrait(n, 4 * row + column, o), 4, 82, (1, 2) if number == 3 else None).save(place / "emotions_sheet.jpg", quality=95)
        sheet(lambda row, column, n=number, o=older: portrait(n, 20 + 4 * row + column, o), 2, 130).save(place / "character_sheet.jpg", quality=95)
        portrait(number, 40, older, 200).save(place / "studio_portrait.jpg", quality=95)
    return tmp_path


def case(folder, ctx=None, **settings):
    return registry.load("benchmark", "faces").set({**QUICK, "folder": str(folder), **settings}).case(ctx or tiny.context())


def test_the_parts_share_nobody(folder):
    """One person to forget, three to keep, two unseen and two to test; either age group stands in each part but the first."""
    made = case(folder)
    parts = {name: made.request.rows(name) for name in ("forget", "keep", "unseen")} | {"test": made.utility["other people"].read()}
    people = {name: {row["identity"] for row in rows} for name, rows in parts.items()}
    assert people["forget"] == {"P001"} and [len(held) for held in people.values()] == [1, 3, 2, 2]
    assert len(set.union(*people.values())) == 8
    assert all({row["y"] for row in parts[name]} == {0, 1} for name in ("keep", "unseen", "test")) and {row["y"] for row in parts["forget"]} == {1}
    assert [len(rows) for rows in parts.values()] == [12, 36, 24, 36]
    held = made.utility["other pictures of kept people"].read()
    assert {row["identity"] for row in held} == people["keep"] and {row["id"].split("-")[1] for row in held} == {*faces.HELD_OUT, "front", "portrait"}
    assert sorted(made.baselines) == ["original", "reference", "reference/1", "reference/2"] and parts["keep"][0]["x"].shape == (3, 16, 16)
    other = case(folder, seed=3)
    assert {row["identity"] for row in other.request.rows("keep")} != people["keep"]


def test_the_models_learn_the_task(folder):
    made = case(folder, **{"fit.steps": 60, "fit.lr": 3e-3})
    assert hits(made.original, [*made.request.rows("forget"), *made.request.rows("keep")]) > 0.95
    assert hits(made.baselines["reference"], made.utility["other pictures of kept people"].read()) > 0.9


def test_other_tasks(folder):
    sex = case(folder, task="sex", forget="P006")
    assert {row["y"] for row in sex.request.rows("forget")} == {1} and {row["y"] for row in sex.request.rows("keep")} == {0, 1}
    told = case(folder, task="expression")
    assert sorted(row["y"] for row in told.request.rows("forget")) == list(range(16)) and told.original.classes == 16
    assert list(told.utility) == ["other people"]


def test_frames(folder):
    """Sixteen frames in rows of four, each as drawn to within a pixel of the search's scale; the one with a gap is there too."""
    picture = Image.open(folder / "P003" / "assets" / "emotions_sheet.jpg")
    found = faces.frames(picture, 4)
    assert [len(row) for row in found] == [4, 4, 4, 4]
    for row, boxes in enumerate(found):
        for column, box in enumerate(boxes):
            left, upper = 15 + 145 * column, 20 + row * (HIGH // 4)
            assert np.allclose(box, (left + 3, upper + 3, left + 124, upper + 80), atol=2.5)
    with pytest.raises(BadRows, match="rows and 0 columns|rows and"):
        faces.frames(Image.new("RGB", (WIDE, HIGH)), 4)


def test_a_person_twice_is_noted(folder, tmp_path_factory):
    """P005, a kept person, gets the pictures of P001: each is found under its other name and left out."""
    for name in ("emotions_sheet.jpg", "character_sheet.jpg", "studio_portrait.jpg"):
        (folder / "P005" / "assets" / name).write_bytes((folder / "P001" / "assets" / name).read_bytes())
    everybody = list(faces._people(folder).values())
    seed = next(at for at in range(99) if "P005" in {p.name for p in faces._cast(everybody, faces.FacesConfig(seed=at))["keep"]})
    ctx = tiny.context(folder=tmp_path_factory.mktemp("run"))
    made = case(folder, ctx, seed=seed)
    assert ctx.notes["forget_keep_leaks"] == 12 and len(made.request.rows("forget")) == 12
    assert "P005" not in {row["identity"] for row in made.request.rows("keep")} and len(made.request.rows("keep")) == 24


def test_what_is_missing_is_named(folder, tmp_path_factory):
    with pytest.raises(Missing, match="efface fetch openpeople"):
        registry.load("benchmark", "faces").set().case(tiny.context())
    with pytest.raises(Missing, match="holds 0 people"):
        case(tmp_path_factory.mktemp("empty"))
    with pytest.raises(UnknownName, match="no person named 'P01'"):
        case(folder, forget="P01")
    (folder / "P002" / "metadata.json").write_text("{}")
    with pytest.raises(BadRows, match="does not tell age_range"):
        case(folder)


@pytest.mark.slow
def test_the_fetched_people(monkeypatch, tmp_path):
    """The real pictures: all frames are found, and a reference knows the forgotten person's age group worse than the original does."""
    if not fetch.is_there(find("openpeople")):
        pytest.skip("openpeople was not fetched")
    real = files.cache() / "data" / "openpeople"
    monkeypatch.setenv("EFFACE_CACHE", str(tmp_path))
    made = registry.load("benchmark", "faces").set({"folder": str(real)}).case(tiny.context())
    forget = made.request.rows("forget")
    assert len(forget) == 12 and hits(made.original, forget) == 1 and all(hits(made.baselines[name], forget) < 0.6 for name in ("reference", "reference/1", "reference/2"))
    assert hits(made.baselines["reference"], made.request.rows("keep")) == 1
