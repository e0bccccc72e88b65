"""Metrics of models that draw: what judges see, how far pictures moved, and what a CLIP model or a detector says."""

import copy

import numpy as np
import pytest
import torch

from efface.core.context import Context
from efface.core.errors import Missing
from efface.core.types import Data
from efface.families import drawn, judges
from efface.metrics.clip_score import ClipScore
from efface.metrics.fid import Fid, frechet, kernel
from efface.metrics.neighbor_damage import NeighborDamage
from efface.metrics.nudity import Nudity, expected_worst
from efface.metrics.picture_distance import PictureDistance, distances
from efface.metrics.unlearn_canvas import UnlearnCanvas
from efface.testing import tiny_images


class Painter:
    """A stand-in for a model: every picture is one flat color that says object and style; `lies` changes what it shows."""

    family = "diffusion"

    def __init__(self, lies=lambda thing, style: (thing, style)):
        self.lies = lies

    def generate(self, rows, seeds=None):
        found = []
        for row in rows:
            words = row["prompt"].split()
            thing = next(at for at, name in enumerate(tiny_images.OBJECTS) if name in words)
            style = next(at for at, name in enumerate(tiny_images.STYLES) if name in words)
            thing, style = self.lies(thing, style)
            found.append(np.full((4, 4, 3), (thing, style, 0), np.uint8))
        return np.stack(found)

    def embed_text(self, prompts):
        return tiny_images.pipeline().embed_text(prompts)


class Eye:
    """A perfect judge of such pictures: channel 0 is the object, channel 1 the style."""

    def __init__(self, channel, labels):
        self.channel, self.arguments, self.model = channel, {"labels": list(labels), "side": 4}, None

    def predict(self, rows):
        seen = np.array([round(float(row["x"][self.channel].mean()) * 255) for row in rows])
        return np.eye(len(self.arguments["labels"]))[seen]


def context(**more):
    return Context(baselines={"judge/object": Eye(0, tiny_images.OBJECTS), "judge/style": Eye(1, tiny_images.STYLES), **more})


@pytest.mark.parametrize(
    ("lies", "ua", "ira", "cra"),
    [
        (lambda thing, style: (thing, style), 0, 1, 1),  # a perfect judge on the truth
        (lambda thing, style: (1 if thing == 0 else thing, style), 1, 1, 1),  # another object for the erased one only
        (lambda thing, style: (2, 1), 1, 1 / 2, 1 / 2),  # one picture for everything: of the kept, half are boats, half are glossy
    ],
)
def test_unlearn_canvas_on_stand_ins(lies, ua, ira, cra):
    found = UnlearnCanvas().run(Painter(lies), tiny_images.request(), context())
    assert (found.value, found.parts["IRA"], found.parts["CRA"]) == pytest.approx((ua, ira, cra))
    assert found.parts["CRA where erased"] == pytest.approx(1 if lies(0, 0)[1] == 0 else 0.5)


def test_neighbors_are_found_by_name_first_and_their_damage_shows():
    broken = Painter(lambda thing, style: (2 if thing == 1 else thing, style))  # dogs, the neighbors, come out as boats
    metric = NeighborDamage.set({"prompts": 2, "each": 1})
    found = metric.run(broken, tiny_images.request(), context(original=Painter()))
    assert (found.value, found.parts["far"]) == (0.0, 1.0)
    assert [row["prompt"].split()[1] for row in found.table] == ["dog", "dog"]


def test_without_a_judge_nothing_is_measured():
    with pytest.raises(Missing, match="--judge"):
        UnlearnCanvas().run(Painter(), tiny_images.request(), Context())
    with pytest.raises(Missing, match="no judge has a class"):
        UnlearnCanvas().run(Painter(), tiny_images.request().model_copy(update={"names": ("a zebra",)}), context())


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


def test_frechet_distance_by_hand():
    """Two sets on a line: means 1 and 4, variances 2 and 8: (1 - 4)^2 + 2 + 8 - 2 sqrt(16) = 11."""
    one, other = np.array([[0.0], [2.0]]), np.array([[2.0], [6.0]])
    assert frechet(one, other) == pytest.approx(9 + 2 + 8 - 2 * 4)
    shifted = np.random.default_rng(0).normal(size=(500, 3))
    assert frechet(shifted, shifted + np.array([3.0, 0, 0])) == pytest.approx(9, rel=1e-6)


def test_kernel_distance_by_hand():
    """x = (0, 1), y = (1, 1), d = 1: within x 1, within y 8, across (1 + 1 + 8 + 8) / 4 = 4.5; 1 + 8 - 9 = 0."""
    assert kernel(np.array([[0.0], [1.0]]), np.array([[1.0], [1.0]])) == pytest.approx(0.0)
    rng = np.random.default_rng(0)
    same = [kernel(rng.normal(size=(40, 4)), rng.normal(size=(40, 4))) for _ in range(30)]
    assert abs(np.mean(same)) < 0.1  # unbiased: around 0 for equal distributions


def test_clip_score_with_a_real_clip_class(tmp_path):
    """A tiny CLIPModel of random weights: the score is its own cosine; without a model it is skipped with the way out."""
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPProcessor

    with pytest.raises(Missing, match="model=FOLDER"):
        ClipScore().run(Painter(), tiny_images.request(), Context())
    tokenizer = tiny_images.pipeline().pipe.tokenizer
    shape = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = CLIPModel(CLIPConfig(
            text_config={**shape, "vocab_size": len(tokenizer), "max_position_embeddings": 16, "bos_token_id": len(tokenizer) - 2, "eos_token_id": len(tokenizer) - 1},
            vision_config={**shape, "image_size": 16, "patch_size": 8}, projection_dim=8,
        ))
    model.save_pretrained(tmp_path)
    CLIPProcessor(CLIPImageProcessor(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16}), tokenizer).save_pretrained(tmp_path)
    found = ClipScore.set({"model": str(tmp_path)}).run(Painter(), tiny_images.request(), Context())
    assert -1 <= found.value <= 1 and found.low <= found.value <= found.high and found.parts["forget"] is not None


def test_nudity_counts_labels_once_a_picture_and_names_its_threshold():
    said = [[("BELLY_EXPOSED", 0.7), ("BELLY_EXPOSED", 0.9), ("FACE_FEMALE", 0.99)], [("BELLY_EXPOSED", 0.5)], [], [("BUTTOCKS_EXPOSED", 0.61)]]
    pictures = np.zeros((4, 2, 2, 3), np.uint8)
    feed = iter(said)
    found = Nudity().count(["a", "a", "b", "b"], pictures, lambda picture: next(feed))
    assert (found.value, found.parts["belly"], found.parts["buttocks"]) == (0.5, 1.0, 1.0)
    assert "0.6" in found.why


def test_expected_worst_of_prompts():
    """Ten safe prompts: 0. One prompt of 25 that is always unsafe: 1, without scatter."""
    assert expected_worst([str(n) for n in range(10)], np.zeros(10, bool)) == (0.0, 0.0)
    prompts = [str(n) for n in range(25) for _ in range(10)]
    assert expected_worst(prompts, np.array([prompt == "7" for prompt in prompts])) == (1.0, 0.0)


def test_a_judge_knows_the_concept_by_a_word_of_it():
    found = tiny_images.judges()
    named = {name.removeprefix("judge/"): judge for name, judge in found.items()}
    assert judges.asked(("a cat",), named) == ("object", 0)
    assert judges.asked(("glossy style",), named) == ("style", 1)


def test_reworded_prompts_come_from_the_rows():
    request = tiny_images.request()
    rows, pictures = drawn.reworded(Painter(), request.model_copy(update={"forget": Data.inline([{"prompt": "a cat in plain style"}])}), context())
    assert rows == [] and len(pictures) == 0
    copied = copy.deepcopy(request.rows("forget"))
    for row in copied:
        row["paraphrases"] = ["a dog in plain style"]
    rows, pictures = drawn.reworded(Painter(), request.model_copy(update={"forget": Data.inline(copied)}), context())
    assert len(rows) == len(pictures) == drawn.FORGET and {row["prompt"] for row in rows} == {"a dog in plain style"}
