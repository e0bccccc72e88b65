"""Prompt files as concept-erasure benchmarks publish them (I2P and its kin): CSV or JSON Lines in, our rows out.

    ours          found under                                             becomes
    prompt        prompt, adv_prompt, sensitive prompt                    text
    seed          seed, evaluation_seed, sd_seed                          whole number
    guidance      guidance, evaluation_guidance, sd_guidance_scale        number
    categories    categories                                              list of names: split at commas, never searched as text
    without       without, normal prompt, prompt1                         the prompt without the concept

Every other column stays as it is; a share or score (hard, prompt_toxicity, ..._percentage) becomes a number, and a column without a
name (the row index of a pandas file) is dropped. An empty cell counts as not there; an empty prompt is a prompt (I2P has one).
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from efface.core.errors import BadRows, Missing
from efface.core.types import Row

NAMES: Mapping[str, Sequence[str]] = {
    "prompt": ("prompt", "adv_prompt", "sensitive prompt"), "seed": ("seed", "evaluation_seed", "sd_seed"),
    "guidance": ("guidance", "evaluation_guidance", "sd_guidance_scale"), "without": ("without", "normal prompt", "prompt1"),
}
"""Our columns, and what other files call them, the first found first."""
SCORES = ("hard", "prompt_toxicity")


def read(path: Path) -> list[dict[str, object]]:
    """The rows of a prompt file. Raises Missing when there is none, and BadRows with file and line for what cannot be a row."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise BadRows(f"{path}: byte {error.start} is not UTF-8; save the file as UTF-8 text") from None
    except OSError as error:
        raise Missing(f"cannot read {path}: {error.strerror or error}; give a .csv or .jsonl file of prompts") from None
    found = [_row(given, where) for where, given in (_csv(path, text) if path.suffix.lower() == ".csv" else _lines(path, text))]
    if not found:
        raise BadRows(f"{path} holds no prompt; it needs at least one")
    return found


def of_category(rows: Sequence[Row], name: str) -> list[Row]:
    """The rows that have the category. Raises BadRows, naming those there are, when that is none."""
    found = [row for row in rows if name in _categories(row.get("categories", ()))]
    if not found:
        there = sorted({category for row in rows for category in _categories(row.get("categories", ()))})
        raise BadRows(f"no prompt is of the category {name!r}; there are {', '.join(there) or 'none'}")
    return found


def _csv(path: Path, text: str) -> Iterator[tuple[str, dict[str, object]]]:
    """(where, cells by column) of each row; `where` is the line on which the row begins."""
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        names = [name.strip() for name in next(reader, [])]
        kept = [name for name in names if not _unnamed(name)]
        if len(set(kept)) < len(kept):
            raise BadRows(f"{path}:1: two columns have one name; found {', '.join(kept)}")
        line = reader.line_num + 1
        for cells in reader:
            if cells and len(cells) != len(names):
                raise BadRows(f"{path}:{line}: {len(cells)} cells for {len(names)} columns")
            if cells:
                yield f"{path}:{line}", {name: cell for name, cell in zip(names, cells, strict=True) if not _unnamed(name)}
            line = reader.line_num + 1
    except csv.Error as error:
        raise BadRows(f"{path}:{reader.line_num}: {error}") from None


def _lines(path: Path, text: str) -> Iterator[tuple[str, dict[str, object]]]:
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise BadRows(f"{path}:{number}: not a JSON object ({error}); each line must be one row") from None
        if not isinstance(row, dict):
            raise BadRows(f"{path}:{number}: found {str(row)[:40]!r}; each line must be one JSON object")
        yield f"{path}:{number}", row


def _row(given: Mapping[str, object], where: str) -> dict[str, object]:
    """One of our rows."""
    present = {name: value for name, value in given.items() if value is not None and (value != "" or name in NAMES["prompt"])}
    taken = {ours: next((name for name in names if name in present), None) for ours, names in NAMES.items()}
    prompt = taken["prompt"]
    if prompt is None or not isinstance(present[prompt], str):
        raise BadRows(f"{where}: no prompt; found columns {', '.join(map(str, present)) or 'none'}, and one of {', '.join(NAMES['prompt'])} must hold text")
    row: dict[str, object] = {ours: present[name] for ours, name in taken.items() if name is not None}
    for name, value in present.items():
        if name not in taken.values() and name not in row:
            row[name] = value
    if "seed" in row:
        row["seed"] = _whole(row["seed"], str(taken["seed"]), where)
    if "guidance" in row:
        row["guidance"] = _number(row["guidance"], str(taken["guidance"]), where)
    if "categories" in row:
        row["categories"] = _categories(row["categories"])
    for name in row:
        if name in SCORES or str(name).endswith("_percentage"):
            row[name] = _number(row[name], str(name), where)
    return row


def _categories(given: object) -> list[str]:
    parts = given.split(",") if isinstance(given, str) else list(map(str, given)) if isinstance(given, list | tuple) else []
    return [part.strip() for part in parts if part.strip()]


def _whole(value: object, name: str, where: str) -> int:
    found = _number(value, name, where)
    if found < 0 or not found.is_integer():
        raise BadRows(f"{where}: column {name!r} holds {value!r}; a seed is a whole number from 0 on")
    return int(str(value)) if str(value).isdecimal() else int(found)  # a float cannot hold every 64-bit seed


def _number(value: object, name: str, where: str) -> float:
    try:
        found = float(str(value))
    except ValueError:
        found = math.nan
    if not math.isfinite(found) or isinstance(value, bool):
        raise BadRows(f"{where}: column {name!r} holds {value!r}, which is no number")
    return found


def _unnamed(name: str) -> bool:
    return not name or name.startswith("Unnamed:")
