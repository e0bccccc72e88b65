"""What a classifier says of whole row sets: one pass for each model and set, shared by all metrics and attacks that judge forgetting.

Everything is computed from logits in float64, since a probability of 1 in float32 says nothing of how sure the model is.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from efface.core.context import Context
from efface.core.errors import Missing, Unfit
from efface.core.rows import evenly
from efface.core.types import Data, Request, Row, Subject
from efface.families.module import chunks
from efface.ops import class_stats
from efface.ops.stats import Interval

MOST = 5000
"""Most rows of a set that are read, evenly spaced."""
REFIT = 1000.0
"""What a scikit-learn fit is taken to cost, in passes over its rows; it cannot be counted beforehand."""


class Outputs(NamedTuple):
    """Logits (rows, classes) and labels (rows,) of a row set."""

    logits: np.ndarray
    labels: np.ndarray

    @property
    def chances(self) -> np.ndarray:
        """Class probabilities (rows, classes)."""
        return class_stats.softmax(self.logits)

    @property
    def hits(self) -> np.ndarray:
        """Which rows are given their own class (rows,)."""
        found: np.ndarray = self.logits.argmax(1) == self.labels
        return found

    @property
    def losses(self) -> np.ndarray:
        """Cross-entropy of each row, in nats."""
        return class_stats.cross_entropy(self.logits, self.labels)

    @property
    def scaled(self) -> np.ndarray:
        """Confidence of each row on the scale of log-odds."""
        return class_stats.lira_scaling(self.logits, self.labels)

    def of(self, kept: np.ndarray) -> Outputs:
        """The same of some of the rows."""
        return Outputs(self.logits[kept], self.labels[kept])


@torch.no_grad()
def read(subject: Any, rows: Sequence[Row]) -> Outputs:
    """The outputs for these rows, from one pass. Raises Unfit, naming the row, when one is not finite."""
    if hasattr(subject, "logits"):
        logits = np.concatenate([subject.logits(subject.encode(piece)).double().cpu().numpy() for piece in chunks(rows)])
    else:
        logits = np.log(np.asarray(subject.predict(rows), dtype=float) + class_stats.TINY)
    return Outputs(class_stats.finite(logits, "a logit"), np.array([int(str(row["y"])) for row in rows]))


def outputs(subject: Any, data: Data, ctx: Context, most: int = MOST) -> Outputs:
    """The outputs for at most `most` rows of a set; a model is asked once for each set."""
    return ctx.once((subject, "outputs", data.digest or id(data), most), lambda: read(subject, evenly(data.read(), most)))


def side(subject: Any, request: Request, name: str, ctx: Context, most: int = MOST) -> Outputs:
    """The outputs for the request's forget, keep or unseen rows. Raises Unfit when the request has none."""
    request.rows(name)  # type: ignore[arg-type]
    return outputs(subject, getattr(request, name), ctx, most)


def forgotten_classes(request: Request) -> frozenset[int]:
    """Labels that forget rows have and no keep row has: those of a class that goes as a whole."""
    kept = {int(str(row["y"])) for row in request.rows("keep")} if request.keep is not None else set()
    return frozenset(int(str(row["y"])) for row in request.rows("forget")) - kept if kept else frozenset()


def test(subject: Any, request: Request, ctx: Context) -> Outputs:
    """The outputs for test rows of classes that stay: the run's further row sets, or the unseen rows where there are none.

    Raises Missing when there are neither.
    """
    sets = list(ctx.utility.values()) or ([request.unseen] if request.unseen is not None else [])
    gone = np.array(sorted(forgotten_classes(request)))
    found = [outputs(subject, data, ctx) for data in sets]
    whole = Outputs(np.concatenate([one.logits for one in found]), np.concatenate([one.labels for one in found])) if found else None
    if whole is None or not (stays := ~np.isin(whole.labels, gone)).any():
        raise Missing("there are no test rows of classes that stay; give them as a further row set of the run (utility), or as unseen rows")
    return whole.of(stays)


def same_kind(subject: Any, request: Request, ctx: Context, most: int = MOST) -> Outputs:
    """The outputs for unseen rows that come from where the forget rows come from: of the same class, where a class goes as a whole."""
    found = side(subject, request, "unseen", ctx, most)
    gone = forgotten_classes(request)
    if not gone:
        return found
    if not (alike := np.isin(found.labels, sorted(gone))).any():
        raise Missing(f"no unseen row is of the forgotten class {', '.join(map(str, sorted(gone)))}; give unseen rows of it, since any model tells classes apart")
    return found.of(alike)


def other_references(ctx: Context) -> dict[str, Subject]:
    """References of further seeds, by name."""
    return {name: subject for name, subject in ctx.baselines.items() if name.startswith("reference/")}


def widened(value: float, found: Interval) -> tuple[float, float]:
    """The interval's ends, moved so far that they hold the value: a bootstrap of |difference| may leave it outside."""
    return min(found.low, value), max(found.high, value)


def refuse_large(name: str, subject: Any, rows: Sequence[Row], passes: float, most: float) -> None:
    """Raise Unfit when training that reads `passes` rows takes more than `most` floating-point operations."""
    work = passes * operations(subject, rows[0])
    if work > most:
        raise Unfit(f"{name} would take about {work:.0e} floating-point operations, and its setting most = {most:.0e} allows no more; raise it to run all the same")


def operations(subject: Any, row: Row) -> float:
    """Floating-point operations of training on one row: three times those of reading it."""
    if not hasattr(subject, "logits"):
        given: Any = row.get("x", list(row))
        return REFIT * float(np.size(given))
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter, torch.no_grad():
        subject.logits(subject.encode([row]))
    return 3.0 * counter.get_total_flops()


def confidence(of: Outputs) -> np.ndarray:
    """Probability of each row's own class."""
    found: np.ndarray = of.chances[np.arange(len(of.labels)), of.labels]
    return found


def members_and_others(keep: Outputs, test: Outputs, most: int = 1000) -> tuple[Outputs, Outputs]:
    """As many keep rows as test rows, at most `most` of each, evenly spaced: what an attacker fits on."""
    size = min(len(keep.labels), len(test.labels), most)
    return tuple(side.of(np.arange(size) * len(side.labels) // size) for side in (keep, test))  # type: ignore[return-value]


def called_non_members(forget: Outputs, keep: Outputs, test: Outputs) -> np.ndarray:
    """Which forget rows an attacker takes for non-members, who has learned from keep and test rows how sure the model is of members."""
    members, others = (confidence(side) for side in members_and_others(keep, test))
    return class_stats.called_non_members(members, others, confidence(forget))
