"""What single training steps did to the weights, kept so that it can be taken back: in memory, or as safetensors in a folder.

    index.json            which rows were watched, and for every recorded step which of them its batch held (as digests)
    step-00000012.safetensors   change of each trained parameter in that step
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from efface.core import digest, files
from efface.core.errors import EffaceError, Missing
from efface.core.types import Row

INDEX = "index.json"


def key(row: Row) -> str:
    """Names a row by its content."""
    return digest.of_value(dict(row))


class Deltas:
    """The recorded steps of one training run. `watched` are the rows that were looked out for; `steps` says which were met when."""

    def __init__(self, watched: Iterable[str], folder: Path | None = None) -> None:
        self.watched, self.folder = frozenset(watched), folder
        self.steps: dict[int, tuple[str, ...]] = {}
        self._held: dict[int, dict[str, Tensor]] = {}

    def add(self, step: int, rows: Sequence[str], change: Mapping[str, Tensor]) -> None:
        """Record one step: the watched rows in its batch, and the change of each parameter."""
        self.steps[step] = tuple(sorted(set(rows)))
        if self.folder is None:
            self._held[step] = dict(change)
            return
        from safetensors.torch import save_file

        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            save_file({name: tensor.contiguous().cpu() for name, tensor in change.items()}, self._file(step))
        except OSError as error:
            raise EffaceError(f"cannot write {self._file(step)}: {error.strerror or error}; free space or choose another place") from None

    def finish(self) -> None:
        """Write the index, without which the folder is no record."""
        if self.folder is not None:
            steps = {str(step): list(rows) for step, rows in self.steps.items()}
            files.write_json(self.folder / INDEX, {"watched": sorted(self.watched), "steps": steps})

    def changes(self, rows: Iterable[str]) -> Iterator[tuple[int, Mapping[str, Tensor]]]:
        """(step, change of each parameter) of every recorded step whose batch held one of `rows`, in order."""
        asked = set(rows)
        for step in sorted(self.steps):
            if asked.intersection(self.steps[step]):
                yield step, self._held[step] if self.folder is None else self._read(step)

    def _file(self, step: int) -> Path:
        return Path(self.folder or ".") / f"step-{step:08d}.safetensors"

    def _read(self, step: int) -> Mapping[str, Tensor]:
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        path = self._file(step)
        if not path.is_file():
            raise Missing(f"{path} is gone, and without it the record cannot be taken back whole; retrain instead")
        try:
            return load_file(path)
        except (SafetensorError, OSError) as error:
            raise EffaceError(f"{path} is damaged: {error}") from None


def open_deltas(folder: Path) -> Deltas:
    """The record in a folder. Raises Missing when there is none, EffaceError when its index is damaged."""
    if not folder.is_dir():
        raise Missing(f"no folder {folder}; give the folder deltas/ of a run of: efface train --recipe recorded")
    found: Any = files.read_json(folder / INDEX)
    try:
        deltas = Deltas(found["watched"], folder)
        deltas.steps = {int(step): tuple(rows) for step, rows in found["steps"].items()}
    except (KeyError, TypeError, ValueError, AttributeError):
        raise EffaceError(f"{folder / INDEX} is not the index of a record of steps") from None
    return deltas
