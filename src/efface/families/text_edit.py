"""A closed-form edit on a pipeline: the projections that read text are multiplied by one map, which can be kept, moved and taken back."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from efface.core import files
from efface.core.errors import EffaceError, Unfit
from efface.ops import closed_form


@dataclass(frozen=True)
class Edit:
    """One map M (d, d), float64, and the projections it was multiplied to: W' = W M."""

    map: Tensor
    modules: tuple[str, ...]
    factors: closed_form.Factors | None = None
    """M - I in two thin pieces, where it has them."""

    def save(self, folder: Path) -> None:
        """edit.safetensors and edit.json, into an existing folder."""
        from safetensors.torch import save_file

        thin = {} if self.factors is None else dict(zip(("left", "right"), self.factors, strict=True))
        save_file({name: tensor.contiguous() for name, tensor in {"map": self.map, **thin}.items()}, folder / "edit.safetensors")
        files.write_text(folder / "edit.json", json.dumps({"modules": list(self.modules)}, indent=1) + "\n")

    @classmethod
    def load(cls, folder: Path) -> Edit:
        """The edit in a folder. Raises EffaceError when there is none."""
        from safetensors.torch import load_file

        found = files.read_json(folder / "edit.json")
        if not isinstance(found, dict) or "modules" not in found or not (folder / "edit.safetensors").is_file():
            raise EffaceError(f"{folder} holds no edit (edit.json and edit.safetensors)")
        held = load_file(folder / "edit.safetensors")
        return cls(held["map"], tuple(found["modules"]), (held["left"], held["right"]) if "left" in held else None)


def text_layers(subject: Any) -> dict[str, nn.Module]:
    """{full name: linear module} of every projection that reads the states of the texts themselves.

    In U-Nets the keys and values of cross-attention; in SD3 and FLUX the one module through which text enters. Raises Unfit
    for a denoiser without any.
    """
    roles = [role for role in ("cross.key", "cross.value") if role in subject.layout.roles and "text.in" not in subject.layout.roles] or ["text.in"]
    found: dict[str, nn.Module] = {}
    for role in roles:
        found.update(subject.modules_of(role))
    return found


def applied(subject: Any, edit: Edit) -> Any:
    """A fork of the subject with the edit in its projections; a bias stays as it is, for the map moves what is read, not what is added."""
    names = {f"{name}.weight" for name in edit.modules}
    if missing := names - {name for name, _ in subject.model.named_parameters()}:
        raise Unfit(f"the edit is for {sorted(missing)[0]}, which this pipeline lacks")
    after = subject.trainable(names)
    parameters = dict(after.model.named_parameters())
    with torch.no_grad():
        for name in names:
            weight = parameters[name]
            if weight.shape[1] != len(edit.map):
                raise Unfit(f"the edit is for states of width {len(edit.map)}; {name} reads {weight.shape[1]}")
            weight.copy_(closed_form.edited(weight, edit.map, edit.factors))
    after.model.requires_grad_(False)
    return after


def undone(subject: Any, edit: Edit) -> Any:
    """A fork of an edited subject with the edit taken back."""
    return applied(subject, Edit(closed_form.undone(edit.map), edit.modules))


def between(before: Any, after: Any, modules: Sequence[str]) -> Tensor:
    """The map M (d, d) that carries one model's projections to another's, in the least-squares sense: lstsq(W_before, W_after)."""
    return closed_form.carrying(*([model.model.get_submodule(name).weight for name in modules] for model in (before, after)))
