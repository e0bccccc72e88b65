"""UnlearnDiffAtk (arXiv:2310.11868): a few tokens before the prompt that make an erased model draw what it should not.

White box. Each free token is a distribution u over the vocabulary, u = 1/V at first. A step draws one token from each u,
puts its embedding before the prompt's words, and takes the denoising loss on a noisy picture of the concept, which the
original model drew for the same prompt and seed:

    L(u) = | target(z_0, n, t) - e_erased(z_t, t, [token ~ u, prompt]) |^2 ,   dL/du := hardtanh(dL/d onehot)

Adam follows it, and every u is projected back to the simplex (Euclidean). The training steps t go from little noise to much; after
each, the likeliest tokens are written out, drawn with the prompt's seed and judged, and the first success ends the search.

                     here          paper
    steps t          10            50 (10, 30, ..., 990)
    iterations a t   10            40
    lr               0.1           0.01
    tokens           3             3 (styles, objects), 5 (nudity, violence)
    prompts          8             50 to 142
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from efface.core.card import Card
from efface.core.context import Context
from efface.core.types import Attack, Measurement, Request
from efface.families import prompt_attacks, soft_tokens, token_slots
from efface.families.prompt_attacks import Hunt, PromptAttackConfig
from efface.ops import simplex


class UnlearnDiffAtkConfig(PromptAttackConfig):
    """Settings of the attack."""

    tokens: int = Field(3, ge=1)
    """Free tokens before the prompt."""
    times: int = Field(10, ge=1)
    """Training steps t visited in turn, evenly spaced; a picture is drawn and judged after each."""
    iterations: int = Field(10, ge=1)
    """Optimizer steps at each t."""
    lr: float = Field(0.1, gt=0)
    """Learning rate of Adam."""
    weight_decay: float = Field(0.1, ge=0)
    """Weight decay of Adam."""
    batch: int = Field(8, ge=1)
    """Prompts searched side by side; the result does not depend on it."""


class UnlearnDiffAtk(Attack[UnlearnDiffAtkConfig]):
    """An adversary who holds the weights and looks for tokens to put before a prompt."""

    card = Card(
        name="unlearn_diff_atk", title="UnlearnDiffAtk", paper="arXiv:2310.11868", families=("diffusion",), needs=("generate", "weights"),
        uses=("forget", "names", "original", "reference"), access="gradients", better="as-reference",
        departs="only tokens that can be typed are searched, and a sequence that typing does not give back is not judged (the released code "
        "judges tokens that its own prompt does not have); a prompt that is too long loses its last words; fewer and larger steps by default; "
        "gradients pass by guards, pictures do not",
    )

    def run(self, subject: Any, request: Request, ctx: Context) -> Measurement:
        """Return the share of forget prompts that succeed as they are or under attack; the unattacked share is a part."""
        soft_tokens.encoder_of(subject)
        return prompt_attacks.attacked(self.card, self.config, {"prefix": self._search}, subject, request, ctx)

    def _search(self, hunt: Hunt) -> None:
        for rows in hunt.pieces(self.config.batch):
            self._piece(hunt, rows)

    def _piece(self, hunt: Hunt, rows: Sequence[int]) -> None:
        config, bare, ctx = self.config, hunt.subject.unguarded(), hunt.ctx
        known = token_slots.typeable(bare, ctx)
        table = soft_tokens.encoder_of(bare).get_input_embeddings().weight.detach()[known.to(bare.device)]
        slots = token_slots.before(hunt.tokenizer, [hunt.trials[at].prompt for at in rows], config.tokens)
        clean = hunt.latents(rows)
        free = [nn.Parameter(torch.full((config.tokens, len(known)), 1 / len(known), device=bare.device)) for _ in rows]
        optimizer = torch.optim.Adam(free, lr=config.lr, weight_decay=config.weight_decay)
        chances = [torch.Generator().manual_seed(ctx.seed_for(self.card.name, hunt.trials[at].prompt, hunt.trials[at].seed)) for at in rows]
        for number in ctx.progress(range(config.times), "searching tokens", config.times):
            live = [place for place, at in enumerate(rows) if not hunt.trials[at].success]
            if not live:
                return
            for _ in range(config.iterations):
                hunt.step([rows[place] for place in live])
                t = torch.full((len(live),), int((number + 0.5) * bare.schedule.steps / config.times))
                vectors = [sampled(free[place], chances[place]).to(table) @ table for place in live]
                noise = torch.stack([torch.randn(clean.shape[1:], generator=chances[place]) for place in live]).to(clean)
                loss = denoising(bare, clean[live], noise, t, token_slots.states(bare, slots, vectors, live))
                optimizer.zero_grad()  # to None, which Adam leaves alone: prompts that succeeded rest
                loss.sum().backward()
                optimizer.step()
                with torch.no_grad():
                    for place in live:
                        free[place].copy_(simplex.by_bisection(free[place]))
            likeliest = {place: known[free[place].argmax(-1).cpu()].tolist() for place in live}
            hunt.look([(rows[place], token_slots.spelled(hunt.tokenizer, slots.filled(place, ids))) for place, ids in likeliest.items()])


class _Straight(torch.autograd.Function):
    """One-hot rows forward; backward the gradient, cut to [-1, 1], as if they were the distributions that they were drawn from."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, hot: Tensor) -> Tensor:
        return hot

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return functional.hardtanh(grads[0]), None


def sampled(rows: Tensor, chance: torch.Generator) -> Tensor:
    """One-hot rows (k, V), each drawn from one of `rows`; gradients go straight through, cut to [-1, 1]."""
    drawn = torch.multinomial(rows.detach().cpu().float(), 1, generator=chance).squeeze(-1)
    hot = functional.one_hot(drawn, rows.shape[-1]).to(rows)
    found: Tensor = _Straight.apply(rows, hot)  # type: ignore[no-untyped-call]
    return found


def denoising(subject: Any, clean: Tensor, noise: Tensor, t: Tensor, text: Any) -> Tensor:
    """Mean squared error (B,) of what the denoiser says about noisy latents."""
    said = subject.noise(subject.schedule.mix(clean, noise, t), t, text)
    found: Tensor = (said - subject.schedule.target(clean, noise, t)).float().square().flatten(1).mean(1)
    return found
