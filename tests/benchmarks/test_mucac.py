"""MUCAC from a small folder in CelebA-HQ's layout: parts by the identity's number, labels by the attribute's name."""

import json

import numpy as np
import pytest

from efface.benchmarks import mucac
from efface.core import registry
from efface.core.errors import BadRows, Missing
from efface.testing import tiny

NAMES = [f"Other{at}" for at in range(40)]
NAMES[20], NAMES[31], NAMES[39] = "Male", "Smiling", "Young"  # places 21, 32 and 40 of a line, as published
WHO = {0: 5, 1: 189, 2: 190, 3: 1249, 4: 1250, 5: 1250, 6: 4854, 7: 4855, 8: 6000}
"""Identity of each picture: two on either side of every border between parts."""
QUICK = {"net": "small", "side": 32, "fit.epochs": 0, "fit.steps": 3, "fit.batch": 4}


@pytest.fixture
def folder(tmp_path, portrait):
    images = tmp_path / "CelebAMask-HQ" / "CelebA-HQ-img"
    images.mkdir(parents=True)
    lines = []
    for photo, identity in WHO.items():
        flags = np.full(40, -1)
        flags[[20, 31, 39]] = [1, 1 if photo % 2 else -1, -1]
        portrait(identity, photo, photo % 2).save(images / f"{photo}.jpg", quality=95)
        lines.append(f"{photo}.jpg  {' '.join(map(str, flags))}\n")
    (tmp_path / "CelebA-HQ-attribute.txt").write_text(f"{len(lines)}\n{' '.join(NAMES)}\n" + "".join(lines))
    (tmp_path / "CelebA-HQ-identity.txt").write_text("".join(f"{photo}.jpg {identity}\n" for photo, identity in WHO.items()))
    return tmp_path


def case(folder, ctx=None, **settings):
    return registry.load("benchmark", "mucac").set({**QUICK, "folder": str(folder), **settings}).case(ctx or tiny.context())


def test_the_parts_and_labels(folder):
    made = case(folder)
    rows = {name: made.request.rows(name) for name in ("forget", "keep", "unseen")} | {"test": made.utility["other people"].read()}
    assert {name: [row["id"] for row in part] for name, part in rows.items()} == {
        "forget": ["2.jpg", "3.jpg"], "keep": ["4.jpg", "5.jpg", "6.jpg"], "unseen": ["7.jpg", "8.jpg"], "test": ["0.jpg", "1.jpg"],
    }  # fmt: skip
    assert [row["y"] for row in rows["keep"]] == [0, 1, 0] and rows["keep"][0]["identity"] == "1250" and made.original.classes == 2
    assert {row["y"] for row in case(folder, attribute="gender").request.rows("keep")} == {1}
    assert {row["y"] for row in case(folder, attribute="young").request.rows("keep")} == {0}
    assert len(case(folder, part_rows=1).request.rows("keep")) == 1


def test_a_planted_copy_is_found(folder):
    images = folder / "CelebAMask-HQ" / "CelebA-HQ-img"
    (images / "6.jpg").write_bytes((images / "2.jpg").read_bytes())
    ctx = tiny.context(folder=folder / "run")
    made = case(folder, ctx)
    assert ctx.notes["forget_keep_leaks"] == 1 and [row["id"] for row in made.request.rows("keep")] == ["4.jpg", "5.jpg"]
    told = json.loads((folder / "run" / "duplicates.json").read_text())
    assert told["pairs"] == [{"kind": "identical", "across": True, "rows": ["2.jpg", "6.jpg"], "parts": ["forget", "keep"], "identities": ["190", "4854"]}]


def test_the_borders_are_the_published_ones():
    assert [mucac._part(identity) for identity in (0, 189, 190, 1249, 1250, 4854, 4855, 6216)] == ["test"] * 2 + ["forget"] * 2 + ["keep"] * 2 + ["unseen"] * 2


@pytest.mark.parametrize(
    ("file", "text", "says"),
    [
        ("CelebA-HQ-identity.txt", "0.jpg 5\n1.jpg\n", "identity.txt:2"),
        ("CelebA-HQ-identity.txt", "0.jpg five\n", "identity.txt:1"),
        ("CelebA-HQ-identity.txt", "0.jpg 5\n2.jpg 190\n", "no picture of .* in the part keep and in unseen"),
        ("CelebA-HQ-identity.txt", "0.jpg 5\n99.jpg 190\n", "99.jpg for one"),
        ("CelebA-HQ-attribute.txt", "1\nA B\n0.jpg 1 1\n", "no attribute 'Smiling'"),
        ("CelebA-HQ-attribute.txt", f"1\n{' '.join(NAMES)}\n0.jpg 1 1\n", "attribute.txt:3"),
        ("CelebA-HQ-attribute.txt", f"1\n{' '.join(NAMES)}\n0.jpg {' '.join(['0'] * 40)}\n", "attribute.txt:3"),
    ],
)
def test_bad_lists_are_named(folder, file, text, says):
    (folder / file).write_text(text)
    with pytest.raises(BadRows, match=says):
        case(folder)


def test_what_is_missing_is_named(folder, tmp_path):
    with pytest.raises(Missing, match="must be asked for"):
        registry.load("benchmark", "mucac").set().case(tiny.context())
    with pytest.raises(Missing, match="CelebA-HQ-identity.txt"):
        case(tmp_path / "nowhere")
    (folder / "CelebAMask-HQ").rename(folder / "elsewhere")
    with pytest.raises(Missing, match="holds no folder of pictures"):
        case(folder)
