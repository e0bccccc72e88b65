"""Training anew: what comes out never saw a forget row, and equals training without them."""

import numpy as np
import pytest

from efface.core.types import Data, Request
from efface.families.module import ModuleSubject
from efface.methods.refit import Refit
from efface.testing import tiny

QUICK = {"fit.epochs": 4, "fit.precision": "no"}


def test_junk_in_place_of_forget_rows_changes_nothing():
    """Bit-equal weights although every forget row was replaced."""
    ask = tiny.digits().request
    junk = Request(forget=Data.inline([{"x": [0.5] * 64, "y": 3}]), keep=ask.keep)
    one, other = (Refit.set(QUICK).run(tiny.trained_classifier(), r, tiny.context()) for r in (ask, junk))
    assert one.digest == other.digest


def test_an_estimator_is_fitted_from_nothing_with_its_own_settings():
    subject, ask = tiny.sklearn_classifier(kind="linear"), tiny.digits().request
    after = Refit().run(subject, ask, tiny.context())
    assert after.predict(tiny.digits().forget)[:, 3].max() == 0  # the class was never shown
    assert after.estimator.max_iter == subject.estimator.max_iter == 200
    assert np.mean(after.predict(tiny.digits().test).argmax(1) == [row["y"] for row in tiny.digits().test]) > 0.9


def test_a_network_forgets_and_keeps():
    after = Refit.set({**QUICK, "fit.epochs": 15}).run(tiny.trained_classifier(), tiny.digits().request, tiny.context())
    right = {side: np.mean(after.predict(rows).argmax(1) == [r["y"] for r in rows]) for side, rows in (("forget", tiny.digits().forget), ("test", tiny.digits().test))}
    assert right["forget"] == 0 and right["test"] > 0.93


def test_nothing_is_taken_over_from_the_original():
    """Another original of the same shape gives the same result."""
    one, other = (Refit.set(QUICK).run(subject, tiny.digits().request, tiny.context()) for subject in (tiny.trained_classifier(), tiny.tiny_classifier(7)))
    assert one.digest == other.digest


def test_regressors_too():
    after = Refit.set({"fit.epochs": 5, "fit.precision": "no"}).run(tiny.trained_regressor(), tiny.diabetes(), tiny.context())
    assert isinstance(after, ModuleSubject) and after.predict(tiny.diabetes().rows("keep")).shape == (len(tiny.diabetes().rows("keep")),)


@pytest.mark.parametrize("seed", [1, 2])
def test_the_seed_draws_the_weights(seed):
    ask = tiny.digits().request
    a, b = (Refit.set({**QUICK, "fit.epochs": 0.1}).run(tiny.tiny_classifier(), ask, tiny.context(s)) for s in (0, seed))
    assert a.digest != b.digest
