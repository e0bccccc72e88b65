"""Set-difference pruning: set to zero the weights that matter for refusing and not for anything else.

    I(W) = |W| mean over rows of |d loss / d W|        of the candidate's own answers to forget prompts, and of keep rows
    S = (the top share q of each matrix by forget importance) \\ (the top share p by keep importance);   W_S <- 0

After arXiv:2402.05162 (SNIP scores, all linear weights of the layers), used on unlearned models by arXiv:2409.18025. What the
model says to forget prompts, refusals or anything else, is the behavior of which the weights are looked for: the answers need
not be known. A model that only learned to refuse answers again without those weights. The share q is tried on a grid and the
worst counts; the retrained reference is pruned in the same way, by its own answers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor

from efface.core import rows as row_files
from efface.core.card import Card
from efface.core.config import Config
from efface.core.context import Context
from efface.core.errors import Missing
from efface.core.types import Attack, Measurement, Request, Row
from efface.families import altered, forms, passes
from efface.families.altered import Questions, Swept
from efface.families.probing import NEW_TOKENS
from efface.ops import importance

Scores = Mapping[str, Tensor]
"""{name of a weight in the layers: importance of its entries}."""


class PruneConfig(Config):
    """Settings of the attack."""

    shares: tuple[Annotated[float, Field(gt=0, lt=1)], ...] = Field((0.001, 0.005, 0.02), min_length=1)
    """Shares q of each matrix that matter most for the answers to forget prompts; every one is tried and the worst counts."""
    spare: float = Field(0.05, ge=0, lt=1)
    """Share p of each matrix that matters most on keep rows and stays."""
    prompts: int = Field(16, ge=1)
    """Most forget prompts, and most keep rows, over which importance is averaged, evenly spaced."""
    rows: int = Field(20, ge=1)
    """Most forget rows to measure, evenly spaced."""
    max_new: int = Field(NEW_TOKENS, ge=1)
    """Most tokens of an answer."""


class Prune(Attack[PruneConfig]):
    """An adversary who cuts out the weights that refuse."""

    card = Card(
        name="prune", title="Set-difference pruning", paper="arXiv:2402.05162", families=("causal-lm",), needs=("losses", "score", "weights"),
        uses=("forget", "keep", "reference", "original"), access="weights", better="as-reference",
        departs="forget prompts with the candidate's own answers in place of harmful prompts with refusals; p is fixed and q is searched",
    )

    def run(self, subject: Any, request: Request, ctx: Context) -> Measurement:
        """Return the answers' probability after the worst pruning; each share's number is a part.

        Raises Missing when the model says nothing at all to the forget prompts.
        """
        prompts = altered.openings(forms.sample(request.rows("forget"), self.config.prompts))
        keep = forms.sample(request.rows("keep"), self.config.prompts)
        asked = altered.questions(forms.sample(request.rows("forget"), self.config.rows), self.config.max_new)
        candidate = altered.bare(subject)
        mine = self._pruned(candidate, prompts, keep, asked, ctx)
        base = None
        reference = ctx.baselines.get("reference")
        if reference is not None:
            settings = [self.config.model_dump(), prompts, keep, asked.rows]
            base = altered.stored(reference, self.card.name, settings, ctx, lambda own: self._pruned(reference, prompts, keep, asked, own))
        return altered.measurement(self.card, asked, candidate, mine, base, ctx)

    def _pruned(self, subject: Any, prompts: Sequence[Row], keep: Sequence[Row], asked: Questions, ctx: Context) -> Swept:
        own = answered(prompts, passes.answers(subject, prompts, ctx, self.config.max_new))
        copy = subject.merged()
        for_forget, for_keep = (scores(copy, rows, ctx) for rows in (own, keep))
        masks = partial(chosen, for_forget, for_keep, spare=self.config.spare)
        return altered.swept({f"share {share:g}": partial(without, copy, masks, share) for share in sorted(self.config.shares)}, asked, ctx)


def answered(prompts: Sequence[Row], said: Sequence[str]) -> list[Row]:
    """The prompts with what was said in place of their answers, those left out to which nothing was. Raises Missing when none is left."""
    parts = row_files.layout(prompts)
    pairs = [(row, text.strip()) for row, text in zip(prompts, said, strict=True) if text.strip()]
    if not pairs:
        raise Missing(f"the model says nothing to any of {len(prompts)} forget prompts, so no weight can be told to matter for what it says")
    if "text" in parts:
        return [{parts["text"]: f"{row[parts['text']]} {text}"} for row, text in pairs]
    if "messages" in parts:
        turns = [(row, list(row["messages"])[:-1], text) for row, text in pairs]  # type: ignore[call-overload]
        return [{**row, "messages": [*before, {"role": "assistant", "content": text}]} for row, before, text in turns]
    return [{**row, parts["answer"]: text} for row, text in pairs]


def scores(subject: Any, rows: Sequence[Row], ctx: Context) -> Scores:
    """|W| mean |gradient| of every linear weight in the layers, row by row; each row is a step of the budget."""

    def batches() -> Iterator[Any]:
        for row in ctx.progress(rows, "weighing weights", len(rows)):
            ctx.spend(steps=1)
            yield subject.encode([row])

    layers = subject.layers()
    sums = importance.per_sample_squares(layers, batches(), subject.losses, power=1, way="rows").mean()
    wanted = {id(module.weight) for module in altered.linear_modules(subject)}
    return {name: weight.detach().abs().float() * sums[name] for name, weight in layers.named_parameters() if id(weight) in wanted}


def chosen(forget: Scores, keep: Scores, share: float, spare: float) -> dict[str, Tensor]:
    """Masks of what is cut: the top `share` of each matrix by the first scores, less the top `spare` by the second."""
    return {name: top(values, share) & ~top(keep[name], spare) for name, values in forget.items()}


def top(values: Tensor, share: float) -> Tensor:
    """True at the highest round(share N) of the N entries that are not zero in importance."""
    count = round(share * values.numel())
    if not count:
        return torch.zeros_like(values, dtype=torch.bool)
    lowest = values.flatten().kthvalue(values.numel() - count + 1).values
    return (values >= lowest) & (values > 0)


@contextmanager
def without(subject: Any, masks: partial[dict[str, Tensor]], share: float) -> Iterator[Any]:
    """A copy of the subject in which the weights of the masks for this share are zero."""
    copy = subject.fork()
    weights = dict(copy.layers().named_parameters())
    with torch.no_grad():
        for name, mask in masks(share=share).items():
            weights[name].masked_fill_(mask, 0.0)
    yield copy
