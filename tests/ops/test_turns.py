"""Passes in turn: their plan, what each sees, and that nothing but passes happens."""

import pytest
import torch

from efface.core.config import Fit
from efface.core.errors import BadRows, BudgetSpent
from efface.families.classifier import Classifier
from efface.families.networks import MLP, seeded
from efface.ops.loop import descend
from efface.ops.turns import _plan, in_turn
from efface.testing.tiny import context

ROWS = {"a": [{"x": [float(n), 1.0], "y": n % 3} for n in range(5)], "b": [{"x": [1.0, float(n)], "y": 0} for n in range(3)]}


def net() -> Classifier:
    return Classifier(seeded(MLP, 0, inputs=2, hidden=(), outputs=3)).trainable(0, 0)


def run(fit: Fit, seen: list | None = None, **changes):
    ctx = context(**changes)
    after = net()

    def loss(name, batch):
        if seen is not None:
            seen.append((name, batch.index.tolist()))
        return after.losses(batch).mean()

    return in_turn(after, {name: lambda number, rows=rows: rows for name, rows in ROWS.items()}, loss, fit, ctx), ctx


def test_plan():
    """5 and 3 rows at batch 2 are passes of 3 and 2 steps; steps count all of them and cut the last."""
    assert _plan({"a": 5, "b": 3}, Fit(epochs=2, batch=2)) == [("a", 0, 3), ("b", 0, 2), ("a", 1, 3), ("b", 1, 2)]
    assert _plan({"a": 5, "b": 3}, Fit(epochs=0, steps=6, batch=2)) == [("a", 0, 3), ("b", 0, 2), ("a", 1, 1)]
    assert _plan({"a": 5, "b": 3}, Fit(steps=0)) == []
    with pytest.raises(BadRows, match="no b rows"):
        _plan({"a": 5, "b": 0}, Fit())


def test_every_pass_sees_each_row():
    seen: list = []
    _, ctx = run(Fit(epochs=2, batch=1, lr=0.1, optimizer="sgd"), seen)
    passes = [("a", seen[:5]), ("b", seen[5:8]), ("a", seen[8:13]), ("b", seen[13:])]
    for name, steps in passes:
        assert {given for given, _ in steps} == {name} and sorted(at for _, places in steps for at in places) == list(range(len(ROWS[name])))
    assert seen[:5] != seen[8:13]  # another order
    assert [line["step"] for line in ctx.curve] == list(range(16)) and ctx.notes["steps"] == 16


def test_one_pass_is_descent():
    fit = Fit(epochs=1, batch=2, lr=0.1, optimizer="sgd", momentum=0.9)
    ctx, after, other = context(), net(), net()
    in_turn(after, {"a": lambda number: ROWS["a"]}, lambda name, batch: after.losses(batch).mean(), fit, ctx)
    descend(other, {"a": ROWS["a"]}, lambda batches: {"a": other.losses(batches["a"]).mean()}, fit, ctx.alone(seed=ctx.seed_for("pass", 0)))
    assert after.digest == other.digest
    assert not any(p.requires_grad for p in after.model.parameters()) and not after.model.training


def test_linear_schedule_falls_from_pass_to_pass():
    """One step a pass on one row with zero gradient but weight decay 1: each multiplies the weights by 1 - lr, lr .4 then .2."""
    after = Classifier(seeded(MLP, 0, inputs=2, hidden=(), outputs=3)).trainable(0, 0)
    start = after.model.stack[0].weight.detach().clone()
    fit = Fit(epochs=1, batch=5, lr=0.4, optimizer="sgd", weight_decay=1, schedule="linear")
    in_turn(after, {name: lambda number, rows=rows: rows for name, rows in ROWS.items()}, lambda name, batch: 0 * after.losses(batch).mean(), fit, context())
    assert torch.allclose(after.model.stack[0].weight, start * 0.6 * 0.8)


def test_the_budget_counts_over_passes():
    with pytest.raises(BudgetSpent):
        run(Fit(epochs=2, batch=1), budget={"steps": 7})
