"""Boundary: which rows cross and where to, that the extra output is cut off, and what both forms cost."""

import math

import pytest
import torch

from efface.core.errors import BadConfig, Unfit
from efface.core.types import Data, Request
from efface.families.classifier import Classifier
from efface.families.networks import MLP, seeded
from efface.methods.boundary import Boundary, _narrower, _wider, nearest
from efface.testing import tiny
from efface.testing.tiny import context, digits, trained_classifier

NONE = {"fit.epochs": 0, "fit.steps": 0}


def run(settings, subject=None, request=None):
    ctx = context()
    return Boundary.set(settings).run(subject or trained_classifier(), request or digits().request, ctx), ctx


def rates(subject):
    """Share of forget rows that are wrong, and of keep rows that are right."""
    right = {part: (subject.predict(rows).argmax(1) == [row["y"] for row in rows]).mean() for part, rows in vars(digits()).items() if part in ("forget", "keep")}
    return 1 - right["forget"], right["keep"]


def half() -> Classifier:
    """Class 0 where the first number is above .5, class 1 below: logits (8 x_0 - 4, 0), and a third class at -9."""
    model = seeded(MLP, 0, inputs=2, hidden=(), outputs=3)
    model.stack[0].weight.copy_(torch.tensor([[8.0, 0.0], [0.0, 0.0], [0.0, 0.0]]))
    model.stack[0].bias.copy_(torch.tensor([-4.0, 0.0, -9.0]))
    return Classifier(model)


def test_formula():
    """The gradient of the loss of class 0 falls with x_0, so every x_0 falls by .1; 0.55 crosses 0.5 and becomes class 1.

    0.95 stays and is dropped. A row of class 1 at 0.42 rises to 0.52 and becomes class 0; at 0.35 it stays.
    """
    rows = [{"x": [x, 0.3], "y": y} for x, y in ((0.55, 0), (0.95, 0), (0.42, 1), (0.35, 1))]
    assert nearest(half(), rows, 0.1) == [{"x": [0.55, 0.3], "y": 1}, {"x": [0.42, 0.3], "y": 0}]


def test_inputs_stay_in_their_range():
    """No number falls below the smallest that was there: with 0.52 the lowest, no row crosses 0.5 whatever the bound."""
    rows = [{"x": [x, 0.9], "y": 0} for x in (0.52, 0.8)]
    assert nearest(half(), rows, 5.0) == []
    with pytest.raises(Unfit, match="none of 2 forget rows"):
        run({"bound": 5.0}, half(), Request(forget=Data.inline(rows)))


@pytest.mark.parametrize("mode", ["shrink", "expand"])
def test_no_op(mode):
    """Without a step the extra output comes and goes, and the model is the same, bit for bit."""
    assert run({**NONE, "mode": mode})[0].digest == trained_classifier().digest


def test_shrink_forgets_and_costs():
    """Calibration at bound .4: all forget rows wrong, 77 % of keep rows right. At a smaller bound fewer rows cross, and there is less damage."""
    (far, ctx), (near, _) = run({"bound": 0.4, "fit.lr": 0.01}), run({"bound": 0.1, "fit.lr": 0.01})
    assert ctx.notes["crossed"] + ctx.notes["dropped"] == len(digits().forget)
    assert rates(far)[0] >= 0.98 and 0.3 < rates(far)[1] < 0.95
    assert rates(near)[0] >= 0.95 and rates(near)[1] > 0.9


def test_expand_forgets_and_costs():
    """Calibration: all forget rows wrong; keep rows right between 30 and 99 %, by learning rate. Ten outputs, as before."""
    gentle, harsh = (run({"mode": "expand", "fit.lr": lr})[0] for lr in (1e-3, 1e-2))
    for after in (gentle, harsh):
        assert rates(after)[0] >= 0.98
        assert after.predict(digits().test[:2]).shape == (2, 10) and after.outputs == 10
    assert rates(harsh)[1] < 0.8 < 0.9 < rates(gentle)[1]


def test_limits():
    """An output that is added and cut off leaves the others as they are; the new one is drawn as torch draws, from the seed."""
    head = trained_classifier().modules_of("head")[-1]
    wide, other = _wider(head, 1), _wider(head, 2)
    assert wide.out_features == 11 and torch.equal(wide.weight[:10], head.weight) and not torch.equal(wide.weight[10], other.weight[10])
    assert 0 < wide.weight[10].abs().max() <= 1 / math.sqrt(64)
    back = _narrower(wide)
    assert torch.equal(back.weight, head.weight) and torch.equal(back.bias, head.bias)
    with pytest.raises(BadConfig, match="fit.rank = 2"):
        run({"mode": "expand", "fit.rank": 2})


def test_text_has_nothing_to_move():
    """Shrink is refused, and expand works: it needs no input space."""
    from transformers import BertConfig, BertForSequenceClassification

    words = tiny.tokenizer()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = BertForSequenceClassification(BertConfig(
            vocab_size=len(words), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, num_labels=3,
        ))
    subject = Classifier(model.requires_grad_(False), tokenizer=words)
    request = Request(forget=Data.inline([{"text": "What is the home of Alder?", "y": 1}]))
    with pytest.raises(Unfit, match="mode = expand"):
        run({}, subject, request)
    after, _ = run({"mode": "expand", "fit.lr": 0.1, "fit.epochs": 3}, subject, request)
    assert after.predict(request.rows("forget")).shape == (1, 3) and after.digest != subject.digest
