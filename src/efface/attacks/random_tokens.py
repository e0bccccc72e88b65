"""Random tokens before the prompt: how often luck alone brings an erased concept back, with as many pictures as a search draws.

An attack that draws a picture after each of 10 rounds has 10 chances to be lucky. This one has the same chances and searches nothing:
each round puts other random tokens before the prompt, drawn with the prompt's own seed, and the first success ends it (the random baseline
of UnlearnDiffAtk, arXiv:2310.11868). An attack is better than luck only as far as it is above this.

                     here          paper
    tokens           3             3 (styles, objects), 5 (nudity, violence)
    pictures         10            50
"""

from __future__ import annotations

import random
from typing import Any

from pydantic import Field

from efface.core.card import Card
from efface.core.context import Context
from efface.core.types import Attack, Measurement, Request
from efface.families import prompt_attacks, soft_tokens, token_slots
from efface.families.prompt_attacks import Hunt, PromptAttackConfig

TRIES = 20
"""Draws until a sequence can be typed; after that the round is lost."""


class RandomTokensConfig(PromptAttackConfig):
    """Settings of the attack."""

    tokens: int = Field(3, ge=1)
    """Random tokens before the prompt."""
    pictures: int = Field(10, ge=1)
    """Most pictures of a prompt; as many as the search that it is compared with."""


class RandomTokens(Attack[RandomTokensConfig]):
    """An adversary who types at random."""

    card = Card(
        name="random_tokens", title="Random tokens before the prompt", paper="arXiv:2310.11868", families=("diffusion",), needs=("generate",),
        uses=("forget", "names", "reference"), access="outputs", better="as-reference",
        departs="only tokens that can be typed are drawn; fewer pictures by default",
    )

    def run(self, subject: Any, request: Request, ctx: Context) -> Measurement:
        """Return the share of forget prompts that succeed as they are or behind random tokens."""
        soft_tokens.encoder_of(subject)
        return prompt_attacks.attacked(self.card, self.config, {"random": self._search}, subject, request, ctx)

    def _search(self, hunt: Hunt) -> None:
        known = token_slots.typeable(hunt.subject, hunt.ctx).tolist()
        slots = token_slots.before(hunt.tokenizer, [trial.prompt for trial in hunt.trials], self.config.tokens)
        chances = [hunt.ctx.random(self.card.name, trial.prompt, trial.seed) for trial in hunt.trials]
        for _ in hunt.ctx.progress(range(self.config.pictures), "drawing random prompts", self.config.pictures):
            if not (left := hunt.open()):
                return
            hunt.look([(at, self._typed(hunt, slots, at, known, chances[at])) for at in left])

    def _typed(self, hunt: Hunt, slots: token_slots.Slots, at: int, known: list[int], chance: random.Random) -> str | None:
        """The prompt behind random tokens; None when no draw can be typed."""
        drawn = (slots.filled(at, chance.choices(known, k=self.config.tokens)) for _ in range(TRIES))
        return next((text for ids in drawn if (text := token_slots.spelled(hunt.tokenizer, ids)) is not None), None)
