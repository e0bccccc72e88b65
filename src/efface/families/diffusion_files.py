"""Diffusers folders in and out: safetensors and JSON alone, half precision read as float32 where the device computes in that."""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from efface.core import files
from efface.core.errors import EffaceError, Missing, Unfit
from efface.families import text_readers
from efface.families.diffusion import Diffusion, Sampling

log = logging.getLogger("efface")
INDEX = "model_index.json"
HUB = "diffusers:"
"""Prefix of a pipeline's name on the hub."""


def is_pipeline(name: str) -> bool:
    """Whether a name stands for a diffusers pipeline: a folder with model_index.json, or diffusers:NAME."""
    return name.startswith(HUB) or (Path(name) / INDEX).is_file()


def load(name: str, device: str = "auto", dtype: str = "auto") -> Diffusion:
    """The pipeline in a folder, or on the hub as "diffusers:NAME". Raises Missing or Unfit, in one line.

    Half precision on a CPU is refused when asked for; weights stored in half precision are read as float32 there.
    """
    try:
        from diffusers import DiffusionPipeline
    except ImportError:
        raise Missing('a text-to-image model needs diffusers; run: pip install "efface[diffusion]"') from None
    place = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device)
    kind = _kind(dtype, place)
    where = name.removeprefix(HUB)
    # A safety checker is switched off: what a model draws must be seen.
    without: dict[str, Any] = {"safety_checker": None} if _checked(where) else {}
    try:
        with quiet():
            pipe = DiffusionPipeline.from_pretrained(where, torch_dtype=kind, use_safetensors=True, **without)
    except (OSError, ValueError, AttributeError, RuntimeError, TypeError, KeyError, SafetensorError) as error:
        said = (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
        raise EffaceError(f"{where} could not be read as a diffusers pipeline: {said}") from None
    subject = Diffusion(pipe.to(place), _sampling(Path(where)))
    subject.origin = ""
    return subject


def save(subject: Diffusion, folder: Path) -> None:
    """Write a diffusers folder and sampling.json into an existing empty folder."""
    with quiet():
        subject.pipe.save_pretrained(folder, safe_serialization=True)
    for path in folder.rglob("*.json"):
        _without_place(path)
    files.write_text(folder / "sampling.json", json.dumps(asdict(subject.sampling), indent=1) + "\n")


def _without_place(path: Path) -> None:
    """Take out of a configuration where the pipeline was loaded from: a folder of whoever saved it."""
    found = files.read_json(path)
    if isinstance(found, dict) and found.pop("_name_or_path", None) is not None:
        files.write_text(path, json.dumps(found, indent=2) + "\n")


@contextmanager
def quiet() -> Iterator[None]:
    """Inside the block, diffusers and transformers show no progress and warn of nothing; afterwards both are as before."""
    from diffusers.utils import logging as ours
    from transformers.utils import logging as theirs

    before = [(library, library.get_verbosity(), library.is_progress_bar_enabled()) for library in (ours, theirs)]
    try:
        for library, _, _ in before:
            library.set_verbosity_error()
            library.disable_progress_bar()
        with warnings.catch_warnings(), text_readers.hushed(logging.CRITICAL):  # what goes wrong is raised as well
            warnings.simplefilter("ignore")
            yield
    finally:
        for library, verbosity, bars in before:
            library.set_verbosity(verbosity)
            if bars:
                library.enable_progress_bar()


def _kind(dtype: str, device: torch.device) -> torch.dtype:
    if dtype == "auto":
        return torch.float32 if device.type == "cpu" else torch.float16
    kind: Any = getattr(torch, dtype, None)
    if not isinstance(kind, torch.dtype):
        raise Unfit(f"no such precision: {dtype}; choose float32, bfloat16 or float16")
    if device.type == "cpu" and kind == torch.float16:
        raise Unfit("float16 was asked for on a CPU, which cannot compute a pipeline in it; use --dtype float32 (or bfloat16)")
    return kind


def _checked(where: str) -> bool:
    """Whether the folder's index names a safety checker; a name on the hub may."""
    index = Path(where) / INDEX
    if not index.is_file():
        return True
    found = files.read_json(index)
    return isinstance(found, dict) and "safety_checker" in found


def _sampling(folder: Path) -> Sampling:
    path = folder / "sampling.json"
    if not path.is_file():
        return Sampling()
    found: Any = files.read_json(path)
    try:
        return Sampling(int(found["steps"]), float(found["guidance"]), int(found.get("pixels", 0)), int(found.get("frames", 0)))
    except (KeyError, TypeError, ValueError, AttributeError):
        raise EffaceError(f'{path} must hold {{"steps": 50, "guidance": 7.5}}') from None
