"""Toy pictures: nine kinds equally often, captions that fit, and ink of the color that they name."""

import numpy as np

from efface.families import shapes


def test_rows():
    rows = shapes.rows(27, seed=3)
    kinds = [(row["color"], row["shape"]) for row in rows]
    assert len(set(kinds)) == 9 and all(kinds.count(kind) == 3 for kind in kinds)
    assert all(np.array_equal(a["image"], b["image"]) for a, b in zip(rows, shapes.rows(27, seed=3), strict=True))
    assert not np.array_equal(rows[0]["image"], shapes.rows(27, seed=4)[0]["image"])
    assert rows[0]["prompt"] == "a red circle" and {"red", "circle", "a red circle"} <= set(rows[0]["prompts"])


def test_ink_and_area():
    """The darkest channels are the two that the color lacks; a square of the same size covers more than a circle, that more than a triangle."""
    rows = shapes.rows(90)
    for row in rows:
        image = row["image"].astype(float)
        assert image.shape == (16, 16, 3) and image[0, 0].min() == 255, "the corner is white"
        assert image[7:9, 7:9].mean((0, 1)).argmax() == row["color"]
    covered = [np.mean([(row["image"].min(-1) < 128).mean() for row in rows if row["shape"] == shape]) for shape in range(3)]
    assert covered[1] > covered[0] > covered[2] > 0.1
