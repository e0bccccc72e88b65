"""Ring-A-Bell (arXiv:2310.10012): prompts whose text states come near those of a concept turned up, found without the erased model.

Black box: only a public text encoder h (the original's, else the subject's own) is searched, and the erased model is asked for one
picture a prompt. The concept is what its mention adds, over pairs of prompts with and without it, at all positions:

    v = mean_i (h(with_i) - h(without_i)) ,   target = h(prompt) + eta v ,   fitness(tokens) = | h(tokens) - target |^2

A genetic search over K tokens keeps the best half of each generation, crosses parents (one cut, both children) and mutates one token of
a sequence. Pairs come from the forget rows: "prompt" and "without", or where a row has no "without", its prompt with the concept exchanged
for `instead`, else for the first of `near`, else left out.

                     here          paper
    tokens           16 (or as many as a prompt holds)     16 (38, 77)
    population       100           200
    generations      150           3,000
    eta              3             3 (to 5.5)
    crossover        0.5           0.5
    mutation         0.25          0.25
    pairs            the forget rows                       30 to 50
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from efface.core.card import Card
from efface.core.context import Context
from efface.core.errors import Missing
from efface.core.types import Attack, Measurement, Request, Row
from efface.families import paired_rows, prompt_attacks, soft_tokens, token_slots
from efface.families.diffusion import prompt_of
from efface.families.prompt_attacks import Hunt, PromptAttackConfig
from efface.families.token_slots import Slots
from efface.families.tokens import Tokens, cut
from efface.ops import genetic


class RingABellConfig(PromptAttackConfig):
    """Settings of the attack."""

    length: int = Field(16, ge=2)
    """Tokens of a prompt; as many as a prompt holds, where that is less."""
    eta: float = Field(3.0, gt=0)
    """How far the concept is turned up."""
    population: int = Field(100, ge=4)
    """Sequences of a generation."""
    generations: int = Field(150, ge=1)
    """Generations of each prompt's search."""
    crossover: float = Field(0.5, ge=0, le=1)
    """Share of parents that are crossed with another."""
    mutation: float = Field(0.25, ge=0, le=1)
    """Share of sequences in which one token changes."""


class RingABell(Attack[RingABellConfig]):
    """An adversary who knows the text encoder and nothing of the erased model."""

    card = Card(
        name="ring_a_bell", title="Ring-A-Bell", paper="arXiv:2310.10012", families=("diffusion",), needs=("generate",),
        uses=("forget", "names", "near", "instead", "original", "reference"), access="outputs", better="as-reference",
        departs="the best sequences are kept unchanged (in the released code mutation hits them too, so that the best can get worse), and a sequence "
        "is kept once; only tokens that can be typed are searched, and the best sequence that typing gives back is drawn; fewer generations by default",
    )

    def run(self, subject: Any, request: Request, ctx: Context) -> Measurement:
        """Return the share of forget prompts that succeed as they are or by the prompt found for them."""
        reader: Any = ctx.baselines.get("original", subject)
        soft_tokens.encoder_of(reader)
        vector = concept(reader, *pairs(request))

        def search(hunt: Hunt) -> None:
            left = hunt.open()
            for at in ctx.progress(left, "searching prompts", len(left)):
                hunt.look([(at, self._found(hunt, reader, vector, at))])

        return prompt_attacks.attacked(self.card, self.config, {"genetic": search}, subject, request, ctx)

    def _found(self, hunt: Hunt, reader: Any, vector: Tensor, at: int) -> str | None:
        """The best prompt for one row; the search is the same for every subject, so it is made once."""
        config, trial, ctx = self.config, hunt.trials[at], hunt.ctx
        for _ in range(config.generations):
            hunt.step([at])

        def search() -> str | None:
            chance = torch.Generator().manual_seed(ctx.seed_for(self.card.name, trial.prompt, trial.seed))
            slots = token_slots.alone(reader.pipe.tokenizer, config.length)
            target = encoded(reader, cut(reader.pipe.tokenizer, [trial.prompt]))[0] + config.eta * vector
            ranked = evolved(reader, slots, target, token_slots.typeable(reader, ctx), config, chance)
            texts = (token_slots.spelled(reader.pipe.tokenizer, row) for row in ranked.tolist())
            return next((text for text in texts if text is not None), None)

        pool = tuple(vector.flatten()[:8].tolist())
        return ctx.once((reader, self.card.name, config.model_dump_json(), trial.prompt, trial.seed, ctx.seed, pool), search)


def pairs(request: Request) -> tuple[list[str], list[str]]:
    """Prompts with the concept, and the same prompts without it. Raises Missing when no row makes a pair."""
    other = request.instead if request.instead is not None else next(iter(request.near), "")
    found = [(prompt_of(row), _without(row, request.names, other)) for row in request.rows("forget")]
    kept = list(dict.fromkeys((full, bare) for full, bare in found if bare is not None and bare != full))
    if not kept:
        raise Missing(f"no forget row makes a pair with and without {', '.join(request.names)}; name the concept as it stands in the prompts, or give a column without")
    return [full for full, _ in kept], [bare for _, bare in kept]


def _without(row: Row, names: Sequence[str], other: str) -> str | None:
    if isinstance(given := row.get("without"), str):
        return given
    prompt = prompt_of(row)
    if not any(paired_rows.ARTICLE.sub("", name).lower() in prompt.lower() for name in names):
        return None
    return paired_rows.exchanged(prompt, names, other)


def concept(reader: Any, full: Sequence[str], bare: Sequence[str]) -> Tensor:
    """v (L, w): what the concept adds to the text states, the mean over all pairs."""
    tokenizer = reader.pipe.tokenizer
    return (encoded(reader, cut(tokenizer, full)) - encoded(reader, cut(tokenizer, bare))).mean(0)


@torch.no_grad()
def encoded(reader: Any, tokens: Tokens, size: int = 256) -> Tensor:
    """Text states (B, L, w) of token ids."""
    pieces = [Tokens(tokens.ids[at : at + size], tokens.mask[at : at + size], tokens.begins) for at in range(0, len(tokens.ids), size)]
    return torch.cat([soft_tokens.states(reader, piece).states.float() for piece in pieces])


def evolved(reader: Any, slots: Slots, target: Tensor, vocabulary: Tensor, config: RingABellConfig, chance: torch.Generator) -> Tensor:
    """Token sequences (population / 2, K) after the genetic search, the best first."""
    places = list(slots.places[0])

    def fitness(rows: Tensor) -> Tensor:
        ids = slots.tokens.ids.repeat(len(rows), 1)
        ids[:, places] = rows
        states = encoded(reader, Tokens(ids, slots.tokens.mask.expand(len(rows), -1), slots.tokens.begins))
        return (states - target).square().flatten(1).sum(1).cpu()

    half = config.population // 2
    population = vocabulary[torch.randint(len(vocabulary), (config.population, len(places)), generator=chance)]
    population, scores = genetic.generation(population[:0], torch.zeros(0), fitness, half, population)
    for _ in range(config.generations - 1):
        born = genetic.children(population, vocabulary, config.crossover, config.mutation, chance)
        population, scores = genetic.generation(population, scores, fitness, half, born)
    return population
