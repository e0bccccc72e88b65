"""Contrastive image-text training: a picture and its captions come together, other pairs apart (arXiv:2103.00020).

minimized = half of CE(pictures -> captions) + half of CE(captions -> pictures) over the scaled cosines of a batch,
targets: every caption of the batch that fits a picture, in equal parts (its own alone, where rows have one caption each)

A row holds its picture and either one "prompt" or several "prompts", of which each step draws one. Pictures are shifted by a few
pixels and given noise, so that the encoder answers to what is drawn and not to single pixels.
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
from efface.core.types import Recipe, Request
from efface.families.diffusion import pictures_of
from efface.families.two_towers import captions_of
from efface.ops.loop import descend


class ContrastiveConfig(Config):
    """Settings of contrastive training."""

    noise: float = Field(0.1, ge=0)
    """Standard deviation of the noise on pixels of 0 to 1."""
    shift: int = Field(1, ge=0)
    """Most pixels by which a picture is shifted, each way; what leaves on one side comes back on the other."""
    fit: Fit = Fit(lr=2e-3, steps=600, batch=64, schedule="linear", warmup=20, optimizer="adamw", precision="no")
    """Optimizer settings; adapters (fit.rank) are not possible."""


class Contrastive(Recipe[ContrastiveConfig]):
    """Trains an image-text encoder on captioned pictures: the keep rows of the request."""

    card = Card(
        name="contrastive", title="Contrastive image-text training", paper="arXiv:2103.00020", families=("image-text",), uses=("keep",),
        departs="a caption that fits several pictures of a batch is right for each of them, where the paper knows one picture a caption",
    )

    def run(self, subject: Any, request: Request, ctx: Context) -> Any:
        """Return the trained encoder."""
        config, rows = self.config, request.rows("keep")
        pixels = torch.from_numpy(pictures_of(rows)).permute(0, 3, 1, 2).float() / 255
        fitting = [captions_of(row) for row in rows]
        after = subject.trainable()

        def loss(batches: Mapping[str, Any]) -> dict[str, Tensor]:
            places = batches["keep"].index.tolist()
            captions = [fitting[at][int(torch.randint(len(fitting[at]), ()))] for at in places]
            seen = changed(pixels[places], config.shift, config.noise)
            scores = after.model(seen, captions)
            fits = torch.tensor([[float(caption in fitting[at]) for caption in captions] for at in places])
            return {"contrastive": (against(scores, fits) + against(scores.T, fits.T)) / 2}

        return descend(after, {"keep": rows}, loss, config.fit, ctx)


def against(scores: Tensor, fits: Tensor) -> Tensor:
    """Mean over rows of the cross-entropy of `scores` (N, M) with targets that share one among all that fit (N, M)."""
    return -(fits / fits.sum(1, keepdim=True) * scores.log_softmax(1)).sum(1).mean()


def changed(pixels: Tensor, shift: int, noise: float) -> Tensor:
    """The pictures moved together by up to `shift` pixels, with noise, drawn from torch's random state."""
    if shift:
        moves: Sequence[int] = torch.randint(-shift, shift + 1, (2,)).tolist()
        pixels = pixels.roll((moves[0], moves[1]), (2, 3))
    return (pixels + noise * torch.randn_like(pixels)).clamp(0, 1) if noise else pixels
