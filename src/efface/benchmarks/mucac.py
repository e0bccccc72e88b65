"""MUCAC (Choi and Na, arXiv:2311.02240): celebrities of CelebA-HQ; forget some identities, go on telling an attribute.

Reads the lists and pictures as they are released: `CelebA-HQ-identity.txt` (file name and identity number, one picture a line),
`CelebA-HQ-attribute.txt` (a count, the names of 40 attributes, then a file name with 40 times -1 or 1), and the pictures in
`CelebAMask-HQ/CelebA-HQ-img/` or `CelebA-HQ-img/`. Parts go by the identity's number, so they share nobody: below 190 tests,
190 to 1249 is forgotten, 1250 to 4854 kept, from 4855 on unseen.

Copies, and pictures stored anew that look the same, are looked for over all parts and written to a file; of two in different
parts the later is left out. Flipped or cropped copies are not found. The data set has a license of its own, for research
alone; nothing of it comes with efface.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from efface.core.card import Card
from efface.core.config import Config, Fit
from efface.core.context import Context
from efface.core.errors import BadRows, Missing
from efface.core.types import Benchmark, Case
from efface.families import people, splits
from efface.families.people import Net, Photo

ATTRIBUTES = {"gender": "Male", "smiling": "Smiling", "young": "Young"}
"""Names of the tasks, and of their attributes in the list."""
FORGET, KEEP, UNSEEN = 190, 1250, 4855
"""First identity of each part; those below the first are the test part."""
FOLDERS = ("CelebAMask-HQ/CelebA-HQ-img", "CelebA-HQ-img")


class MucacConfig(Config):
    """Settings of the benchmark."""

    folder: str = ""
    """Folder with the two lists and the pictures."""
    attribute: Literal["gender", "smiling", "young"] = "smiling"
    """What the model must tell, and go on telling, of a picture."""
    part_rows: int = Field(0, ge=0)
    """Most pictures of each part, identities in order; 0 for all."""
    drop_copies: bool = True
    """Leave out rows that are copies of a row in an earlier part; off for the published rows."""
    side: int = Field(64, ge=16, le=256)
    """Side of a picture in pixels; published with 128."""
    net: Net = "resnet18"
    """The network: ResNet-18 as published, or a few convolutions."""
    fit: Fit = Fit(lr=1e-2, optimizer="sgd", epochs=8, batch=64, clip=0)
    """Optimizer settings of original and references."""


class Mucac(Benchmark[MucacConfig]):
    """Forget identities of CelebA-HQ; an attribute must still be told."""

    card = Card(
        name="mucac", title="MUCAC: identities forgotten, an attribute kept", paper="arXiv:2311.02240", families=("classifier",),
        departs="one attribute at a time (the paper's binary form; its form with three at once is left out); no copies across parts unless told otherwise; 64 pixels; no augmentation",
    )

    def case(self, ctx: Context) -> Case:
        """The trained network, the request, three references, other people as utility. Raises Missing or BadRows."""
        config = self.config
        if not config.folder:
            raise Missing("mucac reads CelebA-HQ with its identity and attribute lists, which must be asked for; set folder=FOLDER")
        photos = photos_of(Path(config.folder), config)
        splits.check_disjoint({part: [photo.identity for photo in photos if photo.part == part] for part in splits.ORDER})
        rows = people.read(photos, config.side, ctx, "mucac", config.drop_copies)
        plan = people.Plan("mucac", config.net, config.side, 2, config.fit)
        return people.case(plan, rows, ctx, config.attribute)


def photos_of(folder: Path, config: MucacConfig) -> list[Photo]:
    """Every picture that takes part, with its part. Raises Missing or BadRows, naming list and line."""
    identities = _identities(folder / "CelebA-HQ-identity.txt")
    labels = _labels(folder / "CelebA-HQ-attribute.txt", ATTRIBUTES[config.attribute])
    place = next((folder / name for name in FOLDERS if (folder / name).is_dir()), None)
    if place is None:
        raise Missing(f"{folder} holds no folder of pictures, {' or '.join(FOLDERS)}")
    if lacking := sorted(identities.keys() - labels.keys()):
        raise BadRows(f"{len(lacking)} pictures have an identity and no attributes, {lacking[0]} for one; take both lists from one release")
    parts: dict[str, list[Photo]] = {part: [] for part in splits.ORDER}
    for name, identity in sorted(identities.items(), key=lambda pair: (pair[1], pair[0])):
        parts[_part(identity)].append(Photo(name, _part(identity), str(identity), labels[name], place / name))
    if empty := [part for part, held in parts.items() if not held]:
        raise BadRows(f"no picture of {folder / 'CelebA-HQ-identity.txt'} is in the part {' and in '.join(empty)}; identities must reach from below {FORGET} to {UNSEEN} and above")
    return [photo for held in parts.values() for photo in (held[: config.part_rows] if config.part_rows else held)]


def _part(identity: int) -> str:
    return "test" if identity < FORGET else "forget" if identity < KEEP else "keep" if identity < UNSEEN else "unseen"


def _identities(path: Path) -> dict[str, int]:
    found = {}
    for number, line in enumerate(_lines(path), start=1):
        cells = line.split()
        if len(cells) != 2 or not cells[1].isdecimal():
            raise BadRows(f"{path}:{number}: {line[:60]!r}; each line must be a file name and the number of an identity")
        found[cells[0]] = int(cells[1])
    return found


def _labels(path: Path, attribute: str) -> dict[str, int]:
    lines = _lines(path)
    names = lines[1].split() if len(lines) > 1 else []
    if attribute not in names:
        raise BadRows(f"{path}:2: no attribute {attribute!r} among {len(names)}; the second line must name them")
    column, found = names.index(attribute) + 1, {}
    for number, line in enumerate(lines[2:], start=3):
        cells = line.split()
        if len(cells) != len(names) + 1 or cells[column] not in ("-1", "1"):
            raise BadRows(f"{path}:{number}: {line[:60]!r}; each line must be a file name and {len(names)} times -1 or 1")
        found[cells[0]] = int(cells[column] == "1")
    return found


def _lines(path: Path) -> list[str]:
    try:
        return [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise Missing(f"cannot read {path} ({getattr(error, 'strerror', None) or error}); give the folder with CelebA-HQ's identity and attribute lists") from None
