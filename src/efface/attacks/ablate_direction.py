"""Direction ablation: take out of every layer the direction in which the candidate's states differ from the original's.

    d = mean over forget prompts of h_u - h_o, at one layer and the prompt's last token, of length 1
    a <- a - (a . d) d      in the residual stream, in front of and behind every layer, and on what attention adds

After `orthogonalization` of arXiv:2409.18025 (d there from harmless prompts as well, and weights are changed in place of
states; without norms behind attention that is the same function). If forgetting is a refusal that one direction switches on,
the answers are back without it. The adversary tries a few layers for d, and the worst counts; the reference has its own d,
between itself and the original, and its own worst layer.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor

from efface.core.card import Card
from efface.core.config import Config
from efface.core.context import Context
from efface.core.types import Attack, Measurement, Request, Row
from efface.families import altered, forms
from efface.families.altered import Questions, Swept
from efface.families.probing import NEW_TOKENS

NOISE = 1e-5
"""Share of the states' length below which a difference is rounding and has no direction."""


class AblateDirectionConfig(Config):
    """Settings of the attack."""

    depths: tuple[Annotated[float, Field(gt=0, le=1)], ...] = Field((0.25, 0.5, 0.75, 1.0), min_length=1)
    """Layers to take d from, as shares of the depth; every one is tried and the worst counts."""
    prompts: int = Field(40, ge=1)
    """Most forget prompts over which d is averaged, evenly spaced."""
    rows: int = Field(20, ge=1)
    """Most forget rows to measure, evenly spaced."""
    max_new: int = Field(NEW_TOKENS, ge=0)
    """Most tokens of an answer at the worst layer; 0 measures probabilities alone."""


class AblateDirection(Attack[AblateDirectionConfig]):
    """An adversary who switches one direction off."""

    card = Card(
        name="ablate_direction", title="Direction ablation", paper="arXiv:2409.18025", families=("causal-lm",), needs=("score", "activations"),
        uses=("forget", "original", "reference"), access="weights", better="as-reference",
        departs="states are projected by hooks in place of weights; d from the forget prompts alone",
    )

    def run(self, subject: Any, request: Request, ctx: Context) -> Measurement:
        """Return the answers' probability without the worst direction; each layer's number is a part. Raises Missing without an original."""
        original: Any = ctx.baseline("original")
        prompts = altered.openings(forms.sample(request.rows("forget"), self.config.prompts))
        asked = altered.questions(forms.sample(request.rows("forget"), self.config.rows), self.config.max_new)
        candidate = altered.bare(subject)
        mine = self._ablated(candidate, original, prompts, asked, ctx)
        base = None
        reference = ctx.baselines.get("reference")
        if reference is not None:
            settings = [self.config.model_dump(), prompts, asked.rows, altered.named(original, ctx)]
            base = altered.stored(reference, self.card.name, settings, ctx, lambda own: self._ablated(reference, original, prompts, asked, own))
        return altered.measurement(self.card, asked, candidate, mine, base, ctx)

    def _ablated(self, subject: Any, original: Any, prompts: Sequence[Row], asked: Questions, ctx: Context) -> Swept:
        altered.same_shape(subject, original, self.card.name)
        count = len(subject.layers())
        layers = sorted({math.ceil(depth * count) for depth in self.config.depths})
        mine, other = (last_states(model, prompts, layers) for model in (subject, original))
        directions = {f"layer {layer}": direction(mine[layer], other[layer]) for layer in layers}
        return altered.swept({name: partial(ablated, subject, found) for name, found in directions.items()}, asked, ctx)


@torch.no_grad()
def last_states(subject: Any, prompts: Sequence[Row], layers: Sequence[int], size: int = 16) -> Mapping[int, Tensor]:
    """{layer, from 1: its output at the last token of each prompt (N, d)}."""
    encoded = [subject.encode_row(row) for row in prompts]
    # Of plain text all is read; of a question what stands before the answer.
    ids = [row.prompt if row.ends or "text" not in prompt else row.prompt + row.answer for row, prompt in zip(encoded, prompts, strict=True)]
    found: dict[int, list[Tensor]] = {layer: [] for layer in layers}
    pad = subject.tokenizer.pad_token_id or 0
    for at in range(0, len(ids), size):
        part = ids[at : at + size]
        width = max(map(len, part))
        tokens = torch.tensor([[*row, *[pad] * (width - len(row))] for row in part], device=subject.device)
        mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in part], device=subject.device)
        with ExitStack() as stack:
            taps = {layer: stack.enter_context(subject.tap("layer", layer - 1)) for layer in layers}
            subject.model(input_ids=tokens, attention_mask=mask, logits_to_keep=1, use_cache=False)
        last = mask.sum(1) - 1
        for layer, caught in taps.items():
            found[layer].append(caught[0][torch.arange(len(part)), last].float())
    return {layer: torch.cat(parts) for layer, parts in found.items()}


def direction(states: Tensor, other: Tensor) -> Tensor:
    """The mean difference of two stacks of states (N, d), of length 1; zero where there is none."""
    difference = (states - other.to(states.device)).mean(0)
    length = difference.norm()
    return difference / length if length > NOISE * other.norm(dim=1).mean() else torch.zeros_like(difference)


def without(states: Tensor, unit: Tensor) -> Tensor:
    """The states (..., d) less their part along a direction of length 1 (or of length 0, which changes nothing)."""
    unit = unit.to(states)
    return states - (states @ unit).unsqueeze(-1) * unit


@contextmanager
def ablated(subject: Any, unit: Tensor) -> Iterator[Any]:
    """The same weights in a second skeleton, whose residual stream never holds the direction."""
    other = subject.view()

    def behind(module: Any, given: Any, out: Any) -> Any:
        return (without(out[0], unit), *out[1:]) if isinstance(out, tuple) else without(out, unit)

    def before(module: Any, given: tuple[Any, ...], named: dict[str, Any]) -> Any:
        if given:
            return (without(given[0], unit), *given[1:]), named
        return given, {**named, "hidden_states": without(named["hidden_states"], unit)}

    handles = [module.register_forward_hook(behind) for module in (*other.layers(), *other.modules_of("attn.out"))]
    handles.append(other.layers()[0].register_forward_pre_hook(before, with_kwargs=True))
    try:
        yield other
    finally:
        for handle in handles:
            handle.remove()
