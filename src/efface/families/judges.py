"""Judges of pictures: classifiers that say what a picture shows. They stand outside of the model that is judged.

A judge is a classifier of pictures (3, H, W) between 0 and 1, given to a run as the baseline "judge/NAME"; its classes carry
names. A row's column NAME holds the class number that its prompt asks for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor, nn

from efface.core.context import Context
from efface.core.errors import BadRows, Missing
from efface.core.types import Row, Subject

PREFIX = "judge/"


class PictureJudge(nn.Module):
    """A small convolutional classifier of pictures (B, 3, side, side) between 0 and 1, whose classes have names."""

    def __init__(self, labels: Sequence[str], side: int = 32, widths: Sequence[int] = (24, 48, 96)) -> None:
        super().__init__()
        self.labels, self.side = list(labels), side
        parts: list[nn.Module] = []
        for a, b in zip([3, *widths], widths, strict=False):
            parts += [nn.Conv2d(a, b, 3, padding=1, bias=False), nn.BatchNorm2d(b), nn.ReLU(), nn.Conv2d(b, b, 3, padding=1, bias=False), nn.BatchNorm2d(b), nn.ReLU(), nn.MaxPool2d(2)]
        self.body = nn.Sequential(*parts)
        self.embed = nn.Sequential(nn.Flatten(), nn.Linear(widths[-1] * (side // 2 ** len(widths)) ** 2, 128), nn.ReLU())
        self.head = nn.Linear(128, len(self.labels))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.embed(self.body(x)))  # type: ignore[no-any-return]


def judges(ctx: Context) -> dict[str, Subject]:
    """{name: judge} of a run. Raises Missing when there is none."""
    found = {name.removeprefix(PREFIX): subject for name, subject in ctx.baselines.items() if name.startswith(PREFIX)}
    if not found:
        raise Missing("nobody says what the pictures show; give a picture classifier with --judge NAME=FOLDER")
    return found


def labels(judge: Any) -> list[str]:
    """Names of a judge's classes."""
    given = (judge.arguments or {}).get("labels") if getattr(judge, "arguments", None) else None
    if given:
        return [str(label) for label in given]
    named = getattr(getattr(judge.model, "config", None), "id2label", None)
    if isinstance(named, Mapping):
        return [str(named[key]) for key in sorted(named, key=int)]
    return [str(number) for number in range(judge.classes or 0)]


def chances(judge: Any, pictures: np.ndarray) -> np.ndarray:
    """Probabilities (N, classes) for pictures (N, H, W, 3), uint8, resized to what the judge was trained on."""
    found: np.ndarray = judge.predict(rows_of(judge, pictures))
    return found


def rows_of(judge: Any, pictures: np.ndarray) -> list[Row]:
    """Pictures (N, H, W, 3), uint8, as the judge's rows: (3, side, side) between 0 and 1."""
    arguments: Mapping[str, Any] = getattr(judge, "arguments", None) or {}
    pixels = resized(pictures, int(arguments.get("side", pictures.shape[1]))).transpose(0, 3, 1, 2).astype(np.float32) / 255
    return [{"x": picture, "y": 0} for picture in pixels]


def resized(pictures: np.ndarray, size: int) -> np.ndarray:
    """Pictures (N, size, size, 3), uint8, by Lanczos where they are not of that size already."""
    if pictures.shape[1:3] == (size, size):
        return pictures
    from PIL import Image

    return np.stack([np.asarray(Image.fromarray(picture).resize((size, size), Image.Resampling.LANCZOS)) for picture in pictures])


def right(found: Mapping[str, Subject], rows: Sequence[Row], pictures: np.ndarray) -> dict[str, np.ndarray]:
    """{judge: whether each picture (N,) shows what its row asks for}, of the judges whose column the rows have."""
    return {name: chances(judge, pictures).argmax(1) == wanted(rows, name) for name, judge in found.items() if name in rows[0]}


def wanted(rows: Sequence[Row], name: str) -> np.ndarray:
    """Class numbers (N,) that the rows' prompts ask of one judge. Raises BadRows where a row does not say."""
    missing = next((number for number, row in enumerate(rows, start=1) if name not in row), None)
    if missing is not None:
        raise BadRows(f"row {missing}: found columns {', '.join(map(str, rows[missing - 1]))}; to be judged it needs {name} (a class number)")
    return np.array([int(str(row[name])) for row in rows])


def asked(request_names: Sequence[str], found: Mapping[str, Subject]) -> tuple[str, int]:
    """(judge, class number) of the concept to forget: the judge that has a class whose name is a word of it.

    Raises Missing when no judge knows the concept.
    """
    for concept in request_names:
        words = {word.strip(".,'").lower() for word in concept.split()}
        for name, judge in found.items():
            for number, label in enumerate(labels(judge)):
                if label.lower() in words or label.lower() == concept.lower():
                    return name, number
    raise Missing(f"no judge has a class for {', '.join(request_names) or 'the concept'}; there are {', '.join(found)}")
