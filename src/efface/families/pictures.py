"""Pictures from files as arrays, and what tells that two of them show the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from efface.core.errors import BadRows, Missing

THUMB = 32
"""Side of the gray picture that a look is made from."""
LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)
"""How bright red, green and blue are."""
Box = tuple[float, float, float, float]


class Look(NamedTuple):
    """What a picture looks like: signs of its 63 lowest frequencies, and itself, small and gray, with mean 0 and length 1."""

    signs: np.ndarray  # (63,) of -1 and 1
    thumb: np.ndarray  # (32 * 32,)


def open_picture(path: Path) -> Any:
    """The picture in a file, read whole, in color. Raises Missing (no file) or BadRows (no picture, or a damaged one)."""
    from PIL import Image

    try:
        with Image.open(path) as picture:
            return _opaque(picture)
    except FileNotFoundError:
        raise Missing(f"no picture {path}") from None
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise BadRows(f"{path} is not a readable picture ({' '.join(str(error).split())[:120]})") from None


def _opaque(picture: Any) -> Any:
    """The picture in color; what is transparent shows light gray."""
    from PIL import Image

    if "A" not in picture.getbands() and "transparency" not in picture.info:
        return picture.convert("RGB")
    ground = Image.new("RGBA", picture.size, (200, 200, 200, 255))
    ground.alpha_composite(picture.convert("RGBA"))
    return ground.convert("RGB")


def pixels(picture: Any, side: int, box: Box | None = None) -> np.ndarray:
    """Pixels (3, side, side) in 0..1 of a picture, or of a part of it (left, upper, right, lower)."""
    from PIL import Image

    small = picture.resize((side, side), Image.Resampling.BILINEAR, box)
    return np.ascontiguousarray(np.asarray(small, dtype=np.float32).transpose(2, 0, 1) / 255)


def look(array: np.ndarray) -> Look:
    """The look of a picture given as pixels (channels, height, width) in 0..1."""
    from PIL import Image
    from scipy.fft import dctn

    level = np.tensordot(LUMA, array, 1) if len(array) == 3 else array.mean(0)
    gray = Image.fromarray((255 * level).round().astype(np.uint8))
    thumb = np.asarray(gray.resize((THUMB, THUMB), Image.Resampling.BOX), dtype=np.float64)
    low = dctn(thumb, norm="ortho")[:8, :8].ravel()[1:]
    flat = thumb.ravel() - thumb.mean()
    return Look(np.where(low > np.median(low), 1, -1).astype(np.float32), (flat / (np.linalg.norm(flat) or 1)).astype(np.float32))
