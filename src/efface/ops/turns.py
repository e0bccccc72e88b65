"""Training that takes turns: a pass over one row set, a pass over the next, and so on."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from torch import Tensor

from efface.core.config import Fit
from efface.core.context import Context, silent
from efface.core.errors import BadRows
from efface.core.types import Row, Subject
from efface.ops.loop import descend, optimizer_for, peak_mb

S = TypeVar("S", bound=Subject)
Turns = Mapping[str, Callable[[int], Sequence[Row]]]
"""Name of a row set -> its rows in the pass number n; how many there are must not depend on n."""


def in_turn(after: S, turns: Turns, loss: Callable[[str, Any], Tensor], fit: Fit, ctx: Context) -> S:
    """Train `after` in place by passes over the row sets in turn, and return it; `loss(name, batch)` is a mean over rows.

    An epoch is one pass over each set; `fit.steps` counts the steps of all passes. One optimizer serves all passes, so that
    momentum goes on; the linear schedule falls from one pass to the next, warm-up belongs to the first pass, and no
    checkpoint is kept.
    """
    trained = [parameter for parameter in after.model.parameters() if parameter.requires_grad]  # type: ignore[attr-defined]
    plan = _plan({name: len(rows(0)) for name, rows in turns.items()}, fit)
    optimizer = optimizer_for(trained, fit)
    total, done, began = sum(steps for _, _, steps in plan), 0, time.monotonic()
    for number, (name, turn, steps) in enumerate(ctx.progress(plan, "passes", len(plan))):
        for parameter in trained:
            parameter.requires_grad_(True)  # each run ends with a frozen model
        rate = fit.lr * (1 - done / total if fit.schedule == "linear" else 1.0)
        own = fit.model_copy(update={
            "steps": steps, "epochs": 0.0, "lr": rate, "schedule": "constant", "warmup": 0 if number else fit.warmup, "checkpoint": 0,
        })
        alone = ctx.alone(
            seed=ctx.seed_for("pass", number), folder=None, progress=silent, curve=[], notes={}, spent=ctx.spent, began=ctx.began,
        )
        descend(after, {name: turns[name](turn)}, _one(name, loss), own, alone, optimizer=optimizer)
        for line in alone.curve:
            ctx.log(**{**line, "step": done + line["step"]})
        done += steps
        ctx.note(**alone.notes)
    after.model.requires_grad_(False)  # type: ignore[attr-defined]
    ctx.note(steps=done, stopped="all passes done", training_seconds=time.monotonic() - began, peak_mb=peak_mb())
    return after


def _one(name: str, loss: Callable[[str, Any], Tensor]) -> Callable[[Mapping[str, Any]], dict[str, Tensor]]:
    return lambda batches: {name: loss(name, batches[name])}


def _plan(sizes: Mapping[str, int], fit: Fit) -> list[tuple[str, int, int]]:
    """(row set, number of its pass, steps) of all passes."""
    if empty := [name for name, size in sizes.items() if not size]:
        raise BadRows(f"there are no {' and no '.join(empty)} rows to train on")
    length = {name: math.ceil(size / fit.batch) for name, size in sizes.items()}
    left = math.ceil(fit.epochs * sum(length.values())) if fit.epochs else fit.steps
    plan: list[tuple[str, int, int]] = []
    turn = 0
    while left:
        for name, steps in length.items():
            if taken := min(steps, left):
                plan.append((name, turn, taken))
                left -= taken
        turn += 1
    return plan
