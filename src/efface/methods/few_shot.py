"""Few-shot unlearning: the text encoder alone unlearns a concept from about four pictures, in about ten steps (arXiv:2405.07288).

minimized = - mean | e(x_t, t, h(template with the concept)) - target(x_0, n, t) |^2,   t uniform, n normal

Ascent on the loss by which textual inversion learns, through the frozen denoiser into the text encoder h. Weights trained:
mlp-final-attn, every layer's feed-forward network and the last layer's attention, biases included (where the paper finds the
knowledge); mlp, attn, mlp-attn, all.

Pictures come from the forget rows (column image), or are drawn by the model; without any (zero_shot), latents are uniform
noise U[0, 1). Code: Adam at 1e-5, betas (.9, .98), eps 1e-6, decay 1e-8, 5 epochs of 4 pictures in batches of 2: 10 steps.

Ascent has no end: more steps destroy everything. So after every epoch the drift of kept prompts is looked at, and the run ends where it
came to most_drift: drift = sum |e - e*|^2 / sum |e* - e*(x, t, "")|^2 of the frozen denoiser's predictions, where 1 is to lose
the prompts altogether. Kept prompts are those of the keep rows, or else the neighbors.

The emoji model wants larger steps, and its tokenizer templates="none". Seen there (one seed, settings chosen on these very
pictures), shares of 6 to 24 pictures in which the judges see what was asked for: "a cat" with lr 1e-3, 3 pictures, 10 steps:
cat 1.00 to 0.00, eight other objects stay at 1.00, drift .05. With lr 3e-3 and 15 steps unguarded, tiger falls to .25 and car
to 0.00; the guard at .1 ends that run after 6 steps, with cat at 0.00 and both at 1.00. A style does not come off alone: with
the guard at .1 "noto style" stays at 1.00; 20 unguarded steps at lr 2e-3 on 16 pictures take it to .25, other styles to .75 and
their objects to .62.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from efface.core.card import Card
from efface.core.config import Config, Fit
from efface.core.context import Context
from efface.core.errors import Unfit
from efface.core.rows import evenly
from efface.core.types import Method, Request, Row
from efface.families import drawn as drawings
from efface.families.diffusion import pictures_of, prompt_of
from efface.families.tokens import span
from efface.families.trajectories import drawn
from efface.ops import erasing
from efface.ops.loop import Watch, descend, in_steps, optimizer_for

Set = Literal["mlp-final-attn", "mlp", "attn", "mlp-attn", "all"]
Encoder = Literal["all", "text_encoder", "text_encoder_2", "text_encoder_3"]
LAYER = re.compile(r"\.(?:layers|block)\.(\d+)\.")
OBJECT = tuple(
    "a photo of a {}|a rendering of a {}|a cropped photo of the {}|the photo of a {}|a photo of a clean {}|a photo of a dirty {}|a dark photo of the {}|"
    "a photo of my {}|a photo of the cool {}|a close-up photo of a {}|a bright photo of the {}|a cropped photo of a {}|a photo of the {}|"
    "a good photo of the {}|a photo of one {}|a close-up photo of the {}|a rendition of the {}|a photo of the clean {}|a rendition of a {}|"
    "a photo of a nice {}|a good photo of a {}|a photo of the nice {}|a photo of the small {}|a photo of the weird {}|a photo of the large {}|"
    "a photo of a cool {}|a photo of a small {}".split("|")
)
"""Templates of textual inversion (arXiv:2208.01618) for objects."""
STYLE = tuple(
    f"{kind} in the style of {{}}" for kind in (
        "a painting|a rendering|a cropped painting|the painting|a clean painting|a dirty painting|a dark painting|a picture|a cool painting|"
        "a close-up painting|a bright painting|a cropped painting|a good painting|a close-up painting|a rendition|a nice painting|a small painting|"
        "a weird painting|a large painting"
    ).split("|")
)
"""The same for styles."""
KEPT, POINTS, LOOKS = 16, 5, 8
"""Kept prompts that are watched, points on each one's path; draws of noise a picture in the loss that is noted."""


class FewShotConfig(Config):
    """Settings of few-shot unlearning."""

    train: Set = "mlp-final-attn"
    """Weights of the text encoder to train."""
    encoder: Encoder = "all"
    """Which text encoder, where a pipeline has several."""
    templates: Literal["object", "style", "none"] = "object"
    """Prompts that the concept is put into, one drawn at every step; none takes the rows' own prompts."""
    pictures: int = Field(4, ge=1)
    """Most pictures of the concept to use."""
    zero_shot: bool = False
    """Use uniform noise in place of pictures."""
    flip: bool = True
    """Mirror some of the pictures, once."""
    most_drift: float = Field(0.1, ge=0)
    """Drift of kept prompts at which the run stops; 0 never stops it, as in the code."""
    fit: Fit = Fit(lr=1e-5, epochs=5, batch=2, optimizer="adam", weight_decay=1e-8, clip=0, precision="no")
    """Optimizer settings; an epoch is one pass over the pictures; adapters (fit.rank) are not possible."""


class FewShot(Method[FewShotConfig]):
    """Raises the denoising loss of a few pictures of the concept by training the text encoder."""

    card = Card(
        name="few_shot", title="Few-shot unlearning", paper="arXiv:2405.07288", families=("diffusion",), needs=("weights",), uses=("names",),
        technique="parameter optimization", intent="remove", touches=("weights",), locality="selected parameters", data=("names",), operator="weights",
        sequence="accumulates", reversible=False, guarantee="empirical",
        departs="stops when predictions for kept prompts drift, where the code always runs all epochs and keeps a model of each; the mean of the "
        "autoencoder's posterior, where the code samples it once; templates take the concept without its article, or the word style at its end, "
        "and those that a short tokenizer would cut are left out",
    )

    def run(self, subject: Any, request: Request, ctx: Context) -> Any:
        """Return the subject after ascent; the denoiser, the autoencoder and all other weights are the very same ones."""
        config, names = self.config, erasing.concepts(request, "few_shot")
        after = erasing.trainable(subject, chosen(subject, config.train, config.encoder), config.fit, "few_shot")
        rows = examples(subject, request, names, config, ctx)
        clean = uniform(subject, len(rows), ctx) if config.zero_shot else latents_of(subject, rows, config.flip, ctx)

        known = fitting(subject, config.templates, rows)

        def loss(batches: Mapping[str, Any]) -> dict[str, Tensor]:
            batch = batches["forget"]
            return {"ascent": -denoising(after, clean[batch.index], filled(batch.rows, known))}

        fit = in_steps(config.fit, {"forget": rows})
        # The noted losses are of the same noise before and after, so their difference is the training's alone.
        ctx.note(forget_loss_before=_level(subject, clean, rows, ctx), pictures=float(len(rows)))
        drift = guard(subject, after, request, config, ctx)
        epoch = math.ceil(len(rows) / fit.batch)
        watch = Watch(drift, config.most_drift, epoch, "predictions for kept prompts drifted") if drift is not None else None
        descend(after, {"forget": rows}, loss, fit, ctx, watch, _optimizer(after, fit))
        ctx.note(
            forget_loss_after=_level(after, clean, rows, ctx), visits=float(math.ceil(float(ctx.notes["steps"]) * fit.batch / len(rows))),
            drift=drift() if drift is not None else "not watched",
        )
        return after


def denoising(subject: Any, clean: Tensor, prompts: Sequence[str]) -> Tensor:
    """Mean squared error of the prediction for noised latents (B, C, h, w) under prompts, with noise from the global generator."""
    mixed, t, noise = subject.schedule.noised(clean)
    said = subject.noise(mixed, t, subject.embed_text(prompts))
    return (said - subject.schedule.target(clean, noise, t)).square().mean()


def chosen(subject: Any, which: Set, encoder: Encoder = "all") -> list[str]:
    """Full names of the parameters of one set. Raises Unfit when the pipeline has no such encoder."""
    if which == "all":
        names = subject.names_of("text")
    elif which in ("mlp", "attn"):
        names = subject.names_of("text.mlp" if which == "mlp" else "text.attention")
    else:
        attention = subject.names_of("text.attention")
        names = subject.names_of("text.mlp") + (attention if which == "mlp-attn" else _of_last_layer(attention))
    found = [name for name in names if encoder in ("all", name.partition(".")[0])]
    if not found:
        raise Unfit(f"setting encoder = {encoder!r}: {type(subject.pipe).__name__} has no such text encoder with weights of the set {which!r}")
    return found


def _of_last_layer(names: Sequence[str]) -> list[str]:
    """Those names that belong to the last layer of their encoder."""
    layer = {name: int(match[1]) if (match := LAYER.search(name)) else -1 for name in names}
    last: dict[str, int] = {}
    for name, number in layer.items():
        head = name.partition(".")[0]
        last[head] = max(last.get(head, -1), number)
    return [name for name in names if layer[name] == last[name.partition(".")[0]]]


def examples(subject: Any, request: Request, names: Sequence[str], config: FewShotConfig, ctx: Context) -> list[Row]:
    """Rows with a prompt, the concept in it, and (but for zero-shot) a picture: the request's own, or drawn by the subject."""
    given = request.forget.read() if request.forget is not None else []
    shown = [row for row in given if "image" in row]
    rows = evenly(shown or given or [{"prompt": names[at % len(names)]} for at in range(config.pictures)], config.pictures)
    found: list[Row] = [
        {"prompt": prompt_of(row), "concept": worded(_concept(prompt_of(row), names, at), config.templates)} for at, row in enumerate(rows)
    ]
    if config.zero_shot:
        return found
    if len(subject.latent_shape) != 3:
        raise Unfit(f"few_shot learns from pictures, and {type(subject.pipe).__name__} draws videos; set zero_shot to do without")
    if shown:
        return [{**row, "image": own["image"]} for row, own in zip(found, rows, strict=True)]
    seeded = [{"prompt": row["prompt"], "seed": drawings.SEEDS[at % len(drawings.SEEDS)] + 1000 * (at // len(drawings.SEEDS))} for at, row in enumerate(found)]
    return [{**row, "image": picture} for row, picture in zip(found, drawings.pictures(subject, seeded, ctx), strict=True)]


def _concept(prompt: str, names: Sequence[str], number: int) -> str:
    """The concept that a prompt speaks of: the first whose words stand in it, or else the next in turn."""
    return next((name for name in names if erasing.bare(name).lower() in prompt.lower()), names[number % len(names)])


def worded(concept: str, templates: str) -> str:
    """The concept as templates take it: "cat" for "a cat", and among styles "noto" for "noto style"."""
    word = erasing.bare(concept)
    return word.removesuffix(" style") if templates == "style" else word


def fitting(subject: Any, which: str, rows: Sequence[Row]) -> tuple[str, ...]:
    """Those templates of a kind in which every row's concept is read whole; none for "none". Raises Unfit when all are too long."""
    known = {"object": OBJECT, "style": STYLE}.get(which, ())
    words = {str(row["concept"]) for row in rows}
    found = tuple(one for one in known if all(span(subject.pipe.tokenizer, one.format(word), word) for word in words))
    if known and not found:
        raise Unfit(f"setting templates = {which!r}: this tokenizer cuts every template before {sorted(words)[0]!r} is read; take templates = 'none'")
    return found


def filled(rows: Sequence[Row], templates: Sequence[str]) -> list[str]:
    """One prompt a row: a template, drawn from the global generator, with the row's concept in it; without any, the row's own prompt."""
    if not templates:
        return [prompt_of(row) for row in rows]
    return [templates[int(torch.randint(len(templates), ()))].format(row["concept"]) for row in rows]


def latents_of(subject: Any, rows: Sequence[Row], flip: bool, ctx: Context) -> Tensor:
    """Latents (N, C, h, w) of the rows' pictures, resized (bicubic) to the model's size and mirrored or not, once for the run."""
    from PIL import Image

    scale = int(getattr(subject.pipe, "vae_scale_factor", 8))
    height, width = (side * scale for side in subject.latent_shape[-2:])
    sized = []
    for row in rows:
        picture = pictures_of([row])[0]
        if picture.shape[:2] != (height, width):
            picture = np.asarray(Image.fromarray(picture).resize((width, height), Image.Resampling.BICUBIC))
        sized.append(picture)
    mirrored = [ctx.random("flip", at).random() < 0.5 for at in range(len(rows))] if flip else [False] * len(rows)
    return subject.latents(np.stack([picture[:, ::-1] if turn else picture for picture, turn in zip(sized, mirrored, strict=True)]))  # type: ignore[no-any-return]


def uniform(subject: Any, count: int, ctx: Context) -> Tensor:
    """Latents (N, C, h, w) of uniform noise, U[0, 1): what the zero-shot variant has for pictures."""
    generator = torch.Generator().manual_seed(ctx.seed_for("zero shot") % 2**62)
    return torch.rand((count, *subject.latent_shape), generator=generator).to(subject.device)


@torch.no_grad()
def _level(subject: Any, clean: Tensor, rows: Sequence[Row], ctx: Context) -> float:
    """The denoising loss of the pictures under their rows' own prompts, over fixed draws of noise."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(ctx.seed_for("level") % 2**62)
        return float(np.mean([float(denoising(subject, clean, filled(rows, ()))) for _ in range(LOOKS)]))


def guard(subject: Any, after: Any, request: Request, config: FewShotConfig, ctx: Context) -> Callable[[], float] | None:
    """What measures the drift of kept prompts; None where most_drift is 0, or where the request keeps nothing."""
    kept = [prompt_of(row) for row in request.keep.read()] if request.keep is not None else list(request.near)
    if not config.most_drift or not kept:
        return None
    return drift_of(subject, after, evenly(list(dict.fromkeys(kept)), KEPT), ctx)


def drift_of(subject: Any, after: Any, prompts: Sequence[str], ctx: Context) -> Callable[[], float]:
    """A function that gives the drift of these prompts now: squared change of the predictions, over what the prompts add to them."""
    path = drawn(subject, prompts, [ctx.seed_for("kept", prompt) % 2**62 for prompt in prompts], POINTS, 1.0)
    latents, t = path.latents[:-1].flatten(0, 1), path.steps.repeat_interleave(len(prompts))
    with torch.no_grad():
        every = list(range(len(prompts))) * POINTS
        old = subject.noise(latents, t, subject.embed_text(prompts)[every])
        scale = (old - subject.noise(latents, t, subject.free_text(len(t)))).square().sum()

    @torch.no_grad()
    def measure() -> float:
        return float((after.noise(latents, t, after.embed_text(prompts)[every]) - old).square().sum() / scale)

    return measure


def _optimizer(after: Any, fit: Fit) -> torch.optim.Optimizer:
    """Adam with the code's betas and eps; any other optimizer as the settings say."""
    trained: list[Tensor] = [parameter for parameter in after.model.parameters() if parameter.requires_grad]
    if fit.optimizer != "adam":
        return optimizer_for(trained, fit)
    return torch.optim.Adam(trained, lr=fit.lr, betas=(0.9, 0.98), eps=1e-6, weight_decay=fit.weight_decay)
