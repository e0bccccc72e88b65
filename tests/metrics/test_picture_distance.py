"""Distance of pictures in a judge's features."""


import numpy as np
import pytest

from efface.core.context import Context
from efface.metrics.fid import Fid
from efface.metrics.picture_distance import PictureDistance, distances
from efface.testing import tiny_images


def test_distance_is_zero_for_equal_pictures_symmetric_and_blind_to_order():
    judge = tiny_images.judges()["judge/object"]
    rng = np.random.default_rng(0)
    a, b = (rng.integers(0, 255, (4, 16, 16, 3), dtype=np.uint8) for _ in range(2))
    assert distances(judge, a, a) == pytest.approx(np.zeros(4))
    assert distances(judge, a, b) == pytest.approx(distances(judge, b, a), rel=1e-5)
    assert (distances(judge, a, b) > 0).all()
    assert distances(judge, a[::-1].copy(), b[::-1].copy()) == pytest.approx(distances(judge, a, b)[::-1], rel=1e-5)


def test_picture_distance_and_fid_are_zero_for_the_original_itself():
    subject = tiny_images.pipeline()
    ctx = Context(baselines={"original": subject, **tiny_images.judges()})
    moved = PictureDistance().run(subject, tiny_images.request(), ctx)
    assert (moved.value, moved.parts["forget"]) == (0.0, 0.0)
    assert Fid().run(subject, tiny_images.request(), ctx).value == pytest.approx(0.0, abs=1e-6)
    other = tiny_images.pipeline(1)
    assert PictureDistance().run(other, tiny_images.request(), ctx).value > 0.01
    assert Fid().run(other, tiny_images.request(), ctx).value > 1e-4
