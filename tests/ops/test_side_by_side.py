import random

import pytest
import torch
from torch import nn

from efface.core.config import Fit
from efface.core.errors import BadRows, BudgetSpent, Diverged
from efface.families.classifier import Classifier
from efface.families.networks import MLP, SmallCNN, seeded
from efface.families.regressor import Regressor
from efface.ops import side_by_side
from efface.ops.loop import draw
from efface.testing.tiny import context, diabetes, digits

ROWS = [*digits().keep[:200], *digits().forget[:40]]
MEMBERS = [random.Random(k).sample(range(len(ROWS)), 150 + 30 * (k % 2)) for k in range(4)]
SEEDS = [7, 8, 9, 10]
SGD = Fit(lr=0.05, optimizer="sgd", momentum=0.9, weight_decay=5e-4, batch=32, epochs=2, clip=0, warmup=3, precision="no")
ADAM = Fit(lr=1e-3, steps=12, batch=32, schedule="linear", weight_decay=5e-4, clip=0.5, precision="no")
CNN = {"side": 8, "widths": [4, 8], "embedding": 16}


class Dropping(nn.Module):
    """Draws random numbers in a pass."""

    def __init__(self):
        super().__init__()
        self.stack = nn.Sequential(nn.Linear(64, 16), nn.Dropout(0.2), nn.Linear(16, 10))

    def forward(self, x):
        return self.stack(x)


class Reading(nn.Module):
    """Takes a number out of a tensor."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(64, 10)

    def forward(self, x):
        return self.layer(x) * x.max().item()


def starts(build, arguments=None, count=4):
    return [Classifier(seeded(build, k, **(arguments or {})).requires_grad_(True)) for k in range(count)]


def apart(one, other):
    """Largest difference between two sets of subjects in any weight or buffer."""
    pairs = [pair for a, b in zip(one, other, strict=True) for pair in zip(a.model.state_dict().values(), b.model.state_dict().values(), strict=True)]
    return max(float((a.float() - b.float()).abs().max()) for a, b in pairs)


def both(build, fit, arguments=None):
    together = side_by_side.train(starts(build, arguments), ROWS, MEMBERS, SEEDS, fit, context())
    alone = side_by_side.one_by_one(starts(build, arguments), ROWS, MEMBERS, SEEDS, fit, context())
    return together, alone


@pytest.mark.parametrize(("build", "arguments"), [(MLP, {"hidden": [16]}), (SmallCNN, CNN)])
@pytest.mark.parametrize(("fit", "close"), [(SGD, 1e-5), (ADAM, 2e-4)])
def test_copies_end_where_the_one_loop_brings_each_alone(build, arguments, fit, close):
    """Sets of two sizes, so that an epoch has two lengths; batch normalization's statistics move as they do alone."""
    together, alone = both(build, fit, arguments)
    assert together.together and together.why == ""
    assert apart(together.subjects, alone) < close
    assert apart(together.subjects, starts(build, arguments)) > 0.005, "they did train"
    assert apart(together.subjects[:1], together.subjects[1:2]) > 0.01, "and each by itself"
    assert not together.subjects[0].model.training and not any(p.requires_grad for p in together.subjects[0].model.parameters())


@pytest.mark.parametrize(("build", "says"), [(Dropping, "random operation"), (Reading, "item()")])
def test_what_vmap_cannot_run_is_trained_one_after_another_and_the_reason_is_said(build, says):
    together, alone = both(build, ADAM)
    assert not together.together and f"vmap cannot run {build.__name__}" in together.why and says in together.why
    assert apart(together.subjects, alone) == 0


def test_other_reasons():
    batch = starts(MLP)[0].encode(ROWS)
    say = lambda given, fit=ADAM: side_by_side.unfit(given, batch, MEMBERS, SEEDS, fit)  # noqa: E731
    assert say(starts(MLP)) == ""
    assert "frozen" in say([Classifier(seeded(MLP, 0)), *starts(MLP, count=3)])
    assert "differ in shape" in say([*starts(MLP, count=3), *starts(MLP, {"hidden": [8]}, count=1)])
    assert "accumulated" in say(starts(MLP), ADAM.model_copy(update={"accumulate": 2}))


def test_a_regressor_trains_as_well():
    rows = diabetes().rows("keep")[:60]
    shape = {"inputs": 10, "hidden": [8], "outputs": 1}
    make = lambda: [Regressor(seeded(MLP, k, **shape).requires_grad_(True)) for k in range(2)]  # noqa: E731
    members, fit = [range(50), range(10, 60)], SGD.model_copy(update={"lr": 0.01})
    together = side_by_side.train(make(), rows, members, [1, 2], fit, context())
    assert together.together
    assert apart(together.subjects, side_by_side.one_by_one(make(), rows, members, [1, 2], fit, context())) < 1e-5


def test_rows_come_in_the_order_of_the_one_loop():
    seed = context(3).seed_for("rows", side_by_side.POOL)
    found = [places.tolist() for places in side_by_side.row_order(50, 16, 9, 3)]
    assert found == [draw(50, 16, step, seed) for step in range(9)]


def test_no_trace_in_global_random_state():
    before = torch.get_rng_state()
    side_by_side.train(starts(MLP), ROWS, MEMBERS, SEEDS, ADAM, context())
    assert torch.equal(before, torch.get_rng_state())


def test_steps_of_all_copies_count_against_the_budget():
    ctx = context()
    side_by_side.train(starts(MLP), ROWS, MEMBERS, SEEDS, ADAM, ctx)
    assert ctx.spent["steps"] == 4 * 12
    for build in (MLP, Dropping):
        with pytest.raises(BudgetSpent):
            side_by_side.train(starts(build), ROWS, MEMBERS, SEEDS, ADAM, context(budget={"steps": 20}))


def test_divergence_names_the_copy():
    given = starts(MLP)
    with torch.no_grad():
        given[2].model.stack[0].weight.fill_(float("nan"))
    with pytest.raises(Diverged, match="copy 3 .* at step 0"):
        side_by_side.train(given, ROWS, [MEMBERS[0]] * 4, SEEDS, ADAM, context())


def test_no_rows():
    with pytest.raises(BadRows, match="copy 2 has no rows"):
        side_by_side.train(starts(MLP, count=2), ROWS, [[1, 2], []], [0, 1], ADAM, context())
