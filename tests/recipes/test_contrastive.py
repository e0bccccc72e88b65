"""Contrastive training: the loss by hand, and an encoder that tells colors and shapes it never saw."""

import math

import pytest
import torch

from efface.core.types import Data, Request
from efface.families import shapes
from efface.families.diffusion import pictures_of
from efface.families.two_towers import untrained
from efface.recipes.contrastive import Contrastive, against, changed
from efface.testing.tiny import context


def test_loss():
    """Scores (0, 0) and (ln 3, 0). The first row's two captions both fit: ln 2. Of the second row the first fits: -ln(3/4)."""
    scores = torch.tensor([[0.0, 0.0], [math.log(3), 0.0]])
    fits = torch.tensor([[1.0, 1.0], [1.0, 0.0]])
    assert against(scores, fits).item() == pytest.approx((math.log(2) + math.log(4 / 3)) / 2)
    alone = torch.eye(2)
    assert against(scores, alone).item() == pytest.approx(torch.nn.functional.cross_entropy(scores, torch.arange(2)).item()), "one caption each: plain cross-entropy"


def test_changed():
    pixels = torch.rand(2, 3, 8, 8)
    assert changed(pixels, 0, 0.0) is pixels
    torch.manual_seed(0)
    moved = changed(pixels, 2, 0.0)
    assert torch.allclose(moved.sort(-1).values.sum(), pixels.sum(), rtol=1e-5) and moved.shape == pixels.shape
    noisy = changed(pixels, 0, 0.5)
    assert 0 <= noisy.min() and noisy.max() <= 1 and not torch.equal(noisy, pixels)


@pytest.fixture(scope="module")
def trained():
    rows = shapes.rows(450)
    blank = untrained(rows, 0, {"channels": 16})
    settings = {"fit.steps": 150, "fit.batch": 48, "fit.lr": 4e-3}
    return blank, Contrastive.set(settings).run(blank, Request(keep=Data.inline(rows)), context())


def test_it_tells_new_pictures(trained):
    """Nearest of three words, for pictures of another draw: at least 95 % right for colors, where a guess gives a third."""
    blank, after = trained
    rows = shapes.rows(90, seed=7)
    pixels = torch.from_numpy(pictures_of(rows)).permute(0, 3, 1, 2).float() / 255
    with torch.no_grad():
        right = {
            key: float(((after.images(pixels) @ after.texts(list(names)).T).argmax(1) == torch.tensor([row[key] for row in rows])).float().mean())
            for key, names in (("color", shapes.COLORS), ("shape", shapes.SHAPES))
        }
    assert right["color"] >= 0.95 and right["shape"] >= 0.8
    assert blank.digest != after.digest and not any(p.requires_grad for p in after.model.parameters())


def test_rows_with_one_prompt_serve(trained):
    rows = [{"prompt": row["prompt"], "image": row["image"]} for row in shapes.rows(18)]
    ctx = context()
    Contrastive.set({"fit.steps": 2, "fit.batch": 8}).run(trained[0], Request(keep=Data.inline(rows)), ctx)
    assert len(ctx.curve) == 2 and all(math.isfinite(line["contrastive"]) for line in ctx.curve)
