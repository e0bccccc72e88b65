"""SCRUB (Kurmanji et al., NeurIPS 2023, arXiv:2302.09880): a student that agrees with its former self on keep rows only.

Teacher t = the subject, frozen; the student s starts there. In pass e = 1, 2, ... over the keep rows:

    if e <= msteps, first one pass over the forget rows that maximizes   KL_T(t || s)
    then one pass over the keep rows that minimizes                      gamma * cross-entropy + alpha * KL_T(t || s)

    KL_T = T^2 KL(softmax(t / T) || softmax(s / T)), a mean over rows

Zero-gradient start: the divergence is at its minimum where s = t, so without dropout or batch normalization the first
maximizing pass has no gradient, and Adam then moves by rounding errors. `start="auto"` measures that gradient and, where it
is nothing, first adds to every weight tensor noise of `jitter` times its root mean square; "max" begins as published, and
warns; "min" begins with a pass over the keep rows, which moves the student as well.

SCRUB+R (`rewind`): of the states after each minimizing pass, the one whose error on the forget rows is closest to the
error that the last state has on the unseen rows; where a row gives itself away by being *too* wrong, that is the better one.

The authors, small data: Adam 5e-4, weight decay 0.1, alpha .5, gamma 1, T 2, msteps 3, 10 passes; large data: SGD 5e-4,
alpha .001, gamma .99, T 4, msteps 2, 3 passes, batches of 32 and 128.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import torch
from pydantic import Field
from torch import Tensor

from efface.core.card import Card
from efface.core.config import Config, Fit
from efface.core.context import Context
from efface.core.errors import BadConfig
from efface.core.types import Method, Request, Row
from efface.ops.loop import descend, in_steps

log = logging.getLogger("efface")
NOTHING = 1e-6
"""A gradient whose norm is below this times the norm of the weights is a rounding error."""


class ScrubConfig(Config):
    """Settings of SCRUB."""

    alpha: float = Field(0.5, ge=0)
    """Weight of the divergence from the subject on keep rows."""
    gamma: float = Field(1.0, ge=0)
    """Weight of the cross-entropy on keep rows."""
    temperature: float = Field(2.0, gt=0)
    """Temperature T of both divergences."""
    msteps: int = Field(3, ge=0)
    """How many of the first passes have a maximizing one before them."""
    forget_batch: int = Field(0, ge=0)
    """Rows of one maximizing step; 0 takes fit.batch."""
    start: Literal["auto", "max", "min"] = "auto"
    """What a student without a gradient gets: jitter (auto), nothing but a warning (max), or a keep pass first (min)."""
    jitter: float = Field(0.1, gt=0)
    """Noise of start = "auto", as a share of each weight tensor's root mean square."""
    rewind: bool = False
    """SCRUB+R: go back to the pass after which forget rows were as wrong as unseen rows are in the end."""
    fit: Fit = Fit(optimizer="adam", lr=5e-4, epochs=10, batch=64, clip=0)
    """Optimizer settings; epochs (or steps) count keep rows alone, and a linear schedule falls from pass to pass."""


class Pass(NamedTuple):
    """One pass over one set of rows."""

    pool: Literal["forget", "keep"]
    number: int
    fit: Fit


class Scrub(Method[ScrubConfig]):
    """Drives the student away from its former self on forget rows, in turns with holding it there on keep rows."""

    card = Card(
        name="scrub", title="SCRUB", paper="arXiv:2302.09880", families=("classifier",), needs=("losses", "predict"), uses=("forget", "keep"),
        departs="a student whose first maximizing pass would have no gradient starts from weights with noise; Adam's moments begin anew in "
        "each pass; no weight decay by default, where the code has 0.1; a schedule instead of steps at listed passes",
    )

    def run(self, subject: Any, request: Request, ctx: Context) -> Any:
        """Return the student. Raises BadConfig for fit.checkpoint, and Unfit for rewind without unseen rows."""
        config, rows = self.config, {"forget": request.rows("forget"), "keep": request.rows("keep")}
        if config.fit.checkpoint:
            raise BadConfig(f"setting fit.checkpoint = {config.fit.checkpoint}: scrub runs in short passes and keeps no checkpoints; leave it at 0")
        unseen = request.rows("unseen") if config.rewind else []
        teacher = {name: torch.from_numpy(subject.predict(some)).clamp_min(1e-38).log().to(subject.device) for name, some in rows.items()}
        after = subject.trainable(config.fit.rank, ctx.seed_for("adapter"))
        trained = {name: p.requires_grad for name, p in after.model.named_parameters()}

        def loss(batches: Mapping[str, Any]) -> dict[str, Tensor]:
            (name, batch), = batches.items()
            logits = after.logits(batch)
            apart = divergence(teacher[name][batch.index.to(logits.device)], logits, config.temperature).mean()
            if name == "forget":
                return {"forget": -apart}
            said = torch.nn.functional.cross_entropy(logits, batch.labels)
            return {"keep": config.alpha * apart + config.gamma * said}

        self._set_off(after, rows["forget"], loss, ctx)
        states: list[tuple[float, dict[str, Tensor]]] = []
        steps = 0
        for one in ctx.progress(list(passes(config, rows)), "passes", len(list(passes(config, rows)))):
            for name, parameter in after.model.named_parameters():
                parameter.requires_grad_(trained[name])  # descend leaves them frozen
            own = ctx.alone(folder=None, seed=ctx.seed_for("pass", one.pool, one.number), curve=[], notes={}, spent=ctx.spent, began=ctx.began)
            own.progress = silent
            descend(after, {one.pool: rows[one.pool]}, loss, one.fit, own)
            for line in own.curve:
                ctx.log(**{**line, "step": steps + line["step"]})
            steps += len(own.curve)
            if config.rewind and one.pool == "keep":
                states.append((error(after, rows["forget"]), {name: t.clone() for name, t in after.model.state_dict().items()}))
        ctx.note(steps=float(steps), stopped="all passes done")
        if states:
            rewound(after, states, error(after, unseen), ctx)
        return after
