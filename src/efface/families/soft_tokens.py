"""Soft tokens: vectors in place of words, with gradients, in any transformers text encoder, through one hook.

CLIP's text model of transformers takes no inputs_embeds, so the hook replaces what its embedding table gives.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from efface.core.errors import Unfit
from efface.families.denoisers import Text
from efface.families.tokens import Tokens


@contextmanager
def injected(encoder: nn.Module, vectors: Tensor, positions: Sequence[int]) -> Iterator[None]:
    """Inside the block, `positions` of every prompt read `vectors` (k, w) or (B, k, w) instead of the embeddings of their tokens."""
    at = torch.tensor(list(positions))

    def swap(module: nn.Module, given: Any, out: Tensor) -> Tensor:
        filled = vectors if vectors.dim() == 3 else vectors.expand(len(out), -1, -1)
        changed = out.clone()
        changed[:, at] = filled.to(out)
        return changed

    table: nn.Module = encoder.get_input_embeddings()  # type: ignore[operator]
    handle = table.register_forward_hook(swap)
    try:
        yield
    finally:
        handle.remove()


def with_prefix(tokenizer: Any, tokens: Tokens, count: int) -> tuple[Tokens, list[int]]:
    """The prompts with `count` place holders behind their begin token, and where those stand. Raises Unfit when no room is left."""
    room = tokens.length - int(tokens.mask.sum(1).max())
    if count > room:
        raise Unfit(f"{count} tokens do not fit before the prompt: {room} of {tokens.length} positions are free")
    first = 1 if tokens.begins else 0
    holder = torch.full((len(tokens.ids), count), int(tokenizer.eos_token_id))
    ids = torch.cat([tokens.ids[:, :first], holder, tokens.ids[:, first : tokens.length - count]], 1)
    mask = torch.cat([tokens.mask[:, :first], torch.ones_like(holder), tokens.mask[:, first : tokens.length - count]], 1)
    return Tokens(ids, mask, tokens.begins), list(range(first, first + count))


def states(subject: Any, tokens: Tokens, vectors: Tensor | None = None, positions: Sequence[int] = ()) -> Text:
    """What the denoiser reads for token ids, with soft tokens where `vectors` are given; differentiable.

    For pipelines with one CLIP encoder (SD 1.x, 2.x and text-to-video by them). Raises Unfit for others.
    """
    if "text_encoder_2" in subject.parts or "text_encoder" not in subject.parts:
        raise Unfit(f"soft tokens need a pipeline with one text encoder; {type(subject.pipe).__name__} has {sum('encoder' in name for name in subject.parts)}")
    encoder: Any = subject.parts["text_encoder"]
    device = subject.device
    # CLIP's own pooling looks for the end token's id; hidden states do not depend on it.
    mask = tokens.mask.to(device) if getattr(encoder.config, "use_attention_mask", None) else None
    if vectors is None:
        return Text(encoder(tokens.ids.to(device), attention_mask=mask)[0])
    with injected(encoder, vectors, positions):
        return Text(encoder(tokens.ids.to(device), attention_mask=mask)[0])
