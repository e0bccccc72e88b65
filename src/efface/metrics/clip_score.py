"""CLIP score (arXiv:2104.08718): how well pictures fit their prompts, as the mean cosine of a CLIP model's embeddings.

As a cosine (about 0.3 for good pictures), not times 100 and without a floor at 0. The CLIP model is the user's (setting `model`); a
model that shares its text encoder with the pipeline judges itself, and the measurement says so.
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
from efface.ops import stats


class ClipScoreConfig(Config):
    """Settings of the CLIP score."""

    model: str = ""
    """Folder of a transformers CLIP model with its processor."""


class ClipScore(Metric[ClipScoreConfig]):
    """Mean cosine of pictures and prompts, on prompts to keep and to forget."""

    card = Card(
        name="clip_score", title="CLIP score of kept prompts (cosine)", paper="arXiv:2104.08718", families=("diffusion",), needs=("generate",),
        uses=("forget", "keep"), better="as-reference", departs="a cosine, not 2.5 max(cosine, 0) or 100 times it",
    )

    def run(self, subject: Any, request: Request, ctx: Context) -> Measurement:
        """Return the mean cosine on kept prompts with its interval; that on prompts to forget is a part. Raises Missing without a model."""
        if not (Path(self.config.model) / "config.json").is_file() or not self.config.model:
            raise Missing("no CLIP model is at hand; give the folder of one with --set model=FOLDER")
        score = _scorer(self.config.model)
        sets = {name: draw(subject, request, ctx) for name, draw in (("forget", drawn.forgotten), ("keep", drawn.kept))}
        found = {name: score(pictures, [str(row["prompt"]) for row in rows]) for name, (rows, pictures) in sets.items()}
        kept = stats.bootstrap(found["keep"])
        return Measurement(
            system=self.card.name, subject="", value=kept.value, low=kept.low, high=kept.high, n=len(found["keep"]), better="as-reference",
            parts={"keep": kept.value, "forget": float(found["forget"].mean())}, why=f"by {Path(self.config.model).name}",
        )


def _scorer(folder: str) -> Any:
    from transformers import CLIPModel, CLIPProcessor

    model, prepare = CLIPModel.from_pretrained(folder).eval(), CLIPProcessor.from_pretrained(folder, use_fast=False)

    @torch.no_grad()
    def score(pictures: np.ndarray, prompts: list[str]) -> np.ndarray:
        given = prepare(text=prompts, images=list(pictures), return_tensors="pt", padding=True, truncation=True)
        out = model(**given)
        return (out.image_embeds * out.text_embeds).sum(1).double().numpy()  # type: ignore[no-any-return]

    return score
