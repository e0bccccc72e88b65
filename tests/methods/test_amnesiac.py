"""Amnesiac: taking steps back leads where it must, and a record that does not fit is refused."""

import functools

import pytest
import torch

from efface.core.errors import BadConfig, Missing, Unfit
from efface.core.types import Data, Request
from efface.methods.amnesiac import Amnesiac
from efface.ops.deltas import key
from efface.recipes.recorded import Recorded
from efface.testing.tiny import context, diabetes, digits, tiny_classifier, tiny_regressor, trained_classifier

PARTS = digits()
FEW = Request(forget=Data.inline(PARTS.forget[:10]), keep=Data.inline(PARTS.keep[:90]))
NONE = {"fit.epochs": 0, "fit.steps": 0}
SGD = {"fit.optimizer": "sgd", "fit.lr": 0.05, "fit.momentum": 0.9, "fit.batch": 16, "fit.clip": 0, "fit.schedule": "constant", "fit.warmup": 0}


@functools.cache
def recorded(watch="forget", steps=30, **changes):
    settings = {**SGD, "fit.steps": steps, "watch": watch, **{f"fit.{name}": value for name, value in changes.items()}}
    return Recorded.set(settings).run(tiny_classifier(), FEW, context())


def apart(one, other):
    return max(float((a - b).abs().max()) for a, b in zip(one.model.parameters(), other.model.parameters(), strict=True))


def keys_of(request):
    return [key(row) for row in request.rows("forget")]


def everything():
    return Request(forget=Data.inline([*FEW.rows("forget"), *FEW.rows("keep")]), keep=FEW.keep)


@pytest.mark.parametrize("changes", [{}, {"optimizer": "adamw", "lr": 0.01}])
def test_all_steps_taken_back_are_none(changes):
    """The changes of all T steps add up to the way from the initial to the trained weights: taken back, to 1e-5, the way is undone."""
    before = recorded("all", 60, **changes)
    assert apart(before, tiny_classifier()) > 1e-2
    ctx = context()
    after = Amnesiac.set(NONE).run(before, everything(), ctx)
    assert apart(after, tiny_classifier()) < 1e-5 and ctx.notes["steps_taken_back"] == 60


def test_formula():
    """The weights less the recorded changes of the steps that met one of the first two forget rows, and of no other step."""
    before = recorded()
    asked = Request(forget=Data.inline(FEW.rows("forget")[:2]), keep=FEW.keep)
    ctx = context()
    after = Amnesiac.set(NONE).run(before, asked, ctx)
    changes = dict(before.deltas.changes(before.deltas.watched))
    met = {step for name in keys_of(asked) for step, rows in before.deltas.steps.items() if name in rows}
    assert 0 < len(met) < len(changes) and ctx.notes["steps_taken_back"] == len(met)
    for name, weight in before.model.named_parameters():
        expected = weight - sum(changes[step][name] for step in met)
        assert torch.allclose(dict(after.model.named_parameters())[name], expected, atol=1e-6)


def test_one_step_without_memory_is_exact():
    """One step of plain SGD that met a forget row, taken back, is the model that never made it."""
    before = recorded("all", 1, momentum=0.0)
    after = Amnesiac.set(NONE).run(before, everything(), context())
    assert apart(after, tiny_classifier()) < 1e-7 < apart(before, tiny_classifier())


def test_no_op():
    """Rows that were watched and met in no batch changed nothing, and there is nothing to take back."""
    before = recorded(steps=1)
    met = {name for rows in before.deltas.steps.values() for name in rows}
    unmet = [row for row, name in zip(FEW.rows("forget"), keys_of(FEW), strict=True) if name not in met]
    assert unmet and met
    assert Amnesiac.set(NONE).run(before, Request(forget=Data.inline(unmet), keep=FEW.keep), context()).digest == before.digest


def test_forgets_and_keeps():
    """A class that stands in every tenth row is in nearly every batch: what is left is mended by the repair, without the class."""
    request = PARTS.request
    before = Recorded.set({**SGD, "fit.batch": 64, "fit.steps": 200}).run(tiny_classifier(), request, context())
    after = Amnesiac.set({"fit.lr": 0.05, "fit.epochs": 10}).run(before, request, context())
    for subject, known in ((before, 1.0), (after, 0.0)):
        right = [(subject.predict(rows).argmax(1) == [row["y"] for row in rows]).mean() for rows in (PARTS.forget, PARTS.keep)]
        assert abs(right[0] - known) < 0.05 and right[1] > 0.95


def test_a_record_on_disk_is_the_same(tmp_path):
    inside = Amnesiac.set(NONE).run(recorded(), FEW, context())
    trained = Recorded.set({**SGD, "fit.steps": 30}).run(tiny_classifier(), FEW, context(folder=tmp_path))
    trained.deltas = None
    outside = Amnesiac.set({**NONE, "deltas": str(tmp_path / "deltas")}).run(trained, FEW, context())
    assert inside.digest == outside.digest


def test_runs_on_regressors():
    request = diabetes()
    before = Recorded.set({**SGD, "fit.lr": 0.01, "fit.steps": 10}).run(tiny_regressor(), request, context())
    assert Amnesiac().run(before, request, context()).digest != before.digest


def test_limits_and_refusals(tmp_path):
    with pytest.raises(Missing, match="--recipe recorded"):
        Amnesiac().run(trained_classifier(), FEW, context())
    with pytest.raises(Missing, match="no folder"):
        Amnesiac.set({"deltas": str(tmp_path / "none")}).run(trained_classifier(), FEW, context())
    other = Request(forget=Data.inline([*FEW.rows("forget")[:1], *PARTS.forget[50:52]]), keep=FEW.keep)
    with pytest.raises(Unfit, match="2 of 3 forget rows were not watched .* row 2"):
        Amnesiac().run(recorded(), other, context())
    with pytest.raises(BadConfig, match="fit.rank = 1"):
        Amnesiac.set({"fit.rank": 1}).run(recorded(), FEW, context())
    stranger = tiny_regressor().fork()
    stranger.deltas = recorded().deltas
    with pytest.raises(Unfit, match="of a model with other parameters"):
        Amnesiac().run(stranger, FEW, context())
