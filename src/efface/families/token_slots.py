"""Prompts with free places for tokens: before the words, between them, or instead of them; and tokens that a user could type.

An attack that finds token ids has found a prompt only if typing the prompt gives those ids back. Some sequences cannot be
typed (a piece of a word followed by another piece becomes one token): they are refused here, and never judged.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from efface.core.context import Context
from efface.core.errors import Unfit
from efface.families import soft_tokens
from efface.families.denoisers import Text
from efface.families.tokens import Tokens, cut


@dataclass(frozen=True)
class Slots:
    """Prompts in which some places are free."""

    tokens: Tokens
    """All tokens, with place holders in the free places."""
    places: tuple[tuple[int, ...], ...]
    """Positions of the free places of each prompt."""

    def filled(self, row: int, chosen: Sequence[int]) -> list[int]:
        """Ids of one prompt's text, begin and end left out, with `chosen` in its free places."""
        ids = self.tokens.ids[row].tolist()
        for place, token in zip(self.places[row], chosen, strict=True):
            ids[place] = int(token)
        return [ids[at] for at in self.tokens.positions("content", row)]


def before(tokenizer: Any, prompts: Sequence[str], count: int) -> Slots:
    """`count` free places before each prompt's words. A prompt that is too long loses its last words."""
    room = _room(tokenizer, count)
    return _laid(tokenizer, [[*[None] * count, *words[: room - count]] for words in _words(tokenizer, prompts)])


def alone(tokenizer: Any, count: int, prompts: int = 1) -> Slots:
    """Free places and no words: as many as fit, at most `count`."""
    return _laid(tokenizer, [[None] * min(count, _room(tokenizer, 1))] * prompts)


def among(tokenizer: Any, prompts: Sequence[str], every: int) -> Slots:
    """One free place before each `every` words' tokens, the empty last group included: P4D-K's layout."""
    room = _room(tokenizer, 1)
    laid = []
    for words in _words(tokenizer, prompts):
        row: list[int | None] = []
        for at in range(0, len(words) + 1, every):
            row += [None, *words[at : at + every]]
        laid.append(row[:room])
    return _laid(tokenizer, laid)


def states(subject: Any, slots: Slots, vectors: Sequence[Tensor], pick: Sequence[int]) -> Text:
    """What the denoiser reads for the prompts `pick`, with vectors (k, w) in the free places of each; differentiable in them."""
    table = soft_tokens.encoder_of(subject).get_input_embeddings().weight
    rows = torch.tensor(list(pick))
    tokens = Tokens(slots.tokens.ids[rows], slots.tokens.mask[rows], slots.tokens.begins)
    full = table.detach()[tokens.ids.to(table.device)].clone()
    for at, row in enumerate(pick):
        full[at, list(slots.places[row])] = vectors[at].to(full)
    return soft_tokens.states(subject, tokens, full, range(tokens.length))


def typeable(subject: Any, ctx: Context) -> Tensor:
    """Ids of the tokens that come back when their text is typed alone; special tokens are none of them."""
    tokenizer = subject.pipe.tokenizer

    def find() -> Tensor:
        ids = [number for number in range(len(tokenizer)) if number not in set(tokenizer.all_special_ids)]
        texts = [decoded(tokenizer, [number]) for number in ids]
        back = tokenizer(texts, add_special_tokens=False).input_ids
        found = [number for number, text, again in zip(ids, texts, back, strict=True) if text and list(again) == [number]]
        if not found:
            raise Unfit("the tokenizer has no token that a user could type; nothing can be searched")
        return torch.tensor(found)

    return ctx.once((tokenizer, "typeable"), find)


def spelled(tokenizer: Any, ids: Sequence[int]) -> str | None:
    """The text that is cut into exactly these tokens; None when there is none, or when one of them is special."""
    if set(map(int, ids)) & set(tokenizer.all_special_ids):
        return None
    text = decoded(tokenizer, ids)
    tokens = cut(tokenizer, [text])
    back = [int(tokens.ids[0, at]) for at in tokens.positions("content")]
    return text if back == [int(token) for token in ids] else None


def decoded(tokenizer: Any, ids: Sequence[int]) -> str:
    """The text of some tokens."""
    return str(tokenizer.decode(list(ids), clean_up_tokenization_spaces=False)).strip()


def _room(tokenizer: Any, count: int) -> int:
    """Positions between begin and end token. Raises Unfit when `count` places and one word do not fit."""
    room = int(tokenizer.model_max_length) - 2
    if count >= room:
        raise Unfit(f"{count} free places leave no room for words: a prompt has {room} tokens at most")
    return room


def _words(tokenizer: Any, prompts: Sequence[str]) -> list[list[int]]:
    tokens = cut(tokenizer, prompts)
    return [[int(tokens.ids[row, at]) for at in tokens.positions("content", row)] for row in range(len(prompts))]


def _laid(tokenizer: Any, rows: Sequence[Sequence[int | None]]) -> Slots:
    """The tokens of prompts given as ids and None for a free place, padded as the tokenizer does."""
    length, first, end, pad = tokenizer.model_max_length, tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id
    ids, mask = torch.full((len(rows), length), int(pad)), torch.zeros(len(rows), length, dtype=torch.long)
    for at, row in enumerate(rows):
        whole = [first, *(end if token is None else token for token in row), end]
        ids[at, : len(whole)], mask[at, : len(whole)] = torch.tensor(whole), 1
    places = tuple(tuple(1 + at for at, token in enumerate(row) if token is None) for row in rows)
    return Slots(Tokens(ids, mask, True), places)
