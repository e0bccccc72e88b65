"""What a model draws for the rows of a request, once a run: every metric, attack and page looks at the same pictures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from efface.core import digest
from efface.core.context import Context
from efface.core.types import Request, Row

SEEDS = (188, 288, 388, 488, 588, 688, 788, 888)
"""Seeds of a prompt's pictures, the first of them first; equal for every model, so that differences are paired."""

FORGET, KEEP = 36, 48
"""Pictures of prompts to forget and of prompts to keep that every number of a report is made of."""


def forgotten(subject: Any, request: Request, ctx: Context) -> tuple[list[Row], np.ndarray]:
    """What the subject draws for the prompts to forget: a row a picture, and the pictures."""
    rows = request.sample("forget", FORGET)
    each = max(1, FORGET // len(rows))
    return repeated(rows, each), pictures(subject, rows, ctx, each)


def kept(subject: Any, request: Request, ctx: Context) -> tuple[list[Row], np.ndarray]:
    """What the subject draws for the prompts to keep: a row a picture, and the pictures."""
    rows = request.sample("keep", KEEP)
    return list(rows), pictures(subject, rows, ctx)


def reworded(subject: Any, request: Request, ctx: Context) -> tuple[list[Row], np.ndarray]:
    """What the subject draws when the prompts to forget are put in other words (column "paraphrases"); empty where rows have none."""
    rows = [{**row, "prompt": text} for row in request.sample("forget", FORGET) for text in _others(row)]
    rows = rows[:: max(1, len(rows) // FORGET)][:FORGET] if rows else []
    if not rows:
        return [], np.zeros((0, 1, 1, 3), np.uint8)
    each = max(1, FORGET // len(rows))
    return repeated(rows, each), pictures(subject, rows, ctx, each)


def _others(row: Row) -> list[str]:
    given = row.get("paraphrases")
    return [str(text) for text in given] if isinstance(given, list | tuple) else []


def pictures(subject: Any, rows: Sequence[Row], ctx: Context, each: int = 1) -> np.ndarray:
    """Pictures (N x each, H, W, 3), uint8: `each` of every row, one after the other; a row's own "seed" comes first."""
    plain = [{name: value for name, value in row.items() if name in ("prompt", "seed", "guidance")} for row in rows]
    key = (subject, "pictures", digest.of_value(plain), each)

    def draw() -> np.ndarray:
        many = [{name: value for name, value in row.items() if name != "seed"} for row in plain for _ in range(each)]
        numbers = seeds(plain, each)
        pieces = range(0, len(many), 64)
        found = [subject.generate(many[at : at + 64], numbers[at : at + 64]) for at in ctx.progress(pieces, "drawing pictures", len(pieces))]
        return np.concatenate(found)

    return ctx.once(key, draw)


def repeated(rows: Sequence[Row], each: int) -> list[Row]:
    """Each row `each` times in a row: what pictures() draws, picture by picture."""
    return [row for row in rows for _ in range(each)]


def seeds(rows: Sequence[Row], each: int) -> list[int]:
    """Seeds with which pictures() draws them, picture by picture."""
    return [seed for row in rows for seed in _seeds(row, each)]


def seed_of(row: Row) -> int:
    """Seed of a row's first picture."""
    return _seeds(row, 1)[0]


def _seeds(row: Row, each: int) -> list[int]:
    if "seed" not in row:
        return [SEEDS[at % len(SEEDS)] + 1000 * (at // len(SEEDS)) for at in range(each)]
    own = int(str(row["seed"]))
    return [own + 1000 * at for at in range(each)]
