"""Random labels: the two passes by hand, what a union is, and that a class goes while the rest stays."""

import math

import pytest
import torch

from efface.core.errors import Unfit
from efface.core.types import Data, Request
from efface.families.classifier import Classifier
from efface.families.networks import MLP, seeded
from efface.methods.random_label import RandomLabel
from efface.ops.relabel import random_labels
from efface.recipes.finetune import Finetune
from efface.testing import tiny
from efface.testing.tiny import context, digits, trained_classifier

SHORT = {"fit.lr": 0.02, "fit.batch": 64, "fit.epochs": 5}


def flat(outputs: int = 3) -> Classifier:
    """A linear classifier of two numbers whose weights are zero."""
    model = seeded(MLP, 0, inputs=2, hidden=(), outputs=outputs)
    for parameter in model.parameters():
        parameter.zero_()
    return Classifier(model)


def rates(subject):
    """Share of forget rows that are wrong, and of keep and test rows that are right."""
    right = {part: (subject.predict(rows).argmax(1) == [row["y"] for row in rows]).mean() for part, rows in vars(digits()).items() if part in ("forget", "keep", "test")}
    return 1 - right["forget"], right["keep"], right["test"]


def test_formula():
    """Zero weights, three classes: the first loss is ln 3. One step of SGD at .3 on x = (1, 0) with a wrong label k gives
    the biases -.1 and, at k, +.2. The keep row x = (0, 1), y = 0 then has p = e^-.1 / (2 e^-.1 + e^.2) = .298520, loss 1.208917."""
    request = Request(forget=Data.inline([{"x": [1.0, 0.0], "y": 0}]), keep=Data.inline([{"x": [0.0, 1.0], "y": 0}]))
    ctx = context()
    plain = {"fit.lr": 0.3, "fit.momentum": 0.0, "fit.weight_decay": 0.0, "fit.batch": 1, "fit.epochs": 1}
    RandomLabel.set(plain).run(flat(), request, ctx)
    assert ctx.curve[0]["forget"] == pytest.approx(math.log(3), rel=1e-6)
    assert ctx.curve[1]["keep"] == pytest.approx(1.208917, rel=1e-5)


def test_no_op():
    assert RandomLabel.set({"fit.epochs": 0, "fit.steps": 0}).run(trained_classifier(), digits().request, context()).digest == trained_classifier().digest


@pytest.mark.parametrize("order", ["alternate", "union"])
def test_forgets_and_keeps(order):
    """Calibration: unlearned accuracy 0 like retraining, keep rows 98.9 %, test rows 96.9 %."""
    wrong, kept, test = rates(RandomLabel.set({**SHORT, "order": order}).run(trained_classifier(), digits().request, context()))
    assert wrong >= 0.98 and kept >= 0.975 and test >= 0.95


def test_limits():
    """A union is fine-tuning on all rows once the forget rows carry their random labels."""
    parts, ctx = digits(), context()
    few = {"fit.steps": 5, "fit.epochs": 0}
    one = RandomLabel.set({**few, "order": "union", "exclude_true": False}).run(trained_classifier(), parts.request, ctx)
    wrong = random_labels(parts.forget, 10, False, ctx.seed_for("labels", 0))
    settings = {f"fit.{name}": value for name, value in RandomLabel().config.fit.model_dump().items()}
    asked = Request(forget=Data.inline(wrong), keep=Data.inline(parts.keep))
    other = Finetune.set({**settings, **few}).run(trained_classifier(), asked, context())
    assert one.digest == other.digest != trained_classifier().digest
    turns = RandomLabel.set({**few, "exclude_true": False}).run(trained_classifier(), parts.request, context())
    assert turns.digest != one.digest
    with pytest.raises(Unfit, match="at least two classes"):
        RandomLabel().run(flat(1), Request(forget=Data.inline([{"x": [1.0, 0.0], "y": 0}]), keep=Data.inline([{"x": [0.0, 1.0], "y": 0}])), context())


def test_runs_on_text():
    """A text classifier has labels as well."""
    from transformers import BertConfig, BertForSequenceClassification

    words = tiny.tokenizer()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = BertForSequenceClassification(BertConfig(
            vocab_size=len(words), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, num_labels=3,
        ))
    subject = Classifier(model.requires_grad_(False), tokenizer=words)
    rows = [{"text": row["question"], "y": at % 3} for at, row in enumerate(tiny.facts().forget)]
    request = Request(forget=Data.inline(rows[:4]), keep=Data.inline(rows[4:]))
    after = RandomLabel.set({"fit.epochs": 1, "fit.batch": 4}).run(subject, request, context())
    assert after.digest != subject.digest
