"""Pictures that every number of a report is made of."""

import copy

from efface.core.types import Data
from efface.families import drawn
from efface.testing import tiny_images
from efface.testing.stand_ins import Painter, context


def test_pictures_are_drawn_once_and_the_same_for_everyone():
    calls = []

    class Counting(Painter):
        def generate(self, rows, seeds=None):
            calls.append(list(seeds))
            return super().generate(rows, seeds)

    one, ctx = Counting(), context()
    first = drawn.forgotten(one, tiny_images.request(), ctx)[1]
    assert drawn.forgotten(one, tiny_images.request(), ctx)[1] is first and len(calls) == 1
    drawn.forgotten(Counting(), tiny_images.request(), ctx)
    assert calls[0] == calls[1] and len(first) == drawn.FORGET


def test_reworded_prompts_come_from_the_rows():
    request = tiny_images.request()
    rows, pictures = drawn.reworded(Painter(), request.model_copy(update={"forget": Data.inline([{"prompt": "a cat in plain style"}])}), context())
    assert rows == [] and len(pictures) == 0
    copied = copy.deepcopy(request.rows("forget"))
    for row in copied:
        row["paraphrases"] = ["a dog in plain style"]
    rows, pictures = drawn.reworded(Painter(), request.model_copy(update={"forget": Data.inline(copied)}), context())
    assert len(rows) == len(pictures) == drawn.FORGET and {row["prompt"] for row in rows} == {"a dog in plain style"}
