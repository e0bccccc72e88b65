"""Questions put to a language model after a few answered ones, and how its answers are judged: what RESTOR's metrics share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from efface.core import rows as row_files
from efface.core.context import Context
from efface.core.errors import Missing
from efface.core.rows import evenly
from efface.core.types import Request, Row
from efface.families import forms, passes
from efface.families.decoding import Sampling
from efface.ops import facts as fact_rows
from efface.ops import shots
from efface.ops.facts import Fact

QUESTIONS, EXAMPLES = "questions", "examples"
"""Row sets of a run that hold what is asked, and the answered questions shown before."""
SHOTS = 5


def questions(request: Request, ctx: Context, on: str, most: int) -> list[Fact]:
    """The facts asked about: the row set `on`, or where that is "" the run's questions or else its forget rows; at most `most`, evenly spaced."""
    name = on or (QUESTIONS if QUESTIONS in ctx.sets else "forget")
    return fact_rows.of_rows(evenly(forms.row_set(name, request, ctx), most), name)


def prompts(asked: Sequence[Fact], request: Request, ctx: Context, count: int | None = None) -> list[Row]:
    """The row that puts each question: alone, as the model is usually asked, for a count of 0; else text with so many answered questions before it.

    Without a count there are five where the run has examples, as in RESTOR, and none elsewhere.
    """
    if count is None:
        count = SHOTS if EXAMPLES in ctx.sets else 0
    if not count:
        return [{"prompt": fact.question, "answer": fact.answer} for fact in asked]
    pool = _pool(asked, request, ctx)
    return [{"text": shots.prompt(fact, shots.shown(fact, pool, count))} for fact in asked]


def answers(subject: Any, rows: Sequence[Row], ctx: Context, max_new: int, sampling: Sampling | None = None) -> list[list[str]]:
    """The first line of each answer to each row: the greedy one, or those drawn."""
    if sampling is None:
        return [[shots.first_line(text)] for text in passes.answers(subject, rows, ctx, max_new)]
    drawn = ctx.once((subject, "sampled", repr(rows), max_new, sampling), lambda: subject.sample(rows, sampling, max_new))
    return [[shots.first_line(text) for text in texts] for texts in drawn]


def share(said: Sequence[Sequence[str]], values: Sequence[Sequence[str]], asked: Sequence[Fact]) -> np.ndarray:
    """For each question the share of answers that say one of its values (N,)."""
    return np.array([
        np.mean([fact_rows.says(text, accepted, fact.question) for text in texts]) for texts, accepted, fact in zip(said, values, asked, strict=True)
    ])


def means(subject: Any, rows: Sequence[Row], options: Sequence[Sequence[Sequence[str]]], ctx: Context) -> np.ndarray:
    """Mean over the options of each row's categories of the mean log-probability of an option's tokens, without an end token (N, categories).

    NaN for a category without options. All options of a row share one reading of its prompt.
    """
    spread = [_begun(row, option) for row, mine in zip(rows, options, strict=True) for category in mine for option in category]
    found = iter([float(score.log_probs[score.words].mean()) for score in passes.scores(subject, spread, ctx)] if spread else [])
    return np.array([[np.mean([next(found) for _ in category]) if category else np.nan for category in mine] for mine in options])


def _begun(row: Row, option: str) -> Row:
    """The row with the option as what follows."""
    return {"text": f" {option}", "given": row["text"]} if "text" in row else {**row, "answer": option}


def _pool(asked: Sequence[Fact], request: Request, ctx: Context) -> list[Fact]:
    """Answered questions to show: the run's examples, else the keep rows, else the questions themselves."""
    subjects = {fact.subject for fact in asked if fact.subject}
    if EXAMPLES in ctx.sets:
        rows: Sequence[Row] = ctx.sets[EXAMPLES].read()
    else:
        rows = request.keep.read() if request.keep is not None else []
    if not rows or "text" in row_files.layout(rows):
        return list(asked)
    pool = [fact for fact in fact_rows.of_rows(rows, "example") if fact.subject not in subjects]
    if not pool:
        raise Missing("every answered question that could be shown is about a subject that is asked about; give examples of others, or ask without (shots=0)")
    return pool
