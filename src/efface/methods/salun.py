"""Saliency unlearning, SalUn (arXiv:2310.12508): random labels, but only the weights that matter for the forget rows move.

mask_i = 1 for the top share of |G_i| over all weights jointly,  G = mean over forget rows of the gradient of a loss
    classifiers  CE(f(x), y)
    diffusion    -|n - ((1 + g) e(x_t, c) - g e(x_t, ""))|^2, at a random step t and noise n for each picture
minimized; weights with mask 0 stay bit for bit
    classifiers  random labels: CE on forget rows with random y', and CE on keep rows
    diffusion    mean |e(x_t, c) - stopgrad e(x_t, c')|^2 + keep_weight * mean |e(x_t, c_keep) - n|^2,  c' another prompt

The absolute value is taken of the mean, not the mean of absolute values: opposite gradients of two rows cancel. The model is
in eval mode for G. Each row weighs the same, where the code adds batch means and so weighs a short last batch like a full
one. Weights outside of the mask are put back after every step, because momentum and weight decay would move them without a
gradient (the code does so since 2026-02; older figures have the leak). The mask is over parameters: statistics of batch
normalization are buffers and move with the training batches, as in the code.

Code: share .5; classifiers ten epochs, SGD at lr .013, momentum .9, weight decay 5e-4, batch 256 for a tenth of CIFAR-10,
labels from all classes, in turns; diffusion five epochs, Adam at lr 1e-5, batch 8, g 7.5, keep_weight .1 (its README: .5), the
whole denoiser, c' the prompt of the next class. Without the keep term all classes go. Users often fail to reproduce the paper
because of the learning rate: try several.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from efface.core.card import Card
from efface.core.config import Config, Fit
from efface.core.context import Context
from efface.core.errors import BadConfig
from efface.core.types import Method, Request, Row
from efface.families import paired_rows, text_readers
from efface.ops.importance import mean_gradient
from efface.ops.loop import descend
from efface.ops.masks import held, top_share
from efface.ops.relabel import Order, train_on_random

CLASSIFIERS = Fit(optimizer="sgd", lr=0.013, momentum=0.9, weight_decay=5e-4, epochs=10, batch=256, clip=0)
DIFFUSION = Fit(optimizer="adam", lr=1e-5, epochs=5, batch=8, clip=0)
"""The optimizer settings of the code for either family."""


class OnDiffusion(Config):
    """Settings of SalUn that only text-to-image models have."""

    guidance: float = Field(7.5, ge=0)
    """Guidance g of the prediction whose gradient chooses the weights."""
    keep_weight: float = Field(0.5, ge=0)
    """Weight of the denoising loss on keep rows; at 0 everything is forgotten."""
    role: str = "denoiser"
    """Weights among which the mask chooses: the whole denoiser, or a role such as cross, cross.value or self."""
    pictures: int = Field(8, ge=1)
    """Pictures drawn of each forget prompt whose row has none, and as many of the keep prompts together, at least one of each."""
    save_mask: bool = False
    """Write mask.safetensors into the run's folder: one byte for each weight."""


class SalUnConfig(Config):
    """Settings of SalUn."""

    share: float = Field(0.5, gt=0, le=1)
    """Share of the weights that may move, those with the largest gradients; 1 is the method random_label."""
    exclude_true: bool = False
    """Classifiers: never draw a row's own label; the paper's code draws from all classes."""
    order: Order = "alternate"
    """Classifiers: passes over forget rows and keep rows in turn, new labels at every pass, or one shuffled union with labels drawn once."""
    fit: Fit = CLASSIFIERS
    """Optimizer settings. An epoch is one pass over each row set; taking turns keeps no checkpoint; adapters (fit.rank) are not possible.
    For a text-to-image model what is left at these values is adam, lr 1e-5, no momentum or decay, batch 8, five epochs of the larger set."""
    diffusion: OnDiffusion = OnDiffusion()
    """Text-to-image models: what only they have."""


class SalUn(Method[SalUnConfig]):
    """Trains the weights most salient for the forget rows on random labels (or other prompts' predictions) for them, and on keep rows."""

    card = Card(
        name="salun", title="Saliency unlearning", paper="arXiv:2310.12508", families=("classifier", "diffusion"), needs=("losses",),
        uses=("forget", "keep", "near", "instead"),
        technique="relabeling", intent="remove", touches=("weights",), locality="selected parameters", data=("forget rows", "keep rows"), operator="weights",
        sequence="accumulates", reversible=False, guarantee="empirical",
        departs="the saliency weighs every row the same, where the code weighs every batch the same; in a union, labels are drawn once, "
        "where the code draws them at every epoch; on text-to-image models the other prompt is the request's instead or near, and a random "
        "keep prompt without them, where the code takes the next class, and pictures that are not given are drawn by the model",
    )

    def run(self, subject: Any, request: Request, ctx: Context) -> Any:
        """Return the subject after training inside the mask; all other weights are bit-identical. Raises BadConfig for fit.rank."""
        config, forget = self.config, request.rows("forget")
        if config.fit.rank:
            raise BadConfig(f"setting fit.rank = {config.fit.rank}: salun chooses among the model's own weights; leave fit.rank at 0")
        if subject.family == "diffusion":
            return _on_diffusion(subject, request, config, ctx)
        after = subject.trainable(0, ctx.seed_for("adapter"))
        masks = top_share(saliency(after, forget, config.fit.batch), config.share)
        ctx.note(mask_weights=float(sum(int(mask.sum()) for mask in masks.values())))
        with held(after.model, masks) as settle:
            return train_on_random(after, forget, request.rows("keep"), (config.order, config.exclude_true), config.fit, ctx, settle)


def saliency(subject: Any, rows: Sequence[Row], size: int) -> dict[str, Tensor]:
    """{name: |mean over rows of the gradient of the loss|} for every parameter, in eval mode, `size` rows at a time."""
    batches = (subject.encode(rows[at : at + size]) for at in range(0, len(rows), size))
    return {name: value.abs() for name, value in mean_gradient(subject.model, batches, subject.losses).items()}


def mask_of(subject: Any, rows: Sequence[Row], config: SalUnConfig, ctx: Context) -> dict[str, Tensor]:
    """{full name: bool tensor} of a text-to-image model: true for the weights of the role that may move."""
    clean = paired_rows.clean_latents(subject, rows, ctx, config.diffusion.pictures)
    found = picture_saliency(subject, rows, clean, config, ctx)
    names = subject.names_of(config.diffusion.role)
    return top_share({name: found[name] for name in names}, config.share)


def picture_saliency(subject: Any, rows: Sequence[Row], clean: Tensor, config: SalUnConfig, ctx: Context) -> dict[str, Tensor]:
    """{full name: |mean over pictures of the gradient of the guided denoising loss|} of the denoiser, in eval mode.

    `clean` holds the latents (N, each, C, h, w) of the rows.
    """
    count, each = clean.shape[:2]
    texts, guidance = text_readers.Texts(subject, ["", *(str(row["prompt"]) for row in rows)]), config.diffusion.guidance
    latents, many = clean.flatten(0, 1), [row for row in rows for _ in range(each)]

    def losses(batch: Any) -> Tensor:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(ctx.seed_for("saliency", int(batch.index[0])) % 2**62)
            mixed, t, target = paired_rows.noised(subject, latents[batch.index])
        said = subject.noise(mixed, t, texts(batch.texts))
        free = subject.noise(mixed, t, texts([""] * len(mixed))) if guidance else torch.zeros_like(said)
        return -(target - ((1 + guidance) * said - guidance * free)).square().flatten(1).mean(1)

    pieces = range(0, count * each, DIFFUSION.batch)
    batches = (
        subject.encode(many[at : at + DIFFUSION.batch], range(at, min(at + DIFFUSION.batch, len(many))))
        for at in ctx.progress(pieces, "looking for salient weights", len(pieces))
    )
    part = subject.layout.part
    return {f"{part}.{name}": value.abs() for name, value in mean_gradient(subject.denoiser, batches, losses).items()}


def _on_diffusion(subject: Any, request: Request, config: SalUnConfig, ctx: Context) -> Any:
    """The text-to-image model after training inside the mask."""
    own, fit = config.diffusion, _fit(config.fit)
    pairs, keep = paired_rows.paired(subject, request, ctx), request.rows("keep")
    few = paired_rows.as_many(own.pictures, request.rows("forget"), keep)
    clean = {name: paired_rows.clean_latents(subject, rows, ctx, each) for name, rows, each in (("forget", pairs, own.pictures), ("keep", keep, few))}
    texts = text_readers.Texts(subject, [str(row[name]) for rows, names in ((pairs, ("prompt", "other")), (keep, ("prompt",))) for row in rows for name in names])
    masks = mask_of(subject, request.rows("forget"), config, ctx)
    ctx.note(mask_weights=float(sum(int(mask.sum()) for mask in masks.values())), optimizer=f"{fit.optimizer}, lr {fit.lr:g}, batch {fit.batch}")
    if own.save_mask and ctx.folder is not None:
        from safetensors.torch import save_file

        save_file(masks, ctx.folder / "mask.safetensors")
    after = subject.trainable(list(masks))
    with held(after.model, masks) as settle:

        def loss(batches: Mapping[str, Any]) -> dict[str, Tensor]:
            settle()
            forget, other = batches["forget"], batches["keep"]
            mixed, t, _ = paired_rows.noised(after, paired_rows.views(clean["forget"], forget.index))
            said = after.noise(mixed, t, texts(forget.texts))
            with torch.no_grad():
                wanted = after.noise(mixed, t, texts([str(row["other"]) for row in forget.rows]))
            mixed, t, target = paired_rows.noised(after, paired_rows.views(clean["keep"], other.index))
            kept = after.noise(mixed, t, texts(other.texts))
            return {"forget": (said - wanted).square().mean(), "keep": own.keep_weight * (kept - target).square().mean()}

        return descend(after, {"forget": pairs, "keep": keep}, loss, fit, ctx)


def _fit(given: Fit) -> Fit:
    """The optimizer settings for a text-to-image model: the code's, and of those given all that are not a classifier's default."""
    return DIFFUSION.model_copy(update={name: value for name, value in given if value != getattr(CLASSIFIERS, name)})
