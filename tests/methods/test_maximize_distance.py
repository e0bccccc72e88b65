"""Maximized text distance: its loss by hand, what it trains, and refusals."""

import pytest
import torch

from efface.core.errors import BadConfig, Missing, Unfit
from efface.core.types import Request
from efface.families.gan import Gan
from efface.families.generators import StyleGenerator
from efface.families.networks import seeded
from efface.families.two_towers import ImageText
from efface.methods.maximize_distance import MaximizeDistance
from efface.testing.tiny import context

RED = Request(kind="concept", names=("red",))
QUICK = {"latents": 8, "fit.steps": 3, "fit.batch": 8}


def colors():
    """An encoder that sees the mean color alone."""
    table = {"red": [1.0, 0, 0], "green": [0, 1.0, 0]}
    return ImageText(lambda pixels: pixels.mean((2, 3)), lambda texts: torch.tensor([table[text] for text in texts]), name="mean color")


def run(settings=None, request=RED, **baselines):
    blank = Gan(seeded(StyleGenerator, 0, channels=4, hidden=16), (8,), {"channels": 4, "hidden": 16})
    ctx = context(baselines=baselines)
    return blank, MaximizeDistance.set({**QUICK, **(settings or {})}).run(blank, request, ctx), ctx


def test_loss_and_weights():
    """The first loss is the mean cosine of the untouched pictures' mean color with red, over all eight latents; only the synthesis moves."""
    blank, after, ctx = run(encoder=colors())
    with torch.no_grad():
        seen = blank.sample(blank.latents([ctx.seed_for("latent", at) for at in range(8)])).mean((2, 3))
    assert ctx.curve[0]["likeness"] == pytest.approx((seen[:, 0] / seen.norm(dim=1)).mean().item(), abs=1e-5)
    assert ctx.curve[-1]["likeness"] < ctx.curve[0]["likeness"]
    old = dict(blank.model.named_parameters())
    for name, parameter in after.model.named_parameters():
        assert torch.equal(parameter, old[name]) == name.startswith("mapping."), name


def test_no_op():
    blank, after, _ = run({"fit.steps": 0}, encoder=colors())
    assert after.digest == blank.digest


def test_refusals():
    with pytest.raises(Missing, match='the baseline "encoder"'):
        run()
    with pytest.raises(BadConfig, match=r"fit\.rank = 4"):
        run({"fit.rank": 4}, encoder=colors())
    from efface import api

    with pytest.raises(Unfit, match="maximize_distance .* names none"):
        api.forget(Gan(seeded(StyleGenerator, 0), (8,)), Request(kind="concept"), "maximize_distance", ctx=context(baselines={"encoder": colors()}))
