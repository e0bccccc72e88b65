"""What a decoder writes after given tokens: greedily, or drawn with a seed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class Sampling:
    """How answers are drawn."""

    draws: int = 1
    temperature: float = 1.0
    top_p: float = 0.9
    seed: int = 0


@torch.no_grad()
def continuations(model: Any, tokenizer: Any, sequences: Sequence[Sequence[int]], max_new: int, sampling: Sampling | None = None) -> list[list[str]]:
    """The texts that follow each sequence of token ids: one greedy, or `sampling.draws` drawn. Global random state is put back.

    Sequences are padded on the left, and the mask says so: a pad token that is also the end token changes nothing.
    """
    length, pad = max(map(len, sequences)), tokenizer.pad_token_id or 0
    device = next(model.parameters()).device
    ids = torch.tensor([[pad] * (length - len(s)) + list(s) for s in sequences], device=device)
    mask = torch.tensor([[0] * (length - len(s)) + [1] * len(s) for s in sequences], device=device)
    how: dict[str, Any] = {"do_sample": False, "num_beams": 1, "temperature": None, "top_p": None, "top_k": None}
    if sampling is not None:
        how = {"do_sample": True, "temperature": sampling.temperature, "top_p": sampling.top_p, "top_k": 0, "num_return_sequences": sampling.draws}
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(sampling.seed if sampling else 0)
        out = model.generate(input_ids=ids, attention_mask=mask, max_new_tokens=max_new, pad_token_id=pad, eos_token_id=tokenizer.eos_token_id, **how)
    said = [str(text).strip() for text in tokenizer.batch_decode(out[:, length:], skip_special_tokens=True)]
    each = sampling.draws if sampling else 1
    return [said[at : at + each] for at in range(0, len(said), each)]
