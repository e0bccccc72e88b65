"""Membership by error (as in arXiv:2210.08196): a support-vector classifier tells members by the absolute error of each row.

SVC(C = 3, rbf kernel) learns to tell keep rows (members) from unseen rows (non-members) by |f(x) - y|, equally many of each.
The value is the share of forget rows that it calls members. The retrained reference shows what is to be expected: where the
unseen rows are of the same kind as the forget rows, it has large errors on both, and few forget rows pass for members.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import numpy as np
from pydantic import Field
from scipy import stats as tests

from efface.core.card import Card
from efface.core.config import Config
from efface.core.context import Context
from efface.core.types import Attack, Measurement, Request, Row
from efface.families import tables


class ErrorMembershipConfig(Config):
    """Settings of the attack."""

    penalty: float = Field(3.0, gt=0)
    """C of the support-vector classifier."""
    rows: int = Field(2000, ge=1)
    """Most members, and most non-members, to learn from."""


class ErrorMembership(Attack[ErrorMembershipConfig]):
    """An adversary who knows the errors on some training rows and on some other rows."""

    card = Card(
        name="error_membership", title="Membership by error", paper="arXiv:2210.08196", families=("regressor",), needs=("predict",),
        uses=("forget", "keep", "unseen", "reference"), access="outputs", better="as-reference",
    )

    def run(self, subject: Any, request: Request, ctx: Context) -> Measurement:
        """Return the share of forget rows called members, with a Wilson interval; the reference's share is a part where there is one."""
        forget, keep, unseen = (request.rows(side) for side in ("forget", "keep", "unseen"))  # type: ignore[arg-type]
        count, source = min(len(keep), len(unseen), self.config.rows), ctx.random("error_membership")
        sides = forget, _some(keep, count, source), _some(unseen, count, source)
        ctx.spend(queries=sum(map(len, sides)))
        called, right = self._called(subject, *sides)
        interval = tests.binomtest(int(called.sum()), len(called)).proportion_ci(method="wilson")
        parts: dict[str, float | None] = {"accuracy on what it learned from": right}
        if (reference := ctx.baselines.get("reference")) is not None:
            parts["reference"] = float(self._called(reference, *sides)[0].mean())
        return Measurement(
            system=self.card.name, subject="", value=float(called.mean()), low=float(interval.low), high=float(interval.high), n=len(called),
            better="as-reference", parts=parts, table=[{"row": at, "value": float(hit)} for at, hit in enumerate(called)],
        )

    def _called(self, subject: Any, forget: Sequence[Row], members: Sequence[Row], others: Sequence[Row]) -> tuple[np.ndarray, float]:
        """Which forget rows are called members, and how often the classifier is right on the rows that it learned from."""
        from sklearn.svm import SVC

        asked, inside, outside = (_errors(subject, rows) for rows in (forget, members, others))
        known, labels = np.concatenate([inside, outside]), np.repeat([1, 0], [len(inside), len(outside)])
        judge = SVC(C=self.config.penalty, kernel="rbf", random_state=0).fit(known, labels)
        return judge.predict(asked) == 1, float((judge.predict(known) == labels).mean())


def _errors(subject: Any, rows: Sequence[Row]) -> np.ndarray:
    """Absolute error of each row, as one column."""
    gaps: np.ndarray = np.abs(np.asarray(subject.predict(rows), dtype=float) - tables.values(rows))
    return gaps[:, None]


def _some(rows: list[Row], count: int, source: random.Random) -> list[Row]:
    return source.sample(rows, count) if len(rows) > count else rows
