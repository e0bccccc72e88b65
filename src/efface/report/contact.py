"""Contact sheets: what several models draw for the same prompts and seeds, side by side."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from efface.core import files

SIDE = 96
"""Pixels of one picture on a sheet; small ones are enlarged without smoothing, so that every pixel shows."""
LABEL = 16
URI = "data:image/png;base64,"


def sheet(prompts: Sequence[str], columns: Sequence[tuple[str, Any]]) -> Any:
    """A PIL image: a row a prompt, a column a model; pictures are (N, H, W, 3), uint8."""
    from PIL import Image, ImageDraw

    wide = max(200, max((7 * len(prompt) for prompt in prompts), default=0) + 8)
    made = Image.new("RGB", (wide + SIDE * len(columns), LABEL + (SIDE + 2) * len(prompts)), "white")
    pen = ImageDraw.Draw(made)
    for at, (name, pictures) in enumerate(columns):
        pen.text((wide + SIDE * at + 2, 2), name, fill="black")
        for row in range(len(prompts)):
            made.paste(thumbnail(pictures[row]), (wide + SIDE * at, LABEL + (SIDE + 2) * row))
    for row, prompt in enumerate(prompts):
        pen.text((4, LABEL + (SIDE + 2) * row + SIDE // 2), prompt, fill="black")
    return made


def thumbnail(picture: Any) -> Any:
    """A PIL image of SIDE x SIDE of one picture (H, W, 3), or of a video's first frame."""
    from PIL import Image

    frame = picture[0] if picture.ndim == 4 else picture
    way = Image.Resampling.NEAREST if frame.shape[0] < SIDE else Image.Resampling.LANCZOS
    return Image.fromarray(frame).resize((SIDE, SIDE), way)


def write(path: Path, prompts: Sequence[str], columns: Sequence[tuple[str, Any]]) -> None:
    """Write a sheet as PNG, whole or not at all."""
    held = io.BytesIO()
    sheet(prompts, columns).save(held, "PNG")
    files.write_bytes(path, held.getvalue())


def uri(picture: Any) -> str:
    """One picture (H, W, 3), or a video's first frame, as a data: address of a PNG, at most 192 pixels wide."""
    from PIL import Image

    frame = Image.fromarray(picture[0] if picture.ndim == 4 else picture)
    frame.thumbnail((2 * SIDE, 2 * SIDE), Image.Resampling.LANCZOS)
    held = io.BytesIO()
    frame.save(held, "PNG", optimize=True)
    return URI + base64.b64encode(held.getvalue()).decode()
