"""CLIP score (arXiv:2104.08718): how well pictures fit their prompts, as the mean cosine of a CLIP model's embeddings.

As a cosine (about 0.3 for good pictures), not times 100 and without a floor at 0. The CLIP model is the user's (setting `model`, or
the baseline `encoder`); a model that shares its text encoder with the pipeline judges itself, and the measurement says so.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from efface.core.card import Card
from efface.core.config import Config
from efface.core.context import Context
from efface.core.errors import Missing
from efface.core.types import Measurement, Metric, Request
from efface.families import drawn
from efface.families.two_towers import ImageText
from efface.ops import stats


class ClipScoreConfig(Config):
    """Settings of the CLIP score."""

    model: str = ""
    """Folder of a transformers CLIP model with its tokenizer; "" for the image-text encoder that the run has as its baseline "encoder"."""


class ClipScore(Metric[ClipScoreConfig]):
    """Mean cosine of pictures and prompts, on prompts to keep and to forget."""

    card = Card(
        name="clip_score", title="CLIP score of kept prompts (cosine)", paper="arXiv:2104.08718", families=("diffusion",), needs=("generate",),
        uses=("forget", "keep"), better="as-reference", departs="a cosine, not 2.5 max(cosine, 0) or 100 times it",
    )

    def run(self, subject: Any, request: Request, ctx: Context) -> Measurement:
        """Return the mean cosine on kept prompts with its interval; that on prompts to forget is a part. Raises Missing without a model."""
        folder = self.config.model
        encoder: Any = _clip(folder) if folder else ctx.baseline("encoder")
        sets = {name: draw(subject, request, ctx) for name, draw in (("forget", drawn.forgotten), ("keep", drawn.kept))}
        found = {name: cosines(encoder, pictures, [str(row["prompt"]) for row in rows]) for name, (rows, pictures) in sets.items()}
        kept = stats.bootstrap(found["keep"])
        return Measurement(
            system=self.card.name, subject="", value=kept.value, low=kept.low, high=kept.high, n=len(found["keep"]), better="as-reference",
            parts={"keep": kept.value, "forget": float(found["forget"].mean())}, why=f"by {Path(folder).name or 'the encoder of this run'}",
        )


@torch.no_grad()
def cosines(encoder: Any, pictures: np.ndarray, prompts: list[str]) -> np.ndarray:
    """Cosine (N,) of pictures (N, H, W, 3), uint8, and their prompts, by an image-text encoder."""
    pixels = torch.from_numpy(pictures.transpose(0, 3, 1, 2).copy()).float() / 255
    images, texts = (torch.nn.functional.normalize(side.double(), dim=1) for side in (encoder.image_encoder(pixels), encoder.text_encoder(prompts)))
    return (images * texts).sum(1).cpu().numpy()  # type: ignore[no-any-return]


def _clip(folder: str) -> ImageText:
    from transformers import AutoTokenizer, CLIPModel

    if not (Path(folder) / "config.json").is_file():
        raise Missing(f"no CLIP model in {folder}; give a transformers folder with config.json")
    return ImageText.of_clip(CLIPModel.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder))
