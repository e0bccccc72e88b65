"""UNSIR: the noise by hand, that it carries its own label, and that classes go while the rest is repaired."""

import pytest
import torch

from efface.core.errors import Diverged, Unfit
from efface.core.types import Data, Request
from efface.families.classifier import Classifier
from efface.families.networks import MLP, SmallCNN, seeded
from efface.methods.unsir import UNSIR
from efface.testing import tiny
from efface.testing.tiny import context, digits, trained_classifier

SMALL = {"copies": 1, "noise": 64, "impair.batch": 64, "repair.batch": 64, "repair.epochs": 2, "repair.lr": 0.002}


def without(*labels):
    """A request to forget these digits whole."""
    rows = [*digits().forget, *digits().keep]
    forget, keep = ([row for row in rows if (row["y"] in labels) == gone] for gone in (True, False))
    return Request(kind="class", forget=Data.inline(forget), keep=Data.inline(keep))


def right(subject, rows):
    return float((subject.predict(rows).argmax(1) == [row["y"] for row in rows]).mean())


def test_formula():
    """With zero weights the classifier says nothing of the noise, so only the penalty acts; Adam's first step is lr times the sign.

    The gradient is g = 2 * .1 * N_0 / 256, the step .1 g / (|g| + 1e-8), and N_0 is standard normal.
    """
    model = seeded(MLP, 0, inputs=6, hidden=(), outputs=3)
    for parameter in model.parameters():
        parameter.zero_()
    start, moved = (UNSIR.set({"noise_steps": steps})._noise(Classifier(model), 1, (2, 3), 5) for steps in (0, 1))
    assert start.shape == (256, 2, 3) and abs(float(start.mean())) < 0.1 and abs(float(start.std()) - 1) < 0.1
    gradient = 0.2 * start / 256
    assert torch.allclose(moved, start - 0.1 * gradient / (gradient.abs() + 1e-8), atol=1e-5)


def test_noise_is_what_the_class_is_not():
    """Learned noise has a higher loss under its class than it began with, by far."""
    subject = trained_classifier()

    def loss(steps):
        noise = UNSIR.set({"noise": 32, "noise_steps": steps})._noise(subject, 3, (64,), 0)
        return -float(subject.model(noise).log_softmax(-1)[:, 3].mean())

    assert loss(40) > loss(0) + 5


def test_no_op():
    none = {"impair.epochs": 0, "impair.steps": 0, "repair.epochs": 0, "repair.steps": 0}
    assert UNSIR.set({**SMALL, **none}).run(trained_classifier(), without(3), context()).digest == trained_classifier().digest


def test_forgets_and_keeps_classes():
    """Two classes at once, each with noise of its own label: both are gone, the other eight are there."""
    request, ctx = without(3, 5), context()
    after = UNSIR.set(SMALL).run(trained_classifier(), request, ctx)
    for label in (3, 5):
        assert right(after, [row for row in request.rows("forget") if row["y"] == label]) < 0.05
    assert right(after, request.rows("keep")) > 0.95 and ctx.notes["noise_rows"] == 128


def test_repair_is_what_keeps():
    unrepaired = UNSIR.set({**SMALL, "repair.epochs": 0, "repair.steps": 0}).run(trained_classifier(), without(3), context())
    repaired = UNSIR.set(SMALL).run(trained_classifier(), without(3), context())
    assert right(unrepaired, digits().forget) < 0.1 and right(repaired, digits().forget) < 0.05
    assert right(repaired, digits().keep) > max(0.97, right(unrepaired, digits().keep))


def test_takes_inputs_of_any_shape():
    shape = {"side": 8, "widths": (4,), "embedding": 8}
    rows = [{"x": torch.rand(1, 8, 8, generator=torch.Generator().manual_seed(at)).numpy(), "y": at % 3} for at in range(12)]
    request = Request(forget=Data.inline([row for row in rows if row["y"] == 0]), keep=Data.inline([row for row in rows if row["y"]]))
    subject = Classifier(seeded(SmallCNN, 0, **shape), shape)
    assert UNSIR.set({"noise": 4, "noise_steps": 2, "copies": 2}).run(subject, request, context()).digest != subject.digest


def test_sample_limits_rows_of_each_class():
    ctx = context()
    UNSIR.set({**SMALL, "sample": 7, "noise_steps": 0, "repair.epochs": 0, "repair.steps": 0}).run(trained_classifier(), without(3), ctx)
    assert ctx.notes["keep_rows"] == 63


def test_refusals():
    parts = digits("random")
    with pytest.raises(Unfit, match="class 0 has [0-9]+ rows in keep"):
        UNSIR().run(trained_classifier(), parts.request, context())
    text = Classifier(seeded(MLP, 0), tokenizer=tiny.tokenizer())
    with pytest.raises(Unfit, match="a text has none"):
        UNSIR().run(text, without(3), context())
    with pytest.raises(Diverged, match="noise for class 3"):
        UNSIR.set({"noise": 2, "noise_lr": 1e30}).run(trained_classifier(), without(3), context())
