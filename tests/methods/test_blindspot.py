"""Blindspot: the attention map and both terms by hand, what it may see, batches of one kind, and that it forgets a band."""

import math

import numpy as np
import pytest
import torch

from efface.core.errors import BadConfig
from efface.core.types import Data, Request
from efface.families.networks import SmallCNN, seeded
from efface.families.regressor import Regressor
from efface.methods import blindspot
from efface.methods.blindspot import Blindspot, attention
from efface.testing.tiny import context, diabetes, retrained_regressor, tiny_regressor, trained_regressor

FEW = Request(forget=Data.inline(diabetes().rows("forget")[:4]), keep=Data.inline(diabetes().rows("keep")[:4]))


def error(subject, rows) -> float:
    return float(np.abs(subject.predict(rows) - np.array([row["y"] for row in rows])).mean())


def test_attention_map():
    """Channels (1, 2) and (3, 0) over two positions: mean squares (1 + 9) / 2 = 5 and (4 + 0) / 2 = 2, norm sqrt(29).

    (3, 4) without positions: squares 9 and 16, norm sqrt(337). A row of zeros stays zero.
    """
    pictures = torch.tensor([[1.0, 2.0], [3.0, 0.0]]).reshape(1, 2, 2, 1)
    assert attention(pictures, 1)[0].tolist() == pytest.approx([5 / math.sqrt(29), 2 / math.sqrt(29)])
    assert attention(pictures.reshape(1, 2, 2).transpose(1, 2), -1)[0].tolist() == pytest.approx([5 / math.sqrt(29), 2 / math.sqrt(29)])
    flat = attention(torch.tensor([[3.0, 4.0], [0.0, 0.0]]), -1)
    assert flat[0].tolist() == pytest.approx([9 / math.sqrt(337), 16 / math.sqrt(337)]) and flat[1].tolist() == [0, 0]


def by_hand(subject, row):
    """The estimate of a network 10-32-16-1 and the attention maps of its three layers, in numpy."""
    h, maps = np.array(row["x"]), []
    weights = [parameter.detach().double().numpy() for parameter in subject.model.parameters()]
    for at in range(0, 6, 2):
        h = weights[at] @ h + weights[at + 1]
        maps.append(h**2 / np.linalg.norm(h**2))
        out, h = h, np.maximum(h, 0)
    return float(out[0]), maps


@pytest.mark.parametrize(("layers", "used"), [((), (0, 1, 2)), ((1,), (1,))])
def test_formula(layers, used):
    """One batch of four forget and four keep rows, an untrained B: both terms are sums over their rows, divided by 8."""
    subject, ctx = tiny_regressor(), context()
    Blindspot.set({"fit.steps": 1, "fit.batch": 8, "blind.steps": 0, "beta": 7.0, "layers": layers}).run(subject, FEW, ctx)
    blind = subject.fresh(ctx.seed_for("blindspot"))
    forget = keep = 0.0
    for row in FEW.rows("forget"):
        (mine, maps), (theirs, others) = by_hand(subject, row), by_hand(blind, row)
        forget += (mine - theirs) ** 2 + 7 * sum(((maps[j] - others[j]) ** 2).mean() for j in used)
    for row in FEW.rows("keep"):
        keep += (by_hand(subject, row)[0] - row["y"]) ** 2
    assert (ctx.curve[0]["forget"], ctx.curve[0]["keep"]) == pytest.approx((forget / 8, keep / 8), rel=1e-4)


def test_student_like_the_blindspot_model_has_nothing_to_forget(monkeypatch):
    """With f = B the forget term and its gradient are 0; batches of one row hold a forget row (r = 1) or a keep row (r = 0) alone."""
    subject, ctx = trained_regressor(), context()
    monkeypatch.setattr(blindspot, "_blind", lambda *given: subject)
    settings = {"fit.steps": 8, "fit.batch": 1, "fit.optimizer": "sgd", "fit.lr": 1e-9}
    Blindspot.set(settings).run(subject, FEW, ctx)
    only_forget = [line for line in ctx.curve if line["keep"] == 0]
    assert len(ctx.curve) == 8 and len(only_forget) == 4
    assert all(math.isfinite(value) for line in ctx.curve for value in line.values())
    for line in ctx.curve:
        assert line["forget"] == pytest.approx(0, abs=1e-6)
    assert max(line["gradient_norm"] for line in only_forget) < 1e-6 < min(line["gradient_norm"] for line in ctx.curve if line not in only_forget)


def test_batches_of_one_kind_are_finite():
    ctx = context()
    Blindspot.set({"fit.steps": 8, "fit.batch": 1, "blind.steps": 5}).run(trained_regressor(), FEW, ctx)
    assert all(math.isfinite(value) for line in ctx.curve for value in line.values())
    assert {(line["forget"] > 0, line["keep"] > 0) for line in ctx.curve} == {(True, False), (False, True)}


def test_pieces_of_a_batch_add_up():
    whole, pieces = context(), context()
    settings = {"fit.steps": 3, "fit.batch": 8, "blind.steps": 2}
    one = Blindspot.set(settings).run(tiny_regressor(), FEW, whole)
    other = Blindspot.set({**settings, "fit.accumulate": 4}).run(tiny_regressor(), FEW, pieces)
    assert [line["forget"] for line in whole.curve] == pytest.approx([line["forget"] for line in pieces.curve], rel=1e-5)
    assert one.predict(FEW.rows("keep")) == pytest.approx(other.predict(FEW.rows("keep")), abs=1e-5)


def test_forget_targets_are_never_read():
    """Permuting the forget targets changes nothing; permuting the keep targets does."""
    def run(forget, keep):
        settings = {"fit.steps": 4, "fit.batch": 4, "blind.steps": 4}
        return Blindspot.set(settings).run(tiny_regressor(), Request(forget=Data.inline(forget), keep=Data.inline(keep)), context()).digest

    def turned(rows):
        return [{**row, "y": other["y"]} for row, other in zip(rows, [*rows[1:], rows[0]], strict=True)]

    forget, keep = FEW.rows("forget"), FEW.rows("keep")
    assert run(forget, keep) == run(turned(forget), keep) != run(forget, turned(keep))


def test_forgets_a_band():
    """The error on the band goes from the original's to more than half way to the reference's; that on kept rows stays."""
    before, reference, request = trained_regressor(), retrained_regressor(), diabetes()
    forget, keep = request.rows("forget"), request.rows("keep")
    ctx = context()
    after = Blindspot().run(before, request, ctx)
    assert error(after, forget) > (error(before, forget) + error(reference, forget)) / 2
    assert error(after, keep) < error(before, keep) + 0.01
    assert ctx.notes["blindspot_loss"] < 0.05 and len(ctx.curve) == 100
    assert before.digest == trained_regressor().digest != after.digest


def test_pictures_and_adapters():
    """A convolutional network with batch normalization, squared attention over positions; and LoRA adapters of rank 2."""
    shape = {"channels": 1, "side": 8, "outputs": 1, "widths": [4, 4], "embedding": 8}
    draws = np.random.default_rng(0)
    rows = [{"x": draws.normal(size=(1, 8, 8)).astype(np.float32), "y": float(at % 5)} for at in range(24)]
    request = Request(forget=Data.inline(rows[:8]), keep=Data.inline(rows[8:]))
    subject = Regressor(seeded(SmallCNN, 0, **shape), shape, "l1")
    for settings in ({}, {"fit.rank": 2}):
        ctx = context()
        after = Blindspot.set({"fit.steps": 4, "fit.batch": 8, "blind.steps": 4, "blind.batch": 8, **settings}).run(subject, request, ctx)
        assert np.isfinite(after.predict(rows)).all() and all(math.isfinite(value) for line in ctx.curve for value in line.values())
        assert after.adapted == bool(settings)


def test_a_layer_that_is_not_there():
    with pytest.raises(BadConfig, match="no layer 3; the model has layers 0 to 2"):
        Blindspot.set({"layers": [0, 3]}).run(tiny_regressor(), FEW, context())
