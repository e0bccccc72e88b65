"""Text-to-image and text-to-video models: any diffusers pipeline whose denoiser reads text.

A row is {"prompt": text} with what else is known of the picture: "object" and "style" (class numbers for the judges), "seed"
and "guidance" (as in I2P files), "image" (its path, or pixels (H, W, 3) of 0 to 255; of a video: pixels (frames, H, W, 3)).
"""

from __future__ import annotations

import copy
import inspect
import re
from collections.abc import Collection, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor, nn

from efface.core.errors import BadRows, Unfit, UnknownName
from efface.core.types import Row, Subject
from efface.families import autoencoding, text_readers
from efface.families.denoisers import Layout, Text, layout_of, modules_of
from efface.families.noising import Schedule, schedule_of
from efface.ops import fingerprint

CHUNK = 64
"""Pictures of one pass without gradients."""
ENCODERS = ("text_encoder", "text_encoder_2", "text_encoder_3")
TEXT_ROLES = {
    "text.mlp": r"(\.mlp\.fc\d$|\.DenseReluDense\.w[io_01]+$)", "text.attention": r"(self_attn\.\w+_proj$|SelfAttention\.[qkvo]$)",
    "text.layers": r"(encoder\.layers\.\d+|encoder\.block\.\d+|final_layer_norm|encoder\.final_layer_norm)",
}
"""Patterns over names of parameters (without .weight, .bias) of the text encoders; with and without a text_model prefix."""


@dataclass(frozen=True)
class Prompts:
    """A batch of prompts."""

    rows: Sequence[Row]
    index: Tensor  # (B,) position of each row in its pool

    @property
    def texts(self) -> list[str]:
        """The prompts."""
        return [prompt_of(row) for row in self.rows]


@dataclass(frozen=True)
class Sampling:
    """How pictures are drawn, unless told otherwise."""

    steps: int = 50
    guidance: float = 7.5
    pixels: int = 0
    """Height and width; 0: the pipeline's own."""
    frames: int = 0
    """Frames of a video; 0: the pipeline's own."""


class Diffusion(Subject):
    """A diffusers pipeline under study. Weights that a fork does not name are shared with the original."""

    family: ClassVar[str] = "diffusion"

    def __init__(self, pipe: Any, sampling: Sampling | None = None) -> None:
        self.pipe, self.sampling = pipe, sampling or Sampling()
        self.layout: Layout = layout_of(pipe)
        self.schedule: Schedule = schedule_of(pipe.scheduler)
        pipe.set_progress_bar_config(disable=True)
        if self.device.type == "cpu" and self.denoiser.dtype == torch.float16:
            raise Unfit("the weights are float16 on a CPU, which cannot compute a pipeline in it; convert them with pipe.to(torch.float32)")
        self.model.eval().requires_grad_(False)

    # -- parts --------------------------------------------------------------------------------------------------------------

    @property
    def parts(self) -> dict[str, nn.Module]:
        """The modules with weights: denoiser, text encoders, autoencoder."""
        names = (self.layout.part, *ENCODERS, "vae")
        return {name: module for name in names if isinstance(module := getattr(self.pipe, name, None), nn.Module)}

    @property
    def model(self) -> nn.ModuleDict:
        """All parts as one module; its parameters are named "unet.down_blocks.0...", "text_encoder.encoder...."."""
        return nn.ModuleDict(self.parts)

    @property
    def denoiser(self) -> nn.Module:
        """The U-Net or transformer."""
        return self.parts[self.layout.part]

    @property
    def device(self) -> torch.device:
        """Where the denoiser's weights are."""
        return next(self.denoiser.parameters()).device

    def modules_of(self, role: str) -> dict[str, nn.Module]:
        """{full name: linear module} of a denoiser's role ("cross.key", "cross.value", "cross.query", "self", "text.in", ...)."""
        return {f"{self.layout.part}.{name}": module for name, module in modules_of(self.denoiser, self.layout, role).items()}

    def names_of(self, role: str) -> list[str]:
        """Full names of the parameters of a role: those of `modules_of`, "denoiser", "text", "vae", or a text encoder's roles."""
        named = [name for name, _ in self.model.named_parameters()]
        if role in ("denoiser", "text", "vae"):
            heads = {"denoiser": (f"{self.layout.part}.",), "text": tuple(f"{name}." for name in ENCODERS), "vae": ("vae.",)}[role]
            found = [name for name in named if name.startswith(heads)]
        elif role in TEXT_ROLES:
            pattern = re.compile(TEXT_ROLES[role])
            found = [name for name in named if name.startswith(ENCODERS) and pattern.search(name.rpartition(".")[0])]
        elif role in self.layout.roles:
            pattern = re.compile(self.layout.roles[role])
            cut = len(self.layout.part) + 1
            found = [name for name in named if name.startswith(f"{self.layout.part}.") and pattern.search(name[cut:].rpartition(".")[0])]
        else:
            raise UnknownName.among("role", role, ["denoiser", "text", "vae", *TEXT_ROLES, *self.layout.roles])
        if not found:
            raise Unfit(f"{type(self.pipe).__name__} has no parameter for the role {role!r}")
        return found

    def weights(self, role: str) -> dict[str, nn.Parameter]:
        """{full name: parameter} of a role."""
        named = dict(self.model.named_parameters())
        return {name: named[name] for name in self.names_of(role)}

    # -- copies -------------------------------------------------------------------------------------------------------------

    def fork(self, roles: tuple[str, ...] = ()) -> Self:
        """A pipeline of its own; parameters of `roles` are copied (all, if none), every other one is shared."""
        return self._fork(None if not roles else {name for role in roles for name in self.names_of(role)})

    def trainable(self, names: Collection[str]) -> Self:
        """A fork in which exactly the parameters with these full names are copied and require gradients."""
        if not names:
            raise Unfit("there is no parameter to train; name a role that this pipeline has")
        unknown = set(names) - {name for name, _ in self.model.named_parameters()}
        if unknown:
            raise UnknownName(f"this {type(self.pipe).__name__} has no parameter named {sorted(unknown)[0]!r}; take names from names_of(role)")
        other = self._fork(set(names))
        for name, parameter in other.model.named_parameters():
            parameter.requires_grad_(name in names)
        return other

    def _fork(self, names: set[str] | None) -> Self:
        other = copy.copy(self)
        other.pipe = copy.copy(self.pipe)
        memo: dict[int, Any] = {}
        if names is not None:
            model = self.model
            memo = {id(p): p for name, p in model.named_parameters() if name not in names}
        copies = {name: copy.deepcopy(module, memo) for name, module in self.parts.items()}
        other.pipe.register_modules(**copies)
        return other

    # -- text ---------------------------------------------------------------------------------------------------------------

    def embed_text(self, prompts: Sequence[str]) -> Text:
        """The prompts as the denoiser reads them, differentiable in the text encoders' weights and soft tokens."""
        with text_readers.hushed():
            return text_readers.EMBEDS[self.layout.name](self.pipe, list(prompts), {})

    def free_text(self, count: int = 1) -> Text:
        """What guidance compares with where no negative prompt is given, `count` times."""
        return text_readers.free(self, count, {})

    # -- pictures -----------------------------------------------------------------------------------------------------------

    @property
    def latent_shape(self) -> tuple[int, ...]:
        """Shape of one picture's latents (channels, height, width); of a video's in the order of its pipeline."""
        return self.layout.size(self.pipe, self.sampling.pixels, self.sampling.frames)

    def noise(self, latents: Tensor, t: Tensor, text: Text, guidance: float | None = None) -> Tensor:
        """The denoiser's answer about noisy latents (B, ...) at training steps t (B,), differentiable.

        `guidance` is read by denoisers alone that have it built in (FLUX); the subject's sampling says it unless given.
        """
        return self.layout.call(self.pipe, latents, t.to(latents.device), text, self.sampling.guidance if guidance is None else guidance)

    def losses(self, batch: Any) -> Tensor:
        """Mean squared denoising error of each row (B,), of its picture at a random step; noise comes from the global generator.

        `batch` is what encode() gives; rows need pictures.
        """
        clean = self.latents(pictures_of(batch.rows))
        mixed, t, noise = self.schedule.noised(clean)
        said = self.noise(mixed, t, self.embed_text(batch.texts))
        return (said - self.schedule.target(clean, noise, t)).square().flatten(1).mean(1)

    def encode(self, rows: Sequence[Row], index: Sequence[int] | None = None) -> Prompts:
        """The rows as one batch; BadRows names a row without a prompt."""
        for row in rows:
            prompt_of(row)
        return Prompts(rows, torch.tensor(list(index) if index is not None else list(range(len(rows)))))

    def latents(self, pictures: np.ndarray) -> Tensor:
        """Latents (N, ...) of pictures (N, H, W, 3) or videos (N, frames, H, W, 3) of 0 to 255: the mean of the posterior, scaled."""
        return autoencoding.encoded(self.pipe, self.layout, pictures)

    def pictures(self, latents: Tensor) -> np.ndarray:
        """Pictures (N, H, W, 3) or videos (N, frames, H, W, 3), uint8, of latents."""
        return autoencoding.decoded(self.pipe, self.layout, latents)

    @torch.no_grad()
    def generate(self, prompts: Sequence[Row], seeds: Sequence[int] | None = None, **arguments: Any) -> np.ndarray:
        """Pictures (N, H, W, 3), uint8 (of a video pipeline: (N, frames, H, W, 3)); passes through shields.

        A row's "seed", or `seeds`, or its position, fixes its noise, whatever else is in the batch; its "guidance" is how much
        it is guided. `arguments` go to the pipeline (num_inference_steps, guidance_scale, negative_prompt, ...) and win; a tensor
        among them whose name ends with _embeds holds one entry a row, and prompt_embeds take the prompts' place.
        """
        known = list(inspect.signature(type(self.pipe).__call__).parameters)
        for name in arguments:
            if name not in known:
                raise UnknownName.among("argument", name, known)
        rows = [{"prompt": row} if isinstance(row, str) else row for row in prompts]
        fixed = [int(str(row["seed"])) for row in rows if "seed" in row] if seeds is None and all("seed" in row for row in rows) else None
        numbers = list(seeds) if seeds is not None else fixed or list(range(len(rows)))
        if len(numbers) != len(rows):
            raise BadRows(f"{len(rows)} prompts and {len(numbers)} seeds were given; give one seed for each prompt")
        found: dict[int, np.ndarray] = {}
        with ExitStack() as stack:
            for shield in self.shields:
                if not hasattr(shield, "arrange"):
                    raise Unfit(f"the guard {type(shield).__name__} does not know how to guard a model that draws")
                stack.enter_context(shield.steer(self))
            for guidance, places in _by_guidance(rows, self.sampling.guidance).items():
                for piece in (places[at : at + CHUNK] for at in range(0, len(places), CHUNK)):
                    own = {"guidance_scale": guidance, **_part(arguments, piece, len(rows))}
                    drawn = self._drawn([rows[at] for at in piece], [numbers[at] for at in piece], own)
                    found.update(zip(piece, drawn, strict=True))
        return np.stack([found[at] for at in range(len(rows))]) if found else np.zeros((0, 1, 1, 3), np.uint8)

    def _drawn(self, rows: Sequence[Row], seeds: Sequence[int], arguments: Mapping[str, Any]) -> np.ndarray:
        sizes = {"height": self.sampling.pixels, "width": self.sampling.pixels} if self.sampling.pixels else {}
        if self.layout.frames and self.sampling.frames:
            sizes["num_frames"] = self.sampling.frames
        call: dict[str, Any] = {
            "prompt": [prompt_of(row) for row in rows], "num_inference_steps": self.sampling.steps,
            "generator": [torch.Generator().manual_seed(seed) for seed in seeds], "output_type": "np", **sizes, **arguments,
        }
        text_readers.say_cut(self.pipe, call["prompt"])
        for shield in self.shields:
            call["prompt"] = None if call.get("prompt") is None else list(shield.screen(call["prompt"]))
            call = dict(shield.arrange(self, call))  # type: ignore[attr-defined]
        if call.get("prompt_embeds") is not None:  # pipelines refuse both
            call.pop("prompt", None)
        with text_readers.hushed():
            made = self.pipe(**call)
        frames = made.images if hasattr(made, "images") else made.frames
        found: Any = (np.clip(np.asarray(frames), 0, 1) * 255).round().astype(np.uint8)
        for shield in self.shields:
            found = shield.review(found)
        return np.asarray(found)

    # -- files --------------------------------------------------------------------------------------------------------------

    def save(self, folder: Path) -> None:
        """An ordinary diffusers folder (safetensors), with sampling.json beside it."""
        from efface.families import diffusion_files

        diffusion_files.save(self, folder)

    @property
    def digest(self) -> str:
        """SHA-256 over names, types, shapes and bytes of all parameters and buffers of all parts."""
        return fingerprint.of_weights(self.model.state_dict())


def _part(arguments: Mapping[str, Any], places: Sequence[int], count: int) -> dict[str, Any]:
    """The arguments for some of `count` rows: embeddings hold one entry a row. Raises BadRows when they do not."""
    found = dict(arguments)
    for name, value in arguments.items():
        if name.endswith("_embeds") and isinstance(value, Tensor):
            if len(value) != count:
                raise BadRows(f"{name} hold {len(value)} entries for {count} prompts; give one for each prompt")
            found[name] = value[torch.tensor(list(places), device=value.device)]
    return found


def _by_guidance(rows: Sequence[Row], usual: float) -> dict[float, list[int]]:
    """{guidance: positions of the rows that ask for it}."""
    found: dict[float, list[int]] = {}
    for at, row in enumerate(rows):
        found.setdefault(float(str(row["guidance"])) if row.get("guidance") is not None else usual, []).append(at)
    return found


def prompt_of(row: Row) -> str:
    """The row's prompt; BadRows when it has none (an empty one is a prompt)."""
    found = row.get("prompt")
    if not isinstance(found, str):
        raise BadRows(f"found columns {', '.join(map(str, row)) or 'none'}; a row for a text-to-image model needs prompt")
    return found


def pictures_of(rows: Sequence[Row]) -> np.ndarray:
    """The rows' pictures (N, H, W, 3), uint8, read from their files where "image" is a path. Raises BadRows."""
    found = []
    for number, row in enumerate(rows, start=1):
        given = row.get("image")
        if given is None:
            raise BadRows(f"row {number}: found columns {', '.join(map(str, row))}; this needs pictures (column image)")
        if isinstance(given, str | Path):
            from PIL import Image, UnidentifiedImageError

            try:
                with Image.open(given) as opened:
                    given = np.asarray(opened.convert("RGB"))
            except (OSError, UnidentifiedImageError) as error:
                raise BadRows(f"row {number}: {given} is no picture that can be read ({error})") from None
        array = np.asarray(given)
        if array.ndim not in (3, 4) or array.shape[-1] != 3:
            raise BadRows(f"row {number}: a picture is (height, width, 3), a video (frames, height, width, 3); found {array.shape}")
        found.append(array.astype(np.uint8))
    if len({array.shape for array in found}) > 1:
        raise BadRows(f"pictures of different sizes ({', '.join(sorted({f'{a.shape[-2]}x{a.shape[-3]}' for a in found}))}); resize them to one")
    return np.stack(found)
