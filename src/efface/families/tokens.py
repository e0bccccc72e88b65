"""Where the words of a prompt stand, by real token ids: never by counting words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from efface.core.errors import Unfit

Which = Literal["bos", "content", "last", "eot", "padding", "last_to_end", "all"]
"""Begin token; all tokens of the text; the last of them (the begin token where there are none); the first end token; what
comes behind it; everything from the last token on; all positions."""


@dataclass(frozen=True)
class Tokens:
    """Prompts as one text encoder's tokenizer cuts them."""

    ids: Tensor
    """(B, L)."""
    mask: Tensor
    """(B, L), 1 on begin, text and first end token."""
    begins: bool
    """Whether a begin token stands first (CLIP) or not (T5)."""

    def __getitem__(self, rows: Tensor) -> Tokens:
        return Tokens(self.ids[rows], self.mask[rows], self.begins)

    @property
    def length(self) -> int:
        """Positions of a prompt."""
        return self.ids.shape[1]

    def positions(self, which: Which, row: int = 0) -> list[int]:
        """Positions of one prompt, in order."""
        end = int(self.mask[row].sum()) - 1
        first = 1 if self.begins else 0
        last = max(end - 1, 0)
        return {
            "bos": [0] if self.begins else [], "content": list(range(first, end)), "last": [last], "eot": [end],
            "padding": list(range(end + 1, self.length)), "last_to_end": list(range(last, self.length)), "all": list(range(self.length)),
        }[which]


def cut(tokenizer: Any, prompts: Sequence[str], length: int = 0) -> Tokens:
    """The prompts' tokens, padded as pipelines do: to `length`, or to the tokenizer's own."""
    found = tokenizer(list(prompts), padding="max_length", max_length=length or tokenizer.model_max_length, truncation=True, return_tensors="pt")
    begins = tokenizer.bos_token_id is not None and bool((found.input_ids[:, 0] == tokenizer.bos_token_id).all())
    return Tokens(found.input_ids, found.attention_mask, begins)


def span(tokenizer: Any, prompt: str, phrase: str) -> list[int]:
    """Positions of a phrase inside a prompt, found among the prompt's tokens; empty when it does not stand there."""
    ids = cut(tokenizer, [prompt])
    inner = cut(tokenizer, [phrase])
    wanted = [int(inner.ids[0, at]) for at in inner.positions("content")]
    here = ids.positions("content")
    if not wanted:
        return []
    for start in range(len(here) - len(wanted) + 1):
        if [int(ids.ids[0, at]) for at in here[start : start + len(wanted)]] == wanted:
            return here[start : start + len(wanted)]
    return []


def refuse_empty(tokenizer: Any, phrases: Sequence[str], what: str) -> None:
    """Raise Unfit for a phrase without any token."""
    for phrase in phrases:
        if not phrase.strip() or not cut(tokenizer, [phrase]).positions("content"):
            raise Unfit(f"{what} {phrase!r} is empty; say in words what it is, such as \"a cat\"")


def in_pieces(tokenizer: Any, phrase: str) -> dict[str, int]:
    """{word: pieces} of the words that the tokenizer cuts in three pieces or more: it may not know them."""
    counts = {word: len(cut(tokenizer, [word]).positions("content")) for word in phrase.split()}
    return {word: count for word, count in counts.items() if count > 2}


def pick(states: Tensor, tokens: Tokens, which: Which) -> Tensor:
    """States (n, d) of one kind of position, of all prompts, one under the other. `states` is (B, L, d)."""
    return torch.cat([states[row, tokens.positions(which, row)] for row in range(len(states))])
