"""Which rows a metric reads, and the losses of their gold, paraphrased and wrong answers.

Everything comes out of the shared passes. Row sets are cut the same way everywhere, so that one pass serves all metrics.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from efface.core import rows as row_files
from efface.core.context import Context
from efface.core.errors import EffaceError, Missing, UnknownName
from efface.core.rows import evenly
from efface.core.types import Request, Row
from efface.families import passes
from efface.families.causal_lm import RowScore

WRONG, RIGHT = "perturbed_answer", "paraphrased_answer"


class Options(NamedTuple):
    """Mean losses per token of one row: the gold answer, its paraphrase (the gold one where there is none), each wrong answer."""

    gold: float
    right: float
    wrong: tuple[float, ...]


def row_set(on: str, request: Request, ctx: Context) -> list[Row]:
    """The rows named `on`: a part of the request, or a further row set of the run. Raises UnknownName or Unfit."""
    if on in ("forget", "keep", "unseen"):
        return request.rows(on)  # type: ignore[arg-type]
    further = {**ctx.sets, **ctx.utility}
    if on not in further:
        raise UnknownName.among("row set", on, ["forget", "keep", "unseen", *further])
    return further[on].read()


def sample(rows: Sequence[Row], most: int) -> list[Row]:
    """At most `most` of the rows (all, if 0), evenly spaced, as `Request.sample` takes them."""
    return evenly(rows, most or len(rows))


def with_wrong(rows: Sequence[Row], where: str) -> list[Row]:
    """Those of the rows that have wrong answers to compare with. Raises Missing, naming the column, when none has."""
    found = [row for row in rows if row.get(WRONG)]
    if not found:
        raise Missing(f"the {where} rows have no wrong answers; give a column {WRONG!r} (a list of texts), and {RIGHT!r} where there is a paraphrase")
    return found


def plain(subject: Any, text: str) -> Row:
    """The text as a prompt that a model continues, behind the token that text rows begin with where they are trained on and scored."""
    tokenizer = subject.tokenizer
    begins = tokenizer.bos_token and not list(tokenizer("")["input_ids"])  # else the tokenizer puts it there itself
    return {"text": f"{tokenizer.bos_token}{text}" if begins else text}


def gold_text(row: Row) -> str:
    """The row's own answer. Raises Missing for plain text, which has none."""
    parts = row_files.layout([row])
    if "text" in parts:
        raise Missing("plain text rows have no answer to compare with; give rows with a prompt and an answer")
    return str(row["messages"][-1]["content"] if "messages" in parts else row[parts["answer"]]).strip()  # type: ignore[index]


def gold(subject: Any, rows: Sequence[Row], ctx: Context) -> list[RowScore]:
    """The score of each row's gold answer. Raises EffaceError, naming the row, when a probability is not finite."""
    found = passes.scores(subject, rows, ctx)
    for number, score in enumerate(found, start=1):
        _check(score, number)
    return found


def losses(scores: Sequence[RowScore]) -> np.ndarray:
    """Mean loss per token of each row, end token included; NaN for a row without tokens."""
    return np.array([score.loss for score in scores], float)


def options(subject: Any, rows: Sequence[Row], ctx: Context) -> list[Options]:
    """Losses of the gold, the right and the wrong answers of each row; every row must have wrong ones (see `with_wrong`)."""
    found = []
    for number, choice in enumerate(passes.choices(subject, rows, ctx), start=1):
        right = choice.paraphrased or choice.gold
        for score in (choice.gold, right, *choice.wrong):
            _check(score, number)
        found.append(Options(choice.gold.loss, right.loss, tuple(score.loss for score in choice.wrong)))
    return found


def _check(score: RowScore, number: int) -> None:
    if not np.isfinite(score.log_probs).all():
        raise EffaceError(f"row {number} has a probability that is not finite; the model's weights or its precision are broken")
