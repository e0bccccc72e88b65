"""MUFAC from a small folder in the released layout: its parts, its cut, and the copies that it is known for."""

import json

import pytest
from PIL import Image

from efface.benchmarks import mufac
from efface.core import registry
from efface.core.errors import BadRows, Missing
from efface.testing import tiny

QUICK = {"net": "small", "side": 16, "fit.epochs": 0, "fit.steps": 3, "fit.batch": 8}
HEAD = "family_id,person_id,age_class,image_path\n"


@pytest.fixture
def folder(tmp_path, portrait):
    """Households F0001 to F0006 to train with, F0801 and F0802 to test, F0851 and F0852 unseen; four pictures each, ages c and e."""
    place = tmp_path / "custom_korean_family_dataset_resolution_128"
    for part, households in (("train", range(1, 7)), ("test", (801, 802)), ("unseen", (851, 852))):
        listed, images = mufac.LISTS[part]
        (place / images).mkdir(parents=True)
        lines = []
        for household in households:
            for photo in range(4):
                role, age, group = ("D", 18, "c") if photo < 2 else ("M", 45, "e")
                name = f"F{household:04}_AGE_{role}_{age}_{group}{photo % 2 + 1}.jpg"
                portrait(household, photo, int(group == "e")).save(place / images / name, quality=95)
                lines.append(f"F{household:04},F{household:04}_{role},{group},{name}\n")
        (place / listed).write_text(HEAD + "".join(lines))
    return place


def case(folder, ctx=None, **settings):
    return registry.load("benchmark", "mufac").set({**QUICK, "folder": str(folder), "forget_rows": 6, **settings}).case(ctx or tiny.context())


def who(rows):
    return {row["identity"] for row in rows}


def test_the_parts(folder):
    """The cut after six rows falls into F0002, which goes whole; labels are the places of the age groups; nobody is in two parts."""
    made = case(folder)
    rows = {name: made.request.rows(name) for name in ("forget", "keep", "unseen")} | {"test": made.utility["other people"].read()}
    assert {name: len(part) for name, part in rows.items()} == {"forget": 8, "keep": 16, "unseen": 8, "test": 8}
    assert [who(part) for part in rows.values()] == [{"F0001", "F0002"}, {"F0003", "F0004", "F0005", "F0006"}, {"F0851", "F0852"}, {"F0801", "F0802"}]
    assert {row["y"] for row in rows["forget"]} == {2, 4} and rows["forget"][0]["id"] == "train/F0001_AGE_D_18_c1.jpg"
    assert rows["forget"][0]["x"].shape == (3, 16, 16) and made.original.classes == 8
    assert sorted(made.baselines) == ["original", "reference", "reference/1", "reference/2"]
    assert "0 duplicates found" in made.reference


def test_the_published_cut_parts_a_household(folder):
    made = case(folder, whole_households="false")
    assert [len(made.request.rows(name)) for name in ("forget", "keep")] == [6, 18]
    assert who(made.request.rows("forget")) & who(made.request.rows("keep")) == {"F0002"}
    assert len(case(folder, train_rows=12).request.rows("keep")) == 4


def test_a_household_s_rows_need_not_stand_together(folder):
    """F0001 has a picture at the end of the list too: it is forgotten with the rest."""
    listed = folder / "custom_train_dataset.csv"
    head, first, *rest = listed.read_text().splitlines(keepends=True)
    listed.write_text("".join([head, *rest, first]))
    made = case(folder)
    assert len(made.request.rows("forget")) == 8 and who(made.request.rows("forget")) == {"F0001", "F0002"}


def test_planted_copies_are_found_and_left_out(folder, tmp_path):
    """F0004 holds a byte-identical copy of a picture of F0001 under its own name, and the test part one stored anew."""
    images = folder / "train_images"
    copied = (images / "F0001_AGE_D_18_c1.jpg").read_bytes()
    (images / "F0004_AGE_D_18_c2.jpg").write_bytes(copied)
    Image.open(images / "F0005_AGE_M_45_e1.jpg").save(folder / "val_images" / "F0801_AGE_M_45_e2.jpg", quality=60)
    ctx = tiny.context(folder=tmp_path / "run")
    made = case(folder, ctx, side=64)
    assert (ctx.notes["duplicates"], ctx.notes["leaks"], ctx.notes["forget_keep_leaks"]) == (2, 2, 1)
    told = json.loads((tmp_path / "run" / "duplicates.json").read_text())
    assert {"kind": "identical", "across": True, "rows": ["train/F0001_AGE_D_18_c1.jpg", "train/F0004_AGE_D_18_c2.jpg"], "parts": ["forget", "keep"], "identities": ["F0001", "F0004"]} in told["pairs"]
    assert ["near", ["keep", "test"]] in [[pair["kind"], pair["parts"]] for pair in told["pairs"]]
    assert [len(made.request.rows(name)) for name in ("forget", "keep")] == [8, 15] and len(made.utility["other people"].read()) == 7
    assert "2 duplicates found, 2 of them across parts" in made.reference
    as_published = case(folder, side=64, drop_copies="false")
    assert len(as_published.request.rows("keep")) == 16 and len(as_published.utility["other people"].read()) == 8


def test_a_household_in_two_parts_is_refused(folder):
    with (folder / "custom_val_dataset.csv").open("a") as file:
        file.write("F0003,F0003_D,c,F0003_AGE_D_18_c1.jpg\n")
    with pytest.raises(BadRows, match=r"keep and test share 1 identities \(F0003\)"):
        case(folder)


@pytest.mark.parametrize(
    ("row", "says"),
    [("F0001,F0001_D,z,F0001_AGE_D_18_c1.jpg", "csv:26"), ("F0001,F0001_D,c,face.jpg", "image_path 'face.jpg'"), ("F0001", "image_path None")],
)
def test_bad_lists_are_named(folder, row, says):
    with (folder / "custom_train_dataset.csv").open("a") as file:
        file.write(row + "\n")
    with pytest.raises(BadRows, match=says):
        case(folder)


def test_what_is_missing_is_named(folder, tmp_path):
    with pytest.raises(Missing, match="must be asked for"):
        registry.load("benchmark", "mufac").set().case(tiny.context())
    with pytest.raises(Missing, match="custom_train_dataset.csv"):
        case(tmp_path)
    with pytest.raises(BadRows, match="leave some to keep"):
        case(folder, forget_rows=24)
    (folder / "train_images" / "F0002_AGE_D_18_c1.jpg").unlink()
    with pytest.raises(Missing, match="no picture .*F0002"):
        case(folder)
    (folder / "custom_test_dataset.csv").write_text(HEAD)
    with pytest.raises(BadRows, match="lists no pictures"):
        case(folder)
