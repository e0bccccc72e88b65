import numpy as np
import pytest

from efface import api
from efface.core.errors import BudgetSpent, Unfit
from efface.core.types import Data, Request
from efface.families import predictions, shadows
from efface.metrics.neurips_score import NeuripsScore
from efface.ops import class_stats
from efface.testing.tiny import context, digits, retrained_classifier, tiny_classifier, trained_classifier

PARTS = digits()
ASK = Request(kind="class", names=("3",), forget=Data.inline(PARTS.forget[:40]), keep=Data.inline(PARTS.keep[:300]), unseen=Data.inline(PARTS.unseen))
UTILITY = {"test rows": Data.inline(PARTS.test[:200])}
QUICK = {"models": 8, "fit.steps": 60, "fit.batch": 32}
REFIT = {"fit.epochs": 0, "fit.steps": 60, "fit.batch": 32, "fit.lr": 1e-2, "fit.schedule": "linear", "fit.weight_decay": 5e-4, "fit.warmup": 0, "fit.precision": "no"}


def run(subject, settings=None, **changes):
    return NeuripsScore.set({**QUICK, **(settings or {})}).run(subject, ASK, context(utility=UTILITY, **changes))


def test_formula():
    """The score by hand from the very models: points of eight originals against eight retrained, over those of eight more, times both ratios."""
    config, ctx = NeuripsScore.set(QUICK).config, context(utility=UTILITY)
    rows = [*ASK.rows("forget"), *ASK.rows("keep")]
    originals = shadows.trained(trained_classifier(), rows, [range(len(rows))] * 8, "original", config.fit, ctx)
    retrained = shadows.without(trained_classifier(), ASK, 16, config.fit, ctx)
    confident = [shadows.scaled(models, ASK.rows("forget")) for models in (originals, retrained[:8], retrained[8:])]
    points = [
        class_stats.forget_points(np.array([class_stats.epsilon(a, b) for a, b in zip(one.T, confident[1].T, strict=True)]), 8) for one in confident[::2]
    ]
    right = [[np.mean([predictions.read(m, data.read()).hits.mean() for m in models]) for data in (ASK.keep, *UTILITY.values())] for models in (originals, retrained[:8])]
    found = run(trained_classifier())
    assert found.parts["forget_score"] == pytest.approx(points[0].mean()) and found.parts["ceiling"] == pytest.approx(points[1].mean())
    assert (found.parts["keep_ratio"], found.parts["test_ratio"]) == pytest.approx((right[0][0] / right[1][0], right[0][1] / right[1][1]))
    assert found.value == pytest.approx(points[0].mean() / points[1].mean() * found.parts["keep_ratio"] * found.parts["test_ratio"])


def test_doing_nothing_earns_nothing_and_retraining_about_one(tmp_path):
    """The subject without a method stands for its models as trained. "Training anew" as a method must reach what retraining does.

    What was trained for the first is there for the second; in the second run, nothing at all is left to do.
    """
    nothing = run(trained_classifier(), passes=(tmp_path,))
    assert nothing.value < 0.05 and nothing.parts["epsilon"] == 50
    candidate = api.forget(trained_classifier(), ASK, "refit", REFIT, context())
    anew = run(candidate, passes=(tmp_path,))
    assert 0.5 < anew.value < 2 and anew.low <= anew.value <= anew.high
    assert anew.parts["ceiling"] == nothing.parts["ceiling"] and anew.parts["epsilon"] < 5
    ctx = context(utility=UTILITY, passes=(tmp_path,))
    assert NeuripsScore.set(QUICK).run(candidate, ASK, ctx).value == anew.value and not ctx.spent


def test_what_is_refused():
    with pytest.raises(Unfit, match="the reference is a part|none made the reference"):
        run(retrained_classifier(), baselines={"reference": retrained_classifier()})
    with pytest.raises(Unfit, match="neurips_score would take about .* most = 1e\\+06 "):
        run(trained_classifier(), {"most": 1e6})
    slow = api.forget(tiny_classifier(), ASK, "grad_diff", {"fit.steps": 1, "fit.precision": "no", "stop.at": "steps"}, context())
    slow.lineage = (slow.lineage[-1].model_copy(update={"seconds": 100.0}),)
    with pytest.raises(Unfit, match="8 times, about 800 s; its setting most_seconds"):
        run(slow)
    with pytest.raises(BudgetSpent):
        run(trained_classifier(), budget={"steps": 100})
