"""Several classifiers that answer as one: the shards of a model that was trained for exact deletion.

Members are whole classifiers, or adapters and heads on one base that they share. A member without rows is left out; an ensemble
without members answers nothing, and says so.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import numpy as np
import torch

from efface.core import files
from efface.core.errors import Missing, Unfit, UnknownName
from efface.core.types import Row, Subject
from efface.families import module_files, stages
from efface.families.module import chunks

Combine = Literal["logits", "probabilities", "votes"]
ARCH = "efface.families.ensemble:Ensemble"
LEAST = 1e-45
"""Stands for a probability of 0 before its logarithm is taken."""


class Ensemble(Subject):
    """Classifiers behind one `predict`. `counts` weigh them (a row count, or 1 each); `base` is what adapted members sit on.

    logits: softmax of the mean of the members' logits. probabilities: their mean. votes: shares of the votes, where a tie goes
    to the class with the larger mean probability and not to the one with the smaller number.
    """

    family: ClassVar[str] = "classifier"

    def __init__(self, members: Sequence[Any], combine: Combine = "logits", counts: Sequence[int] | None = None, base: Any = None) -> None:
        self.members, self.combine, self.base = list(members), combine, base
        self.counts = list(counts) if counts is not None else [1] * len(self.members)

    @property
    def classes(self) -> int | None:
        """Number of classes that the widest member knows; None when no member tells."""
        return max((member.classes for member in self.members if member.classes), default=getattr(self.base, "classes", None))

    def predict(self, rows: Sequence[Row]) -> np.ndarray:
        """Class probabilities, or shares of votes, (rows, classes). Raises Unfit when no member is left."""
        if not self.members:
            raise Unfit("every shard of this model has been deleted and nothing is left to answer; train it again without the deleted rows")
        given = [_logits(member, rows) if self.combine == "logits" else member.predict(rows) for member in self.members]
        width = max(part.shape[1] for part in given)
        lowest = -np.inf if self.combine == "logits" else 0.0
        each = np.stack([np.pad(part, ((0, 0), (0, width - part.shape[1])), constant_values=lowest) for part in given]).astype(float)
        weight = np.array(self.counts, dtype=float)[:, None, None]
        mean: np.ndarray = (each * weight).sum(0) / weight.sum()
        if self.combine == "logits":
            return _softmax(mean)
        if self.combine == "probabilities":
            return mean
        # Whole counts differ by 1 at least and a mean probability by less, so that it can decide between equals alone.
        votes: np.ndarray = ((each.argmax(2)[:, :, None] == np.arange(width)) * weight).sum(0)
        return (votes + mean) / (weight.sum() + 1)

    def fork(self, roles: tuple[str, ...] = ()) -> Self:
        """A copy of all members, which share their copy of the base; an ensemble has no roles."""
        if roles:
            raise UnknownName.among("role", roles[0], ())
        other = copy.copy(self)
        memo: dict[int, Any] = {}
        other.base = copy.deepcopy(self.base, memo)
        other.members = [copy.deepcopy(member, memo) for member in self.members]
        return other

    @property
    def digest(self) -> str:
        """SHA-256 over the digests and weights of the members, in order, and how they are combined."""
        total = hashlib.sha256(self.combine.encode())
        for member, count in zip(self.members, self.counts, strict=True):
            total.update(f"|{member.digest}|{count}".encode())
        return total.hexdigest()

    def save(self, folder: Path) -> None:
        """config.json, and a folder for the base and for each member."""
        if self.base is not None:
            (folder / "base").mkdir()
            self.base.save(folder / "base")
        for number, member in enumerate(self.members, start=1):
            place = folder / f"member-{number}"
            place.mkdir()
            if self.base is None:
                member.save(place)
            else:
                found = member.model.peft_config["default"]
                modules = sorted(stages.carriers(member))
                shape = {"rank": found.r, "alpha": found.lora_alpha / found.r, "dropout": found.lora_dropout}
                stages.write(place, stages.adapter_of(member, modules), stages.head_of(member, stages.head(self.base)), shape)
        write_config(folder, self.combine, self.counts)


def write_config(folder: Path, combine: str, counts: Sequence[int], without: str = "") -> None:
    """Write the config.json of an ensemble whose members stand in the folder; `without` names the rows that were deleted from it."""
    more = {"without": without} if without else {}
    files.write_json(folder / "config.json", {"family": "classifier", "arch": ARCH, "combine": combine, "counts": list(counts), **more})


def load(folder: Path, config: Mapping[str, Any], device: str = "auto") -> Ensemble:
    """The ensemble in a folder. Raises Missing when a member is not there."""
    base = module_files.load(folder / "base", device) if (folder / "base").is_dir() else None
    members = []
    for number, _ in enumerate(config["counts"], start=1):
        place = folder / f"member-{number}"
        if not place.is_dir():
            raise Missing(f"{folder} is an ensemble of {len(config['counts'])} and lacks {place.name}")
        members.append(stages.restore(base, place) if base is not None else module_files.load(place, device))
    return Ensemble(members, config["combine"], config["counts"], base)


def _logits(member: Any, rows: Sequence[Row]) -> np.ndarray:
    """Logits of a torch member; of another the logarithms of its probabilities, which differ by a constant a row."""
    if not hasattr(member, "logits"):
        logs: np.ndarray = np.log(np.maximum(member.predict(rows), LEAST))
        return logs
    with torch.no_grad():
        found = np.concatenate([member.logits(member.encode(piece)).float().cpu().numpy() for piece in chunks(rows)]) if rows else np.zeros((0, member.classes or 0))
    if not np.isfinite(found).all():
        raise Unfit("a member gives a logit that is not finite; its weights are damaged or the inputs too large")
    return found


def _softmax(logits: np.ndarray) -> np.ndarray:
    powers: np.ndarray = np.exp(logits - logits.max(1, keepdims=True))
    return powers / powers.sum(1, keepdims=True)
