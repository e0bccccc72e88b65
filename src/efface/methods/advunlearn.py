"""AdvUnlearn (arXiv:2405.15234): the ESD loss outside, an attack by soft tokens inside, and a loss that holds other prompts.

    attack   u = argmin_u |e_th(x_t, t, h_th(u + c)) - e*(x_t, t, h*(c))|^2,   K steps of Adam on k vectors before the words c
    erase    L_u = |e_th(x_t, t, h_th(u + c)) - [e*(x_t, t, "") - eta (e*(x_t, t, c) - e*(x_t, t, ""))]|^2
    retain   L_r = |e_th(x_r, t, h_th(r)) - e*(x_r, t, h*(r))|^2,   minimized = L_u + w L_r, or L_u and w L_r in turn

Star is the frozen model, th the trained one, h its text encoder, whose token embeddings never change. For the first `attack.warmup`
steps, and with attack.steps = 0, u is empty and the erasing part is ESD on the same weights (its eta is this one plus 1). Every x_t lies on a path of the
frozen model with guidance 3: these are drawn once and kept. While only the text encoder is trained that is what the code draws anew
in every step, for it samples with the frozen embedding of the words.

Code: text encoder, 1000 steps of Adam at lr 1e-5, batch 1, K = 30 at lr 1e-3, k = 1, eta 1; for nudity start "random",
retain "reg" with w = 0.3 and 243 COCO prompts, 5 a step. A soft token moves by about attack.lr a step, whatever the gradient: set it
by how far apart the model's token embeddings lie: CLIP's are small; for embeddings of standard deviation 1 take 0.1.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from efface.core.card import Card
from efface.core.config import Config, Fit
from efface.core.context import Context
from efface.core.errors import BadConfig, Unfit
from efface.core.types import Method, Request, Row
from efface.data.retain_prompts import retain_prompts
from efface.families import soft_tokens, tokens, trajectories
from efface.families.denoisers import Text
from efface.ops import erasing
from efface.ops.loop import descend, draw

CHUNK = 64
PART_ROLES = {
    "text": "text.layers", "text.mlp": "text.mlp", "text.attention": "text.attention", "cross": "cross", "self": "self",
    "not.cross": "denoiser", "not.time": "denoiser", "denoiser": "denoiser",
}
LEFT_OUT = {"not.cross": r"\.(attn2|time_embedding|time_proj|conv_out|conv_norm_out)\.", "not.time": r"\.(time_embedding|time_proj|conv_out|conv_norm_out)\."}


class SoftAttack(Config):
    """The attack inside."""

    steps: int = Field(30, ge=0)
    """Steps of one attack; 0 never attacks, which leaves ESD."""
    lr: float = Field(1e-3, gt=0)
    """Learning rate of the attack's Adam."""
    kind: Literal["pgd", "fast_at"] = "pgd"
    """Adam on the gradient, or on its sign."""
    start: Literal["random", "latest"] = "random"
    """Begin with random words of the vocabulary, or with what the last attack on the same words found."""
    tokens: int = Field(1, ge=1)
    """Soft tokens before the words."""
    warmup: int = Field(200, ge=0)
    """First steps of training, without attack."""
    every: int = Field(1, ge=1)
    """Steps of training between two attacks; in between, what was found last is used again."""


class Retain(Config):
    """What holds other prompts."""

    kind: Literal["reg", "iter"] = "reg"
    """One step on both losses, or a step on each in turn."""
    weight: float = Field(0.3, ge=0)
    """Weight w of the retain loss; 0 leaves it out."""
    batch: int = Field(5, ge=1)
    """Prompts of a step: each is seen once before any is seen again."""
    prompts: Literal["keep", "coco", "imagenet"] = "keep"
    """The request's keep rows, or AdvUnlearn's lists "a photo of OBJECT" without those that name the concept."""


class AdvUnlearnConfig(Config):
    """Settings of AdvUnlearn."""

    part: Literal["text", "text.mlp", "text.attention", "cross", "self", "not.cross", "not.time", "denoiser"] = "text"
    """Weights to train: the text encoder's layers, their MLPs or attentions, or a part of the denoiser."""
    layers: int = Field(0, ge=0)
    """Train only so many first layers of the text encoder, without its last norm; 0 trains all."""
    eta: float = Field(1.0, ge=0)
    """Strength of the erasure: how far beyond the empty prompt, away from the concept."""
    attack: SoftAttack = SoftAttack()
    """The attack inside."""
    retain: Retain = Retain()
    """What holds other prompts."""
    sampling_steps: int = Field(50, ge=1)
    """Steps of the frozen model's paths."""
    guidance: float = Field(3.0, ge=0)
    """Guidance of the frozen model's paths."""
    paths: int = Field(32, ge=1)
    """Most paths of each concept, never more than training visits; a retain prompt has one."""
    fit: Fit = Fit(optimizer="adam", lr=1e-5, steps=1000, batch=1, clip=0)
    """Optimizer settings; a batch is one of noisy latents of the concepts. No accumulation, checkpoint or adapter (fit.rank)."""


class AdvUnlearn(Method[AdvUnlearnConfig]):
    """Erases a concept from the text encoder against an adversary who may put soft tokens before its words."""

    card = Card(
        name="advunlearn", title="AdvUnlearn", paper="arXiv:2405.15234", families=("diffusion",), needs=("weights",), uses=("names", "keep"),
        technique="parameter optimization", intent="remove", touches=("weights",), locality="one module", data=("keep rows", "names"), operator="weights",
        sequence="accumulates", reversible=False, guarantee="empirical",
        departs="noisy latents come from paths of the frozen model that are drawn once, where the code draws a path with the current model "
        "in every step of attack and training, and t is the path's own, where the code draws it from the 20 around; the attack's gradients "
        "are zeroed, its last vectors are used and none is changed in place, unlike in the code; each row of a batch is attacked by itself; the "
        "request's keep rows are retained unless the code's own lists are asked for; pipelines with one text encoder only",
    )

    def run(self, subject: Any, request: Request, ctx: Context) -> Any:
        """Return the subject after adversarial training; weights outside of `part` are the subject's own. Raises BadConfig and Unfit."""
        config, fit, names = self.config, self.config.fit, erasing.concepts(request, "advunlearn")
        if fit.accumulate > 1:
            raise BadConfig(f"setting fit.accumulate = {fit.accumulate}: advunlearn attacks whole batches; leave it at 1")
        kept = self._kept(request, ctx) if config.retain.weight else []
        after = erasing.trainable(subject, chosen(subject, config.part, config.layers), fit, "advunlearn")
        game = Game(subject, after, names, kept, config, ctx)
        twice = 2 if game.in_turn else 1
        plan = fit.model_copy(update={"steps": fit.steps * twice, "epochs": 0.0, "checkpoint": 0})
        found = descend(after, {"forget": game.words.rows}, game.loss, plan, ctx)
        ctx.note(attacks=float(game.attacks), retain_prompts=float(len(kept)), paths=float(len(game.words.rows)))
        return found

    def _kept(self, request: Request, ctx: Context) -> list[str]:
        """The retain prompts; no more than training will see, for a path is drawn for each."""
        retain = self.config.retain
        if retain.prompts == "keep":
            found = list(dict.fromkeys(str(row["prompt"]) for row in request.rows("keep") if "prompt" in row))
        else:
            found = retain_prompts(retain.prompts, request.names)
        if not found:
            raise Unfit('no prompt is left to retain; give keep rows with a prompt, or set retain.prompts to "coco" (or retain.weight to 0)')
        return ctx.random("retain prompts").sample(found, max(1, min(len(found), self.config.fit.steps * retain.batch)))


class Game:
    """Both players: the attack on the model as it stands, and the loss that the model is trained on."""

    def __init__(self, subject: Any, after: Any, names: Sequence[str], kept: Sequence[str], config: AdvUnlearnConfig, ctx: Context) -> None:
        self.subject, self.after, self.config = subject, after, config
        cutter, count = after.pipe.tokenizer, config.attack.tokens if config.attack.steps else 0
        self.plain = tokens.cut(cutter, names)
        self.prefixed, self.places = soft_tokens.with_prefix(cutter, self.plain, count)
        self.words = Answers(subject, names, config, ctx)
        self.in_turn = bool(kept) and config.retain.kind == "iter"
        self.turn = self.attacks = 0
        self.latest: dict[int, Tensor] = {}
        self.retains, self.kept, self.seed = bool(kept), tokens.cut(cutter, kept or [""]), ctx.seed_for("rows", "retain")
        if kept:
            seeds = [ctx.seed_for("retain path", at) % 2**62 for at in range(len(kept))]
            self.paths = trajectories.drawn(subject, kept, seeds, config.sampling_steps, config.guidance, ctx)

    def loss(self, batches: Mapping[str, Any]) -> dict[str, Tensor]:
        """The terms of one step."""
        retain, turn = self.config.retain, self.turn
        self.turn += 1
        outer = turn // 2 if self.in_turn else turn
        if self.in_turn and turn % 2:
            return {"keep": retain.weight * self.retained(outer, torch.randint(self.config.sampling_steps, (retain.batch,)))}
        path = batches["forget"].index
        concepts = path // self.words.each
        found = self.adversary(concepts, outer)
        step = torch.randint(len(self.words.path.steps), (len(path),))
        latents, t = self.words.path.at(step, path)
        said = self.after.noise(latents, t, self.read(concepts, found))
        terms = {"forget": (said - self.words.erased[step, path]).square().mean()}
        if self.retains and not self.in_turn:
            terms["keep"] = retain.weight * self.retained(outer, step)
        return terms

    def adversary(self, concepts: Tensor, outer: int) -> Tensor | None:
        """The soft tokens (B, k, w) of this step, or None where there is no attack."""
        attack = self.config.attack
        if not attack.steps or outer < attack.warmup:
            return None
        known = [self.latest.get(int(at)) for at in concepts]
        held = torch.stack([vectors for vectors in known if vectors is not None]) if all(vectors is not None for vectors in known) else None
        if held is not None and outer % attack.every:
            return held
        table = soft_tokens.table(self.after)
        if attack.start == "random" or held is None:
            held = table[torch.randint(len(table), (len(concepts), attack.tokens))]
        found = soft_tokens.searched(lambda vectors: self.attacked(concepts, vectors), held, attack.steps, attack.lr, attack.kind == "fast_at")
        self.attacks += 1
        self.latest.update({int(at): vectors for at, vectors in zip(concepts, found, strict=True)})
        return found

    def attacked(self, concepts: Tensor, vectors: Tensor) -> Tensor:
        """The attack's loss on noisy latents of its own, added up over rows: each is attacked as if it were alone."""
        step, path = self.words.some(concepts)
        latents, t = self.words.path.at(step, path)
        return (self.after.noise(latents, t, self.read(concepts, vectors)) - self.words.wanted[step, path]).square().flatten(1).mean(1).sum()

    def read(self, concepts: Tensor, vectors: Tensor | None) -> Text:
        """The concepts' words as the trained model reads them, behind soft tokens where there are some."""
        given = self.plain if vectors is None else self.prefixed
        return soft_tokens.states(self.after, given[concepts], vectors, self.places)

    def retained(self, outer: int, step: Tensor) -> Tensor:
        """Mean squared distance of the trained model's answers from the frozen one's, on this step's retain prompts."""
        picked = torch.tensor(draw(len(self.kept.ids), self.config.retain.batch, outer, self.seed))
        step = step.repeat(-(-len(picked) // len(step)))[: len(picked)]
        latents, t = self.paths.at(step, picked)
        text = self.kept[picked]
        with torch.no_grad():
            wanted = self.subject.noise(latents, t, soft_tokens.states(self.subject, text))
        return (self.after.noise(latents, t, soft_tokens.states(self.after, text)) - wanted).square().mean()


class Answers:
    """Paths of the frozen model for each concept, and what it says on them; drawn once."""

    def __init__(self, subject: Any, names: Sequence[str], config: AdvUnlearnConfig, ctx: Context) -> None:
        self.each = min(config.paths, max(1, -(-config.fit.steps * config.fit.batch // len(names))))
        self.rows: list[Row] = [{"prompt": name, "seed": ctx.seed_for("path", name, at) % 2**62} for name in names for at in range(self.each)]
        prompts, seeds = [str(row["prompt"]) for row in self.rows], [int(str(row["seed"])) for row in self.rows]
        self.path = trajectories.drawn(subject, prompts, seeds, config.sampling_steps, config.guidance, ctx)
        self.wanted = self._said(subject, prompts)
        blank = self._said(subject, [""] * len(prompts))
        self.erased = blank - config.eta * (self.wanted - blank)

    @torch.no_grad()
    def _said(self, subject: Any, prompts: Sequence[str]) -> Tensor:
        """The frozen model's answer (S, N, C, h, w) at each step of each path."""
        read = soft_tokens.states(subject, tokens.cut(subject.pipe.tokenizer, prompts))
        found = []
        for latents, t in zip(self.path.latents, self.path.steps, strict=False):
            pieces = [slice(at, at + CHUNK) for at in range(0, len(prompts), CHUNK)]
            found.append(torch.cat([subject.noise(latents[piece], t.expand(len(latents[piece])), read[piece]) for piece in pieces]))
        return torch.stack(found)

    def some(self, concepts: Tensor) -> tuple[Tensor, Tensor]:
        """A random step and a random path (B,) of each concept, from the global generator."""
        step = torch.randint(len(self.path.steps), (len(concepts),))
        return step, concepts * self.each + torch.randint(self.each, (len(concepts),))


def chosen(subject: Any, part: str, layers: int = 0) -> list[str]:
    """Names of the parameters to train; token and position embeddings are never among them. Raises Unfit when nothing is left."""
    found = list(subject.names_of(PART_ROLES[part]))
    if part in LEFT_OUT:
        found = [name for name in found if not re.search(LEFT_OUT[part], name)]
    if layers and part.startswith("text"):
        numbers = {name: int(number[1]) for name in found if (number := re.search(r"(?:layers|block)\.(\d+)\.", name))}
        found = [name for name, number in numbers.items() if number < layers]
    if not found:
        raise Unfit(f"this pipeline has no parameter in the part {part!r}")
    return found
