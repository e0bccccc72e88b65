"""ReCaLL attack on membership (arXiv:2406.15968): how much a prefix that the model never saw disturbs a row.

    s(x) = mean loss of x after the prefix / mean loss of x

The prefix is a few non-members, whole rows of them. What was learned by heart loses by standing behind them; other text
loses little or gains. Rows of the unseen set that are in the prefix, and those on the same author or subject, are not scored.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from pydantic import Field

from efface.core.card import Card
from efface.core.config import Config
from efface.core.context import Context
from efface.core.errors import BadRows, Missing
from efface.core.rows import evenly, layout
from efface.core.types import Attack, Measurement, Request, Row
from efface.families import forms, membership
from efface.ops import fact_sets

GAP = "\n\n"
"""Between two texts."""


class RecallConfig(Config):
    """Settings of the attack."""

    shots: int = Field(4, ge=1)
    """Rows in the prefix."""
    prefix: str = "unseen"
    """Row set that the prefix is taken from; nobody may have trained on it."""
    rows: int = Field(40, ge=1)
    """Most rows of each side, drawn at random; each is read behind the whole prefix."""


class Recall(Attack[RecallConfig]):
    """Takes rows for members that a prefix of non-members makes less likely."""

    card = Card(
        name="recall", title="Membership by a prefix of non-members (ReCaLL)", paper="arXiv:2406.15968", families=("causal-lm",), needs=("score",),
        uses=("forget", "unseen"), access="logits", better="as-reference",
        departs="4 rows in the prefix, up to 12 in the paper, and 40 rows of each side; of questions and answers the prefix is earlier turns of the talk",
    )

    def run(self, subject: Any, request: Request, ctx: Context) -> Measurement:
        """Return the AUC of the forget rows against the unseen rows. Raises Unfit when the request lacks either, Missing without a prefix."""
        forget, unseen = membership.sides(request)
        given, left = self._apart(request, unseen, ctx)
        forget, others = (membership.few(rows, self.config.rows, ctx) for rows in (forget, left))
        prefix = fitting(subject, given, [*forget, *others])

        def score(model: Any, rows: list[Row]) -> list[float | None]:
            alone, after = membership.alone(model, request, ctx), forms.gold(model, behind(prefix, rows), ctx)
            return [ratio(alone[id(row)].log_probs, got.log_probs) for row, got in zip(rows, after, strict=True)]

        found = membership.compare(self.card, subject, (forget, others), ctx, score)
        return found.model_copy(update={"parts": {**found.parts, "prefix_rows": float(len(prefix))}})

    def _apart(self, request: Request, unseen: list[Row], ctx: Context) -> tuple[list[Row], list[Row]]:
        """Rows of the prefix, and the unseen rows that are scored."""
        if self.config.prefix != "unseen":
            return evenly(forms.row_set(self.config.prefix, request, ctx), self.config.shots), unseen
        held = set(map(id, unseen))
        if len(left := [row for row in request.rows("unseen") if id(row) not in held]) >= self.config.shots:
            return evenly(left, self.config.shots), unseen
        count = min(self.config.shots, len(unseen) // 2)
        if not count:
            raise Missing("recall needs at least two unseen rows, one to stand in front and one to score; found 1")
        # Rows that follow each other are likely to be on one thing, so that little of what is scored is given away.
        prefix, others = unseen[-count:], unseen[:-count]
        owners = {fact_sets.owner(row) for row in prefix} - {""}
        distant = [row for row in others if fact_sets.owner(row) not in owners]
        return prefix, distant if len(distant) >= len(unseen) / 2 else others


def behind(prefix: Sequence[Row], rows: Sequence[Row]) -> list[Row]:
    """Each row after the prefix: texts one after the other, questions and answers as one talk."""
    parts = layout(rows)
    if "text" in parts:
        lead = GAP.join(membership.answer(row) for row in prefix)
        return [{"text": f"{lead}{GAP}{row[parts['text']]}"} for row in rows]
    said = [message for row in prefix for message in turns(row) if message["role"] != "system"]
    result: list[Row] = []
    for row in rows:
        own = turns(row)
        first = own[:1] if own[0]["role"] == "system" else []
        begun = {"prefill": row["prefill"]} if row.get("prefill") else {}
        result.append({"messages": [*first, *said, *own[len(first) :]], **begun})
    return result


def turns(row: Row) -> list[dict[str, str]]:
    """The row as messages."""
    parts = layout([row])
    if "messages" in parts:
        return [{"role": str(m["role"]), "content": str(m["content"])} for m in row["messages"]]  # type: ignore[attr-defined]
    if "text" in parts:
        raise Missing("the prefix of recall is plain text, and the rows are questions and answers; give rows of the same kind")
    system = [{"role": "system", "content": str(row["system"])}] if isinstance(row.get("system"), str) else []
    return [*system, {"role": "user", "content": str(row[parts["prompt"]])}, {"role": "assistant", "content": str(row[parts["answer"]])}]


def fitting(subject: Any, prefix: Sequence[Row], rows: Sequence[Row]) -> list[Row]:
    """As much of the end of the prefix as leaves room for every row in the model's context window. Raises Missing when that is nothing."""
    left = list(prefix)
    while left:
        if _fits(subject, left, rows):
            return left
        if len(left) == 1 and "text" in layout(left) and len(words := membership.answer(left[0]).split()) > 1:
            left = [{"text": " ".join(words[len(words) // 2 :])}]
        else:
            left = left[1:]
    raise Missing(f"the longest rows leave no room for a prefix in the {subject.context_length} tokens that the model reads; give shorter rows")


def _fits(subject: Any, prefix: Sequence[Row], rows: Sequence[Row]) -> bool:
    try:
        for row in behind(prefix, rows):
            subject.encode_row(row)
    except BadRows:
        return False
    return True


def ratio(alone: np.ndarray, after: np.ndarray) -> float | None:
    """Mean loss after the prefix / mean loss alone over the row's own tokens, the last ones; None where there is nothing to divide."""
    if not len(alone) or not alone.mean():
        return None
    return float(after[-len(alone) :].mean() / alone.mean())
