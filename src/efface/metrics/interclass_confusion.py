"""Interclass confusion (arXiv:2201.06640): how much of what wrongly labeled rows taught is left once they are forgotten.

Labels of two classes are swapped in some training rows, and exactly those are forgotten. The value is the share of test rows
of the classes concerned that are taken for a class which the forget rows were (wrongly) given; `memorized` is the share of
the forget rows themselves that still get their wrong label. A retrained model confuses no more than likeness makes it.

Right labels are read from a column "clean" of the forget rows. Without it the classes concerned are those of the forget
rows' labels; with a single label, all test rows of other classes count.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from efface.core.card import Card
from efface.core.config import Config
from efface.core.context import Context
from efface.core.errors import Missing
from efface.core.types import Measurement, Metric, Request
from efface.families import predictions
from efface.families.predictions import Outputs
from efface.ops import class_stats

PAIR = tuple[int, int]


class InterclassConfusionConfig(Config):
    """The metric has no settings."""


class InterclassConfusion(Metric[InterclassConfusionConfig]):
    """Confusion that wrongly labeled rows left behind."""

    card = Card(
        name="interclass_confusion", title="Interclass confusion", paper="arXiv:2201.06640", families=("classifier",), needs=("predict",),
        uses=("forget", "keep", "utility", "reference"), better="as-reference",
        departs="any wrong labels will do, not only those of two classes that were swapped",
    )

    def run(self, subject: Any, request: Request, ctx: Context) -> Measurement:
        """Return the share of confused test rows with a Wilson interval. Raises Missing when no test row is of a class concerned."""
        mine = confused(subject, request, ctx)
        found = class_stats.wilson(mine)
        parts: dict[str, float | None] = {"memorized": float(predictions.side(subject, request, "forget", ctx).hits.mean()), "reference": None}
        if (reference := ctx.baselines.get("reference")) is not None:
            parts["reference"] = float(confused(reference, request, ctx).mean())
            parts["reference_memorized"] = float(predictions.side(reference, request, "forget", ctx).hits.mean())
        return Measurement(
            system=self.card.name, subject="", value=found.value, low=found.low, high=found.high, n=len(mine), better="as-reference", parts=parts,
            table=[{"row": at, "value": float(one)} for at, one in enumerate(mine)],
        )


def confused(subject: Any, request: Request, ctx: Context) -> np.ndarray:
    """Which of the test rows concerned are given a class that forget rows of their own class were wrongly given."""
    test = predictions.test(subject, request, ctx)
    pairs = wrong_pairs(request, test)
    concerned = np.isin(test.labels, sorted({right for right, _ in pairs}))
    if not concerned.any():
        raise Missing(f"no test row is of a class that was mislabeled ({', '.join(map(str, sorted({right for right, _ in pairs})))}); give test rows of it")
    given = test.logits.argmax(1)
    return np.array([(int(y), int(said)) in pairs for y, said in zip(test.labels[concerned], given[concerned], strict=True)])


def wrong_pairs(request: Request, test: Outputs) -> set[PAIR]:
    """(right class, wrong class) of the forget rows."""
    rows = request.rows("forget")
    labels = {int(str(row["y"])) for row in rows}
    if all("clean" in row for row in rows):
        return {(int(str(row["clean"])), int(str(row["y"]))) for row in rows if row["clean"] != row["y"]}
    right = labels if len(labels) > 1 else set(map(int, test.labels))
    return {(one, other) for one in right for other in labels if one != other}
