"""Small pictures of people that the benchmarks' tests put into the real layouts."""

import numpy as np
import pytest
from PIL import Image


@pytest.fixture
def portrait():
    """A picture of a person: blobs of their own, a bright top where the label is 1, and a little change from photo to photo."""

    def draw(person: int, photo: int, label: int, side: int = 64) -> Image.Image:
        blobs = np.random.default_rng(person).integers(0, 120, (5, 5, 3), dtype=np.uint8)
        small = blobs + np.random.default_rng([person, photo]).integers(0, 90, (5, 5, 3), dtype=np.uint8)
        if label:
            small[0] = 190
        return Image.fromarray(small).resize((side, side), Image.Resampling.BICUBIC)

    return draw
