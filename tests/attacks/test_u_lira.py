import numpy as np
import pytest

from efface import api
from efface.attacks.u_lira import ULira, accuracy
from efface.core.errors import BadConfig, BudgetSpent, Unfit
from efface.core.types import Data, Request
from efface.families import shadows
from efface.ops.class_stats import Told
from efface.testing.tiny import context, digits, tiny_classifier

PARTS = digits("noisy")
ASK = Request(forget=Data.inline(PARTS.forget[:40]), keep=Data.inline(PARTS.keep[:120]), unseen=Data.inline(PARTS.unseen[:40]))
FIT = {"fit.steps": 150, "fit.batch": 32, "fit.lr": 5e-3, "fit.weight_decay": 0.0, "fit.schedule": "linear", "fit.precision": "no"}
QUICK = {"models": 8, **FIT}
REFIT = {**FIT, "fit.epochs": 0}
WEAK = {"fit.steps": 5, "fit.lr": 1e-3, "fit.batch": 32, "fit.precision": "no", "stop.at": "steps"}


@pytest.fixture(scope="module")
def models():
    """(original, retrained), trained as shadow models are."""
    rows = [*ASK.rows("keep"), *ASK.rows("forget")]
    return shadows.trained(tiny_classifier(), rows, [range(160), range(120)], "target", ULira.set(QUICK).config.fit, context(9))


def run(subject, reference, settings=None, **changes):
    return ULira.set({**QUICK, **(settings or {})}).run(subject, ASK, context(baselines={"reference": reference}, **changes))


def test_formula():
    """Two fits, two rows. The target is called unlearned in both fits for row 1, in one for row 2; the retrained one is told right in one, two."""
    told = Told(np.array([[1.0, 1.0], [2.0, -1.0]]), np.array([[-1.0, -2.0], [3.0, 0.0]]))
    assert accuracy(told).tolist() == [(1 + 0.5) / 2, (0.5 + 1) / 2]


def test_what_only_looks_forgotten_is_told_and_retraining_is_not(models, tmp_path):
    """Doing nothing and a weak method are told from retraining; training anew, as a method, is not, and nor is the reference.

    Shadow models and what they are after a method are kept: the second time there is nothing left to do.
    """
    original, reference = models
    nothing = run(original, reference, passes=(tmp_path,))
    assert nothing.value > 0.75 and nothing.low > 0.65 and nothing.parts["methods"] == 0 and nothing.parts["auc"] > 0.9
    assert 0.35 < nothing.parts["reference"] < 0.65
    weak = run(api.forget(original, ASK, "grad_diff", WEAK, context()), reference, passes=(tmp_path,))
    assert weak.value > 0.65 and weak.parts["methods"] == 1
    anew = api.forget(original, ASK, "refit", REFIT, context())
    found = run(anew, reference, passes=(tmp_path,))
    assert 0.35 < found.value < 0.65 and found.value < weak.value and abs(found.parts["auc"] - 0.5) < 0.3
    ctx = context(passes=(tmp_path,), baselines={"reference": reference})
    assert ULira.set(QUICK).run(anew, ASK, ctx).value == found.value and "steps" not in ctx.spent


def test_the_null_is_measured_finely_enough_for_one_percent(models):
    """Forty rows under eight retrained models: 320 non-members."""
    assert run(*models).parts["tpr_at_1%_fpr"] is not None


def test_what_is_refused(models):
    original, reference = models
    with pytest.raises(Unfit, match="u_lira judges a method, and none made the reference"):
        run(reference, reference)
    with pytest.raises(Unfit, match="u_lira would take about .* most = 1e\\+07"):
        run(original, reference, {"most": 1e7})
    slow = api.forget(original, ASK, "grad_diff", WEAK, context())
    slow.lineage = (slow.lineage[-1].model_copy(update={"seconds": 10.0}),)
    with pytest.raises(Unfit, match="8 times, about 80 s"):
        run(slow, reference)
    with pytest.raises(BudgetSpent):
        run(original, reference, budget={"steps": 1000})
    with pytest.raises(BadConfig, match="models"):
        ULira.set({"models": 2})
