"""Soft tokens: vectors in place of words, with gradients, in any transformers text encoder, through one hook.

CLIP's text model of transformers takes no inputs_embeds, so the hook replaces what its embedding table gives.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from efface.core.errors import Unfit
from efface.families.denoisers import Text
from efface.families.text_readers import readers_of
from efface.families.tokens import Tokens, cut, span

Positions = Sequence[int] | Tensor
"""Where soft tokens stand: (k,), the same in every prompt, or (B, k)."""


@contextmanager
def injected(encoder: nn.Module, vectors: Tensor, positions: Positions) -> Iterator[None]:
    """Inside the block, `positions` of every prompt read `vectors` (k, w) or (B, k, w) instead of the embeddings of their tokens."""
    at = positions if isinstance(positions, Tensor) else torch.tensor(list(positions))

    def swap(module: nn.Module, given: Any, out: Tensor) -> Tensor:
        filled = vectors if vectors.dim() == 3 else vectors.expand(len(out), -1, -1)
        changed = out.clone()
        changed[torch.arange(len(out))[:, None], at.expand(len(out), -1)] = filled.to(out)
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


def in_place(tokenizer: Any, prompts: Sequence[str], phrase: str, count: int) -> tuple[Tokens, Tensor]:
    """The prompts with `count` place holders where the phrase stands first, and their positions (B, count).

    Raises Unfit when a prompt does not hold the phrase, or would grow too long.
    """
    tokens = cut(tokenizer, prompts)
    ids, masks, places = [], [], []
    for row, prompt in enumerate(prompts):
        if not (found := span(tokenizer, prompt, phrase)):
            raise Unfit(f"{phrase!r} does not stand in the prompt {prompt!r}, so no token can take its place")
        first, last, end = found[0], found[-1], int(tokens.mask[row].sum())
        kept = tokens.ids[row].tolist()
        grown = [*kept[:first], *[int(tokenizer.eos_token_id)] * count, *kept[last + 1 : end]]
        if len(grown) > tokens.length:
            raise Unfit(f"{count} tokens in place of {phrase!r} make {prompt!r} longer than {tokens.length} tokens")
        free = tokens.length - len(grown)
        ids.append([*grown, *[int(tokenizer.pad_token_id)] * free])
        masks.append([*[1] * len(grown), *[0] * free])
        places.append(list(range(first, first + count)))
    return Tokens(torch.tensor(ids), torch.tensor(masks), tokens.begins), torch.tensor(places)


def encoder_of(subject: Any) -> Any:
    """The text encoder of a pipeline that has exactly one. Raises Unfit for others."""
    if "text_encoder_2" in subject.parts or "text_encoder" not in subject.parts:
        raise Unfit(f"soft tokens need a pipeline with one text encoder; {type(subject.pipe).__name__} has {sum('encoder' in name for name in subject.parts)}")
    return subject.parts["text_encoder"]


def states(subject: Any, tokens: Tokens, vectors: Tensor | None = None, positions: Positions = ()) -> Text:
    """What the denoiser reads for token ids, with soft tokens where `vectors` are given; differentiable.

    For pipelines with one CLIP encoder (SD 1.x, 2.x and text-to-video by them). Raises Unfit for others.
    """
    # CLIP's own pooling looks for the end token's id; hidden states do not depend on it.
    encoder = encoder_of(subject)
    with nullcontext() if vectors is None else injected(encoder, vectors, positions):
        return Text(readers_of(subject)[0].states(subject.pipe, tokens.ids, tokens.mask))


def table(subject: Any) -> Tensor:
    """(V, w) the token embeddings of the subject's text encoder, detached."""
    found: Tensor = encoder_of(subject).get_input_embeddings().weight
    return found.detach()


def searched(loss: Callable[[Tensor], Tensor], start: Tensor, steps: int, lr: float, signed: bool = False, goes_on: Callable[[], bool] | None = None) -> Tensor:
    """The vectors after `steps` of Adam on `loss` from `start`, which stays as it is; only the vectors get gradients.

    `signed` gives Adam the sign of each gradient. `goes_on` is asked before every step; the search ends where it says no.
    """
    vectors = start.detach().clone().requires_grad_(True)
    optimizer = torch.optim.Adam([vectors], lr=lr)
    for _ in range(steps):
        if goes_on is not None and not goes_on():
            break
        with torch.enable_grad():
            (gradient,) = torch.autograd.grad(loss(vectors), vectors)
        vectors.grad = gradient.sign() if signed else gradient
        optimizer.step()
    return vectors.detach()
