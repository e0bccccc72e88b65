"""Concept domain correction with a concept-preserving gradient, DoCo (arXiv:2405.15304): a discriminator cannot tell the concept's
predictions from the anchor's.

x_t = noised pictures of the anchor;  x0(e) = what e(x_t, t, prompt) says of the clean latents
L_D   = BCE(D(x0(e*, anchor prompt)), 0) + BCE(D(x0(e, concept prompt)), 1)              every step, from the first on
L_adv = BCE(D(x0(e, concept prompt)), 0),   L_keep = |e(x_t, t, c_keep) - n|^2              after warm_up steps of D alone
g     = grad L_adv - lam min(0, grad L_adv . grad L_keep) / |grad L_keep|^2 grad L_keep    one tensor at a time, both clipped first

Only the keys and values of cross-attention train; e* is the model as it was. Flow models: x0 = x_t - sigma v. Nothing flows
back through the key and value of the begin token. Without surgery g = grad(L_adv + keep_weight L_keep).

Code: 2,000 steps, the first 1,000 of D alone, batch 8, lr 6e-6 times batch, AdamW with decay .01, D by Adam(.5, .999) at 1e-4
for objects and 5e-4 for styles, lam 1, 1,000 anchor pictures, which are the rows to keep as well.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from pydantic import Field
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits as bce

from efface.core import files
from efface.core.card import Card
from efface.core.config import Config, Fit
from efface.core.context import Context
from efface.core.errors import BadConfig, Diverged, EffaceError, Unfit
from efface.core.types import Method, Request, Row
from efface.families import paired_rows, text_readers
from efface.ops.loop import descend, draw, in_steps
from efface.ops.surgery import limited, without_conflict

WIDTHS = (64, 128, 256, 512)
GROUPS = 8
END = 4
"""Side of the map at which the discriminator stops halving."""


class DoCoConfig(Config):
    """Settings of DoCo."""

    warm_up: int = Field(1000, ge=0)
    """Steps of the discriminator alone, before the model's own steps."""
    surgery: bool = True
    """Take away what of the adversarial gradient works against the keep loss; otherwise the keep loss is added, weighted."""
    lam: float = Field(1.0, ge=0)
    """Share of the conflict that surgery takes away; 1 is the whole projection."""
    keep_weight: float = Field(0.1, ge=0)
    """Weight of the keep loss without surgery."""
    discriminator_lr: float = Field(1e-4, gt=0)
    """Learning rate of the discriminator; the code has 1e-4 for objects and 5e-4 for styles."""
    pictures: int = Field(8, ge=1)
    """Pictures drawn of each anchor prompt, and as many of the keep prompts together, at least one of each; pictures of keep rows are used."""
    fit: Fit = Fit(lr=4.8e-5, steps=1000, batch=8, weight_decay=0.01, clip=1.0)
    """Optimizer settings of the model; clip limits each of the two gradients before surgery; adapters (fit.rank) are not possible."""


class DoCo(Method[DoCoConfig]):
    """Trains keys and values against a discriminator of the concept's and the anchor's predictions."""

    card = Card(
        name="doco", title="Concept domain correction", paper="arXiv:2405.15304", families=("diffusion",), needs=("weights",),
        uses=("names", "forget", "keep", "near", "instead"),
        technique="parameter optimization", intent="remove", touches=("weights",), locality="selected parameters", data=("forget rows", "keep rows", "names"), operator="weights",
        sequence="accumulates", reversible=False, guarantee="empirical",
        departs="surgery is the true projection, where the code forgets a factor; the discriminator never receives the model's gradients; it has "
        "group normalization, where batch normalization mixes the few pictures of a batch, and as many halvings as the latents allow; rows to "
        "keep are the request's, where the code keeps the anchor's pictures; prompts are paired by exchanging the concept in them",
    )

    def run(self, subject: Any, request: Request, ctx: Context) -> Any:
        """Return the subject after adversarial training of its keys and values. Raises BadConfig for adapters and accumulation."""
        config, fit = self.config, self.config.fit
        if fit.rank or fit.accumulate > 1:
            raise BadConfig(f"setting fit.rank = {fit.rank}, fit.accumulate = {fit.accumulate}: doco trains whole weights, one batch at a time; leave 0 and 1")
        pairs, keep = paired_rows.paired(subject, request, ctx), request.rows("keep")
        after = subject.trainable([*subject.names_of("cross.key"), *subject.names_of("cross.value")])
        scene = Scene(subject, pairs, keep, config.pictures, ctx)
        critic = Critic(subject.latent_shape, config.discriminator_lr, ctx.seed_for("discriminator"))
        fit = in_steps(fit, {"forget": pairs, "keep": keep})
        memory = Memory(critic, ctx.folder if fit.checkpoint else None, fit.checkpoint)
        if not memory.resumed():
            _warm_up(after, scene, critic, config.warm_up, fit.batch, ctx)
        trained = [parameter for parameter in after.model.parameters() if parameter.requires_grad]

        def loss(batches: Mapping[str, Any]) -> dict[str, Tensor]:
            anchor, said = scene.sides(after, batches["forget"])
            critic.learn(anchor, said.detach())
            memory.keep()
            adversarial, kept = critic.mistaken(said), scene.keep_loss(after, batches["keep"])
            if not config.surgery:
                return {"adversarial": adversarial, "keep": config.keep_weight * kept}
            return {"adversarial": standing_for(trained, adversarial, kept, config.lam, fit.clip), "keep": kept.detach()}

        with begin_token_fixed(after):
            found = descend(after, {"forget": pairs, "keep": keep}, loss, fit, ctx)
        memory.clear()
        return found


class Scene:
    """What is frozen: anchor pictures, keep pictures, states of all prompts, and the model as it was."""

    def __init__(self, subject: Any, pairs: Sequence[Row], keep: Sequence[Row], each: int, ctx: Context) -> None:
        self.subject, self.pairs = subject, pairs
        self.anchors = paired_rows.clean_latents(subject, [{"prompt": row["other"]} for row in pairs], ctx, each)
        self.others = paired_rows.clean_latents(subject, keep, ctx, paired_rows.as_many(each, pairs, keep))
        self.texts = text_readers.Texts(subject, [str(text) for row in (*pairs, *keep) for text in (row["prompt"], row.get("other", ""))])

    def sides(self, after: Any, batch: Any) -> tuple[Tensor, Tensor]:
        """x0 of the same noisy anchor pictures: of the old model with the anchor's prompt, and of `after` with the concept's."""
        mixed, t, _ = paired_rows.noised(self.subject, paired_rows.views(self.anchors, batch.index))
        with torch.no_grad():
            old = self.subject.noise(mixed, t, self.texts([str(row["other"]) for row in batch.rows]))
        new = after.noise(mixed, t, self.texts(batch.texts))
        clean = self.subject.schedule.clean
        return clean(mixed, old, t), clean(mixed, new, t)

    def keep_loss(self, after: Any, batch: Any) -> Tensor:
        """Mean denoising loss of `after` on rows to keep."""
        mixed, t, target = paired_rows.noised(self.subject, paired_rows.views(self.others, batch.index))
        return (after.noise(mixed, t, self.texts(batch.texts)) - target).square().mean()


class Critic:
    """The discriminator with its own optimizer: the anchor's predictions are 0, the concept's 1."""

    def __init__(self, shape: Sequence[int], lr: float, seed: int) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed % 2**62)
            self.network = discriminator(shape)
        self.optimizer = torch.optim.Adam(self.network.parameters(), lr=lr, betas=(0.5, 0.999))

    def learn(self, anchor: Tensor, concept: Tensor) -> Tensor:
        """One step on L_D; returns the loss."""
        self.network.to(anchor.device)
        self.optimizer.zero_grad(set_to_none=True)  # whatever else went through the network does not count
        zero, one = self.network(anchor.float()), self.network(concept.float())
        loss = bce(zero, torch.zeros_like(zero)) + bce(one, torch.ones_like(one))
        loss.backward()
        self.optimizer.step()
        return loss.detach()

    def mistaken(self, concept: Tensor) -> Tensor:
        """L_adv, differentiable in what the concept's predictions depend on, and in nothing of the discriminator."""
        fixed = {name: parameter.detach() for name, parameter in self.network.named_parameters()}
        said = torch.func.functional_call(self.network, fixed, (concept.float(),))
        return bce(said, torch.zeros_like(said))

    def state(self) -> dict[str, Tensor]:
        """Weights and moments by name."""
        moments = self.optimizer.state_dict()["state"]
        found = {f"moment|{at}|{key}": torch.as_tensor(value).clone() for at, held in moments.items() for key, value in held.items()}
        return {**{f"weight|{name}": value.clone().contiguous() for name, value in self.network.state_dict().items()}, **found}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Take up weights and moments."""
        self.network.load_state_dict({name.partition("|")[2]: value for name, value in state.items() if name.startswith("weight|")})
        moments: dict[int, dict[str, Tensor]] = {}
        for name, value in state.items():
            if name.startswith("moment|"):
                _, at, key = name.split("|")
                moments.setdefault(int(at), {})[key] = value
        self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": moments})


def discriminator(shape: Sequence[int]) -> nn.Sequential:
    """A PatchGAN for latents (C, h, w): halvings down to a side of END, then one number for each patch; each picture by itself.

    Raises Unfit for the latents of videos.
    """
    if len(shape) != 3:
        raise Unfit(f"doco's discriminator looks at pictures, and these latents have the shape {tuple(shape)}; take a text-to-image model")
    channels, side = shape[0], min(shape[1:])
    layers: list[nn.Module] = []
    for width in WIDTHS:
        halves = side > END
        if not halves and layers:
            break
        layers.append(nn.Conv2d(channels, width, 4, 2, 1) if halves else nn.Conv2d(channels, width, 3, 1, 1))
        if len(layers) > 1:
            layers.append(nn.GroupNorm(GROUPS, width))
        layers.append(nn.LeakyReLU(0.2))
        channels, side = width, side // 2 if halves else 0
    return nn.Sequential(*layers, nn.Conv2d(channels, 1, 4, 1, 1))


def _warm_up(after: Any, scene: Scene, critic: Critic, steps: int, batch: int, ctx: Context) -> None:
    """Train the discriminator alone; the model stays as it is."""
    for step in ctx.progress(range(steps), "training the discriminator", steps):
        index = draw(len(scene.pairs), batch, step, ctx.seed_for("warm-up rows"))
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            torch.manual_seed(ctx.seed_for("warm-up", step) % 2**62)
            anchor, concept = scene.sides(after, after.encode([scene.pairs[at] for at in index], index))
        loss = float(critic.learn(anchor, concept))
        if not math.isfinite(loss):
            raise Diverged(f"the discriminator's loss is {loss} at step {step} of its own; lower discriminator_lr, then run again")
        ctx.spend(steps=1)


def standing_for(trained: Sequence[Tensor], adversarial: Tensor, kept: Tensor, lam: float, most: float) -> Tensor:
    """A term with the adversarial loss's value, whose gradient is the adversarial gradient after surgery."""
    pulls = torch.autograd.grad(adversarial, trained, allow_unused=True, materialize_grads=True)
    holds = torch.autograd.grad(kept, trained, allow_unused=True, materialize_grads=True)
    gradients = without_conflict(limited(pulls, most), limited(holds, most), lam)
    linear = torch.stack([(parameter * gradient).sum() for parameter, gradient in zip(trained, gradients, strict=True)]).sum()
    return adversarial.detach() + (linear - linear.detach())


@contextmanager
def begin_token_fixed(subject: Any) -> Iterator[None]:
    """Keys and values of the begin token pass no gradient on, while the block lasts: every prompt begins with it (but for T5)."""

    def hook(module: nn.Module, given: Any, made: Tensor) -> Tensor:
        return torch.cat([made[:, :1].detach(), made[:, 1:]], 1)

    modules = [*subject.modules_of("cross.key").values(), *subject.modules_of("cross.value").values()]
    begins = text_readers.readers_of(subject)[0].begins(subject.pipe)
    hooks = [module.register_forward_hook(hook) for module in modules if begins]
    try:
        yield
    finally:
        for handle in hooks:
            handle.remove()


class Memory:
    """The discriminator beside each checkpoint of the model, so that a run that was killed goes on where it was."""

    def __init__(self, critic: Critic, folder: Path | None, every: int) -> None:
        self.critic, self.every, self.step = critic, every, 0
        self.folder = folder if every else None

    def resumed(self) -> bool:
        """Whether the run goes on from a checkpoint; the discriminator is then as it was there. Raises EffaceError when it is gone."""
        if self.folder is None or not (self.folder / "checkpoint" / "state.json").exists():
            return False
        state: Any = files.read_json(self.folder / "checkpoint" / "state.json")
        self.step = int(state["step"])
        path = self._path(self.step)
        if not path.exists():
            raise EffaceError(f"{self.folder} has a checkpoint, and the discriminator {path.name} that belongs to it is gone; remove checkpoint, then run again")
        self.critic.restore(load_file(path))
        return True

    def keep(self) -> None:
        """Count one step, and save what the checkpoint after it will need; the one before it may still be needed."""
        self.step += 1
        if self.folder is None or self.step % self.every:
            return
        path = self._path(self.step)
        path.parent.mkdir(exist_ok=True)
        partial = path.with_suffix(".partial")
        save_file(self.critic.state(), partial)
        partial.replace(path)
        self._path(self.step - 2 * self.every).unlink(missing_ok=True)

    def clear(self) -> None:
        """Remove what was saved: the run is done."""
        if self.folder is not None:
            shutil.rmtree(self.folder / "discriminator", ignore_errors=True)

    def _path(self, step: int) -> Path:
        return Path(self.folder or ".") / "discriminator" / f"{step}.safetensors"
