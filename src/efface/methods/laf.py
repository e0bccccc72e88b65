"""Label-agnostic forgetting, LAF (Shen et al., ICLR 2024, arXiv:2404.00506): unlearning that reads no label.

e(x) is what the head reads, e_o(x) what it read before. Two variational autoencoders learn what e_o looks like: h on all
rows, h_f on the forget rows (sum of squares + kl_weight * KL, a mean over rows; Adam; then frozen). Then, for each pair of a
forget and a keep batch, one step of Adam on each of

    unlearn = sum over keep rows of phi(d_h) - sum over forget rows of phi(d_hf),    d_h = |e - h(e)|^2,   phi(d) = exp(d / (d + 1))
    align   = sum over keep rows of log( exp(c_k) / sum over forget rows of exp(c_f / T) ),    c = 1 - cos(e, e_o)

phi lies in [1, e), so the ascent on forget rows has a bound. The head never changes, unless `repair` asks for it: LAF+R,
cross-entropy of the head alone on all keep rows (supervised), or on a few of them (semi); that, and only that, reads labels.
The extractor stays in eval mode: statistics of batch normalization do not move. An epoch ends with the smaller row set.

Success is one-sided: forget rows are thrown out of their place, to anywhere, and stay far from what a retrained model says
of them. Where forget and retrained must be hard to tell apart, use another method.

The authors, small networks: latent 8, 20 epochs, 5e-5 and 1e-4, T 5 (random rows) or 20 (a class, noisy labels); ResNet-18:
latent 16, 40 epochs, 1e-5 and 4e-5 to 5e-5, T 20 (5 for noisy labels). Networks as small as that of the digits benchmark
want 1e-3 and 2e-3. Their decoder ends in a sigmoid, and embeddings are not confined to 0..1: `decoder="sigmoid"` has it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from efface.core.card import Card
from efface.core.config import Config, Fit
from efface.core.context import Context, silent
from efface.core.errors import BadRows, Diverged, Unfit
from efface.core.types import Method, Request, Row
from efface.families.classifier import Classifier
from efface.families.module import chunks
from efface.families.networks import seeded
from efface.ops.loop import descend, draw

Decoder = Literal["linear", "sigmoid"]


class LAFConfig(Config):
    """Settings of label-agnostic forgetting."""

    latent: int = Field(8, ge=1)
    """Size of the autoencoders' code."""
    decoder: Decoder = "linear"
    """Last step of the autoencoders: none, or the sigmoid of the authors' code, which cannot give numbers outside of 0..1."""
    kl_weight: float = Field(0.025, ge=0)
    """Weight of the KL term of the autoencoders."""
    vae_epochs: int = Field(10, ge=1)
    """Passes in which each autoencoder is trained."""
    vae_lr: float = Field(1e-3, gt=0)
    """Learning rate of the autoencoders."""
    epochs: int = Field(20, ge=0)
    """Passes over the smaller of the two row sets."""
    batch: int = Field(32, ge=1)
    """Rows of each set in one step, and of one step of the autoencoders."""
    unlearn_lr: float = Field(5e-5, gt=0)
    """Learning rate of the unlearning step."""
    align_lr: float = Field(1e-4, gt=0)
    """Learning rate of the alignment step."""
    temperature: float = Field(20.0, gt=0)
    """T of the alignment."""
    repair: Literal["none", "supervised", "semi"] = "none"
    """Train the head afterwards on the labels of all keep rows, or of repair_rows of them; none reads no label."""
    repair_rows: int = Field(100, ge=1)
    """Keep rows with a label that repair = "semi" may read."""
    fit: Fit = Fit(optimizer="adam", lr=1e-3, epochs=5, batch=64, clip=0)
    """Optimizer settings of the repair alone."""


class LAF(Method[LAFConfig]):
    """Drives the embeddings of forget rows away from where they were, and holds those of keep rows, without any label."""

    card = Card(
        name="laf", title="Label-agnostic forgetting", paper="arXiv:2404.00506", families=("classifier",), needs=("features", "weights"),
        uses=("forget", "keep"),
        technique="parameter optimization", intent="remove", touches=("weights",), locality="selected layers", data=("forget rows", "keep rows"), operator="weights",
        sequence="accumulates", reversible=False, guarantee="empirical",
        departs="the autoencoders' output is linear, where the code ends them in a sigmoid; each epoch goes on in the larger row set where the "
        "last one ended",
    )

    def run(self, subject: Any, request: Request, ctx: Context) -> Any:
        """Return the subject with a new extractor. Raises Unfit when nothing trainable stands before the head."""
        config = self.config
        rows = {name: unlabeled(request.rows(name)) for name in ("forget", "keep")}  # type: ignore[arg-type]
        if empty := [name for name, some in rows.items() if not some]:
            raise BadRows(f"there are no {' and no '.join(empty)} rows to train on")
        before = {name: embedded(subject, some, ctx) for name, some in rows.items()}
        everything = autoencoder(torch.cat([before["forget"], before["keep"]]), config, "all rows", ctx)
        gone = autoencoder(before["forget"], config, "forget rows", ctx)
        after = subject.merged()
        after.origin = ""
        trained = extractor(after)
        unlearn, align = (torch.optim.Adam(trained, lr=rate) for rate in (config.unlearn_lr, config.align_lr))
        noise = torch.Generator().manual_seed(ctx.seed_for("noise") % 2**62)
        steps = config.epochs * min(math.ceil(len(some) / config.batch) for some in rows.values())
        for step in ctx.progress(range(steps), "training", steps):
            batches, places = {}, {}
            for name, some in rows.items():
                places[name] = draw(len(some), min(config.batch, len(some)), step, ctx.seed_for("rows", name))
                batches[name] = after.encode([some[at] for at in places[name]])
            here = {name: after.features(batch) for name, batch in batches.items()}
            away = unlearning(off(everything, here["keep"], noise), off(gone, here["forget"], noise))
            unlearned = moved(unlearn, away, trained, step, "unlearning term")
            here = {name: after.features(batch) for name, batch in batches.items()}
            turned = {name: turn(here[name], before[name][places[name]]) for name in rows}
            held = alignment(turned["keep"], turned["forget"], config.temperature)
            aligned = moved(align, held, trained, step, "alignment term")
            ctx.log(step=step, unlearn=unlearned, align=aligned)
            ctx.spend(steps=1)
        after.model.requires_grad_(False)
        ctx.note(steps=float(steps))
        if config.repair != "none":
            repair(after, request.rows("keep"), config, ctx)
        return after


class Autoencoder(nn.Module):
    """A variational autoencoder d-128-32-z-32-128-d; `noise` (B, z) is the standard normal draw of the code."""

    def __init__(self, size: int, latent: int, decoder: Decoder) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(size, 128), nn.ReLU(), nn.Linear(128, 32), nn.ReLU())
        self.mean, self.log_variance = nn.Linear(32, latent), nn.Linear(32, latent)
        out: list[nn.Module] = [nn.Sigmoid()] if decoder == "sigmoid" else []
        self.decoder = nn.Sequential(nn.Linear(latent, 32), nn.ReLU(), nn.Linear(32, 128), nn.ReLU(), nn.Linear(128, size), *out)

    def forward(self, x: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Reconstruction (B, d), mean and log-variance of the code (B, z)."""
        hidden = self.encoder(x)
        mean, log_variance = self.mean(hidden), self.log_variance(hidden)
        return self.decoder(mean + (log_variance / 2).exp() * noise), mean, log_variance


def vae_loss(x: Tensor, made: Tensor, mean: Tensor, log_variance: Tensor, kl_weight: float) -> Tensor:
    """Squared error summed over dimensions + kl_weight * KL(code || standard normal), a mean over rows."""
    kl = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum(-1)
    return ((made - x).square().sum(-1) + kl_weight * kl).mean()


def phi(d: Tensor) -> Tensor:
    """exp(d / (d + 1)), in [1, e) for d >= 0, with a finite gradient however large d is."""
    return torch.exp(1 - 1 / (d + 1))


def unlearning(keep: Tensor, forget: Tensor) -> Tensor:
    """The unlearning term, from reconstruction errors of the keep rows (by h) and of the forget rows (by h_f)."""
    return phi(keep).sum() - phi(forget).sum()


def alignment(keep: Tensor, forget: Tensor, temperature: float) -> Tensor:
    """The alignment term, from the turns c (rows,) of both sides: sum c_k - |keep| log sum exp(c_f / T)."""
    return keep.sum() - len(keep) * torch.logsumexp(forget / temperature, 0)


def turn(now: Tensor, then: Tensor) -> Tensor:
    """One minus the cosine between each row's embedding now and then (B,)."""
    return 1 - nn.functional.cosine_similarity(now, then, dim=-1)


def off(model: nn.Module, embeddings: Tensor, noise: torch.Generator) -> Tensor:
    """Squared distance (B,) between each embedding and what the autoencoder makes of it."""
    latent: Any = model.mean
    draw_of = torch.randn(len(embeddings), latent.out_features, generator=noise).to(embeddings)
    return (model(embeddings, draw_of)[0] - embeddings).square().sum(-1)


def unlabeled(rows: Sequence[Row]) -> list[Row]:
    """The rows with 0 in place of whatever label they have, or have not."""
    return [{**row, "y": 0} for row in rows]


@torch.no_grad()
def embedded(subject: Any, rows: Sequence[Row], ctx: Context) -> Tensor:
    """What the head reads of each row (rows, d)."""
    pieces = list(chunks(rows))
    return torch.cat([subject.features(subject.encode(piece)) for piece in ctx.progress(pieces, "reading rows", len(pieces))])


def autoencoder(x: Tensor, config: LAFConfig, label: str, ctx: Context) -> Autoencoder:
    """An autoencoder trained on the embeddings and frozen."""
    model: Any = seeded(Autoencoder, ctx.seed_for("autoencoder", label), size=x.shape[1], latent=config.latent, decoder=config.decoder)
    model.to(x).requires_grad_(True)
    optimizer = torch.optim.Adam(model.parameters(), lr=config.vae_lr)
    source = torch.Generator().manual_seed(ctx.seed_for("autoencoder rows", label) % 2**62)
    total = math.nan
    for _ in ctx.progress(range(config.vae_epochs), f"learning what {label} look like", config.vae_epochs):
        total = 0.0
        for places in torch.randperm(len(x), generator=source).split(config.batch):
            some = x[places]
            made, mean, log_variance = model(some, torch.randn(len(some), config.latent, generator=source).to(x))
            loss = vae_loss(some, made, mean, log_variance, config.kl_weight)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += len(some) * float(loss.detach())
    model.requires_grad_(False)
    ctx.note(**{f"autoencoder_loss_{label.replace(' ', '_')}": total / len(x)})
    return model  # type: ignore[no-any-return]


def extractor(after: Any) -> list[nn.Parameter]:
    """The parameters before the head, ready to train; Unfit when there are none."""
    head = {id(parameter) for module in after.modules_of("head") for parameter in module.parameters()}
    found = [parameter for parameter in after.model.parameters() if id(parameter) not in head]
    if not found:
        raise Unfit(f"laf trains what stands before the head, and {type(after.model).__name__} is a head alone; use another method")
    for parameter in found:
        parameter.requires_grad_(True)
    return found


def moved(optimizer: torch.optim.Optimizer, loss: Tensor, trained: Iterable[nn.Parameter], step: int, label: str) -> float:
    """The loss, after one step on it; Diverged when it, or its gradient, is not finite."""
    value = float(loss.detach())
    optimizer.zero_grad()
    loss.backward()
    total = sum(float(parameter.grad.square().sum()) for parameter in trained if parameter.grad is not None)
    if not math.isfinite(value + total):
        raise Diverged(f"the {label} or its gradient is not finite at step {step}; lower unlearn_lr and align_lr, then run again")
    optimizer.step()
    return value


def repair(after: Any, keep: Sequence[Row], config: LAFConfig, ctx: Context) -> None:
    """Train the head of `after` in place on labeled keep rows, over embeddings that stay as they are."""
    labeled = [row for row in keep if "y" in row] if config.repair == "semi" else list(keep)
    if config.repair == "semi":
        labeled = ctx.random("repair").sample(labeled, min(config.repair_rows, len(labeled)))
    if not labeled:
        raise BadRows("repair = semi, and no keep row has a label y; give some, or use repair = none")
    said = after.encode(labeled).labels.tolist()
    seen = embedded(after, unlabeled(labeled), ctx).cpu().numpy()
    head = Classifier(after.modules_of("head")[-1])
    head.model.requires_grad_(True)
    own = ctx.alone(folder=None, progress=silent, curve=[], notes={}, spent=ctx.spent, began=ctx.began)
    rows = [{"x": x, "y": y} for x, y in zip(seen, said, strict=True)]
    descend(head, {"keep": rows}, lambda batches: {"repair": head.losses(batches["keep"]).mean()}, config.fit, own)
    ctx.note(repair_rows=float(len(rows)), repair_loss=own.curve[-1]["repair"] if own.curve else "not trained")
