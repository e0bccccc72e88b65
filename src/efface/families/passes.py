"""The shared passes: one over a row set for all likelihood metrics, one for all metrics on generated answers.

What is computed for a subject stays in the context's memory, and on disk when the context has a place for it: under a
key made of the subject's origin (or digest), the rows and the settings, so that a reference is measured once, ever.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from efface.core import digest, files
from efface.core.context import Context
from efface.core.types import Row, Subject
from efface.families.causal_lm import RowScore

VERSION = 1
"""Raised when what a pass computes changes, so that stored results are not taken for new ones."""


def scores(subject: Any, rows: Sequence[Row], ctx: Context) -> list[RowScore]:
    """The score of each row, in order: from memory, from disk, or from one pass over the rows."""
    key = _key(subject, rows, "scores")

    def compute() -> list[RowScore]:
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

    return ctx.once((subject, key), compute)


def answers(subject: Any, rows: Sequence[Row], ctx: Context, max_new: int = 64) -> list[str]:
    """The greedy answer to each row's prompt, in order."""
    key = _key(subject, rows, "answers", max_new)

    def compute() -> list[str]:
        for folder in ctx.passes:
            path = folder / f"{key}.json"
            if path.exists():
                stored: Any = files.read_json(path)
                return [str(text) for text in stored]
        held = [""] * len(rows)
        for place, text in ctx.progress(subject.generate_each(rows, max_new), "generating answers", len(rows)):
            held[place] = text
        if ctx.passes:
            files.write_json(ctx.passes[0] / f"{key}.json", held)
        return held

    return ctx.once((subject, key), compute)


def _key(subject: Subject, rows: Sequence[Row], *more: object) -> str:
    """Names one pass. A guarded subject is not the bare one, so its shields enter the key."""
    name = subject.origin or subject.digest
    shields = [f"{type(shield).__module__}.{type(shield).__name__}:{id(shield)}" for shield in subject.shields]
    return digest.of_value([VERSION, name, shields, digest.of_value([dict(row) for row in rows]), more])[:32]


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
    return [RowScore(*row, hit, bool(ends), text) for *row, hit, ends, text in zip(*parts, hits, arrays["ends"], texts, strict=True)]
