"""Image-text encoders: pictures and captions become unit vectors of one space, whose cosine says how well they fit.

A method is given one as the baseline "encoder". It may be the small TwoTowers below, trained by the recipe `contrastive`, a CLIP
model of transformers, or any two callables.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate, normalize

from efface.core.context import Context
from efface.core.errors import BadRows, Missing, Unfit
from efface.core.types import Row, Subject
from efface.families import module_files
from efface.families.diffusion import Prompts, prompt_of
from efface.ops import fingerprint

BASELINE = "encoder"
"""The name by which a run is given its image-text encoder."""
CHUNK = 128
"""Pictures of one pass without gradients."""
MEAN, SPREAD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
"""What CLIP takes off its pixels, and divides by."""


class TwoTowers(nn.Module):
    """A small convolutional network for pictures and a bag of words for captions (word order is not read).

    Pictures of other sizes are brought to `side` pixels. Words outside of the vocabulary are passed over.
    """

    def __init__(self, words: Sequence[str], side: int = 16, channels: int = 24, size: int = 32) -> None:
        super().__init__()
        self.words, self.side = list(words), side
        self.places = {word: at for at, word in enumerate(self.words)}
        wide = [3, channels, 2 * channels, 2 * channels]
        self.stages = nn.ModuleList(
            nn.Sequential(nn.Conv2d(a, b, 3, stride=2, padding=1), nn.GroupNorm(4, b), nn.SiLU()) for a, b in zip(wide, wide[1:], strict=False)
        )
        self.picture_head = nn.Sequential(nn.Flatten(), nn.Linear(wide[-1] * ((side + 7) // 8) ** 2, 64), nn.SiLU(), nn.Linear(64, size))
        self.bag = nn.EmbeddingBag(len(self.words), 64, mode="mean")
        self.caption_head = nn.Sequential(nn.Linear(64, 64), nn.SiLU(), nn.Linear(64, size))
        self.warmth = nn.Parameter(torch.tensor(2.0))  # log of the inverse temperature

    def maps(self, pixels: Tensor) -> list[Tensor]:
        """The feature maps of the three stages, for pictures (N, 3, H, W) in 0..1."""
        x = pixels if pixels.shape[-2:] == (self.side, self.side) else interpolate(pixels, (self.side, self.side), mode="bilinear", antialias=True)
        x, found = 2 * x - 1, []
        for stage in self.stages:
            x = stage(x)
            found.append(x)
        return found

    def images(self, pixels: Tensor) -> Tensor:
        """Vectors (N, size) of pictures (N, 3, H, W) in 0..1."""
        return self.picture_head(self.maps(pixels)[-1])  # type: ignore[no-any-return]

    def texts(self, captions: Sequence[str]) -> Tensor:
        """Vectors (N, size) of captions. Raises BadRows for one without a word of the vocabulary."""
        found = [[self.places[word] for word in words_of(caption) if word in self.places] for caption in captions]
        for caption, places in zip(captions, found, strict=True):
            if not places:
                raise BadRows(f"the encoder knows no word of {caption!r}; it was trained on the words {', '.join(self.words[:8])} ...")
        device = self.warmth.device
        starts = torch.tensor([0, *[len(places) for places in found[:-1]]], device=device).cumsum(0)
        return self.caption_head(self.bag(torch.tensor([at for places in found for at in places], device=device), starts))  # type: ignore[no-any-return]

    def forward(self, pixels: Tensor, captions: Sequence[str]) -> Tensor:
        """Scaled cosines (pictures, captions)."""
        return self.warmth.clamp(max=4.6).exp() * normalize(self.images(pixels), dim=1) @ normalize(self.texts(captions), dim=1).T


class ImageText(Subject):
    """An image encoder and a text encoder with a common space.

    `image_encoder` maps pixels (N, 3, H, W) in 0..1 to (N, d), differentiably; `text_encoder` maps captions to (N, d). `model`
    is the module that holds their weights, where there is one, and `name` says who they are where there is none.
    """

    family: ClassVar[str] = "image-text"
    adapted: ClassVar[bool] = False

    def __init__(
        self, image_encoder: Callable[[Tensor], Any], text_encoder: Callable[[Sequence[str]], Any], model: nn.Module | None = None, name: str = ""
    ) -> None:
        if model is None and not name:
            raise Unfit("two callables need a name, by which a run knows them again: ImageText(images, texts, name=...)")
        self.image_encoder, self.text_encoder, self.name = image_encoder, text_encoder, name
        self.module, self.arguments = model, None
        if model is not None:
            model.eval()

    @classmethod
    def of_towers(cls, model: TwoTowers) -> Self:
        """The encoder of a TwoTowers."""
        other = cls(model.images, model.texts, model)
        other.arguments = {"words": model.words, "side": model.side, "channels": model.stages[0][0].out_channels, "size": model.picture_head[-1].out_features}  # type: ignore[index, union-attr, assignment]
        return other

    @classmethod
    def of_clip(cls, model: Any, tokenizer: Any) -> Self:
        """The encoder of a transformers CLIPModel; pixels are resized and normalized as its own processor does."""
        side = int(model.config.vision_config.image_size)
        mean, spread = (torch.tensor(numbers).view(3, 1, 1) for numbers in (MEAN, SPREAD))

        def images(pixels: Tensor) -> Tensor:
            sized = interpolate(pixels, (side, side), mode="bicubic", antialias=True)
            return _vector(model.get_image_features(pixel_values=(sized - mean.to(sized)) / spread.to(sized)))

        def texts(captions: Sequence[str]) -> Tensor:
            read = tokenizer(list(captions), padding=True, truncation=True, return_tensors="pt").to(model.device)
            return _vector(model.get_text_features(input_ids=read["input_ids"], attention_mask=read["attention_mask"]))

        return cls(images, texts, model)

    @property
    def model(self) -> nn.Module:
        """The module with the weights. Raises Unfit for two callables."""
        if self.module is None:
            raise Unfit(f"the encoder {self.name} is two callables without weights of their own; it can be asked and not trained or copied")
        return self.module

    def images(self, pixels: Tensor) -> Tensor:
        """Unit vectors (N, d) of pictures (N, 3, H, W) in 0..1, differentiable."""
        return normalize(_checked(self.image_encoder(pixels), len(pixels), "pictures"), dim=1)

    def texts(self, captions: Sequence[str]) -> Tensor:
        """Unit vectors (N, d) of captions."""
        return normalize(_checked(self.text_encoder(list(captions)), len(captions), "captions"), dim=1)

    @torch.no_grad()
    def fits(self, pictures: np.ndarray, captions: Sequence[str]) -> np.ndarray:
        """Cosines (N, captions) of pictures (N, H, W, 3), uint8, with captions."""
        pixels = torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 255
        words = self.texts(captions)
        return torch.cat([self.images(piece.to(words.device)) @ words.T for piece in pixels.split(CHUNK)]).cpu().numpy()

    def maps(self, pixels: Tensor) -> list[Tensor] | None:
        """Feature maps of pictures, shallow ones first, where the encoder shows them."""
        return self.module.maps(pixels) if isinstance(self.module, TwoTowers) else None

    def encode(self, rows: Sequence[Row], index: Sequence[int] | None = None) -> Prompts:
        """The rows as one batch; BadRows names a row without a prompt."""
        for row in rows:
            prompt_of(row)
        return Prompts(rows, torch.tensor(list(index) if index is not None else list(range(len(rows)))))

    def trainable(self) -> Self:
        """A fork whose weights all require gradients."""
        other = self.fork()
        other.model.requires_grad_(True)
        return other

    def fork(self, roles: tuple[str, ...] = ()) -> Self:
        """Own copy of all weights. Unfit for anything but a TwoTowers, whose callables are its own."""
        if roles or not isinstance(self.model, TwoTowers):
            raise Unfit("only a TwoTowers encoder can be copied, and only as a whole")
        return type(self).of_towers(copy.deepcopy(self.model))

    def save(self, folder: Path) -> None:
        """model.safetensors and config.json; Unfit for anything but a TwoTowers."""
        if not isinstance(self.model, TwoTowers):
            raise Unfit(f"{type(self.model).__name__} is saved by the library that it comes from")
        module_files.save(self, folder)

    @property
    def digest(self) -> str:
        """SHA-256 over names, types, shapes and bytes of the weights; of the name, for two callables."""
        return fingerprint.of_weights({} if self.module is None else self.module.state_dict(), self.name)


def encoder(ctx: Context) -> ImageText:
    """The image-text encoder of a run. Raises Missing when there is none."""
    found = ctx.baselines.get(BASELINE)
    if found is None:
        raise Missing('nobody says what words look like; give an image-text encoder as the baseline "encoder" (efface train --recipe contrastive makes one)')
    if not isinstance(found, ImageText):
        raise Unfit(f'the baseline "encoder" must be an image-text encoder; this one is a {found.family}')
    return found


def words_of(caption: str) -> list[str]:
    """The words of a caption, in lower case."""
    return re.findall(r"[a-z0-9']+", caption.lower())


def vocabulary(rows: Sequence[Row]) -> list[str]:
    """Every word of the rows' captions, sorted."""
    return sorted({word for row in rows for caption in captions_of(row) for word in words_of(caption)})


def captions_of(row: Row) -> list[str]:
    """All captions that fit a row's picture: its "prompts", or its one "prompt"."""
    given: Any = row.get("prompts")
    return [str(caption) for caption in given] if given else [prompt_of(row)]


def untrained(rows: Sequence[Row], seed: int, shape: Mapping[str, int] | None = None) -> ImageText:
    """A TwoTowers with random weights over the words of the rows' captions; `shape` gives side, channels or size."""
    from efface.families.networks import seeded

    model: Any = seeded(TwoTowers, seed, words=vocabulary(rows), **(shape or {}))
    return ImageText.of_towers(model)


def _vector(given: Any) -> Tensor:
    """The projected vector: transformers 5 wraps it in the tower's output, transformers 4 gives it bare."""
    return given if isinstance(given, Tensor) else given.pooler_output


def _checked(found: Any, count: int, what: str) -> Tensor:
    if not isinstance(found, Tensor) or found.ndim != 2 or len(found) != count:
        shape = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
        raise Unfit(f"an encoder must give one vector each for {count} {what}; found {shape}")
    return found
