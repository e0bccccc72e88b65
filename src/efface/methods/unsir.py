"""UNSIR (Tarun et al., arXiv:2111.08947): noise that a class gets wrong the most is learned as that class, then the rest is repaired.

1. noise   for each forgotten class c: N from N(0, 1), then Adam on  -CE(f(N), c) + penalty * mean ||N||^2
2. impair  minimized = mean CE over `copies` of the noise, labeled c, and a sample of the keep rows
3. repair  minimized = mean CE over the sample of the keep rows

Whole classes only: a class with rows left in keep is refused. Noise has the shape of the inputs, whatever that is; a text
model has no space for noise and is refused. The noise is learned in eval mode on the frozen model.

Notebook: noise of 256 inputs, 40 steps of Adam at .1, penalty .1, 20 copies, 1000 keep rows a class, impair one epoch of Adam
at .02, repair one at .01 (later ports: 250 or 25 steps, 80 copies, repair at 1e-4). It stores every noise input with the label 0,
whatever class it was made for, and keeps only as many inputs of each copy as a picture has channels. Here noise of class c
is labeled c, and all of it counts; with few keep rows, fewer copies do.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import cross_entropy

from efface.core.card import Card
from efface.core.config import Config, Fit
from efface.core.context import Context
from efface.core.errors import Diverged, Unfit
from efface.core.types import Method, Request, Row
from efface.families.module import Batch, chunks
from efface.ops.loop import descend


class UNSIRConfig(Config):
    """Settings of UNSIR."""

    noise: int = Field(256, ge=1)
    """Noise inputs for each forgotten class."""
    noise_steps: int = Field(40, ge=0)
    """Steps in which the noise is learned."""
    noise_lr: float = Field(0.1, gt=0)
    """Learning rate of the noise (Adam)."""
    penalty: float = Field(0.1, ge=0)
    """Weight of the mean squared norm of a noise input."""
    copies: int = Field(20, ge=1)
    """How often each noise input is trained on in an epoch of impairing."""
    sample: int = Field(1000, ge=1)
    """Keep rows of each class to impair and repair with, at most."""
    impair: Fit = Fit(optimizer="adam", lr=0.02, epochs=1, batch=256, clip=0)
    """Optimizer settings of impairing, on noise and keep rows."""
    repair: Fit = Fit(optimizer="adam", lr=0.01, epochs=1, batch=256, clip=0)
    """Optimizer settings of repairing, on keep rows."""


class UNSIR(Method[UNSIRConfig]):
    """Overwrites a class with noise that the model is surest not to be of that class."""

    card = Card(
        name="unsir", title="UNSIR (error-maximizing noise, impair, repair)", paper="arXiv:2111.08947", families=("classifier",), needs=("losses",),
        uses=("forget", "keep"),
        technique="parameter optimization", intent="remove", touches=("weights", "adapter"), locality="all", data=("forget rows", "keep rows"), operator="weights",
        sequence="accumulates", reversible=False, guarantee="empirical",
        departs="noise carries the label of its own class and is used in full, where the notebook labels all of it 0 and keeps a few inputs",
    )

    def run(self, subject: Any, request: Request, ctx: Context) -> Any:
        """Return the subject impaired by noise and repaired. Raises Unfit for a text model, or a class that is not forgotten whole."""
        config, forget, keep = self.config, request.rows("forget"), request.rows("keep")
        classes = _classes(subject, forget, keep)
        before = subject.merged() if subject.adapted else subject
        shape = before.encode(forget[:1]).x.shape[1:]
        noise = [
            {"x": x, "y": label}
            for label in ctx.progress(classes, "learning noise", len(classes))
            for x in self._noise(before, label, shape, ctx.seed_for("noise", label)).cpu().numpy()
        ]
        sample = _sample(keep, config.sample, ctx)
        ctx.note(noise_rows=float(len(noise)), keep_rows=float(len(sample)))
        after = subject.trainable(config.impair.rank, ctx.seed_for("adapter"))
        trained = [parameter for parameter in after.model.parameters() if parameter.requires_grad]

        def loss(batches: Mapping[str, Any]) -> dict[str, Tensor]:
            return {name: after.losses(batch).mean() for name, batch in batches.items()}

        descend(after, {"impair": [*noise * config.copies, *sample]}, loss, _whole(config.impair), ctx)
        for parameter in trained:
            parameter.requires_grad_(True)
        return descend(after, {"repair": sample}, loss, _whole(config.repair), ctx)

    def _noise(self, subject: Any, label: int, shape: Sequence[int], seed: int) -> Tensor:
        """Noise (n, ...) that raises the loss of `label`."""
        config = self.config
        source = torch.Generator().manual_seed(seed % 2**62)
        noise = torch.randn((config.noise, *shape), generator=source).to(subject.device).requires_grad_(True)
        labels = torch.full((config.noise,), label, device=subject.device)
        optimizer = torch.optim.Adam([noise], lr=config.noise_lr)
        for step in range(config.noise_steps):
            error = cross_entropy(subject.logits(Batch(noise, labels, torch.arange(config.noise))), labels)
            total = config.penalty * noise.square().flatten(1).sum(1).mean() - error
            if not torch.isfinite(total):
                raise Diverged(f"the loss of the noise for class {label} is {float(total.detach())} at step {step}; lower noise_lr, then run again")
            (noise.grad,) = torch.autograd.grad(total, noise)
            optimizer.step()
        return noise.detach()


def _whole(fit: Fit) -> Fit:
    """Without checkpoints: the two stages would take each other's for their own."""
    return fit.model_copy(update={"checkpoint": 0})


def _classes(subject: Any, forget: Sequence[Row], keep: Sequence[Row]) -> list[int]:
    """The classes to forget; Unfit where noise has no place, or a class is not forgotten whole."""
    if getattr(subject, "tokenizer", None) is not None:
        raise Unfit("unsir learns noise in the space of the inputs, and a text has none; take random_label or salun")
    for piece in (*chunks(forget), *chunks(keep)):
        subject.encode(piece)  # raises for a row that does not fit
    classes = sorted({int(row["y"]) for row in forget})  # type: ignore[call-overload]
    for label in classes:
        if left := sum(row["y"] == label for row in keep):
            raise Unfit(f"unsir forgets whole classes, and class {label} has {left} rows in keep; take random_label or salun for single rows")
    return classes


def _sample(keep: Sequence[Row], count: int, ctx: Context) -> list[Row]:
    """At most `count` rows of each class."""
    by_class: dict[object, list[Row]] = {}
    for row in keep:
        by_class.setdefault(row["y"], []).append(row)
    return [row for label, rows in by_class.items() for row in ctx.random("sample", label).sample(rows, min(count, len(rows)))]
