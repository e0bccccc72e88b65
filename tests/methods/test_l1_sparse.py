"""l1-sparse unlearning: the schedule and its log, that gamma 0 is fine-tuning, and a digit that fades where fine-tuning keeps it."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from efface.core.errors import BadConfig
from efface.core.types import Data, Request
from efface.families.classifier import Classifier
from efface.families.networks import MLP, seeded
from efface.methods.finetune import Finetune
from efface.methods.l1_sparse import L1Sparse, coefficient
from efface.testing.tiny import context, diabetes, digits, trained_classifier, trained_regressor

SGD = {"fit.optimizer": "sgd", "fit.momentum": 0.9, "fit.weight_decay": 5e-4, "fit.batch": 64, "fit.clip": 0, "fit.precision": "no"}


def right(subject, rows):
    return 100 * float(np.mean(subject.predict(rows).argmax(1) == np.array([row["y"] for row in rows])))


def norm(subject):
    return float(sum(p.abs().sum() for p in subject.model.parameters()))


def small(count=100):
    return Request(forget=Data.inline(digits().forget[:10]), keep=Data.inline(digits().keep[:count]))


def published(request):
    """The network of the measured table: SGD at .05 over forget and keep rows for 60 epochs, by torch alone."""
    rows = [*request.rows("forget"), *request.rows("keep")]
    x, y = torch.tensor([row["x"] for row in rows]), torch.tensor([row["y"] for row in rows])
    model, order = seeded(MLP, 0).requires_grad_(True), torch.Generator().manual_seed(0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)
    for _ in range(60):
        for part in torch.randperm(len(x), generator=order).split(64):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x[part]), y[part]).backward()
            optimizer.step()
    return Classifier(model.requires_grad_(False), {})


def test_formula():
    """gamma 1 over four epochs: 1, 3/4, 1/2, 1/4; with one epoch free 1, 2/3, 1/3, 0; with four or more free none at all."""
    assert [coefficient(1.0, t, 4) for t in range(4)] == [1, 0.75, 0.5, 0.25]
    assert [coefficient(1.0, t, 4, 1) for t in range(4)] == pytest.approx([1, 2 / 3, 1 / 3, 0], abs=1e-15)
    assert [coefficient(1.0, t, 4, free) for t in range(4) for free in (4, 5)] == [0] * 8


@pytest.mark.parametrize(("length", "epochs"), [({"fit.epochs": 5}, 5), ({"fit.steps": 12, "fit.epochs": 0}, 3)])
def test_log(length, epochs):
    """100 rows in batches of 32 make 4 steps an epoch. Each line's coefficient is gamma (1 - t / T), and with weights that hardly move the
    logged penalty is that times their norm, to the step: the log says what was done."""
    subject, ctx, gamma = trained_classifier(), context(), 3e-3
    L1Sparse.set({"gamma": gamma, "fit.lr": 1e-12, **length, **{**SGD, "fit.batch": 32}}).run(subject, small(), ctx)
    assert len(ctx.curve) == 4 * epochs
    for line in ctx.curve:
        assert line["coefficient"] == pytest.approx(gamma * (1 - (line["step"] // 4) / epochs), abs=1e-9)
        assert line["l1"] / norm(subject) == pytest.approx(line["coefficient"], rel=1e-5)


def test_log_goes_on_after_other_lines():
    """Lines that stand in the log already are neither counted nor written to; pieces of a step see one coefficient."""
    ctx = context()
    ctx.log(step=99, other=1.0)
    L1Sparse.set({"gamma": 1e-3, "fit.epochs": 2, **SGD, "fit.batch": 50, "fit.accumulate": 2, "fit.lr": 1e-12}).run(trained_classifier(), small(), ctx)
    assert ctx.curve[0] == {"step": 99, "other": 1.0}
    assert [line["coefficient"] for line in ctx.curve[1:]] == pytest.approx([1e-3, 1e-3, 5e-4, 5e-4])
    assert [line["l1"] / norm(trained_classifier()) for line in ctx.curve[1:]] == pytest.approx([1e-3, 1e-3, 5e-4, 5e-4], rel=1e-5)


@pytest.mark.parametrize("settings", [{"gamma": 0.0}, {"gamma": 1.0, "unpenalized": 2}])
def test_no_op(settings):
    """Without a penalty the result is that of fine-tuning, bit for bit."""
    length = {"fit.lr": 0.02, "fit.epochs": 2, **SGD}
    plain = Finetune.set({"stop.at": "steps", **length}).run(trained_classifier(), small(), context())
    assert L1Sparse.set({**settings, **length}).run(trained_classifier(), small(), context()).digest == plain.digest
    assert L1Sparse.set({"gamma": 1e-3, **length}).run(trained_classifier(), small(), context()).digest != plain.digest


def test_forgets_and_keeps():
    """Digit 3 at ten epochs and lr .02: fine-tuning keeps nine tenths of it, gamma 5e-3 loses it and holds the rest; the norm falls with gamma."""
    parts, length = digits("class"), {"fit.lr": 0.02, "fit.epochs": 10, **SGD}
    before = published(parts.request)
    assert right(before, parts.forget) == 100 and right(before, parts.keep) >= 99
    plain = Finetune.set({"stop.at": "steps", **length}).run(before, parts.request, context())
    made = {gamma: L1Sparse.set({"gamma": gamma, **length}).run(before, parts.request, context()) for gamma in (1e-4, 2e-3, 5e-3)}
    assert 100 - right(plain, parts.forget) <= 10
    assert 100 - right(made[5e-3], parts.forget) >= 95
    assert right(made[5e-3], parts.keep) >= 97
    norms = [norm(plain), *(norm(after) for after in made.values())]
    assert norms == sorted(norms, reverse=True) and norms[-1] < norms[0] / 2


def test_limits():
    """One step of SGD on one row is theta - lr (gradient + gamma sign theta); a regressor takes it; an adapter is refused."""
    one = Request(keep=Data.inline(diabetes().rows("keep")[:1]))
    before, gamma, lr = trained_regressor(), 1e-2, 1e-3
    step = {"fit.steps": 1, "fit.epochs": 0, "fit.batch": 1, "fit.lr": lr, "fit.momentum": 0.0, "fit.weight_decay": 0.0, "fit.precision": "no"}
    after, plain = (L1Sparse.set({"gamma": value, **step}).run(before, one, context()) for value in (gamma, 0.0))
    for a, b, start in zip(after.model.parameters(), plain.model.parameters(), before.model.parameters(), strict=True):
        assert torch.allclose(a, b - lr * gamma * start.sign(), rtol=0, atol=1e-7)
    with pytest.raises(BadConfig, match="fit.rank = 4"):
        L1Sparse.set({"fit.rank": 4}).run(trained_classifier(), small(), context())
    assert math.isclose(L1Sparse().config.gamma, 5e-4)
