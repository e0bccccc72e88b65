"""Pictures come as pixels in 0..1, channels first; what is no picture is named."""

import numpy as np
import pytest
from PIL import Image

from efface.core.errors import BadRows, Missing
from efface.families import pictures


def test_pixels(tmp_path):
    """2 x 2 pixels: red, green / blue, white. The left half, as one pixel, is the mean of red and blue."""
    raw = np.array([[[255, 0, 0], [0, 255, 0]], [[0, 0, 255], [255, 255, 255]]], dtype=np.uint8)
    Image.fromarray(raw).save(tmp_path / "a.png")
    picture = pictures.open_picture(tmp_path / "a.png")
    found = pictures.pixels(picture, 2)
    assert found.shape == (3, 2, 2) and found.dtype == np.float32
    assert found.tolist() == [[[1, 0], [0, 1]], [[0, 1], [0, 1]], [[0, 0], [1, 1]]]
    assert np.allclose(pictures.pixels(picture, 1, (0, 0, 1, 2)).ravel(), [0.5, 0, 0.5], atol=0.01)


def test_what_is_transparent_shows_gray(tmp_path):
    Image.fromarray(np.array([[[255, 0, 0, 255], [255, 0, 0, 0]]], dtype=np.uint8)).save(tmp_path / "a.png")
    assert [picture := pictures.open_picture(tmp_path / "a.png")] and picture.getpixel((0, 0)) == (255, 0, 0) and picture.getpixel((1, 0)) == (200, 200, 200)


def test_gray_pictures_become_color(tmp_path):
    Image.new("L", (3, 3), 7).save(tmp_path / "a.png")
    assert pictures.open_picture(tmp_path / "a.png").getpixel((1, 1)) == (7, 7, 7)


def test_bad_files(tmp_path):
    with pytest.raises(Missing, match="no picture"):
        pictures.open_picture(tmp_path / "nowhere.jpg")
    (tmp_path / "text.jpg").write_bytes(b"text")
    with pytest.raises(BadRows, match="not a readable picture"):
        pictures.open_picture(tmp_path / "text.jpg")
    Image.effect_noise((64, 64), 50).save(tmp_path / "half.png")
    (tmp_path / "half.png").write_bytes((tmp_path / "half.png").read_bytes()[:900])
    with pytest.raises(BadRows, match=r"half\.png is not a readable picture"):
        pictures.open_picture(tmp_path / "half.png")


def test_a_look_has_length_one_and_signs():
    found = pictures.look(np.random.default_rng(0).random((3, 40, 40), dtype=np.float32))
    assert set(found.signs.tolist()) == {-1, 1} and len(found.signs) == 63 and np.isclose(np.linalg.norm(found.thumb), 1) and abs(found.thumb.sum()) < 1e-4
    blank = pictures.look(np.full((3, 8, 8), 0.5, dtype=np.float32))
    assert not blank.thumb.any()
