"""Splits by identity hold for any table of identities, and planted duplicates are found, near ones too."""

import io
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageEnhance

from efface.core.errors import BadConfig, BadRows
from efface.families import pictures, splits
from efface.families.splits import Item, Pair
from efface.testing.tiny import context

PARTS = {"forget": 0.1, "keep": 0.5, "unseen": 0.2, "test": 0.2}
tables = st.lists(st.integers(0, 30).map(str), min_size=4, max_size=300).filter(lambda found: len(set(found)) >= 4)


@given(identities=tables, seed=st.integers(0, 1000))
@settings(max_examples=60, deadline=None)
def test_no_identity_in_two_parts(identities, seed):
    """For random tables: every row is in one part, no part is empty, and no identity is in two of them."""
    parts = splits.by_identity(identities, PARTS, seed)
    assert sorted(place for held in parts.values() for place in held) == list(range(len(identities)))
    who = {part: {identities[place] for place in held} for part, held in parts.items()}
    assert all(who.values()) and sum(map(len, who.values())) == len(set(identities))
    items = [Item(str(place), part, identities[place], str(place)) for part, held in parts.items() for place in held]
    assert splits.shared(items) == {}
    assert parts == splits.by_identity(identities, PARTS, seed)


def test_parts_have_about_their_shares():
    """100 identities with 10 rows each: shares come out to within one identity."""
    parts = splits.by_identity([str(at // 10) for at in range(1000)], PARTS, 3)
    assert {part: len(held) for part, held in parts.items()} == {"forget": 100, "keep": 500, "unseen": 200, "test": 200}
    assert parts != splits.by_identity([str(at // 10) for at in range(1000)], PARTS, 4)


def test_what_cannot_be_split_is_refused():
    with pytest.raises(BadRows, match="2 identities cannot fill 4 parts"):
        splits.by_identity(["a", "b", "a"], PARTS, 0)
    for shares in ({}, {"a": 0.5}, {"a": 1.2, "b": -0.2}):
        with pytest.raises(BadConfig, match="add up to 1"):
            splits.by_identity(["a", "b"], shares, 0)


def photo(seed, side=96):
    """A picture of smooth blobs, unlike any other seed's."""
    source = np.random.default_rng(seed)
    return Image.fromarray(source.integers(0, 256, (6, 6, 3), dtype=np.uint8)).resize((side, side), Image.Resampling.BICUBIC)


def look(picture):
    return pictures.look(pictures.pixels(picture, 64))


def jpeg(picture, quality):
    raw = io.BytesIO()
    picture.save(raw, "JPEG", quality=quality)
    return Image.open(raw).convert("RGB")


@pytest.mark.parametrize(
    "change",
    [
        lambda p: jpeg(p, 40), lambda p: p.resize((48, 48)), lambda p: ImageEnhance.Brightness(p).enhance(0.85),
        lambda p: ImageEnhance.Contrast(p).enhance(0.8), lambda p: p.convert("L").convert("RGB"),
    ],
    ids=["stored anew", "smaller", "darker", "paler", "gray"],
)  # fmt: skip
def test_a_changed_copy_is_near(change):
    for seed in range(8):
        items = [Item("a", "forget", "1", "a", look(photo(seed))), Item("b", "keep", "2", "b", look(change(photo(seed))))]
        assert splits.duplicates(items) == [Pair(0, 1, "near")]


def test_other_pictures_are_not_near():
    items = [Item(str(seed), "keep", "", str(seed), look(photo(seed))) for seed in range(120)]
    assert splits.duplicates(items) == []


def test_pieces_find_what_all_at_once_find(monkeypatch):
    """Pairs across the borders of pieces count too."""
    items = [Item(f"{seed}{copy}", "keep", "", f"{seed}{copy}", look(photo(seed))) for copy in "ab" for seed in range(7)]
    whole = splits.duplicates(items)
    assert sorted(whole) == [Pair(at, at + 7, "near") for at in range(7)]
    monkeypatch.setattr(splits, "PIECE", 3)
    assert sorted(splits.duplicates(items)) == sorted(whole)


def test_blank_pictures_are_not_near_each_other():
    items = [Item(str(level), "keep", "", str(level), look(Image.new("RGB", (64, 64), (level,) * 3))) for level in (0, 90, 255)]
    assert splits.duplicates(items) == []


PLANTED = [
    Item("k1", "keep", "anna", "one"), Item("f1", "forget", "berta", "two"), Item("k2", "keep", "carla", "two"), Item("k3", "keep", "anna", "one"),
    Item("t1", "test", "dora", "two"), Item("u1", "unseen", "anna", "four"), Item("t2", "test", "eve", "four"), Item("t3", "test", "eve", "four"),
]  # fmt: skip


def test_a_planted_copy_across_forget_and_keep_is_reported(tmp_path):
    """f1 = k2 = t1 leak, and so does u1 = t2 = t3; k1 = k3 stand in one part. Two of three copies are left out, never the forget row."""
    ctx = context(folder=tmp_path)
    found = splits.examine(PLANTED, ctx, "bench")
    assert set(found.pairs) == {Pair(0, 3, "identical"), Pair(1, 2, "identical"), Pair(1, 4, "identical"), Pair(5, 6, "identical"), Pair(5, 7, "identical")}
    assert found.surplus == {2, 4, 6, 7} and found.shared == {"keep and unseen": ["anna"]}
    assert (ctx.notes["duplicates"], ctx.notes["leaks"], ctx.notes["forget_keep_leaks"], ctx.notes["shared_identities"]) == (5, 4, 1, 1)
    told = json.loads((tmp_path / "duplicates.json").read_text())
    assert {"kind": "identical", "across": True, "rows": ["f1", "k2"], "parts": ["forget", "keep"], "identities": ["berta", "carla"]} in told["pairs"]
    assert told["summary"] == found.line and "4 across parts identical" in found.line and "keep and unseen share 1 identities" in found.line
    kept = [item for at, item in enumerate(PLANTED) if at not in found.surplus]
    assert splits.Findings(kept, splits.duplicates(kept), {}).leaks == []


def test_what_is_noted_without_a_folder_goes_to_the_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("EFFACE_CACHE", str(tmp_path))
    ctx = context()
    splits.examine(PLANTED, ctx, "bench")
    assert ctx.notes["duplicates_file"] == str(tmp_path / "bench" / "duplicates.json") and (tmp_path / "bench" / "duplicates.json").exists()
