"""Splits that mean what they say: no identity in two parts, and duplicates across parts found, named and left out.

A row that also stands in another part, byte for byte or all but so, makes every number of forgetting wrong: the model that
was "never shown" it was shown its copy.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from efface.core import files
from efface.core.context import Context
from efface.core.errors import BadConfig, BadRows
from efface.core.types import Row
from efface.families.pictures import Look

ORDER = ("forget", "keep", "unseen", "test")
"""Parts, first those whose rows stay: of two copies the one in the later part is left out."""
SIGNS, LIKENESS = 6, 0.98
"""Two looks are near when at most so many of 63 signs differ and the thumbs agree (correlation) at least so much."""
PIECE = 2048


class Item(NamedTuple):
    """What is known of a row when duplicates are looked for."""

    name: str
    part: str
    identity: str
    digest: str
    """Of the file's bytes, or of a normalized text: equal for identical rows."""
    look: Look | None = None


class Pair(NamedTuple):
    """Two rows that are the same, by position; the first is the one that stays."""

    first: int
    second: int
    kind: Literal["identical", "near"]


def by_identity(identities: Sequence[str], shares: Mapping[str, float], seed: int) -> dict[str, list[int]]:
    """Positions of each part's rows: about its share of them, and no identity in two parts.

    Identities are drawn in a random order, each into the part that lacks most rows. Raises BadConfig for shares that are no
    parts of a whole and BadRows when there are fewer identities than parts.
    """
    if not shares or min(shares.values()) <= 0 or abs(sum(shares.values()) - 1) > 1e-6:
        raise BadConfig(f"the shares of the parts must be above 0 and add up to 1; given {dict(shares)}")
    rows = defaultdict(list)
    for place, identity in enumerate(identities):
        rows[identity].append(place)
    if len(rows) < len(shares):
        raise BadRows(f"{len(rows)} identities cannot fill {len(shares)} parts ({', '.join(shares)}) without one standing in two of them")
    names = sorted(rows)
    random.Random(seed).shuffle(names)
    names.sort(key=lambda name: -len(rows[name]))  # the large ones first, so that small ones even out what is left
    parts: dict[str, list[int]] = {part: [] for part in shares}
    for at, name in enumerate(names):
        empty = [part for part, held in parts.items() if not held]
        lacking = empty if len(empty) == len(names) - at else list(shares)
        part = max(lacking, key=lambda each: shares[each] * len(identities) - len(parts[each]))
        parts[part] += rows[name]
    return {part: sorted(held) for part, held in parts.items()}


def shared(items: Sequence[Item]) -> dict[str, list[str]]:
    """{"forget and keep": identities that stand in both, ...}, for the pairs of parts in ORDER that share any."""
    parts: dict[str, set[str]] = defaultdict(set)
    for item in items:
        if item.identity and item.part in ORDER:
            parts[item.part].add(item.identity)
    both = {f"{a} and {b}": sorted(parts[a] & parts[b]) for a, b in combinations(sorted(parts, key=_rank), 2)}
    return {names: found for names, found in both.items() if found}


def duplicates(items: Sequence[Item]) -> list[Pair]:
    """Every row that is the same as an earlier one, byte for byte or in its look; rows of parts that come first in ORDER come first."""
    order = sorted(range(len(items)), key=lambda place: (_rank(items[place].part), place))
    first: dict[str, int] = {}
    pairs, single = [], []
    for place in order:
        held = first.setdefault(items[place].digest, place)
        if held == place:
            single.append(place)
        else:
            pairs.append(Pair(held, place, "identical"))
    return pairs + _near(items, [place for place in single if items[place].look is not None])


def _near(items: Sequence[Item], places: Sequence[int]) -> list[Pair]:
    """Pairs of rows whose looks are near, by comparing pieces of all against all."""
    if len(places) < 2:
        return []
    looks: list[Any] = [items[place].look for place in places]
    signs, thumbs = np.stack([each.signs for each in looks]), np.stack([each.thumb for each in looks])
    found = []
    for at in range(0, len(places), PIECE):
        alike = signs[at : at + PIECE] @ signs[at:].T >= signs.shape[1] - 2 * SIGNS
        for a, b in np.argwhere(np.triu(alike, 1)):
            if thumbs[at + a] @ thumbs[at + b] >= LIKENESS:
                found.append(Pair(places[at + a], places[at + b], "near"))
    return found


def _rank(part: str) -> int:
    return ORDER.index(part) if part in ORDER else len(ORDER)


@dataclass(frozen=True)
class Findings:
    """What was found wrong with a split."""

    items: Sequence[Item]
    pairs: Sequence[Pair]
    shared: Mapping[str, Sequence[str]]

    @property
    def leaks(self) -> list[Pair]:
        """Pairs whose rows stand in different parts."""
        return [pair for pair in self.pairs if self.items[pair.first].part != self.items[pair.second].part]

    @property
    def surplus(self) -> set[int]:
        """Positions to leave out so that no row of a part is a copy of one in an earlier part."""
        return {pair.second for pair in self.leaks}

    @property
    def line(self) -> str:
        """All of it in one line."""
        counts = [f"{sum(pair.kind == kind for pair in found)} {what} {kind}" for found, what in ((self.pairs, "duplicates"), (self.leaks, "across parts")) for kind in ("identical", "near")]
        both = [f"{names} share {len(found)} identities" for names, found in self.shared.items()]
        return ", ".join(counts + (both or ["no identity in two parts"]))

    def write(self, path: Path) -> None:
        """Write every pair with names, parts and identities, as JSON."""
        def told(pair: Pair) -> dict[str, object]:
            a, b = self.items[pair.first], self.items[pair.second]
            return {"kind": pair.kind, "across": a.part != b.part, "rows": [a.name, b.name], "parts": [a.part, b.part], "identities": [a.identity, b.identity]}

        files.write_json(path, {"summary": self.line, "shared identities": self.shared, "pairs": [told(pair) for pair in self.pairs]})


def examine(items: Sequence[Item], ctx: Context, name: str) -> Findings:
    """The findings on a split, noted in the run and written to a file: into its folder, or the cache of the benchmark `name`."""
    found = Findings(items, duplicates(items), shared(items))
    path = (ctx.folder or files.cache() / name) / "duplicates.json"
    found.write(path)
    leaks = found.leaks
    ctx.note(
        duplicates=float(len(found.pairs)), leaks=float(len(leaks)), forget_keep_leaks=float(sum(items[p.first].part == "forget" and items[p.second].part == "keep" for p in leaks)),
        shared_identities=float(sum(map(len, found.shared.values()))), duplicates_file=str(path),
    )
    return found


def sifted(rows: Sequence[tuple[Item, Row]], ctx: Context, name: str, drop: bool = True) -> dict[str, list[Row]]:
    """The rows of each part, without those that are copies of a row in an earlier part unless `drop` is off; what was found is noted.

    Raises BadRows when a part loses all its rows.
    """
    surplus = examine([item for item, _ in rows], ctx, name).surplus if rows else set()
    parts: dict[str, list[Row]] = {item.part: [] for item, _ in rows}
    for place, (item, row) in enumerate(rows):
        if not drop or place not in surplus:
            parts[item.part].append(row)
    if empty := [part for part, held in parts.items() if not held]:
        raise BadRows(f"every row of {' and of '.join(empty)} is a copy of a row in an earlier part; see {ctx.notes['duplicates_file']}")
    return parts


def check_disjoint(identities: Mapping[str, Sequence[str]]) -> None:
    """Raise BadRows, naming some, when an identity stands in two of the parts given as {part of ORDER: identities}."""
    both = shared([Item("", part, who, "") for part, held in identities.items() for who in held])
    for names, found in both.items():
        raise BadRows(f"{names} share {len(found)} identities ({', '.join(found[:3])}{', ...' if len(found) > 3 else ''}); parts must not share any")
