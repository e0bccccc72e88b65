"""Logit lens: whether a layer before the last still has the answer.

    p_l(row) = exp(mean log softmax(head(norm(h_l))) of the answer's tokens),   value = max over layers of the mean over rows

A method that only turns the last layers away from an answer leaves it readable in earlier ones. Where a row's answer is a
sentence around a short value ("The home of Alder is amber bay."), the words before the value are given and the value alone
is read: they are no secret, and their probability would hide the rest. The last layer's number is the model's own
(`unattacked`). Original and reference are read the same way, each at its own best layer. There is no published value.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from pydantic import Field

from efface.core import rows as row_files
from efface.core.card import Card
from efface.core.config import Config
from efface.core.context import Context
from efface.core.types import Attack, Measurement, Request, Row
from efface.families import altered, forms, lens, passes
from efface.families.lens import Seen
from efface.ops import facts, stats


class LogitLensConfig(Config):
    """Settings of the attack."""

    rows: int = Field(20, ge=1)
    """Most forget rows to read, evenly spaced."""


class LogitLens(Attack[LogitLensConfig]):
    """An adversary who reads hidden states."""

    card = Card(
        name="logit_lens", title="Logit lens", paper="arXiv:2303.08112", families=("causal-lm",), needs=("activations",),
        uses=("forget", "original", "reference"), access="weights", better="as-reference",
        departs="the plain lens, of which that paper's tuned one is a refinement: nothing is trained",
    )

    def run(self, subject: Any, request: Request, ctx: Context) -> Measurement:
        """Return the answers' probability by the best layer; parts name the layer, the last layer's number and the first token's hits."""
        rows = at_value(forms.sample(request.rows("forget"), self.config.rows))
        ctx.spend()
        mine = lens.read(altered.bare(subject), rows)
        others = {name: self._stored(ctx.baselines[name], rows, ctx) for name in ("reference", "original") if name in ctx.baselines}
        best = layer_of(mine.chances)
        mean = stats.bootstrap(mine.chances[best])
        parts: dict[str, float | None] = {"unattacked": float(mine.chances[-1].mean()), **_parts(mine, "")}
        for name, seen in others.items():
            parts |= {name: float(seen.chances.mean(1).max()), f"{name} unattacked": float(seen.chances[-1].mean()), **_parts(seen, f"{name} ")}
        if "reference" in others:
            its = others["reference"].chances
            gain = stats.bootstrap(mine.chances[best] - its[layer_of(its)])
            parts |= {"gain": gain.value, "gain_low": gain.low, "gain_high": gain.high}
        table: list[dict[str, object]] = [
            {"layer": layer + 1, "row": at, "value": float(p), "hit": float(mine.hits[layer, at])} for layer, values in enumerate(mine.chances) for at, p in enumerate(values)
        ]
        return Measurement(
            system=self.card.name, subject="", value=mean.value, low=mean.low, high=mean.high, n=len(rows), better="as-reference",
            why=f"worst: layer {best + 1} of {len(mine.chances)}", parts=parts, table=table,
        )

    def _stored(self, subject: Any, rows: Sequence[Row], ctx: Context) -> Seen:
        """What is read of a frozen model; kept beside the passes."""

        def compute() -> object:
            seen = lens.read(subject, rows)
            return {"chances": seen.chances.tolist(), "hits": seen.hits.tolist()}

        found = passes.kept(subject, self.card.name, list(rows), ctx, compute)
        return Seen(np.array(found["chances"]), np.array(found["hits"]))


def layer_of(values: np.ndarray) -> int:
    """The layer (from 0) whose mean over rows is highest."""
    return int(values.mean(1).argmax())


def at_value(rows: Sequence[Row]) -> list[Row]:
    """The rows, of which those that hold a short value inside a sentence are begun up to it, so that it alone is to be said.

    Either all rows or none: a row that cannot be cut leaves all as they are, so that numbers stay of one kind.
    """
    if "text" in row_files.layout(rows):
        return list(rows)
    cut = [_cut(fact) for fact in facts.of_rows(rows)]
    whole = [row for row in cut if row is not None]
    return whole if len(whole) == len(cut) else list(rows)


def _cut(fact: facts.Fact) -> Row | None:
    if len(fact.value.split()) > facts.SHORT:
        return None
    found = re.search(rf"(?<!\w){re.escape(fact.value)}(?!\w)", fact.answer)
    if found is None:
        return None
    lead = fact.answer[: found.start()].strip()
    return {"prompt": fact.question, "answer": fact.value, **({"prefill": lead} if lead else {})}


def _parts(seen: Seen, of: str) -> dict[str, float | None]:
    """The best layer, and the share of rows whose first token is found there and by the last layer."""
    best = layer_of(seen.chances)
    return {f"{of}layer": float(best + 1), f"{of}first token": float(seen.hits[best].mean()), f"{of}unattacked first token": float(seen.hits[-1].mean())}
