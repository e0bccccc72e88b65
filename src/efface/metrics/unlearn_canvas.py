"""UA, IRA and CRA of UnlearnCanvas (arXiv:2402.11846): what judges see where the concept was asked for, and everywhere else.

    UA  = 1 - share of the concept's prompts whose picture still shows it
    IRA = share of kept prompts whose picture shows the right class of the concept's own kind (object, or style)
    CRA = share of kept prompts whose picture shows the right class of the other kind

A model that breaks everything has UA 1 as well: read the three together, beside the reference's. "CRA where erased" is the
other kind on the prompts to forget: a cat in noto style that is no cat should still be in noto style.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from efface.core.card import Card
from efface.core.config import Config
from efface.core.context import Context
from efface.core.types import Measurement, Metric, Request
from efface.families import drawn, judges
from efface.ops import class_stats


class UnlearnCanvasConfig(Config):
    """The metric has no settings."""


class UnlearnCanvas(Metric[UnlearnCanvasConfig]):
    """Unlearning accuracy, in-domain and cross-domain retaining accuracy of a model that draws."""

    card = Card(
        name="unlearn_canvas", title="Unlearning accuracy of pictures (UA; with IRA, CRA)", paper="arXiv:2402.11846", families=("diffusion",), needs=("generate",),
        uses=("names", "forget", "keep"), better="as-reference",
        departs="at most 36 pictures of prompts to forget and 48 of prompts to keep, where the benchmark draws 5,100; CRA is counted on kept prompts alone, where the "
        "released code counts the erased style's pictures as well",
    )

    def run(self, subject: Any, request: Request, ctx: Context) -> Measurement:
        """Return UA with a Wilson interval; IRA and CRA are parts."""
        found = judges.judges(ctx)
        name, number = judges.asked(request.names, found)
        asked, lost = drawn.forgotten(subject, request, ctx)
        gone = judges.chances(found[name], lost).argmax(1) != number
        rows, kept = drawn.kept(subject, request, ctx)
        right = judges.right(found, rows, kept)
        crossed = [hits for other, hits in right.items() if other != name]
        erased = list(judges.right({other: judge for other, judge in found.items() if other != name}, asked, lost).values())
        ua = class_stats.wilson(gone)
        parts = {
            "UA": ua.value, "IRA": float(right[name].mean()) if name in right else None, "CRA": float(np.mean(crossed)) if crossed else None,
            "CRA where erased": float(np.mean(erased)) if erased else None,
        }
        table = [{"prompt": row["prompt"], "set": "forget", "value": float(hit)} for row, hit in zip(asked, gone, strict=True)]
        table += [{"prompt": row["prompt"], "set": "keep", "value": float(hit)} for row, hit in zip(rows, right.get(name, []), strict=False)]
        return Measurement(
            system=self.card.name, subject="", value=ua.value, low=ua.low, high=ua.high, n=len(gone), better="as-reference", parts=parts, table=table,
        )
