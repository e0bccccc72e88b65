"""Prompting4Debugging (arXiv:2309.06135): prompts under which an erased model denoises as the original does under the plain prompt.

White box. Free tokens are vectors v; each is replaced by the nearest embedding of the vocabulary (cosine), and the gradient that is
taken there moves v (PEZ, arXiv:2302.03668):

    L(v) = | e_original(z_t, t, prompt) - e_erased(z_t, t, projected v among the prompt's tokens) |^2 ,  v <- AdamW(v, dL/d projected v)

with z_t a noisy picture that the original drew for the prompt, at a random t each step. P4D-N searches a prompt of 16 tokens; P4D-K one
token before each 3 of the prompt's own. Every few steps the projected tokens are written out, drawn with the prompt's seed and judged,
and the first success ends the search. The value is of both together.

                     here          paper
    steps            100           3,000
    a picture every  10            50
    lr, decay        0.1, 0.1      the same
    tokens           16 (or as many as a prompt holds)     16
    prompts          8             50 and more
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from efface.core.card import Card
from efface.core.context import Context
from efface.core.types import Attack, Measurement, Request
from efface.families import prompt_attacks, soft_tokens, token_slots
from efface.families.prompt_attacks import Hunt, PromptAttackConfig
from efface.families.token_slots import Slots


class P4DConfig(PromptAttackConfig):
    """Settings of the attack."""

    form: Literal["both", "N", "K"] = "both"
    """A prompt of free tokens (N), free tokens among those of the prompt (K), or one and then the other."""
    length: int = Field(16, ge=1)
    """Tokens of the free prompt; as many as a prompt holds, where that is less."""
    every: int = Field(3, ge=1)
    """Tokens of the prompt behind each free one."""
    steps: int = Field(100, ge=1)
    """Optimizer steps of each form."""
    look: int = Field(10, ge=1)
    """Steps between two pictures."""
    lr: float = Field(0.1, gt=0)
    """Learning rate of AdamW."""
    weight_decay: float = Field(0.1, ge=0)
    """Weight decay of AdamW."""
    batch: int = Field(8, ge=1)
    """Prompts searched side by side; the result does not depend on it."""


class P4D(Attack[P4DConfig]):
    """An adversary who holds both models and looks for a prompt that makes them agree."""

    card = Card(
        name="p4d", title="Prompting4Debugging (P4D-N and P4D-K)", paper="arXiv:2309.06135", families=("diffusion",), needs=("generate", "weights"),
        uses=("forget", "names", "original", "reference"), access="gradients", better="as-reference",
        departs="prompts are padded as the tokenizer pads them (the released code pads with token 0); only tokens that can be typed are searched, "
        "and a sequence that typing does not give back is not judged; success is what the judge says, and ends the search; gradients pass by "
        "guards, pictures do not",
    )

    def run(self, subject: Any, request: Request, ctx: Context) -> Measurement:
        """Return the share of forget prompts that succeed as they are or under attack by either form; each form's share is a part."""
        soft_tokens.encoder_of(subject)
        ctx.baseline("original")
        forms = ("N", "K") if self.config.form == "both" else (self.config.form,)
        return prompt_attacks.attacked(self.card, self.config, {form: partial(self._search, form) for form in forms}, subject, request, ctx)

    def _search(self, form: str, hunt: Hunt) -> None:
        for rows in hunt.pieces(self.config.batch):
            prompts = [hunt.trials[at].prompt for at in rows]
            slots = (
                token_slots.alone(hunt.tokenizer, self.config.length, len(rows)) if form == "N"
                else token_slots.among(hunt.tokenizer, prompts, self.config.every)
            )
            self._piece(form, hunt, rows, slots)

    def _piece(self, form: str, hunt: Hunt, rows: Sequence[int], slots: Slots) -> None:
        config, bare, ctx = self.config, hunt.subject.unguarded(), hunt.ctx
        original: Any = ctx.baseline("original")
        known = token_slots.typeable(bare, ctx)
        table = soft_tokens.encoder_of(bare).get_input_embeddings().weight.detach()[known.to(bare.device)]
        chances = [torch.Generator().manual_seed(ctx.seed_for(self.card.name, form, hunt.trials[at].prompt, hunt.trials[at].seed)) for at in rows]
        starts = [torch.randint(len(known), (len(slots.places[place]),), generator=chance) for place, chance in enumerate(chances)]
        free = [nn.Parameter(table[start.to(table.device)].clone()) for start in starts]
        optimizer = torch.optim.AdamW(free, lr=config.lr, weight_decay=config.weight_decay)
        clean = hunt.latents(rows)
        with torch.no_grad():
            plain = original.embed_text([hunt.trials[at].prompt for at in rows])
        for step in ctx.progress(range(config.steps), f"searching prompts, P4D-{form}", config.steps):
            live = [place for place, at in enumerate(rows) if not hunt.trials[at].success]
            if not live:
                return
            hunt.step([rows[place] for place in live])
            t = torch.cat([torch.randint(bare.schedule.steps, (1,), generator=chances[place]) for place in live])
            noise = torch.stack([torch.randn(clean.shape[1:], generator=chances[place]) for place in live]).to(clean)
            mixed = bare.schedule.mix(clean[live], noise, t)
            with torch.no_grad():
                wanted = original.noise(mixed, t, plain[live])
            projected = [table[nearest(free[place], table)].requires_grad_() for place in live]
            said = bare.noise(mixed, t, token_slots.states(bare, slots, projected, live))
            loss = (said - wanted).float().square().flatten(1).mean(1).sum()
            optimizer.zero_grad()  # to None, which AdamW leaves alone: prompts that succeeded rest
            for place, gradient in zip(live, torch.autograd.grad(loss, projected), strict=True):
                free[place].grad = gradient
            optimizer.step()
            if (step + 1) % config.look == 0 or step + 1 == config.steps:
                found = {place: known[nearest(free[place], table).cpu()].tolist() for place in live}
                hunt.look([(rows[place], token_slots.spelled(hunt.tokenizer, slots.filled(place, ids))) for place, ids in found.items()])


@torch.no_grad()
def nearest(vectors: Tensor, table: Tensor) -> Tensor:
    """Row (k,) of the table (V, w) that has the largest cosine with each vector (k, w)."""
    found: Tensor = (functional.normalize(vectors, dim=-1) @ functional.normalize(table, dim=-1).T).argmax(-1)
    return found
