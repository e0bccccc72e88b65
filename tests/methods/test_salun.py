"""SalUn: the saliency by hand, weights outside of the mask bit for bit, and random labels as the limit."""

import math

import pytest
import torch

from efface.core.errors import BadConfig
from efface.core.types import Data, Request
from efface.families.classifier import Classifier
from efface.families.networks import MLP, SmallCNN, seeded
from efface.methods.random_label import RandomLabel
from efface.methods.salun import SalUn, saliency
from efface.ops.masks import top_share
from efface.testing.tiny import context, digits, trained_classifier

SHORT = {"fit.lr": 0.02, "fit.batch": 64, "fit.epochs": 5}


def rates(subject):
    """Share of forget rows that are wrong, and of keep and test rows that are right."""
    right = {part: (subject.predict(rows).argmax(1) == [row["y"] for row in rows]).mean() for part, rows in vars(digits()).items() if part in ("forget", "keep", "test")}
    return 1 - right["forget"], right["keep"], right["test"]


def test_formula():
    """Zero weights, three classes, x = (1, 0): the gradient of the bias is p - e_y = 1/3 - e_y, and so is the first column of W.

    Labels 0 and 1 cancel in part: the mean is (-1/6, -1/6, 1/3), absolute (1/6, 1/6, 1/3); the second column is zero. The
    sum of absolute values would be (1/2, 1/2, 1/3). With a third row labeled 0 it is (-1/3, 0, 1/3), also in batches of two.
    """
    model = seeded(MLP, 0, inputs=2, hidden=(), outputs=3)
    for parameter in model.parameters():
        parameter.zero_()
    subject = Classifier(model)
    rows = [{"x": [1.0, 0.0], "y": label} for label in (0, 1, 0)]
    found = saliency(subject, rows[:2], 2)
    assert found["stack.0.bias"].tolist() == pytest.approx([1 / 6, 1 / 6, 1 / 3])
    assert found["stack.0.weight"][:, 0].tolist() == pytest.approx([1 / 6, 1 / 6, 1 / 3]) and not found["stack.0.weight"][:, 1].any()
    for size in (2, 3):
        assert saliency(subject, rows, size)["stack.0.bias"].tolist() == pytest.approx([1 / 3, 0, 1 / 3], abs=1e-7)


def test_no_op():
    after = SalUn.set({"fit.epochs": 0, "fit.steps": 0}).run(trained_classifier(), digits().request, context())
    assert after.digest == trained_classifier().digest


@pytest.mark.parametrize("order", ["alternate", "union"])
def test_outside_of_the_mask_nothing_moves(order):
    """With momentum .9 and weight decay 5e-4, as many weights as the mask has may differ, and all others are bit-identical."""
    before, ctx = trained_classifier(), context()
    after = SalUn.set({"share": 0.3, "order": order, "fit.epochs": 0, "fit.steps": 12, "fit.batch": 64}).run(before, digits().request, ctx)
    masks = top_share(saliency(before, digits().forget, 64), 0.3)
    total = sum(mask.numel() for mask in masks.values())
    assert ctx.notes["mask_weights"] == sum(int(mask.sum()) for mask in masks.values()) == round(0.3 * total)
    old = dict(before.model.named_parameters())
    for name, new in after.model.named_parameters():
        assert torch.equal(new[~masks[name]], old[name][~masks[name]])
        moved = (new != old[name])[masks[name]]
        assert moved.float().mean() > 0.9 if masks[name].any() else True


def test_buffers_of_batch_normalization_move():
    """Weights outside of the mask stay, while statistics follow the batches, as in the paper's code."""
    shape = {"side": 8, "widths": (4,), "embedding": 8}
    before = Classifier(seeded(SmallCNN, 0, **shape), shape)
    after = SalUn.set({"share": 0.2, "fit.epochs": 0, "fit.steps": 4}).run(before, digits().request, context())
    masks = top_share(saliency(before, digits().forget, 256), 0.2)
    old = dict(before.model.named_parameters())
    assert all(torch.equal(new[~masks[name]], old[name][~masks[name]]) for name, new in after.model.named_parameters())
    assert not torch.equal(after.model.body[1].running_mean, before.model.body[1].running_mean)


def test_forgets_and_keeps():
    """Calibration at half of the weights: unlearned accuracy 0 like retraining, keep rows 98.9 %, test rows 96.9 %."""
    wrong, kept, test = rates(SalUn.set({**SHORT, "exclude_true": True}).run(trained_classifier(), digits().request, context()))
    assert wrong >= 0.98 and kept >= 0.975 and test >= 0.95


@pytest.mark.parametrize("order", ["alternate", "union"])
def test_limits(order):
    """With all weights in the mask it is random labels, bit for bit."""
    few = {"fit.epochs": 0, "fit.steps": 9, "fit.batch": 64, "exclude_true": False, "order": order}
    whole = SalUn.set({**few, "share": 1.0}).run(trained_classifier(), digits().request, context())
    half = SalUn.set({**few, "share": 0.5}).run(trained_classifier(), digits().request, context())
    assert whole.digest == RandomLabel.set(few).run(trained_classifier(), digits().request, context()).digest != half.digest


def test_refusals():
    request = Request(forget=Data.inline(digits().forget[:4]), keep=Data.inline(digits().keep[:4]))
    with pytest.raises(BadConfig, match="fit.rank = 2"):
        SalUn.set({"fit.rank": 2}).run(trained_classifier(), request, context())
    assert math.isclose(SalUn().config.share, 0.5)
