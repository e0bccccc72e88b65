"""Adversarial training: the running mean, the pack, repetition, refusals, and pictures that come nearer to the real ones."""

import numpy as np
import pytest
import torch
from torch import nn

from efface.core.errors import BadConfig, Diverged
from efface.core.types import Data, Request
from efface.families import shapes
from efface.families.gan import Gan
from efface.families.generators import StyleGenerator
from efface.families.networks import seeded
from efface.recipes.adversarial import Adversarial, follow
from efface.testing.tiny import context

ROWS = Request(keep=Data.inline(shapes.rows(90)))
QUICK = {"fit.steps": 3, "fit.batch": 8, "channels": 8}


@pytest.fixture
def blank():
    return Gan(seeded(StyleGenerator, 0, channels=8), (8,), {"channels": 8})


def test_follow():
    """0.75 x 1 + 0.25 x 5 = 2; counted buffers are taken over."""
    mean, model = nn.BatchNorm1d(1), nn.BatchNorm1d(1)
    with torch.no_grad():
        mean.weight.fill_(1), model.weight.fill_(5)
        model.running_mean.fill_(7)
    follow(mean, model, 0.75)
    assert mean.weight.item() == 2 and mean.running_mean.item() == 7


def test_a_run(blank):
    before, state = blank.digest, torch.get_rng_state()
    ctx = context()
    after = Adversarial.set(QUICK).run(blank, ROWS, ctx)
    assert after.digest != before == blank.digest and torch.equal(state, torch.get_rng_state())
    assert after.digest == Adversarial.set(QUICK).run(blank, ROWS, context()).digest != Adversarial.set(QUICK).run(blank, ROWS, context(1)).digest
    assert [line["step"] for line in ctx.curve] == [0, 1, 2] and ctx.spent["steps"] == 3
    assert not any(p.requires_grad for p in after.model.parameters()) and not after.model.training
    assert Adversarial.set({"fit.steps": 0}).run(blank, ROWS, context()).digest == before


def test_refusals(blank):
    with pytest.raises(BadConfig, match="must be a multiple of pack = 4"):
        Adversarial.set({"fit.batch": 6}).run(blank, ROWS, context())
    broken = Gan(seeded(StyleGenerator, 0, channels=8), (8,), {"channels": 8})
    with torch.no_grad():
        next(broken.model.parameters()).fill_(float("nan"))
    with pytest.raises(Diverged, match="critic's loss is nan at step 0"):
        Adversarial.set(QUICK).run(broken, ROWS, context())


def test_pictures_come_nearer(blank):
    """After 80 steps the mean picture is nearer to that of the real ones than before: white corners, something in the middle."""
    real = np.stack([row["image"] for row in shapes.rows(90)]).astype(float).mean(0)
    after = Adversarial.set({"fit.steps": 80, "fit.batch": 32, "channels": 16, "average": 0.8}).run(blank, ROWS, context())
    apart = [np.abs(subject.generate(64).astype(float).mean(0) - real).mean() for subject in (blank, after)]
    assert apart[1] < 0.6 * apart[0]
