"""Text-to-Unlearn: a generator forgets what a prompt says, along a direction that its own edited pictures give.

RECONSTRUCTION from the abstract and public reviews of "Prompting Forgetting: Unlearning in GANs via Textual Guidance"; neither the
paper nor code could be read. w = styles of latent z, E = unit vectors of the image-text encoder, G0 = frozen generator, G = trained one.

1. a mapper T, so that G0(w + T(w)) shows the prompt p (StyleCLIP's latent mapper, arXiv:2103.17249); minimized:
       1 - cos(E(G0(w + T)), E(p)) + size * |T|^2 / dim + identity * (1 - cos(R(G0(w)), R(G0(w + T))))
2. one direction for all latents: Delta = mean_w E(G0(w + T)) - E(G0(w))
3. a copy of the generator moves its edited pictures against Delta (the loss of StyleGAN-NADA, arXiv:2108.00946) and keeps its own; minimized:
       1 - cos(E(G(w + T)) - E(G0(w + T)), -Delta)
       + reach * max(0, far - <E(G(w + T)) - E(G0(w + T)), -Delta> / |Delta|^2)
       + keep * g * d(G(w), G0(w)) + identity * g * (1 - cos(R(G(w)), R(G0(w))))

A cosine asks for the right way and not how far: with something to keep, the least step in the right way would do. `reach` asks for
`far` lengths of Delta; the sources name no such term, and 0 leaves it out. g is how much the edit changes a picture along Delta, cut to
0..1: near 0 where the original shows the concept already, so that what must go is not kept; the sources keep all latents alike, as
spare = false does. d is the mean absolute difference at three resolutions, and LPIPS over the encoder's feature maps where it shows
them. R is a classifier's features, of the baseline "identity"; without one the term is left out.

On the toy generator of the benchmark gan_shapes, forgetting red: with both additions no red is left and other latents drift by 3 %;
without them 31 % of latents stay red, as before. "Away from red" says nothing of where to: red pictures become dark blots there.

Reviews differ on what is trained, the mapping network or the generator: `train` says. Method and mapper rest on one encoder, so judge
the result by another.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from efface.core.card import Card
from efface.core.config import Config, Fit
from efface.core.context import Context
from efface.core.errors import BadConfig, Unfit
from efface.core.types import Method, Request, Row
from efface.families.gan import Gan
from efface.families.module import Batch
from efface.families.networks import seeded
from efface.families.two_towers import ImageText, encoder
from efface.ops import directions
from efface.ops.loop import descend

IDENTITY = "identity"


class TextToUnlearnConfig(Config):
    """Settings of Text-to-Unlearn."""

    train: Literal["synthesis", "mapping", "all"] = "synthesis"
    """What is trained: what makes pictures of styles (the whole generator, where it has no mapping), the mapping, or both."""
    latents: int = Field(512, ge=2)
    """Latents that mapper, direction and training see."""
    size: float = Field(0.1, ge=0)
    """Weight of an edit's squared length, a mean over the numbers of a style."""
    reach: float = Field(1.0, ge=0)
    """Weight of the demand that edited pictures go back as far as `far` says; 0 leaves it out, as the sources do."""
    far: float = Field(1.5, gt=0)
    """How far they are asked to go, in lengths of the direction, which latents that show the concept already have shortened."""
    keep: float = Field(15.0, ge=0)
    """Weight of the distance to the original's pictures; too large a one stops the forgetting."""
    identity: float = Field(0.1, ge=0)
    """Weight of the distance in the features of the baseline "identity", where there is one."""
    spare: bool = True
    """Keep a latent the more, the less its original picture shows the concept; false keeps all alike."""
    mapper: Fit = Fit(lr=3e-3, steps=150, batch=32, optimizer="adam", clip=0, precision="no")
    """Optimizer settings of the mapper."""
    fit: Fit = Fit(lr=2e-3, steps=300, batch=32, schedule="linear", optimizer="adam", precision="no")
    """Optimizer settings of the generator; adapters (fit.rank) are not possible."""


@dataclass(frozen=True)
class Target:
    """What is frozen about one prompt, latent by latent."""

    edits: Tensor  # (N, ...) added to the styles
    edited: Tensor  # (N, d) vectors of the edited pictures of the original
    delta: Tensor  # (d,)
    kept: Tensor  # (N,) how much each latent's own picture is kept


class TextToUnlearn(Method[TextToUnlearnConfig]):
    """Trains a generator against the direction in which a prompt changes its pictures."""

    card = Card(
        name="text_to_unlearn", title="Unlearning in GANs by textual guidance", paper="Prompting Forgetting: Unlearning in GANs via Textual Guidance",
        families=("gan",), uses=("names",),
        technique="parameter optimization", intent="remove", touches=("weights",), locality="one module", data=("names", "assistant model"), operator="weights",
        sequence="accumulates", reversible=False, guarantee="empirical",
        departs="a reconstruction, for the paper could not be read: the term reach, and sparing latents that show the concept, are additions; "
        "LPIPS is a mean absolute difference at three resolutions, with equally weighted LPIPS over the encoder's own maps",
    )

    def run(self, subject: Any, request: Request, ctx: Context) -> Any:
        """Return the generator that forgot. Raises Missing without the baseline "encoder", BadConfig for fit.rank."""
        config = self.config
        if config.fit.rank or config.mapper.rank:
            raise BadConfig("setting fit.rank: a generator is trained by its own weights; leave fit.rank and mapper.rank at 0")
        eyes, features = encoder(ctx), recognizer(ctx)
        names = [name for role in (("mapping", "synthesis") if config.train == "all" else (config.train,)) for name in subject.names_of(role)]
        rows: list[Row] = [{"seed": ctx.seed_for("latent", at)} for at in range(config.latents)]
        targets = [target(subject, eyes, prompt, mapper(subject, eyes, prompt, rows, config, ctx), rows, config.spare) for prompt in request.names]
        ctx.note(direction_length=float(torch.stack([one.delta.norm() for one in targets]).mean()))
        own = frozen(subject, rows, lambda x: subject.sample(x))
        after = subject.trainable(names)

        def loss(batches: Mapping[str, Batch]) -> dict[str, Tensor]:
            after.model.eval()  # what normalization has counted stays as it was
            batch = batches["latents"]
            styles, at = after.styles(batch.x), batch.index
            terms: dict[str, list[Tensor]] = {"direction": [], "reach": []}
            for one in targets:
                moves = eyes.images(after.drawn(styles + one.edits[at])) - one.edited[at]
                terms["direction"].append((1 - directions.cosines(moves, -one.delta)).mean())
                terms["reach"].append(config.reach * (config.far - directions.shares(moves, -one.delta)).relu().mean())
            said, before = after.drawn(styles), own[at]
            weights = torch.stack([one.kept[at] for one in targets]).amin(0)
            found = {name: torch.stack(values).mean() for name, values in terms.items()}
            found["keep"] = config.keep * (weights * distance(eyes, said, before)).mean()
            if features is not None:
                found["identity"] = config.identity * (weights * apart(features, said, before)).mean()
            return found

        return descend(after, {"latents": rows}, loss, config.fit, ctx)


class Mapper(nn.Module):
    """Styles -> what is added to them; at first nothing."""

    def __init__(self, width: int) -> None:
        super().__init__()
        hidden = max(32, min(width, 512))
        last = nn.Linear(hidden, width)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.stack = nn.Sequential(nn.Linear(width, hidden), nn.LeakyReLU(0.2), nn.Linear(hidden, hidden), nn.LeakyReLU(0.2), last)

    def forward(self, styles: Tensor) -> Tensor:
        return self.stack(styles.flatten(1)).view_as(styles)  # type: ignore[no-any-return]


def mapper(subject: Any, eyes: ImageText, prompt: str, rows: list[Row], config: TextToUnlearnConfig, ctx: Context) -> nn.Module:
    """The trained mapper of one prompt: styles -> what is added to them so that their pictures show it."""
    with torch.no_grad():
        words = eyes.texts([prompt])[0]
        styles = frozen(subject, rows, subject.styles)
    features = recognizer(ctx)
    network: Any = seeded(Mapper, ctx.seed_for("mapper", prompt), width=styles[0].numel())
    blank = Gan(network.to(subject.device), subject.latent)
    trained = blank.trainable(blank.names_of("synthesis"))

    def loss(batches: Mapping[str, Batch]) -> dict[str, Tensor]:
        w = styles[batches["latents"].index]
        edits = trained.model(w)
        drawn = subject.drawn(w + edits)
        found = {"prompt": (1 - eyes.images(drawn) @ words).mean(), "size": config.size * edits.square().mean()}
        if features is not None:
            found["identity"] = config.identity * apart(features, drawn, subject.drawn(w)).mean()
        return found

    own = ctx.alone(folder=None, curve=[], notes={}, budget={})
    return descend(trained, {"latents": rows}, loss, config.mapper, own).model


@torch.no_grad()
def target(subject: Any, eyes: ImageText, prompt: str, edit: nn.Module, rows: list[Row], spare: bool) -> Target:
    """What training needs of one prompt, latent by latent. Raises Unfit when the edit changes nothing that the encoder sees."""
    styles = frozen(subject, rows, subject.styles)
    edits = torch.cat([edit(piece) for piece in styles.split(128)])
    edited, plain = (torch.cat([eyes.images(subject.drawn(piece)) for piece in drawn.split(128)]) for drawn in (styles + edits, styles))
    delta = (edited - plain).mean(0)
    if float(delta.norm()) < directions.FLOOR:
        raise Unfit(f"the encoder sees no difference between pictures with and without {prompt!r}; train the mapper longer (mapper.steps) or give another encoder")
    kept = directions.shares(edited - plain, delta).clamp(0, 1) if spare else torch.ones(len(rows), device=delta.device)
    return Target(edits, edited, delta, kept)


def frozen(subject: Any, rows: list[Row], of: Callable[[Tensor], Tensor]) -> Tensor:
    """`of` for the latents of all rows, without gradients."""
    with torch.no_grad():
        latents = subject.encode(rows).x
        return torch.cat([of(piece) for piece in latents.split(128)])


def distance(eyes: ImageText, one: Tensor, other: Tensor) -> Tensor:
    """How different two stacks of pictures are (N,)."""
    found = directions.picture_distance(one, other)
    seen = eyes.maps(one)
    if seen is None:
        return found
    with torch.no_grad():
        before = eyes.maps(other) or []
    return found + directions.layer_distance(seen, before)


def recognizer(ctx: Context) -> Any:
    """The classifier whose features tell identities, of the baseline "identity"; None without it."""
    return ctx.baselines.get(IDENTITY)


def apart(features: Any, one: Tensor, other: Tensor) -> Tensor:
    """1 - cosine of the classifier's features of two stacks of pictures (N,)."""
    empty = torch.zeros(len(one), dtype=torch.long)
    a, b = (features.features(Batch(pictures, empty, empty)) for pictures in (one, other))
    return 1 - nn.functional.cosine_similarity(a, b.detach(), dim=1)
