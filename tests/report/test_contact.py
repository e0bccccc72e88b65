"""Contact sheets and pictures inside reports."""

import base64
import io

import numpy as np
from PIL import Image

from efface.report import contact
from efface.report.view import is_picture


def test_a_sheet_has_a_row_a_prompt_and_a_column_a_model(tmp_path):
    red, blue = (np.full((2, 8, 8, 3), color, np.uint8) for color in ((255, 0, 0), (0, 0, 255)))
    contact.write(tmp_path / "sheet.png", ["one", "two"], [("before", red), ("after", blue)])
    with Image.open(tmp_path / "sheet.png") as sheet:
        wide = sheet.width - 2 * contact.SIDE
        assert sheet.height == contact.LABEL + 2 * (contact.SIDE + 2)
        middle = contact.LABEL + contact.SIDE // 2
        assert sheet.getpixel((wide + contact.SIDE // 2, middle)) == (255, 0, 0) and sheet.getpixel((wide + contact.SIDE + 9, middle)) == (0, 0, 255)


def test_a_picture_travels_as_text_and_only_a_picture_is_taken_for_one():
    picture = np.arange(8 * 8 * 3, dtype=np.uint8).reshape(8, 8, 3)
    text = contact.uri(picture)
    assert is_picture(text)
    back = Image.open(io.BytesIO(base64.b64decode(text.removeprefix(contact.URI))))
    assert (np.asarray(back) == picture).all()
    for strange in ("a cat", "data:text/html;base64,AAAA", text + '" onload="x', "data:image/png;base64,<b>"):
        assert not is_picture(strange)


def test_a_large_picture_is_made_small_and_a_video_shows_its_first_frame():
    large = np.zeros((512, 512, 3), np.uint8)
    assert Image.open(io.BytesIO(base64.b64decode(contact.uri(large).removeprefix(contact.URI)))).size == (2 * contact.SIDE, 2 * contact.SIDE)
    video = np.stack([np.full((8, 8, 3), 9, np.uint8), np.full((8, 8, 3), 200, np.uint8)])
    first = Image.open(io.BytesIO(base64.b64decode(contact.uri(video).removeprefix(contact.URI))))
    assert np.asarray(first).max() == 9
