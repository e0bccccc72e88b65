"""Prompts with the words that point to a concept filtered, encoder by encoder, as SAFREE does (arXiv:2410.12761)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from efface.families.denoisers import Text
from efface.families.text_readers import Reader, places, readers_of
from efface.families.tokens import Tokens
from efface.ops import text_filter

CHUNK = 64
"""Prompts of one pass of a text encoder."""
BLANK = 0
"""Token that stands where a word is left out."""


@dataclass(frozen=True)
class Rule:
    """Which positions of a prompt are filtered."""

    alpha: float = 0.01
    """How far above the mean of the others a word's distance must be for it to be a trigger."""
    ends: bool = False
    """Whether the end token and the padding of a prompt with triggers are filtered along with them."""


@dataclass(frozen=True)
class Told:
    """What was found in one prompt."""

    prompt: str
    words: dict[str, tuple[int, ...]]
    """{encoder: positions of its triggers}."""
    near: float
    """b, how much of the prompt is lost outside of the concept; the mean over encoders."""


@torch.no_grad()
def filtered(
    subject: Any, prompts: Sequence[str], concepts: Sequence[str], text: Text, rule: Rule, parts: Sequence[Reader], limits: dict[str, int],
) -> tuple[Tensor, tuple[Told, ...]]:
    """The states (B, L, d) of `text` with the triggers of each of the encoders `parts` projected, and what was found.

    States of everything else are those of `text`, bit for bit.
    """
    pipe, readers = subject.pipe, readers_of(subject)
    cuts = [reader.cut(pipe, prompts, limits) for reader in readers]
    widths = [_width(getattr(pipe, reader.part)) for reader in readers]
    states = text.states.clone()
    words: list[dict[str, tuple[int, ...]]] = [{} for _ in prompts]
    near: list[list[float]] = [[] for _ in prompts]
    for reader, tokens, width, (first, column) in zip(readers, cuts, widths, places(subject, cuts[0].length, widths), strict=True):
        if reader not in parts:
            continue
        concept = text_filter.basis(summaries(reader, pipe, reader.cut(pipe, concepts, limits)))
        whole = summaries(reader, pipe, tokens)
        without = left_out(reader, pipe, tokens)
        for row in range(len(prompts)):
            block = states[row, first : first + tokens.length, column : column + width]
            at, lost = _one(tokens, row, block, concept, without[row], whole[row], rule)
            words[row][reader.part] = at
            near[row].append(lost)
    told = [Told(prompt, found, sum(each) / len(each)) for prompt, found, each in zip(prompts, words, near, strict=True)]
    return states, tuple(told)


def _one(
    tokens: Tokens, row: int, block: Tensor, concept: Tensor, without: Tensor, whole: Tensor, rule: Rule,
) -> tuple[tuple[int, ...], float]:
    """Filter one prompt's states of one encoder (L, w) in place; where its triggers stand, and b."""
    content = tokens.positions("content", row)
    if not content:
        return (), 0.0
    prompt = text_filter.basis(without)
    left = text_filter.remainder(concept, prompt, block)
    read = tokens.mask[row].bool().to(block.device)
    near = text_filter.nearness(left[read], block[read])
    flags = text_filter.triggers(concept, without, whole, rule.alpha)
    found = [at for at, is_trigger in zip(content, flags, strict=True) if is_trigger]
    moved = [*found, *tokens.positions("eot", row), *tokens.positions("padding", row)] if found and rule.ends else found
    block[moved] = left[moved].to(block.dtype)
    return tuple(found), near


def left_out(reader: Reader, pipe: Any, tokens: Tokens) -> list[Tensor]:
    """For each prompt, its summaries (n, w) with each of its n words left out in turn."""
    ids, masks, counts = [], [], []
    for row in range(len(tokens.ids)):
        content = tokens.positions("content", row)
        many = tokens.ids[row].repeat(len(content), 1)
        many[torch.arange(len(content)), content] = BLANK
        ids.append(many)
        masks.append(tokens.mask[row].repeat(len(content), 1))
        counts.append(len(content))
    return list(summaries(reader, pipe, Tokens(torch.cat(ids), torch.cat(masks), tokens.begins)).split(counts))


def summaries(reader: Reader, pipe: Any, tokens: Tokens) -> Tensor:
    """One vector a prompt (B, w), float64: the state at its end token, or the mean over its words where no begin token is set (T5)."""
    found = []
    for at in range(0, len(tokens.ids), CHUNK):
        ids, mask = tokens.ids[at : at + CHUNK], tokens.mask[at : at + CHUNK]
        states = reader.states(pipe, ids, mask).double()
        ends = mask.sum(1).to(states.device) - 1
        if reader.begins(pipe):
            found.append(states[torch.arange(len(states), device=states.device), ends])
            continue
        inner = torch.arange(states.shape[1], device=states.device)[None] < ends.clamp(min=1)[:, None]
        found.append((states * inner[..., None]).sum(1) / inner.sum(1, keepdim=True))
    return torch.cat(found) if found else torch.zeros(0, _width(getattr(pipe, reader.part)), dtype=torch.float64)


def _width(encoder: Any) -> int:
    return int(encoder.config.hidden_size)
