"""CF-k: what is frozen stays bit for bit, all layers are fine-tuning, and it forgets little."""

import math

import pytest
import torch

from efface.core.errors import BadConfig
from efface.families.classifier import Classifier
from efface.families.networks import MLP, SmallCNN, seeded
from efface.methods.cf_k import CFk
from efface.methods.finetune import Finetune
from efface.testing.tiny import context, digits, tiny_regressor, trained_classifier

FEW = {"fit.epochs": 0, "fit.steps": 4}


def run(settings, subject=None):
    ctx = context()
    return CFk.set(settings).run(subject or trained_classifier(), digits().request, ctx), ctx


def changed(before, after):
    old = before.model.state_dict()
    return {name for name, tensor in after.model.state_dict().items() if not torch.equal(tensor, old[name])}


def test_formula():
    """Zero weights: the loss is ln 10. One step of SGD at lr 1 on the last layer moves its biases by the label shares - 1/10.

    Nothing reaches the weights, because a layer of zeros gives zeros.
    """
    shape = {"inputs": 64, "hidden": (8,), "outputs": 10}
    model = seeded(MLP, 0, **shape)
    for parameter in model.parameters():
        parameter.zero_()
    count = len(digits().keep)
    after, ctx = run({"k": 1, "fit.lr": 1.0, "fit.momentum": 0.0, "fit.batch": count, "fit.epochs": 0, "fit.steps": 1}, Classifier(model, shape))
    assert ctx.curve[0]["keep"] == pytest.approx(math.log(10), rel=1e-6)
    shares = [sum(row["y"] == label for row in digits().keep) / count for label in range(10)]
    assert after.model.stack[2].bias.tolist() == pytest.approx([share - 0.1 for share in shares], abs=1e-6)
    assert not after.model.stack[2].weight.any()


def test_no_op():
    assert run({"fit.epochs": 0, "fit.steps": 0})[0].digest == trained_classifier().digest


def test_keeps_the_frozen_part_bit_for_bit():
    """Weights and statistics of batch normalization alike; what stands between the last k layers is trained with them."""
    assert changed(trained_classifier(), run(FEW)[0]) == {f"stack.{at}.{part}" for at in (2, 4) for part in ("weight", "bias")}
    shape = {"side": 8, "widths": (4, 6), "embedding": 8}
    before = Classifier(seeded(SmallCNN, 0, **shape), shape)
    frozen = {name for name in before.model.state_dict() if name.startswith(("body.0", "body.1"))}
    assert changed(before, run({**FEW, "k": 3}, before)[0]) == set(before.model.state_dict()) - frozen


def test_forgets_little_and_keeps():
    """Calibration: no forget row becomes wrong, all keep rows stay right."""
    after, _ = run({"fit.epochs": 5})
    rows = digits()
    right = [(after.predict(part).argmax(1) == [row["y"] for row in part]).mean() for part in (rows.forget, rows.keep)]
    assert right[0] > 0.85 and right[1] > 0.99


def test_limits():
    """With all layers it is fine-tuning, bit for bit; one layer more than there are is refused."""
    settings = {f"fit.{name}": value for name, value in CFk().config.fit.model_dump().items()} | FEW
    other = Finetune.set(settings).run(trained_classifier(), digits().request, context())
    assert run({**FEW, "k": 3})[0].digest == other.digest
    with pytest.raises(BadConfig, match="k = 4: MLP has 3 layers"):
        run({"k": 4})
    with pytest.raises(BadConfig, match="fit.rank = 2"):
        run({"fit.rank": 2}, tiny_regressor())
