"""Forgetting by wrong labels: labels drawn at random for the forget rows, and training on them beside the keep rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor

from efface.core.config import Fit
from efface.core.context import Context
from efface.core.errors import Unfit
from efface.core.types import Row, Subject
from efface.ops.loop import descend
from efface.ops.turns import in_turn

S = TypeVar("S", bound=Subject)
Order = Literal["alternate", "union"]
"""A pass over the forget rows and then one over the keep rows, epoch by epoch; or both shuffled into one set."""


def random_labels(rows: Sequence[Row], classes: int, exclude_true: bool, seed: int) -> list[Row]:
    """The rows with labels drawn uniformly, from all classes or from all but each row's own.

    Raises Unfit when there is no other class.
    """
    if exclude_true and classes < 2:
        raise Unfit(f"a wrong label needs at least two classes, and the model has {classes}")
    source = torch.Generator().manual_seed(seed % 2**62)
    if exclude_true:
        shift = torch.randint(1, classes, (len(rows),), generator=source)
        drawn = (torch.tensor([int(row["y"]) for row in rows]) + shift) % classes  # type: ignore[call-overload]
    else:
        drawn = torch.randint(0, classes, (len(rows),), generator=source)
    return [{**row, "y": label} for row, label in zip(rows, drawn.tolist(), strict=True)]


def train_on_random(
    after: S, forget: Sequence[Row], keep: Sequence[Row], labels: tuple[Order, bool], fit: Fit, ctx: Context,
    settle: Callable[[], None] | None = None,
) -> S:
    """Train `after` in place on randomly labeled forget rows and on keep rows, and return it.

    `labels` = (order, exclude_true). In turns, every pass over the forget rows draws new labels; in a union they are
    drawn once. `settle` is called before each forward pass.
    """
    order, exclude_true = labels
    classes = outputs_of(after, forget)

    def drawn(number: int) -> list[Row]:
        return random_labels(forget, classes, exclude_true, ctx.seed_for("labels", number))

    def loss(name: str, batch: Any) -> Tensor:
        if settle is not None:
            settle()
        return after.losses(batch).mean()  # type: ignore[attr-defined, no-any-return]

    if order == "alternate":
        return in_turn(after, {"forget": drawn, "keep": lambda number: keep}, loss, fit, ctx)
    return descend(after, {"all": [*drawn(0), *keep]}, lambda batches: {"loss": loss("all", batches["all"])}, fit, ctx)


@torch.no_grad()
def outputs_of(subject: Any, rows: Sequence[Row]) -> int:
    """Number of classes that a classifier tells apart, as its logits for the first row say."""
    return int(subject.logits(subject.encode(rows[:1])).shape[-1])
