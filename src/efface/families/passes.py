"""The shared passes: one over a row set for all likelihood metrics, one for all metrics on generated answers.

What is computed for a subject stays in the context's memory, and on disk when the context has a place for it: under a
key made of the subject's origin (or digest), the rows and the settings, so that a reference is measured once, ever.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from efface.core import digest, files
from efface.core.context import Context
from efface.core.errors import Missing
from efface.core.rows import layout
from efface.core.types import Row, Subject
from efface.families.causal_lm import RowScore

VERSION = 1
"""Raised when what a pass computes changes, so that stored results are not taken for new ones."""


class Choice(NamedTuple):
    """Scores of one question's answers: the right one, its paraphrase where the row has one, and the wrong ones."""

    gold: RowScore
    paraphrased: RowScore | None
    wrong: list[RowScore]


def scores(subject: Any, rows: Sequence[Row], ctx: Context) -> list[RowScore]:
    """The score of each row, in order: from memory, from disk, or from one pass over the rows."""
    held = _held_choices(subject, rows, ctx)
    if held is not None:
        return [choice.gold for choice in held]
    key = _key(subject, rows, ctx, "scores")
    return ctx.once((subject, key), lambda: _scored(subject, rows, key, ctx))


def choices(subject: Any, rows: Sequence[Row], ctx: Context) -> list[Choice]:
    """The scores of all answers of each question, from one pass in which the answers share the reading of their question.

    Raises Missing when the rows have no wrong answers.
    """
    bare = [number for number, row in enumerate(rows, start=1) if not row.get("perturbed_answer")]
    if bare:
        raise Missing(f"row {bare[0]} has no 'perturbed_answer' (a list of wrong answers); {len(bare)} of {len(rows)} rows lack it")
    parts = layout(rows)
    if "answer" not in parts:
        raise Missing(f"wrong answers need rows with a prompt and an answer column; these have {', '.join(parts)}")
    key = _key(subject, rows, ctx, "choices")

    def compute() -> list[Choice]:
        spread = [{**row, parts["answer"]: text} for row in rows for text in _texts(row, parts["answer"])]
        flat = iter(_scored(subject, spread, key, ctx))
        return [
            Choice(next(flat), next(flat) if row.get("paraphrased_answer") else None, [next(flat) for _ in _wrong(row)]) for row in rows
        ]

    return ctx.once((subject, key), compute)


def _held_choices(subject: Any, rows: Sequence[Row], ctx: Context) -> list[Choice] | None:
    """The choices of these rows if they were measured before, so that their right answers need no pass of their own."""
    if not all(row.get("perturbed_answer") for row in rows):
        return None
    key = _key(subject, rows, ctx, "choices")
    if (subject, key) in ctx.memo or any((folder / f"{key}.safetensors").exists() for folder in ctx.passes):
        return choices(subject, rows, ctx)
    return None


def _wrong(row: Row) -> list[str]:
    given = row["perturbed_answer"]
    return [str(text) for text in given] if isinstance(given, list) else [str(given)]


def _texts(row: Row, answer: str) -> list[str]:
    again = row.get("paraphrased_answer")
    return [str(row[answer]), *([str(again)] if again else []), *_wrong(row)]


def _scored(subject: Any, rows: Sequence[Row], key: str, ctx: Context) -> list[RowScore]:
    for folder in ctx.passes:
        if (found := _read(folder / f"{key}.safetensors")) is not None:
            return found
    held: list[RowScore | None] = [None] * len(rows)
    for place, score in ctx.progress(subject.score(rows), "reading rows", len(rows)):
        held[place] = score
    result = [score for score in held if score is not None]
    if ctx.passes:
        _write(ctx.passes[0] / f"{key}.safetensors", result)
    return result


def answers(subject: Any, rows: Sequence[Row], ctx: Context, max_new: int = 64) -> list[str]:
    """The greedy answer to each row's prompt, in order."""
    return answer_sets(subject, [rows], ctx, max_new)[0]


def answer_sets(subject: Any, sets: Sequence[Sequence[Row]], ctx: Context, max_new: int = 64) -> list[list[str]]:
    """The greedy answers to several row sets, those not known yet in one go: a step of decoding costs about the same for few rows as for many."""
    keys = [_key(subject, rows, ctx, "answers", max_new) for rows in sets]
    pending: dict[str, list[tuple[str, Sequence[Row]]]] = {}
    for key, rows in zip(keys, sets, strict=True):
        if (subject, key) not in ctx.memo:
            if (held := _stored(key, ctx)) is not None:
                ctx.memo[subject, key] = held
            else:
                pending.setdefault(str(layout(rows)), []).append((key, rows))
    for group in pending.values():
        _generate(subject, group, ctx, max_new)
    return [ctx.memo[subject, key] for key in keys]  # type: ignore[misc]


def _stored(key: str, ctx: Context) -> list[str] | None:
    path = next((path for folder in ctx.passes if (path := folder / f"{key}.json").exists()), None)
    stored: Any = files.read_json(path) if path else None
    return None if stored is None else [str(text) for text in stored]


def _generate(subject: Any, group: Sequence[tuple[str, Sequence[Row]]], ctx: Context, max_new: int) -> None:
    """Answer all rows of sets of one layout, and keep the answers of each set under its key."""
    together = [row for _, rows in group for row in rows]
    held = [""] * len(together)
    for place, text in ctx.progress(subject.generate_each(together, max_new), "generating answers", len(together)):
        held[place] = text
    at = 0
    for key, rows in group:
        ctx.memo[subject, key] = held[at : at + len(rows)]
        if ctx.passes:
            files.write_json(ctx.passes[0] / f"{key}.json", ctx.memo[subject, key])
        at += len(rows)


def kept(subject: Subject, label: str, settings: object, ctx: Context, compute: Callable[[], object]) -> Any:
    """A JSON value about a frozen subject: from memory, from disk, or computed now. `settings` must name all that it depends on."""
    key = digest.of_value([VERSION, label, _name(subject, ctx), settings])[:32]

    def made() -> object:
        for folder in ctx.passes:
            if (path := folder / f"{label}-{key}.json").exists():
                return files.read_json(path)
        value = compute()
        if ctx.passes:
            files.write_json(ctx.passes[0] / f"{label}-{key}.json", value)
        return value

    return ctx.once((subject, label, key), made)


def _key(subject: Subject, rows: Sequence[Row], ctx: Context, *more: object) -> str:
    """Names one pass. A guarded subject is not the bare one, so its shields enter the key."""
    name = _name(subject, ctx)
    shields = [f"{type(shield).__module__}.{type(shield).__name__}:{id(shield)}" for shield in subject.shields]
    return digest.of_value([VERSION, name, shields, digest.of_value([dict(row) for row in rows]), more])[:32]


def _name(subject: Subject, ctx: Context) -> str:
    """What the weights are called. A digest reads every one of them, so it is taken once a subject."""
    return ctx.once((subject, "name"), lambda: subject.origin or subject.digest)


def _write(path: Path, result: Sequence[RowScore]) -> None:
    from safetensors.numpy import save

    arrays = {
        field: np.concatenate([getattr(row, field) for row in result]).astype(np.float32)
        for field in ("log_probs", "mean", "deviation")
    }
    arrays["hit"] = np.concatenate([row.hit for row in result]).astype(np.uint8)
    arrays["length"] = np.array([len(row.log_probs) for row in result], dtype=np.int32)
    arrays["ends"] = np.array([row.ends for row in result], dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_suffix(".part")
    aside.write_bytes(save(arrays, metadata={"texts": json.dumps([row.text for row in result], ensure_ascii=False)}))
    aside.replace(path)


def _read(path: Path) -> list[RowScore] | None:
    from safetensors import safe_open

    if not path.exists():
        return None
    with safe_open(str(path), framework="numpy") as file:
        texts = json.loads(file.metadata()["texts"])
        arrays = {name: file.get_tensor(name) for name in ("log_probs", "mean", "deviation", "hit", "length", "ends")}
    stops = np.cumsum(arrays["length"])[:-1]
    parts = [np.split(arrays[name], stops) for name in ("log_probs", "mean", "deviation")]
    hits = np.split(arrays["hit"].astype(bool), stops)
    return [
        RowScore(log_probs, mean, deviation, hit, bool(ends), text)
        for log_probs, mean, deviation, hit, ends, text in zip(*parts, hits, arrays["ends"], texts, strict=True)
    ]
