"""The stop rule: a run ends at the level of rows that nobody trained on, and lands there rather than beyond."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from efface.core.config import Fit, Stop
from efface.core.context import Context
from efface.core.errors import EffaceError
from efface.core.types import Data, Request, Subject
from efface.ops.loop import Watch, descend, mean_loss, watch
from efface.testing.tiny import context, facts, tiny_lm

FACTS = facts()
FIT = Fit(lr=1e-3, steps=6, batch=8, precision="no")


def loss_of(after: Any, sign: float = 1.0) -> Callable[[Mapping[str, Any]], dict[str, Any]]:
    """Half of the mean loss on forget rows, with a sign, and the mean loss on keep rows."""
    return lambda batch: {"forget": sign * 0.5 * after.losses(batch["forget"]).mean(), "keep": after.losses(batch["keep"]).mean()}


def furthest(a: Mapping[str, torch.Tensor], b: Mapping[str, torch.Tensor]) -> float:
    """Largest difference between two sets of weights."""
    assert a.keys() == b.keys()
    return max((a[name] - b[name]).abs().max().item() for name in a)


def moved_run(steps: int, target: float, every: int = 2, folder: Path | None = None, stop_at_loss: int = 0) -> tuple[dict[str, torch.Tensor], Context, Callable[[], float]]:
    """A run that is watched by how far its weights have moved from where they began; the weights, the context, and the watch's measure."""
    ctx, after, calls = context(folder=folder), tiny_lm().trainable(0, 1), []
    start = {name: p.detach().clone() for name, p in after.model.named_parameters()}
    plain = loss_of(after)

    def measure() -> float:
        return math.sqrt(sum((p.detach() - start[name]).double().square().sum().item() for name, p in after.model.named_parameters()))

    def loss(batch: Mapping[str, Any]) -> dict[str, Any]:
        calls.append(1)
        if len(calls) == stop_at_loss:
            raise KeyboardInterrupt
        return plain(batch)

    fit = FIT.model_copy(update={"steps": steps, "checkpoint": 2 if folder else 0})
    descend(after, {"forget": FACTS.forget, "keep": FACTS.keep}, loss, fit, ctx, Watch(measure, target, every, "far enough"))
    return {name: p.detach().clone() for name, p in after.model.named_parameters()}, ctx, measure


def test_a_watch_ends_the_run_and_lands_at_its_target() -> None:
    """Checked at steps 0, 2, 4; the target lies between the levels at 2 and 4: the run is over after four steps, and goes back on
    the straight line to the weights of step 2, by sixteenths, as far as the target still stands."""
    (two, _, level), (four, _, farther) = moved_run(2, math.inf), moved_run(4, math.inf)
    target = level() + 0.4 * (farther() - level())
    landed, ctx, reached = moved_run(20, target)
    assert [line["step"] for line in ctx.curve] == [0, 1, 2, 3]
    assert ctx.notes["steps"] == 4
    assert ctx.notes["stopped"] == f"far enough: {reached():.3f} >= {target:.3f}"
    line = {name: four[name] - two[name] for name in four}
    share = sum(((landed[n] - two[n]) * line[n]).sum().item() for n in line) / sum(line[n].square().sum().item() for n in line)
    assert share * 16 == pytest.approx(round(share * 16), abs=1e-3)
    assert 0 < share < 1
    assert furthest(landed, {name: torch.lerp(two[name], four[name], round(share * 16) / 16) for name in four}) < 1e-7
    assert reached() >= target > reached() - 1.5 * (farther() - level()) / 16, "one sixteenth less would fall short"


def test_a_target_reached_by_the_last_step_counts() -> None:
    (_, _, level), (_, _, farther) = moved_run(2, math.inf), moved_run(4, math.inf)
    _, ctx, reached = moved_run(4, 0.5 * (level() + farther()), every=3)
    assert str(ctx.notes["stopped"]).startswith("far enough")
    assert reached() < farther()


def test_a_target_reached_before_the_first_step_changes_nothing() -> None:
    weights, ctx, _ = moved_run(4, 0.0)
    assert (ctx.notes["steps"], ctx.curve) == (0, [])
    assert furthest(weights, dict(tiny_lm().model.named_parameters())) == 0


def test_a_run_that_is_cut_off_lands_at_the_same_place(tmp_path: Path) -> None:
    """Checked every 3 steps, saved every 2: the weights at the last check travel with the checkpoint."""
    (_, _, level), (_, _, farther) = moved_run(3, math.inf, 3), moved_run(6, math.inf, 3)
    target = 0.5 * (level() + farther())
    whole, undisturbed, _ = moved_run(20, target, 3)
    with pytest.raises(KeyboardInterrupt):
        moved_run(20, target, 3, tmp_path, stop_at_loss=6)
    resumed, ctx, _ = moved_run(20, target, 3, tmp_path)
    # The measure of the second part starts from the same model, so levels are those of the first.
    assert ctx.notes["resumed_at"] == 4
    assert ctx.notes["stopped"] == undisturbed.notes["stopped"]
    assert all(torch.equal(resumed[name], whole[name]) for name in whole)


@pytest.fixture(scope="module")
def knows() -> Any:
    """The tiny model after some steps on the forget rows: it knows them far better than unseen ones."""
    after = tiny_lm().trainable(0, 1)
    fit = Fit(lr=5e-3, steps=40, batch=16, precision="no")
    return descend(after, {"forget": FACTS.forget}, lambda batch: {"loss": after.losses(batch["forget"]).mean()}, fit, context())


@pytest.mark.parametrize("at", ["unseen", "reference", "steps"])
def test_the_stop_rule_ends_where_rows_are_on_which_nobody_trained(knows: Any, at: Any) -> None:
    reference: Subject = tiny_lm()
    request = FACTS.request if at == "unseen" else FACTS.request.model_copy(update={"unseen": None})
    ctx = context(baselines={"reference": reference} if at == "reference" else {})
    target = {"unseen": mean_loss(knows, FACTS.unseen), "reference": mean_loss(reference, FACTS.forget), "steps": math.inf}[at]
    assert mean_loss(knows, FACTS.forget) < 0.5 * min(target, 10)
    after = knows.trainable(0, 1)
    rule = watch(knows, after, request, Stop(at=at, every=1), ctx)
    assert (rule is None) == (at == "steps")
    if rule:
        assert rule.target == pytest.approx(target, rel=1e-5)
    fit = Fit(lr=1e-3, steps=30, batch=16, precision="no")
    descend(after, {"forget": FACTS.forget}, lambda batch: {"forget": -after.losses(batch["forget"]).mean()}, fit, ctx, rule)
    if at == "steps":
        assert ctx.notes["steps"] == 30
        assert ctx.notes["stopped"] == "all steps done"
    else:
        assert 1 < float(ctx.notes["steps"]) < 30
        assert target <= mean_loss(after, FACTS.forget) < 1.1 * target, "it ends at the target, not behind it"


def test_which_stop_rule_is_taken(knows: Any) -> None:
    alone = Request(forget=Data.inline(FACTS.forget), keep=Data.inline(FACTS.keep))
    with_reference = context(baselines={"reference": tiny_lm()})
    assert watch(knows, knows, alone, Stop(), context()) is None
    assert watch(knows, knows, alone, Stop(at="steps"), with_reference) is None
    assert watch(knows, knows, Request(keep=alone.keep), Stop(), with_reference) is None
    by_reference, by_unseen = watch(knows, knows, alone, Stop(), with_reference), watch(knows, knows, FACTS.request, Stop(), with_reference)
    assert by_reference is not None and "reference" in by_reference.says
    assert by_unseen is not None and "unseen" in by_unseen.says
    with pytest.raises(EffaceError, match="no reference model"):
        watch(knows, knows, alone, Stop(at="reference"), context())
    with pytest.raises(EffaceError, match="no unseen rows"):
        watch(knows, knows, alone, Stop(at="unseen"), with_reference)
