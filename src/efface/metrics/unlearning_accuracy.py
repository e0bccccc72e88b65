"""UA, RA and TA: the three accuracies by which classifier unlearning is reported, and their average gap to retraining.

    UA = 1 - accuracy on forget rows;  RA = accuracy on keep rows;  TA = accuracy on test rows (of classes that stay)
    average gap = mean of |value - retrained model's value| over UA, RA, TA and MIA efficacy (arXiv:2304.04934)

UA should be what retraining gives, neither more nor less. Where a random part of well-learned rows is forgotten, the original
has the retrained model's UA already, so a small gap alone proves nothing there.
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
from efface.ops import class_stats
from efface.ops.stats import Interval

NAMES = ("UA", "RA", "TA", "MIA")


class UnlearningAccuracyConfig(Config):
    """The metric has no settings."""


class UnlearningAccuracy(Metric[UnlearningAccuracyConfig]):
    """Unlearning, remaining and test accuracy, beside the reference's."""

    card = Card(
        name="unlearning_accuracy", title="Unlearning, remaining and test accuracy", paper="arXiv:2304.04934", families=("classifier",),
        needs=("predict",), uses=("forget", "keep", "utility", "reference"), better="as-reference",
        departs="at most 5000 rows of each set, evenly spaced; MIA efficacy is fitted on at most 1000 rows of each side",
    )

    def run(self, subject: Any, request: Request, ctx: Context) -> Measurement:
        """Return UA with a Wilson interval; RA, TA, all gaps, and the seconds of forgetting are parts. TA needs test rows."""
        mine = accuracies(subject, request, ctx)
        parts: dict[str, float | None] = {}
        for name in NAMES:
            found = mine.get(name)
            parts |= {name: found.value if found else None, f"{name}_low": found.low if found else None, f"{name}_high": found.high if found else None}
        if request.unseen is not None:
            parts["UA_unseen"] = 1 - float(predictions.side(subject, request, "unseen", ctx).hits.mean())
        reference = ctx.baselines.get("reference")
        base = accuracies(reference, request, ctx) if reference is not None else {}
        parts |= {f"reference_{name}": base[name].value if name in base else None for name in NAMES}
        gaps = {name: mine[name].value - base[name].value if name in mine and name in base else None for name in NAMES}
        parts |= {f"gap_{name}": gap for name, gap in gaps.items()}
        known = [abs(gap) for gap in gaps.values() if gap is not None]
        parts["average_gap"] = float(np.mean(known)) if len(known) == len(NAMES) else None
        parts["reference"] = parts["reference_UA"]
        parts |= _seconds(subject, reference)
        hits = predictions.side(subject, request, "forget", ctx).hits
        return Measurement(
            system=self.card.name, subject="", value=mine["UA"].value, low=mine["UA"].low, high=mine["UA"].high, n=len(hits),
            better="as-reference", parts=parts, table=[{"row": at, "set": "forget", "value": float(not hit)} for at, hit in enumerate(hits)],
        )


def accuracies(subject: Any, request: Request, ctx: Context) -> dict[str, Interval]:
    """UA and RA, and where there are test rows TA and MIA efficacy, each with its Wilson interval."""
    forget, keep = (predictions.side(subject, request, name, ctx) for name in ("forget", "keep"))
    found = {"UA": class_stats.wilson(~forget.hits), "RA": class_stats.wilson(keep.hits)}
    try:
        test = predictions.test(subject, request, ctx)
    except Missing:
        return found
    return found | {"TA": class_stats.wilson(test.hits), "MIA": class_stats.wilson(predictions.called_non_members(forget, keep, test))}


def _seconds(subject: Any, reference: Any) -> dict[str, float | None]:
    """Seconds that forgetting took, evaluation not counted, and as a share of those of retraining; None where a lineage does not say."""
    mine = sum(step.seconds for step in subject.lineage if step.kind == "method")
    base = reference.lineage[-1].seconds if reference is not None and reference.lineage else 0.0
    return {"seconds": mine or None, "share_of_retraining": mine / base if mine and base else None}

