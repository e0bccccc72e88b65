"""Toy pictures: a circle, square or triangle in red, green or blue, a little off center, on white; with captions and class numbers."""

from __future__ import annotations

import numpy as np

from efface.core.types import Row

COLORS, SHAPES = ("red", "green", "blue"), ("circle", "square", "triangle")
INK = {"red": (0.85, 0.10, 0.10), "green": (0.10, 0.65, 0.15), "blue": (0.12, 0.20, 0.85)}
SIDE = 16


def rows(count: int, seed: int = 0) -> list[Row]:
    """`count` rows, all nine kinds equally often: "image" (16, 16, 3), uint8, "color" and "shape" (class numbers), and all "prompts" that fit."""
    source = np.random.default_rng(seed)
    kinds = [(color, shape) for color in range(len(COLORS)) for shape in range(len(SHAPES))]
    return [_row(*kinds[at % len(kinds)], source) for at in range(count)]


def captions(color: str, shape: str) -> list[str]:
    """Every caption that fits."""
    return [f"a {color} {shape}", f"{color} {shape}", color, shape, f"a {shape}", f"something {color}"]


def _row(color: int, shape: int, source: np.random.Generator) -> Row:
    names = COLORS[color], SHAPES[shape]
    return {"image": _picture(*names, source), "color": color, "shape": shape, "prompt": f"a {names[0]} {names[1]}", "prompts": captions(*names)}


def _picture(color: str, shape: str, source: np.random.Generator) -> np.ndarray:
    """One picture with soft edges; center, size and ink vary."""
    y, x = np.mgrid[0:SIDE, 0:SIDE] - (SIDE - 1) / 2
    dx, dy = source.uniform(-1, 1, 2)
    x, y, size = x - dx, y - dy, source.uniform(4.5, 5.5)
    outside = {
        "circle": np.hypot(x, y) - size,
        "square": np.maximum(abs(x), abs(y)) - 0.88 * size,
        "triangle": np.maximum(abs(x) * 0.87 - (y + size) * 0.5, y - 0.8 * size),
    }[shape]
    covered = np.clip(0.5 - outside, 0, 1)[..., None]
    ink = np.clip(np.array(INK[color]) + source.uniform(-0.06, 0.06, 3), 0, 1)
    return ((1 - covered * (1 - ink)) * 255).round().astype(np.uint8)
