import numpy as np
import pytest

from efface.attacks.lira import Lira
from efface.core.capabilities import check
from efface.core.errors import BadConfig, BudgetSpent, Unfit
from efface.core.types import Data, Request, Step
from efface.families import predictions, shadows
from efface.ops import class_stats, stats
from efface.testing.tiny import context, digits, sklearn_classifier, tiny_classifier

PARTS = digits("noisy")
ASK = Request(forget=Data.inline(PARTS.forget[:40]), keep=Data.inline(PARTS.keep[:120]), unseen=Data.inline(PARTS.unseen[:40]))
"""Wrong labels, which a network can only know by heart."""
QUICK = {"models": 8, "fit.steps": 150, "fit.batch": 32, "fit.lr": 5e-3, "fit.weight_decay": 0.0}
LAZY = {**QUICK, "fit.steps": 2}


def run(subject, settings=None, **changes):
    return Lira.set({**QUICK, **(settings or {})}).run(subject, ASK, context(**changes))


@pytest.fixture(scope="module")
def models():
    """(with the forget rows, without them), trained as shadow models are."""
    fit = Lira.set(QUICK).config.fit
    rows = [*ASK.rows("keep"), *ASK.rows("forget")]
    return shadows.trained(tiny_classifier(), rows, [range(160), range(120)], "target", fit, context(9))


def test_formula():
    """AUC of the likelihood ratios of the very shadow models, forget rows against unseen rows."""
    config, ctx = Lira.set(LAZY).config, context()
    rows, forget = shadows.pool(ASK)
    inside = shadows.halves(80, 8, ctx)
    confident = shadows.scaled(shadows.on_halves(tiny_classifier(), ASK, inside, config.fit, ctx), rows)
    target = predictions.read(tiny_classifier(), rows).scaled
    for settings, offline in (({}, False), ({"mode": "offline"}, True)):
        scores = class_stats.lira(target, confident, inside, offline)
        found = run(tiny_classifier(), {**LAZY, **settings})
        assert found.value == pytest.approx(stats.auc(scores[:forget], scores[forget:]))
        assert [row["value"] for row in found.table] == pytest.approx(scores.tolist())
        assert found.parts["accuracy"] == pytest.approx(np.r_[scores[:40] > 0, scores[40:] <= 0].mean())


@pytest.mark.parametrize("mode", ["online", "offline"])
def test_members_are_told_and_non_members_are_not(models, mode):
    """A model that learned the wrong labels by heart is near 1; one that never saw them near 1/2, with 1/2 in its interval."""
    member, other = models
    found = run(member, {"mode": mode}, baselines={"reference": other})
    assert found.value > 0.85 and found.low > 0.7
    alone = run(other, {"mode": mode})
    assert alone.low < 0.5 < alone.high and found.parts["reference"] == found.parts["reference_auc"] == alone.value
    if mode == "online":
        assert found.parts["accuracy"] > 0.75


def test_shadow_models_are_trained_once_a_run_and_then_read(models, tmp_path):
    first = context(passes=(tmp_path,))
    one = Lira.set(QUICK).run(models[0], ASK, first)
    assert first.spent["steps"] == 8 * 150 and first.spent["queries"] == 80
    second = context(passes=(tmp_path,))
    again = Lira.set(QUICK).run(models[0], ASK, second)
    assert "steps" not in second.spent and again.value == one.value


def test_a_stopped_run_goes_on(tmp_path, monkeypatch, models):
    monkeypatch.setattr(shadows, "TOGETHER", 4)
    with pytest.raises(BudgetSpent):
        run(models[0], folder=tmp_path, budget={"steps": 900})
    ctx = context(folder=tmp_path)
    found = Lira.set(QUICK).run(models[0], ASK, ctx)
    assert ctx.spent["steps"] == 4 * 150, "the four that were done are not trained again"
    assert found.value == run(models[0]).value


def test_how_the_subject_was_trained_is_read_from_its_lineage():
    step = Step(kind="recipe", system="finetune", settings={"fit": Lira.set({**QUICK, "fit.steps": 3}).config.fit.model_dump()})
    ctx = context()
    Lira.set(QUICK).run(tiny_classifier().after(step), ASK, ctx)
    assert ctx.spent["steps"] == 8 * 3


def test_what_is_refused():
    with pytest.raises(Unfit, match="lira would take about .* its setting most = 1e\\+07 allows no more; raise it"):
        run(tiny_classifier(), {"most": 1e7})
    with pytest.raises(Unfit, match="'unseen'"):
        check(Lira(), tiny_classifier(), ASK.model_copy(update={"unseen": None}))
    with pytest.raises(BadConfig, match="models"):
        Lira.set({"models": 7})
    with pytest.raises(BudgetSpent):
        run(tiny_classifier(), LAZY, budget={"queries": 10})


def test_scikit_learn_estimators_are_refitted():
    subject = sklearn_classifier(kind="linear", scenario="noisy")
    ctx = context()
    found = Lira.set({"models": 4}).run(subject, ASK, ctx)
    assert found.value is not None and 0 <= found.value <= 1 and ctx.spent["steps"] == 4
