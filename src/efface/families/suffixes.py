"""Suffixes behind a question, as tokens: where they stand, what they do to the answer's loss, and its gradient.

A suffix found as token ids is a prompt only if typing its text gives those ids back at the same place; others are refused.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from efface.core import rows as row_files
from efface.core.context import Context
from efface.core.errors import Missing, Unfit
from efface.core.types import Row
from efface.families.decoder import Batch
from efface.ops import logprobs

TRIES = 400
"""Draws of a first suffix before a tokenizer counts as one in which none survives."""


class Place(NamedTuple):
    """A row's tokens before and behind the suffix, and those of its answer without the end token."""

    row: Row
    head: tuple[int, ...]
    tail: tuple[int, ...]
    answer: tuple[int, ...]


def typeable(subject: Any, ctx: Context) -> Tensor:
    """Ids of printable ASCII tokens that come back when their text is typed alone; special tokens are none of them."""

    def find() -> Tensor:
        special = set(subject.tokenizer.all_special_ids)
        size = min(len(subject.tokenizer), subject.model.get_input_embeddings().num_embeddings)
        ids = [number for number in range(size) if number not in special]
        texts = [text_of(subject, [number]) for number in ids]
        back = subject.tokenizer(texts, add_special_tokens=False)["input_ids"]
        found = [number for number, text, again in zip(ids, texts, back, strict=True) if text.strip() and text.isascii() and text.isprintable() and list(again) == [number]]
        if not found:
            raise Unfit("the tokenizer has no token that a user could type; no suffix can be searched")
        return torch.tensor(found)

    return ctx.once((subject, "typeable"), find)


def text_of(subject: Any, ids: Sequence[int]) -> str:
    """The text of token ids, with the spaces that belong to them."""
    return str(subject.tokenizer.decode(list(ids), clean_up_tokenization_spaces=False))


def with_suffix(row: Row, text: str) -> Row:
    """The row with a text behind the last question. Raises Missing for plain text, which asks nothing."""
    parts = row_files.layout([row])
    if "text" in parts:
        raise Missing("plain text rows ask nothing behind which a suffix could stand; give rows with a prompt and an answer")
    gap = "" if text[:1].isspace() else " "
    if "messages" not in parts:
        return {**row, parts["prompt"]: f"{row[parts['prompt']]}{gap}{text}"}
    turns = [dict(message) for message in row["messages"]]  # type: ignore[attr-defined]
    turns[-2]["content"] = f"{turns[-2]['content']}{gap}{text}"
    return {**row, "messages": turns}


def placed(subject: Any, row: Row, suffix: Sequence[int]) -> Place | None:
    """Where the suffix stands in the row's tokens; None where its text is read as other tokens."""
    encoded = subject.encode_row(with_suffix(row, text_of(subject, suffix)))
    ids, length = list(encoded.prompt), len(suffix)
    for at in range(len(ids) - length, -1, -1):
        if ids[at : at + length] == list(suffix):
            return Place(row, tuple(ids[:at]), tuple(ids[at + length :]), encoded.answer[: len(encoded.answer) - encoded.ends])
    return None


def stands(subject: Any, places: Sequence[Place], suffix: Sequence[int]) -> bool:
    """Whether the text of the suffix is read as these very tokens at every place."""
    text = text_of(subject, suffix)
    return all(subject.encode_row(with_suffix(place.row, text)).prompt == (*place.head, *suffix, *place.tail) for place in places)


def first(subject: Any, rows: Sequence[Row], allowed: Tensor, length: int, source: random.Random) -> tuple[list[int], list[Place]]:
    """A random suffix that stands in every row, and its places. Raises Unfit where none is found."""
    pool = allowed.tolist()
    for _ in range(TRIES):
        suffix = [source.choice(pool) for _ in range(length)]
        found = [placed(subject, row, suffix) for row in rows]
        places = [place for place in found if place is not None]
        if len(places) == len(rows) and stands(subject, places, suffix):
            return suffix, places
    raise Unfit(f"none of {TRIES} random suffixes of {length} tokens is read back as itself by this tokenizer; choose a shorter one")


@torch.no_grad()
def losses(subject: Any, places: Sequence[Place], suffixes: Sequence[Sequence[int]], size: int = 64) -> Tensor:
    """Mean loss per token of the answers behind each suffix (C,), averaged over the places."""
    pairs = [(place, suffix) for suffix in suffixes for place in places]
    found = [subject.losses(_batch(subject, pairs[at : at + size])) for at in range(0, len(pairs), size)]
    return torch.cat(found).reshape(len(suffixes), len(places)).mean(1).float().cpu()


def gradient(subject: Any, places: Sequence[Place], suffix: Sequence[int]) -> Tensor:
    """What putting each token of the vocabulary (V) at each place of the suffix (k) does to the mean loss, to first order: (k, V)."""
    table = subject.model.get_input_embeddings().weight.detach()
    total = torch.zeros(len(suffix), table.shape[1])
    for place in places:
        batch = _batch(subject, [(place, suffix)])
        vectors = table[torch.tensor(list(suffix), device=table.device)].clone().requires_grad_(True)
        given = table[batch.input_ids[0]]
        at = len(place.head)
        with torch.enable_grad():
            embedded = torch.cat([given[:at], vectors, given[at + len(suffix) :]]).unsqueeze(0)
            logits = subject.model(inputs_embeds=embedded, attention_mask=batch.attention_mask, use_cache=False).logits
            loss = logprobs.nll_mean(logits[:, :-1], batch.labels[:, 1:]).mean()
            (found,) = torch.autograd.grad(loss, vectors)
        total += found.float().cpu() / len(places)
    return total @ table.float().cpu().T


def _batch(subject: Any, pairs: Sequence[tuple[Place, Sequence[int]]]) -> Batch:
    """The rows with their suffixes, padded on the right, labeled on their answers."""
    rows = [[*place.head, *suffix, *place.tail, *place.answer] for place, suffix in pairs]
    width = max(map(len, rows))
    pad = subject.tokenizer.pad_token_id or 0
    ids = torch.tensor([[*row, *[pad] * (width - len(row))] for row in rows])
    mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows])
    labels = torch.full_like(ids, logprobs.IGNORE)
    for at, ((place, _), row) in enumerate(zip(pairs, rows, strict=True)):
        start = len(row) - len(place.answer)
        labels[at, start : len(row)] = ids[at, start : len(row)]
    device = subject.device
    return Batch(ids.to(device), mask.to(device), labels.to(device), torch.arange(len(rows)))
