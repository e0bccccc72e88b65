"""NegGrad+: the weighted difference by hand, its two ends, and how narrow the useful range of alpha is."""

import math

import pytest

from efface.core.errors import Diverged
from efface.families.classifier import Classifier
from efface.families.networks import MLP, seeded
from efface.methods.finetune import Finetune
from efface.methods.gradient_ascent import GradientAscent
from efface.methods.neggrad_plus import NegGradPlus
from efface.ops.loop import mean_loss
from efface.testing.tiny import context, diabetes, digits, trained_classifier, trained_regressor

FEW = {"fit.epochs": 0, "fit.steps": 4, "stop.at": "steps"}


def run(settings, subject=None, **changes):
    ctx = context(**changes)
    return NegGradPlus.set(settings).run(subject or trained_classifier(), digits().request, ctx), ctx


def rates(subject):
    """Share of forget rows that are wrong, and of keep rows that are right."""
    right = {part: (subject.predict(rows).argmax(1) == [row["y"] for row in rows]).mean() for part, rows in vars(digits()).items() if part in ("forget", "keep")}
    return 1 - right["forget"], right["keep"]


def test_formula():
    """Zero weights, ten classes: each loss is ln 10, so the terms are -.2 ln 10 and .8 ln 10 at alpha .8."""
    shape = {"inputs": 64, "hidden": (), "outputs": 10}
    model = seeded(MLP, 0, **shape)
    for parameter in model.parameters():
        parameter.zero_()
    _, ctx = run({**FEW, "alpha": 0.8}, Classifier(model, shape))
    assert (ctx.curve[0]["forget"], ctx.curve[0]["keep"]) == pytest.approx((-0.2 * math.log(10), 0.8 * math.log(10)), rel=1e-6)


def test_no_op():
    assert run({**FEW, "fit.steps": 0})[0].digest == trained_classifier().digest


def test_one_epoch_is_a_pass_over_the_keep_rows():
    """1166 keep rows at batch 64 are 19 steps; the 131 forget rows come round and round beside them."""
    _, ctx = run({"fit.epochs": 1, "alpha": 0.99})
    assert ctx.notes["steps"] == math.ceil(len(digits().keep) / 64)


def test_forgets_and_keeps():
    """Calibration: at alpha .99 all forget rows are wrong and 99.8 % of keep rows right; at .95 the keep rows are lost (11.5 %)."""
    wrong, kept = rates(run({"alpha": 0.99})[0])
    assert wrong >= 0.98 and kept >= 0.96
    assert rates(run({"alpha": 0.95})[0])[1] < 0.5


def test_limits():
    """alpha = 1 is fine-tuning on keep rows, alpha = 0 is gradient ascent, bit for bit."""
    settings = {f"fit.{name}": value for name, value in NegGradPlus().config.fit.model_dump().items()} | FEW
    assert run({**FEW, "alpha": 1.0})[0].digest == Finetune.set(settings).run(trained_classifier(), digits().request, context()).digest
    assert run({**FEW, "alpha": 0.0})[0].digest == GradientAscent.set(settings).run(trained_classifier(), digits().request, context()).digest


def test_ends_at_its_ceiling():
    after, ctx = run({"alpha": 0.5, "ceiling": math.log(10), "stop.every": 1, "stop.rows": 200})
    assert "ceiling" in ctx.notes["stopped"] and ctx.notes["steps"] < 190
    assert math.log(10) <= mean_loss(after, digits().forget) < 4


def test_says_when_it_diverges():
    with pytest.raises(Diverged, match="at step"):
        run({"alpha": 0.0, "fit.lr": 1e18})


def test_runs_on_regressors():
    request = diabetes()
    after = NegGradPlus.set({"alpha": 0.9, "fit.lr": 1e-3, "fit.epochs": 20, "stop.at": "steps"}).run(trained_regressor(), request, context())
    grown = [mean_loss(subject, request.rows("forget")) for subject in (after, trained_regressor())]
    assert grown[0] > 1.5 * grown[1]
