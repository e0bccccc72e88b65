"""The regressor family: one number a row, the task's own loss, torch and scikit-learn behind one interface."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LinearRegression
from torch import nn

from efface.core.capabilities import has
from efface.core.errors import BadRows, Unfit
from efface.families import module_files
from efface.families.regressor import Regressor, SklearnRegressor
from efface.testing import tiny

ROWS = [{"x": [1.0, 0.0], "y": 1.0}, {"x": [0.0, 2.0], "y": 3}]


def linear(measure: str = "mse") -> Regressor:
    """f(x) = 2 x1 + x2 + 1."""
    model = nn.Linear(2, 1)
    model.weight.data, model.bias.data = torch.tensor([[2.0, 1.0]]), torch.tensor([1.0])
    return Regressor(model, {"in_features": 2, "out_features": 1}, measure)


def test_losses_by_hand():
    """f = 3 and 3; targets 1 and 3: squared errors 4 and 0, absolute errors 2 and 0."""
    for measure, wanted in (("mse", [4.0, 0.0]), ("l1", [2.0, 0.0])):
        subject = linear(measure)
        found = subject.losses(subject.encode(ROWS))
        assert found.tolist() == wanted and found.requires_grad
    assert linear().predict(ROWS).tolist() == [3.0, 3.0]
    assert linear().errors(torch.tensor([1.0]), torch.tensor([4.0])).tolist() == [9.0]


@pytest.mark.parametrize(
    ("y", "says"), [("1", "row 2: y = '1'"), (True, "row 2: y = True"), (float("nan"), "row 2: y = nan"), (None, "row 2: y = None")]
)
def test_targets_that_are_none_are_named(y, says):
    with pytest.raises(BadRows, match=says):
        linear().encode([ROWS[0], {"x": [0.0, 0.0], "y": y}])


def test_more_than_one_output_is_refused():
    with pytest.raises(Unfit, match=r"one number a row; Linear gives the shape \(2, 3\)"):
        Regressor(nn.Linear(2, 3)).predict(ROWS)


def test_values_that_are_not_finite_are_refused():
    subject = linear()
    subject.model.bias.data.fill_(float("inf"))
    with pytest.raises(Unfit, match="not finite"):
        subject.predict(ROWS)


def test_saved_with_its_loss_and_loaded(tmp_path):
    subject = tiny.tiny_regressor()
    subject.measure = "l1"
    subject.save(tmp_path)
    again = module_files.load(tmp_path)
    assert isinstance(again, Regressor) and again.measure == "l1" and again.digest == subject.digest


def test_estimators(tmp_path):
    rows = [{"x": [float(n)], "y": 2.0 * n + 1} for n in range(5)]
    subject = SklearnRegressor(LinearRegression()).refit(rows, 0)
    assert subject.predict(rows) == pytest.approx(np.arange(5) * 2 + 1)
    assert not has(subject, "losses") and has(subject, "refit") and has(subject, "predict")
    subject.save(tmp_path)
    assert module_files.load(tmp_path).predict(rows) == pytest.approx(subject.predict(rows))
    assert subject.fork().digest == subject.digest != subject.refit(rows[:3] + [{"x": [9.0], "y": 0.0}], 0).digest
