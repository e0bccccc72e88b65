"""Make the pictures of the emoji grid again, from the packages that hold them: `python -m efface.data.emoji_pictures --out FOLDER`.

Writes grid.png (48 objects across, three styles down, 32 x 32 each, on white) and rest.safetensors: every other emoji that all three sets have, on which
autoencoder and judges were trained besides. Needs `efface fetch emoji-noto emoji-twemoji emoji-fluent`.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np

from efface.core import files
from efface.data import emoji_rows as grid
from efface.data import fetch

SIDE = 32
SHORT = {
    "fox": "fox_face", "lion": "lion_face", "panda": "panda_face", "monkey": "monkey_face", "tree": "evergreen_tree", "clover": "four_leaf_clover", "boat": "sailboat",
}
"""Names of the emoji sets that differ from ours."""


def read() -> tuple[np.ndarray, np.ndarray]:
    """The grid (48, 3, 32, 32, 3) and the other emoji (n, 3, 32, 32, 3), uint8."""
    noto, twemoji, fluent = (fetch.folder(f"emoji-{style}") for style in grid.STYLES)
    found: dict[str, np.ndarray] = {}
    first: dict[str, str] = {}
    for entry in json.loads((noto / "emoji.json").read_text(encoding="utf-8")):
        code = entry["unified"].lower()
        three = [noto / entry["image"], twemoji / entry["image"], next((path for path in (fluent / f"{code}.webp", fluent / f"{code.replace('-fe0f', '')}.webp") if path.exists()), fluent / "none")]
        if all(path.is_file() for path in three):
            found[entry["short_names"][0]] = np.stack([_flat(path) for path in three])
            first |= {name: entry["short_names"][0] for name in entry["short_names"]}
    chosen = [first[SHORT.get(name, name)] for name in grid.OBJECTS]
    return np.stack([found[name] for name in chosen]), np.stack([pictures for name, pictures in found.items() if name not in chosen])


def _flat(path: Path) -> np.ndarray:
    from PIL import Image

    with Image.open(path) as opened:
        drawn = opened.convert("RGBA")
    white = Image.new("RGBA", drawn.size, "white")
    white.alpha_composite(drawn)
    return np.asarray(white.convert("RGB").resize((SIDE, SIDE), Image.Resampling.LANCZOS))


def main() -> None:
    """Write grid.png and rest.safetensors."""
    from PIL import Image
    from safetensors.numpy import save_file

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    place = parser.parse_args().out
    pictures, rest = read()
    place.mkdir(parents=True, exist_ok=True)
    sheet = pictures.transpose(1, 2, 0, 3, 4).reshape(len(grid.STYLES) * SIDE, len(grid.OBJECTS) * SIDE, 3)
    Image.fromarray(sheet).save(place / "grid.png", optimize=True)
    save_file({"rest": rest}, place / "rest.safetensors")
    files.write_text(place / "README.txt", f"grid.png: {len(pictures)} objects x {len(grid.STYLES)} styles; rest.safetensors: {len(rest)} further emoji in each style\n")


if __name__ == "__main__":
    main()
