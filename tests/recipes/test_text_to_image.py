"""Training a pipeline on captioned pictures: the loss, what moves, captions, shifts, and a run that is killed."""

from collections import Counter

import numpy as np
import pytest
import torch

from efface import api
from efface.core.context import Context
from efface.core.errors import BadRows
from efface.core.types import Data, Request
from efface.recipes.text_to_image import captions, shifted
from efface.testing import tiny_images

QUICK = {"fit.steps": 6, "fit.batch": 4, "fit.warmup": 0, "shift": 0}


def request(count=4):
    rng = np.random.default_rng(0)
    rows = [{"prompt": f"a {name} in plain style", "image": rng.integers(0, 255, (16, 16, 3), dtype=np.uint8)} for name in ("cat", "dog", "boat", "kitten")[:count]]
    return Request(keep=Data.inline(rows))


def test_it_learns_its_pictures_and_shares_the_autoencoder():
    start = tiny_images.pipeline()
    after = api.train(start, request(), "text_to_image", {**QUICK, "fit.steps": 60, "fit.lr": 3e-3, "empty": 0.0}, ctx := Context(seed=0))
    losses = [line["denoising"] for line in ctx.curve]
    assert np.mean(losses[-10:]) < 0.9 * np.mean(losses[:10])
    assert all(torch.equal(a, b) for a, b in zip(start.weights("vae").values(), after.weights("vae").values(), strict=True))
    for role in ("denoiser", "text"):
        assert any(not torch.equal(a, b) for a, b in zip(start.weights(role).values(), after.weights(role).values(), strict=True))


def test_the_text_encoder_can_be_left_alone():
    start = tiny_images.pipeline()
    after = api.train(start, request(), "text_to_image", {**QUICK, "text": False}, Context(seed=0))
    assert all(torch.equal(a, b) for a, b in zip(start.weights("text").values(), after.weights("text").values(), strict=True))


def test_the_first_step_is_the_mean_squared_error_by_hand():
    """Without emptied captions and shifts: draws of the step's own generator, then |e(x_t, t, h) - noise|^2."""
    from efface.ops.loop import draw

    start, ask, ctx = tiny_images.pipeline(), request(), Context(seed=0)
    api.train(start, ask, "text_to_image", {**QUICK, "fit.steps": 1, "empty": 0.0}, ctx)
    rows = ask.rows("keep")
    order = draw(4, 4, 0, ctx.seed_for("rows", "keep"))
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(ctx.seed_for("dropout", 0, 0) % 2**62)
        torch.randint(1, (4,))
        clean = start.latents(np.stack([rows[at]["image"] for at in order]))
        t, noise = torch.randint(1000, (4,)), torch.randn(clean.shape)
        text = start.embed_text(captions([rows[at] for at in order], 0.0))
        said = start.noise(start.schedule.mix(clean, noise, t), t, text)
    assert ctx.curve[0]["denoising"] == pytest.approx(float((said - noise).square().mean()), rel=1e-5)


def test_captions_are_drawn_from_all_and_some_are_emptied():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        drawn = Counter(captions([{"prompt": "x", "prompts": ["a", "b"]}] * 2000, 0.1))
        assert captions([{"prompt": "x"}], 0.0) == ["x"]
    assert set(drawn) == {"a", "b", ""} and abs(drawn[""] - 200) < 60 and abs(drawn["a"] - drawn["b"]) < 150


def test_shifts_move_white_in():
    start = tiny_images.pipeline()
    black = np.zeros((1, 16, 16, 3), np.uint8)
    views = shifted(start, black, 2)
    assert views.shape == (9, 1, 4, 4, 4)
    moved = black.copy()
    moved[:, :2] = 255  # shifted by two pixels down
    moved[:, :, :2] = 255
    assert torch.allclose(views[0], start.latents(moved), atol=1e-5)
    assert torch.allclose(views[4], start.latents(black), atol=1e-5)


def test_a_killed_training_resumes_to_the_same_weights(tmp_path):
    class Killed(RuntimeError):
        pass

    def dies(items, label, total):
        for at, item in enumerate(items):
            if label == "training" and at == 4:
                raise Killed
            yield item

    settings = {**QUICK, "fit.checkpoint": 2}
    whole = api.train(tiny_images.pipeline(), request(), "text_to_image", settings, Context(seed=1))
    with pytest.raises(Killed):
        api.train(tiny_images.pipeline(), request(), "text_to_image", settings, Context(seed=1, folder=tmp_path, progress=dies))
    again = api.train(tiny_images.pipeline(), request(), "text_to_image", settings, ctx := Context(seed=1, folder=tmp_path))
    assert ctx.notes["resumed_at"] == 4.0 and again.digest == whole.digest


def test_rows_need_pictures_of_one_size():
    with pytest.raises(BadRows, match="image"):
        api.train(tiny_images.pipeline(), Request(keep=Data.inline([{"prompt": "a cat"}])), "text_to_image", QUICK, Context())
    rows = [{"prompt": "a cat", "image": np.zeros((side, side, 3), np.uint8)} for side in (16, 8)]
    with pytest.raises(BadRows, match="different sizes"):
        api.train(tiny_images.pipeline(), Request(keep=Data.inline(rows)), "text_to_image", QUICK, Context())
