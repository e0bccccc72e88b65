"""Rows with and without a concept, from the user's file or from the rows themselves; and what each input adds to a class."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from efface.core import rows as row_files
from efface.core.context import Context
from efface.core.errors import BadConfig, BadRows, Missing
from efface.core.types import Row
from efface.families import tables
from efface.families.module import Batch, chunks
from efface.ops import concepts

Sides = dict[str, tuple[np.ndarray, np.ndarray]]
"""Concept -> features (rows, d) of rows with it, and of rows without."""
SIDE = 4
"""A picture has at least this many pixels a side."""
ROWS, LISTED = 32, 20
"""Rows whose inputs are attributed, evenly spaced, and inputs that are listed."""


class Attribution(NamedTuple):
    """What the inputs of a class's rows add to its logit, on average, the largest first."""

    adds: list[tuple[str, float]]
    gap: float
    """Largest share of a logit's rise that the sum over the inputs misses."""


@torch.no_grad()
def read(subject: Any, rows: Sequence[Row], ctx: Context) -> np.ndarray:
    """What the head reads of each row (rows, d)."""
    pieces = list(chunks(rows))
    said = [subject.features(subject.encode(piece)).float().cpu() for piece in ctx.progress(pieces, "reading rows", len(pieces))]
    return torch.cat(said).numpy().astype(np.float64)


def derived(rows: Sequence[Row], features: np.ndarray, kind: Literal["auto", "ink", "groups"], count: int, seed: int) -> Sides:
    """Concepts that need no concept rows: of pictures (ink), or `count` groups of rows with like features.

    A picture has an ink concept when it is in the upper quarter, and lacks it in the lower. Raises BadConfig for ink without pictures.
    """
    pictures = as_pictures(rows) if "text" not in rows[0] else None
    if kind == "ink" and pictures is None:
        raise BadConfig("setting derive = 'ink': the rows are no pictures (x with height and width, or a square number of pixels); use groups")
    if kind == "groups" or pictures is None:
        group = concepts.groups(features, count, seed)
        return {f"group {at}": (features[group == at], features[group != at]) for at in range(group.max() + 1)}
    quarters = {name: (score, *np.quantile(score, (0.25, 0.75))) for name, score in concepts.ink(pictures).items()}
    return {name: (features[score >= high], features[score <= low]) for name, (score, low, high) in quarters.items()}


def as_pictures(rows: Sequence[Row]) -> np.ndarray | None:
    """The inputs as pictures (rows, ..., height, width), a square number of numbers as a square; None when they are none."""
    x = tables.inputs(rows)
    side = math.isqrt(x.shape[-1])
    if x.ndim == 2 and side * side == x.shape[1]:
        x = x.reshape(len(x), side, side)
    return x if x.ndim > 2 and min(x.shape[-2:]) >= SIDE else None


def from_file(subject: Any, path: Path, ctx: Context) -> Sides:
    """Features of the user's concept rows, with and without each concept that they name. Raises Missing or BadRows."""
    rows, named = _arrays(path) if path.suffix.lower() == ".safetensors" else _rows(path)
    names = sorted(set().union(*named))
    if not names:
        raise BadRows(f"{path} names no concept; give rows that have one in the column 'concepts'")
    features = read(subject, [{**row, "y": 0} for row in rows], ctx)
    here = {name: np.array([name in some for some in named]) for name in names}
    return {name: (features[there], features[~there]) for name, there in here.items()}


def _rows(path: Path) -> tuple[list[Row], list[set[str]]]:
    """Rows of a text file, and the concepts of each: a list of names, or one name."""
    rows: list[Row] = []
    named: list[set[str]] = []
    for number, row in enumerate(row_files.read(path), start=1):
        said = row.get("concepts")
        listed = [said] if isinstance(said, str) else said
        if not isinstance(listed, list) or not all(isinstance(name, str) for name in listed):
            raise BadRows(f"{path}, row {number}: concepts = {said!r}; each row needs a list of names (empty where it has none), or one name")
        rows.append({name: value for name, value in row.items() if name != "concepts"})
        named.append({name for name in listed if name.strip()})
    return rows, named


def _arrays(path: Path) -> tuple[list[Row], list[set[str]]]:
    """Rows of a safetensors file, and the concepts of each by number: (rows,) one a row, or (rows, concepts) of 0 and 1."""
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    if not path.is_file():
        raise Missing(f"no file {path}; give a .safetensors or .jsonl file of concept rows")
    try:
        found = load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise BadRows(f"{path} is not a readable safetensors file: {error}") from None
    x, said = found.get("x"), found.get("concepts")
    if x is None or said is None or said.ndim not in (1, 2) or len(x) != len(said) or said.dtype.kind not in "biu":
        shapes = {name: f"{tensor.dtype} {tensor.shape}" for name, tensor in found.items()}
        raise BadRows(f"{path} holds {shapes or 'no tensor'}; it needs x (rows, ...) and whole numbers 'concepts' (rows,) or (rows, concepts)")
    named = [{str(one)} for one in said.tolist()] if said.ndim == 1 else [{str(at) for at in np.flatnonzero(row)} for row in said]
    return [{"x": value} for value in x], named


def attributed(subject: Any, rows: Sequence[Row], target: int, steps: int) -> Attribution:
    """What tokens, or numbers of x by their place, add to the logit of class `target` by integrated gradients; see ROWS and LISTED."""
    some = [rows[at * len(rows) // ROWS] for at in range(ROWS)] if len(rows) > ROWS else list(rows)
    batch = subject.encode(some)
    if isinstance(batch.x, dict):
        found, missing, names = _of_tokens(subject, batch, target, steps)
    else:
        found, missing = concepts.integrated_gradients(lambda x: subject.logits(replace(batch, x=x)), batch.x, target, steps)
        names = np.array([" ".join(map(str, place)) for place in np.ndindex(*found.shape[1:])])
        found, names = found.flatten(1), np.broadcast_to(names, (len(some), len(names)))
    rise = found.sum(1) - missing
    gap = float((missing.abs() / rise.abs().clamp_min(1e-6)).max())
    totals: dict[str, float] = {}
    for name, value in zip(names.ravel().tolist(), found.flatten().tolist(), strict=True):
        totals[name] = totals.get(name, 0.0) + value / len(some)
    return Attribution(sorted(totals.items(), key=lambda pair: -pair[1])[:LISTED], gap)


def _of_tokens(subject: Any, batch: Batch, target: int, steps: int) -> tuple[Tensor, Tensor, np.ndarray]:
    """What each token adds (B, L) against padding in its place, what is missing (B,), and the tokens themselves (B, L)."""
    words, numbers = subject.tokenizer, batch.x["input_ids"]
    blank = words.pad_token_id if words.pad_token_id is not None else words.unk_token_id or 0
    special = torch.tensor([words.get_special_tokens_mask(row, already_has_special_tokens=True) for row in numbers.tolist()], dtype=torch.bool)
    baseline = torch.where(special.to(numbers.device), numbers, torch.full_like(numbers, blank))
    mask = batch.x.get("attention_mask", torch.ones_like(numbers))

    def logits(given: Tensor, seen: Tensor) -> Tensor:
        return subject.logits(replace(batch, x={"input_ids": given, "attention_mask": seen}))  # type: ignore[no-any-return]

    found, missing = concepts.token_gradients(logits, subject.model.get_input_embeddings(), (numbers, baseline, mask), target, steps)
    names = np.array([words.convert_ids_to_tokens(row) for row in numbers.tolist()], dtype=object)
    return found, missing, names
