"""Pruning before unlearning: exact counts, a mask that nothing fills, and fine-tuning that forgets more under it."""

import numpy as np
import pytest
import torch
from torch import nn

from efface.core import registry
from efface.core.config import Config
from efface.core.errors import BadConfig, Unfit, UnknownName
from efface.core.types import Data, Method, Request
from efface.families.classifier import Classifier
from efface.families.networks import SmallCNN, seeded
from efface.methods.finetune import Finetune
from efface.methods.sparse import Sparse
from efface.ops.loop import mean_loss
from efface.ops.pruning import magnitude, prunable
from efface.testing.tiny import context, diabetes, digits, tiny_classifier, trained_classifier, trained_regressor

SGD = {"fit.optimizer": "sgd", "fit.momentum": 0.9, "fit.weight_decay": 5e-4, "fit.lr": 0.02, "fit.batch": 64, "fit.clip": 0, "fit.precision": "no"}
BRIEF = {"fit.lr": 0.05, "fit.batch": 64, "fit.epochs": 2}
QUICK = {"fit.steps": 20, "fit.epochs": 0, "fit.batch": 32}


def right(subject, rows):
    return 100 * float(np.mean(subject.predict(rows).argmax(1) == np.array([row["y"] for row in rows])))


def small():
    return Request(forget=Data.inline(digits().forget[:40]), keep=Data.inline(digits().keep[:200]))


def zeros(subject, layers="auto"):
    """{name: which entries are zero} of the pruned layers, and their number of other entries."""
    found = {name: weight.detach() == 0 for name, weight in prunable(subject.model, layers).items()}
    return found, sum(int((~mask).sum()) for mask in found.values()), sum(mask.numel() for mask in found.values())


MASKED = [
    ("omp", "finetune", {**SGD, "fit.steps": 30, "stop.at": "steps"}),
    ("omp", "finetune", {"fit.lr": 1e-2, "fit.weight_decay": 0.1, "fit.steps": 30, "fit.batch": 32, "stop.at": "steps"}),
    ("imp", "grad_diff", {"fit.lr": 1e-3, "fit.optimizer": "adam", "fit.steps": 30, "fit.batch": 32, "stop.at": "steps"}),
    ("synflow", "l1_sparse", {**SGD, "fit.epochs": 3, "gamma": 1e-3}),
    ("omp", "ssd", {"share": 0.2}),
    ("omp", "refit", {"fit.epochs": 2}),
]


@pytest.mark.parametrize(("by", "then", "settings"), MASKED, ids=[f"{by}-{then}-{at}" for at, (by, then, _) in enumerate(MASKED)])
def test_formula(by, then, settings):
    """At rate .9 exactly round(.1 N) weights are left, whatever momentum, weight decay, an adaptive optimizer, damping or new weights do."""
    ctx = context()
    before = trained_classifier()
    digest = before.digest
    after = Sparse.set({"by": by, "then": then, "settings": settings, **QUICK}).run(before, small(), ctx)
    _, left, total = zeros(after)
    assert left == round(0.1 * total) == ctx.notes["kept_weights"] == 1702
    assert ctx.notes["filled"] == 0 and ctx.notes["then"] == then
    assert before.digest == digest and not any(module._forward_pre_hooks for module in (*after.model.modules(), *before.model.modules()))
    assert not any(p._backward_hooks for p in after.model.parameters()) and "fresh" not in vars(after)


def test_the_very_same_zeros():
    """The zeros are those of the largest magnitudes of the model that was given, bit for bit, and +0."""
    before = trained_classifier()
    masks = magnitude(prunable(before.model), 1702, 0.01)
    after = Sparse.set({**QUICK, "settings": {**SGD, "fit.steps": 30, "stop.at": "steps"}}).run(before, small(), context())
    for name, weight in prunable(after.model).items():
        assert bool((weight[~masks[name]].view(torch.int32) == 0).all()) and bool((weight[masks[name]] != 0).all())


class Noisy(Method[Config]):
    """Writes noise into every weight, as closed forms may, and then looks at its loss."""

    card = registry.card("method", "finetune")

    def run(self, subject, request, ctx):
        after = subject.trainable(0, 0)
        with torch.no_grad():
            for at, p in enumerate(after.model.parameters()):
                p.add_(torch.randn(p.shape, generator=torch.Generator().manual_seed(at)))
        before = [p.clone() for p in after.model.parameters()]
        ctx.note(loss=mean_loss(after, request.rows("keep")[:10]), held=float(sum((a != b).sum() for a, b in zip(before, after.model.parameters(), strict=True))))
        return after


class Grown(Noisy):
    """Gives a model of another shape back."""

    def run(self, subject, request, ctx):
        other = subject.fork()
        other.model = nn.Sequential(nn.Linear(64, 10))
        return other


def test_closed_forms_cannot_fill_it(monkeypatch):
    """What such a method fills is emptied at its first look, and at the end; a model of another shape is refused."""
    monkeypatch.setattr(registry, "load", lambda kind, name: {"noisy": Noisy, "grown": Grown}[name])
    ctx = context()
    after = Sparse.set({**QUICK, "then": "noisy"}).run(trained_classifier(), small(), ctx)
    assert zeros(after)[1] == 1702 and ctx.notes["held"] == 17024 - 1702 and ctx.notes["filled"] == 0
    with pytest.raises(Unfit, match="grown gives a model without"):
        Sparse.set({**QUICK, "then": "grown"}).run(trained_classifier(), small(), context())


def test_no_op():
    """Without training and with a method that takes no step, only the pruned weights differ."""
    before = trained_classifier()
    after = Sparse.set({"fit.steps": 0, "fit.epochs": 0, "settings": {"fit.steps": 0, "stop.at": "steps"}}).run(before, small(), context())
    kept = dict(before.model.named_parameters())
    for name, p in after.model.named_parameters():
        assert bool(((p == kept[name]) | (p == 0)).all())
    assert zeros(after)[1] == 1702


def test_forgets_and_keeps():
    """The paper's point: the same fine-tuning forgets more of a digit from a sparse model than from a dense one, and holds the rest."""
    parts, length = digits("class"), {**SGD, "fit.epochs": 5, "stop.at": "steps"}
    dense = Finetune.set(length).run(trained_classifier(), parts.request, context())
    sparse = Sparse.set({**BRIEF, "settings": length}).run(trained_classifier(), parts.request, context())
    assert right(sparse, parts.forget) < right(dense, parts.forget) - 20
    assert right(sparse, parts.keep) >= 95


def test_limits():
    """A second request under the zeros of the first keeps them; convolutions alone are pruned where there are any; a regressor works."""
    settings = {"settings": {**SGD, "fit.steps": 10, "stop.at": "steps"}, **QUICK}
    first = Sparse.set(settings).run(trained_classifier(), small(), context())
    second = Sparse.set({"by": "zeros", **settings}).run(first, small(), context())
    assert second.digest != first.digest
    for name, mask in zeros(first)[0].items():
        assert bool((zeros(second)[0][name] == mask).all())
    pictures = Classifier(seeded(SmallCNN, 0, side=8, widths=(4, 8), embedding=16), {})
    after = Sparse.set({**settings, "by": "synflow", "rate": 0.5}).run(pictures, small(), context())
    names, left, total = zeros(after)
    assert all(name.startswith("body") for name in names) and left == round(0.5 * total)
    assert all(bool((p != 0).any()) for p in after.model.parameters())
    assert float((after.model.body[9].weight == 0).sum()) == 0
    value = Sparse.set({**settings, "rate": 0.8}).run(trained_regressor(), diabetes(), context())
    _, left, total = zeros(value)
    assert left == round(0.2 * total)


def test_refuses():
    before, request = trained_classifier(), small()
    for settings, error, says in (
        ({"then": "sparse"}, BadConfig, "pruning is done once"),
        ({"then": "fintune"}, UnknownName, "finetune"),
        ({"settings": {"no_such": 1}}, UnknownName, "no_such"),
        ({"settings": {"fit.rank": 2}}, BadConfig, "adapter"),
        ({"then": "npo"}, Unfit, "npo runs on causal-lm"),
        ({"by": "zeros"}, Unfit, "none of this model's weights is zero"),
        ({"layers": "conv"}, Unfit, "no convolution"),
        ({"rate": 0.999}, BadConfig, "lower the rate"),
    ):
        with pytest.raises(error, match=says):
            Sparse.set({**QUICK, **settings}).run(before, request, context())
    with pytest.raises(Unfit, match=r"nothing would be left of stack.2.weight; lower rate, raise least, or prune by synflow"):
        Sparse.set({**QUICK, "least": 0.0}).run(tiny_classifier(), request, context())
