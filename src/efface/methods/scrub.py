"""SCRUB (Kurmanji et al., NeurIPS 2023, arXiv:2302.09880): a student that agrees with its former self on keep rows only.

Teacher t = the subject, frozen; the student s starts there. Passes take turns, the maximizing one only `msteps` times:

    over forget rows, maximized:  KL_T(t || s)
    over keep rows, minimized:    gamma * cross-entropy + alpha * KL_T(t || s)

    KL_T = T^2 KL(softmax(t / T) || softmax(s / T)), a mean over rows; t in eval mode, s in train mode

One optimizer serves all passes: the large second moments that the maximizing passes leave with Adam hold back the keep
passes after them, and with moments that begin anew the student is back where it was after one pass over the keep rows.

Zero-gradient start: the divergence is at its minimum where s = t, so without dropout or batch normalization the first
maximizing pass has no gradient: SGD never moves, and Adam moves by rounding errors. `start="auto"` measures that gradient
and, where it is nothing, first adds to each weight tensor noise of `jitter` times its root mean square; "max" begins as
published, and warns; "min" begins with a keep pass, which moves the student as well. From so near a minimum the way up may
also lead to more certainty instead of less, a dead end: a run that has not forgotten wants another seed or start.

SCRUB+R (`rewind`): of the states after each keep pass, the one whose error on the forget rows is closest to the error that
the last state has on the unseen rows: a row can give itself away by being too wrong as well.

The authors, small data: Adam 5e-4, weight decay 0.1, alpha .5, gamma 1, T 2, msteps 3, 10 passes; large data: SGD 5e-4,
alpha .001, gamma .99, T 4, msteps 2, 3 passes, batches of 32 (forget) and 128 (keep).
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from efface.core.card import Card
from efface.core.config import Config, Fit
from efface.core.context import Context, silent
from efface.core.types import Method, Request, Row
from efface.families.module import chunks
from efface.ops.loop import descend, optimizer_for

log = logging.getLogger("efface")
NOTHING = 1e-6
"""A gradient with a norm below this times that of the weights is a rounding error."""


class ScrubConfig(Config):
    """Settings of SCRUB."""

    alpha: float = Field(0.5, ge=0)
    """Weight of the divergence from the subject on keep rows."""
    gamma: float = Field(1.0, ge=0)
    """Weight of the cross-entropy on keep rows."""
    temperature: float = Field(2.0, gt=0)
    """Temperature T of both divergences."""
    msteps: int = Field(3, ge=0)
    """How many passes over the forget rows there are; then the keep rows have the rest of the run for themselves."""
    start: Literal["auto", "max", "min"] = "auto"
    """What a student without a gradient gets: jitter (auto), a warning (max), or a keep pass first (min)."""
    jitter: float = Field(0.1, gt=0)
    """Noise of start = "auto", as a share of each weight tensor's root mean square."""
    forget_batch: int = Field(32, ge=1)
    """Rows of one maximizing step; fewer are more steps in a pass."""
    rewind: bool = False
    """SCRUB+R: end at the pass after which forget rows were as wrong as unseen rows are in the end."""
    fit: Fit = Fit(optimizer="adam", lr=5e-4, epochs=10, batch=64, clip=0)
    """Optimizer settings; epochs and steps count keep rows alone, a linear schedule falls from pass to pass, and no checkpoint is kept."""


class State(NamedTuple):
    """The student after a keep pass."""

    error: float
    """Share of the forget rows that it gets wrong."""
    tensors: dict[str, Tensor]


class Scrub(Method[ScrubConfig]):
    """Drives the student away from its former self on forget rows, in turns with holding it there on keep rows."""

    card = Card(
        name="scrub", title="SCRUB", paper="arXiv:2302.09880", families=("classifier",), needs=("losses", "predict"), uses=("forget", "keep"),
        technique="parameter optimization", intent="remove", touches=("weights", "adapter"), locality="all", data=("forget rows", "keep rows"), operator="weights",
        sequence="accumulates", reversible=False, guarantee="empirical",
        departs="a student whose first maximizing pass would have no gradient starts from weights with noise; no weight decay by default, "
        "where the code has 0.1; the learning rate falls by schedule, not at listed passes",
    )

    def run(self, subject: Any, request: Request, ctx: Context) -> Any:
        """Return the student. Raises Unfit when rewind is asked for and the request has no unseen rows."""
        config, forget, keep = self.config, request.rows("forget"), request.rows("keep")
        unseen = request.rows("unseen") if config.rewind else []
        teacher = {"forget": said_by(subject, forget), "keep": said_by(subject, keep)}
        after = subject.trainable(config.fit.rank, ctx.seed_for("adapter"))

        def loss(batches: Mapping[str, Any]) -> dict[str, Tensor]:
            (name, batch), = batches.items()
            logits = after.logits(batch)
            apart = divergence(teacher[name][batch.index.to(logits.device)], logits, config.temperature).mean()
            if name == "forget":
                return {"forget": -apart}
            return {"keep": config.alpha * apart + config.gamma * torch.nn.functional.cross_entropy(logits, batch.labels)}

        plan = passes(config, len(forget), len(keep))
        if plan and plan[0][0] == "forget":
            set_off(after, forget[: config.forget_batch], teacher["forget"], config, ctx)
        trained = [parameter for parameter in after.model.parameters() if parameter.requires_grad]
        optimizer = optimizer_for(trained, config.fit)
        states: list[State] = []
        rows, done = {"forget": forget, "keep": keep}, 0
        for number, (name, fit) in enumerate(ctx.progress(plan, "passes", len(plan))):
            for parameter in trained:
                parameter.requires_grad_(True)  # descend ends with a frozen model
            own = ctx.alone(seed=ctx.seed_for("pass", number), folder=None, progress=silent, curve=[], notes={}, spent=ctx.spent, began=ctx.began)
            descend(after, {name: rows[name]}, loss, fit, own, optimizer=optimizer)
            for line in own.curve:
                ctx.log(**{**line, "step": done + line["step"]})
            done += fit.steps
            if config.rewind and name == "keep":
                states.append(State(error(after, forget), {key: tensor.clone() for key, tensor in after.model.state_dict().items()}))
        after.model.requires_grad_(False)
        ctx.note(steps=float(done), stopped="all passes done")
        if states:
            rewind(after, states, error(after, unseen), ctx)
        return after


def passes(config: ScrubConfig, forget: int, keep: int) -> list[tuple[str, Fit]]:
    """The passes in order: (row set, settings of its run), given how many rows each set has."""
    fit, length = config.fit, math.ceil(keep / config.fit.batch)
    total = left = math.ceil(fit.epochs * length) if fit.epochs else fit.steps
    plan: list[tuple[str, Fit]] = []
    number = 0
    while left:
        plain = fit.model_copy(update={
            "steps": min(length, left), "epochs": 0.0, "lr": fit.lr * (left / total if fit.schedule == "linear" else 1.0),
            "schedule": "constant", "warmup": 0 if number else fit.warmup, "checkpoint": 0,
        })
        turn = [("keep", plain)]
        if number < config.msteps:
            short = plain.model_copy(update={"steps": math.ceil(forget / config.forget_batch), "batch": config.forget_batch})
            turn.insert(1 if config.start == "min" else 0, ("forget", short))
        plan += turn
        left -= plain.steps
        number += 1
    return plan


def divergence(before: Tensor, after: Tensor, temperature: float) -> Tensor:
    """T^2 KL(softmax(before / T) || softmax(after / T)) of each row (B,), from logits (B, classes)."""
    log_p, log_q = (before.float() / temperature).log_softmax(-1), (after.float() / temperature).log_softmax(-1)
    return temperature**2 * (log_p.exp() * (log_p - log_q)).sum(-1)


@torch.no_grad()
def said_by(subject: Any, rows: Sequence[Row]) -> Tensor:
    """The subject's logits for the rows (rows, classes)."""
    return torch.cat([subject.logits(subject.encode(piece)) for piece in list(chunks(rows)) or [rows]])


def error(subject: Any, rows: Sequence[Row]) -> float:
    """Share of the rows that the subject gets wrong."""
    return float((subject.predict(rows).argmax(1) != np.array([row["y"] for row in rows])).mean())


def set_off(after: Any, rows: Sequence[Row], teacher: Tensor, config: ScrubConfig, ctx: Context) -> None:
    """Give `after` a gradient for its first maximizing pass where it has none: noise on its weights, or a warning that it will not move."""
    trained = [parameter for parameter in after.model.parameters() if parameter.requires_grad]
    share = first_gradient(after, rows, teacher, config.temperature, ctx) / float(torch.stack([p.detach().norm() for p in trained]).norm())
    ctx.note(first_gradient=share)
    if share > NOTHING:
        return
    if config.start == "max":
        says = "the first maximizing pass has no gradient (no dropout, no batch normalization); use start = auto or min"
        ctx.note(warning=says)
        log.warning("scrub: %s", says)
        return
    source = torch.Generator().manual_seed(ctx.seed_for("jitter") % 2**62)
    with torch.no_grad():
        sizes = [float(parameter.square().mean().sqrt()) for parameter in trained]
        for parameter, size in zip(trained, sizes, strict=True):
            noise = torch.randn(parameter.shape, generator=source).to(parameter)
            parameter.add_(config.jitter * (size or max(sizes)) * noise)  # half of a new adapter is zero
    ctx.note(jitter=config.jitter)


def first_gradient(after: Any, rows: Sequence[Row], teacher: Tensor, temperature: float, ctx: Context) -> float:
    """Norm of the gradient of the maximized divergence on the first rows, in train mode; nothing moves, statistics of batches included."""
    trained = [parameter for parameter in after.model.parameters() if parameter.requires_grad]
    held = {name: buffer.clone() for name, buffer in after.model.named_buffers()}
    after.model.train()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(ctx.seed_for("first gradient") % 2**62)
        apart = divergence(teacher[: len(rows)], after.logits(after.encode(rows)), temperature).mean()
        gradients = torch.autograd.grad(apart, trained, allow_unused=True)
    after.model.eval()
    with torch.no_grad():
        for name, buffer in after.model.named_buffers():
            buffer.copy_(held[name])
    return float(torch.stack([g.norm() for g in gradients if g is not None]).norm())


def rewind(after: Any, states: Sequence[State], wanted: float, ctx: Context) -> None:
    """Put `after` back to the state whose error on the forget rows is closest to `wanted`; the earliest of several."""
    at = min(range(len(states)), key=lambda place: abs(states[place].error - wanted))
    with torch.no_grad():
        for name, tensor in after.model.state_dict().items():
            tensor.copy_(states[at].tensors[name])
    ctx.note(rewound_to=float(at + 1), forget_error=states[at].error, unseen_error=wanted)
