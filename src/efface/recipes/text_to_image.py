"""Text-to-image training from captions and pictures: denoiser and text encoder together, over a frozen autoencoder.

minimized = mean over rows of |e(x_t, t, h(caption)) - target|^2,  t uniform over the training steps (DDPM, arXiv:2006.11239; latents:
arXiv:2112.10752). A share of captions is emptied, so that guidance has a free branch (arXiv:2207.12598).

A row holds its picture and either one "prompt" or several "prompts", of which each step draws one. Pictures are shifted by a
few pixels, and encoded once for every shift.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from efface.core.card import Card
from efface.core.config import Config, Fit
from efface.core.context import Context
from efface.core.types import Recipe, Request, Row
from efface.families.diffusion import pictures_of
from efface.ops.loop import descend


class TextToImageConfig(Config):
    """Settings of text-to-image training."""

    empty: float = Field(0.1, ge=0, lt=1)
    """Share of captions that are emptied."""
    shift: int = Field(2, ge=0)
    """Most pixels by which a picture is shifted, each way."""
    text: bool = True
    """Train the text encoder along."""
    fit: Fit = Fit(lr=1e-3, steps=10000, batch=48, schedule="linear", warmup=100, clip=1.0)
    """Optimizer settings."""


class TextToImage(Recipe[TextToImageConfig]):
    """Trains a pipeline on captioned pictures: the keep rows of the request."""

    card = Card(
        name="text_to_image", title="Text-to-image training", paper="arXiv:2112.10752", families=("diffusion",), needs=("losses",), uses=("keep",),
    )

    def run(self, subject: Any, request: Request, ctx: Context) -> Any:
        """Return the trained subject; the autoencoder is shared with the one given."""
        config, rows = self.config, request.rows("keep")
        after = subject.trainable([*subject.names_of("denoiser"), *(subject.names_of("text") if config.text else ())])
        clean = shifted(after, pictures_of(rows), config.shift)

        def loss(batches: Mapping[str, Any]) -> dict[str, Tensor]:
            batch = batches["keep"]
            count = len(batch.rows)
            views = torch.randint(len(clean), (count,))
            latents = clean[views, batch.index]
            mixed, t, noise = after.schedule.noised(latents)
            text = after.embed_text(captions(batch.rows, config.empty))
            said = after.noise(mixed, t, text)
            return {"denoising": (said - after.schedule.target(latents, noise, t)).square().mean()}

        return descend(after, {"keep": rows}, loss, config.fit, ctx)


def captions(rows: Sequence[Row], empty: float) -> list[str]:
    """One caption a row, drawn from its "prompts" where it has several; some are emptied."""
    found = []
    for row in rows:
        given: Any = row.get("prompts") or [row["prompt"]]
        picked = given[int(torch.randint(len(given), ()))]
        found.append("" if float(torch.rand(())) < empty else str(picked))
    return found


def shifted(subject: Any, pictures: np.ndarray, most: int) -> Tensor:
    """Latents (views, N, C, h, w) of every picture in each of its shifts by -most, 0 or +most pixels; white moves in."""
    places = (0, most, 2 * most) if most else (0,)
    wide = np.pad(pictures, ((0, 0), (most, most), (most, most), (0, 0)), constant_values=255)
    height, width = pictures.shape[1:3]
    return torch.stack([subject.latents(wide[:, y : y + height, x : x + width]) for y in places for x in places])
