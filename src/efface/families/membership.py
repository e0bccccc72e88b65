"""What every membership attack on likelihoods shares: from a score for each row to a measurement with its reference."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from efface.core.card import Card
from efface.core.context import Context
from efface.core.errors import Missing
from efface.core.rows import layout
from efface.core.types import Measurement, Request, Row
from efface.families import forms
from efface.families.causal_lm import RowScore
from efface.ops import stats

Scorer = Callable[[RowScore], float | None]
"""How much a row looks like a member (higher = more), or None for a row with nothing to measure."""
SetScorer = Callable[[Any, list[Row]], list[float | None]]
"""The same for all rows of a set at once, from a subject and the rows."""

MOST = 400
"""Most rows of each side that are read, evenly spaced; as many as the metrics read by default, so that the passes are shared."""


class Scored(NamedTuple):
    """Membership scores of the forget rows (members) and of the unseen rows."""

    members: list[float | None]
    others: list[float | None]


def attack(card: Card, subject: Any, request: Request, ctx: Context, scorer: Scorer) -> Measurement:
    """The measurement of an attack that scores each row by itself, with the reference's AUC where there is a reference."""
    reference = ctx.baselines.get("reference")
    return measure(card, scored(subject, request, ctx, scorer), scored(reference, request, ctx, scorer) if reference else None)


def compare(card: Card, subject: Any, rows: tuple[list[Row], list[Row]], ctx: Context, scorer: SetScorer) -> Measurement:
    """The measurement of an attack that scores whole row sets: `rows` are members and others, read in the subject and in the reference."""
    reference = ctx.baselines.get("reference")
    mine = Scored(scorer(subject, rows[0]), scorer(subject, rows[1]))
    return measure(card, mine, Scored(scorer(reference, rows[0]), scorer(reference, rows[1])) if reference else None)


def alone(subject: Any, request: Request, ctx: Context) -> dict[int, RowScore]:
    """The score of each row of both sides as it stands, by the row's identity: for attacks that read some of them besides in other ways."""
    return {id(row): score for rows in sides(request) for row, score in zip(rows, forms.gold(subject, rows, ctx), strict=True)}


def scored(subject: Any, request: Request, ctx: Context, scorer: Scorer) -> Scored:
    """Scores of both sides, from the shared pass over each."""
    return Scored(*([scorer(row) for row in forms.gold(subject, rows, ctx)] for rows in sides(request)))


def sides(request: Request) -> tuple[list[Row], list[Row]]:
    """The forget rows and the unseen rows to tell apart. Raises Unfit when the request lacks either."""
    return forms.sample(request.rows("forget"), MOST), forms.sample(request.rows("unseen"), MOST)


def few(rows: list[Row], most: int, ctx: Context) -> list[Row]:
    """At most `most` of the rows for a costly attack, drawn at random, in order.

    Not evenly spaced: rows often repeat a pattern (ten questions an author), and every other row would be of half the kinds alone,
    on one side and not on the other.
    """
    places = ctx.random("membership rows", len(rows)).sample(range(len(rows)), min(most, len(rows)))
    return [rows[at] for at in sorted(places)]


def measure(card: Card, mine: Scored, reference: Scored | None) -> Measurement:
    """AUC with its interval; what the reference gives, and PrivLeak against it, are None without one.

    An interval that lies wholly below 0.5 is explained in `why`: as a leak, or as a difference of the rows where the reference has it too.
    """
    members, others = _there(mine.members), _there(mine.others)
    if not len(members) or not len(others):
        raise Missing(f"{card.name} needs forget and unseen rows with tokens; found {len(members)} and {len(others)}")
    area = stats.auc_interval(members, others)
    base = stats.auc(_there(reference.members), _there(reference.others)) if reference else None
    parts = {
        "reference_auc": base,
        "privleak": privleak(area.value, base),
        "tpr_at_1%_fpr": stats.tpr_at_fpr(members, others, 0.01),
        "tpr_at_0.1%_fpr": stats.tpr_at_fpr(members, others, 0.001),
        "fpr_at_95%_tpr": float((others >= np.sort(members)[int(0.05 * len(members))]).mean()),
        "members": float(len(members)),
        "non_members": float(len(others)),
        "rows_without_tokens": float(len(mine.members) + len(mine.others) - len(members) - len(others)),
    }
    sides = [("forget", mine.members, reference and reference.members), ("unseen", mine.others, reference and reference.others)]
    table: list[dict[str, object]] = [
        {"row": at, "set": side, "value": score, "reference": base_scores[at] if base_scores else None}
        for side, own, base_scores in sides
        for at, score in enumerate(own)
    ]
    n = len(members) + len(others)
    return Measurement(
        system=card.name, subject="", value=area.value, low=area.low, high=area.high, n=n, better="as-reference", why=below(area, base),
        parts=parts, table=table,
    )


def below(area: stats.Interval, reference: float | None) -> str:
    """What an AUC means whose interval lies below 0.5; "" for any other."""
    if area.high >= 0.5:
        return ""
    if reference is not None and reference <= area.high:
        return "below 0.5 as in the reference: the unseen rows differ from the forget rows by themselves, so this is no sign of a leak"
    return "a leak: the forget rows stand out, less likely than text that nobody trained on"


def privleak(area: float, reference: float | None) -> float | None:
    """MUSE's PrivLeak from our AUCs (members = forget rows): 0 as the reference, -100 fully recognizable, above 0 over-forgotten.

    MUSE calls the unseen rows positive, so its AUC is one minus ours. None without a reference, or when that is at 1.
    """
    if reference is None or reference >= 1:
        return None
    return 100.0 * (reference - area) / (1.0 - reference)


def answer(row: Row) -> str:
    """The part of a row that is scored: its answer, or its text."""
    parts = layout([row])
    return str(row[parts["text"]]) if "text" in parts else forms.gold_text(row)


def changed(row: Row, change: Callable[[str], str], prompt: bool = False) -> Row:
    """The row with its answer (or its text) put through `change`, and what is asked as well where `prompt` says so."""
    parts = layout([row])
    if "messages" in parts:
        said: list[dict[str, object]] = [dict(message) for message in row["messages"]]  # type: ignore[attr-defined]
        for at, message in enumerate(said):
            if prompt or at == len(said) - 1:
                message["content"] = change(str(message["content"]))
        return {**row, "messages": said}
    columns = [column for part, column in parts.items() if prompt or part != "prompt"]
    return {**row, **{column: change(str(row[column])) for column in columns}}


def _there(scores: Sequence[float | None]) -> np.ndarray:
    return np.array([score for score in scores if score is not None], float)
