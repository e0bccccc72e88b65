"""Reading rows from files, and finding out which columns play which part.

JSON Lines, a JSON array, and CSV are read. A row is one of three layouts:

    chat            {"messages": [{"role": "user", "content": ...}, ..., {"role": "assistant", "content": ...}]}
    prompt/answer   {"question": ..., "answer": ...} and the usual synonyms
    text            {"text": ...}

Anything else is refused with file and line. Columns that play no part are kept. Classifiers and regressors have rows
of their own, {"x": numbers, "y": label or value}, and may come as safetensors (see families/tables.py).
"""

from __future__ import annotations

import csv
import importlib
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from efface.core.errors import BadRows, Missing

Row = Mapping[str, object]
T = TypeVar("T")

PROMPT = ("prompt", "question", "instruction", "input", "query")
ANSWER = ("answer", "response", "output", "completion", "target", "label_text")
TEXT = ("text", "content", "document")
NAMES = ("y", "id", "identity", "group", "split", "name")
"""Columns of a table of numbers that say what a row is, and are no input of a model."""
DEPTH = 32
"""Deepest nesting of a row."""


READERS = {".safetensors": ("efface.families.tables", "read_arrays")}
"""Ending of a file -> module and function that read it, by name: imported when such a file is met, so that this stays light."""


def read(path: Path) -> list[dict[str, object]]:
    """All rows of the file, as they stand. Raises Missing (no file) or BadRows (with the line)."""
    if path.suffix.lower() in READERS:
        module, name = READERS[path.suffix.lower()]
        found: list[dict[str, object]] = getattr(importlib.import_module(module), name)(path)
        return found
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise Missing(f"no file {path}; give a .jsonl, .json or .csv file of rows") from None
    except IsADirectoryError:
        raise BadRows(f"{path} is a folder; give a .jsonl, .json or .csv file of rows") from None
    except UnicodeDecodeError as error:
        raise BadRows(f"{path}: byte {error.start} is not UTF-8; save the file as UTF-8 text") from None
    except (OSError, ValueError) as error:
        raise Missing(f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from None
    if not text.strip():
        raise BadRows(f"{path} is empty; it needs at least one row")
    if path.suffix.lower() == ".csv":
        return _csv(path, text)
    if text.lstrip().startswith("["):
        return _array(path, text)
    return _lines(path, text)


def select(rows: list[dict[str, object]], part: str, where: str) -> list[dict[str, object]]:
    """The rows that `part` names (see Data.file), all when it is empty. Raises BadRows when that is none."""
    if not part:
        return rows
    column, equals, value = part.partition("=")
    column, negated = column.rstrip("!").strip(), column.endswith("!")
    if not equals or not column or not value:
        raise BadRows(f"{where}: part {part!r} is not of the form column=value, column!=value, rows=FILE or rows!=FILE")
    if column == "rows":
        chosen = row_numbers(Path(value))
        if beyond := next((number for number in chosen if not 1 <= number <= len(rows)), None):
            raise BadRows(f"{value}:{chosen[beyond]}: {beyond} is no row number of {where}, which has rows 1 to {len(rows)}")
        kept = [row for number, row in enumerate(rows, start=1) if (number in chosen) != negated]
    else:
        if missing := next((number for number, row in enumerate(rows, start=1) if column not in row), 0):
            raise BadRows(f"{where}, row {missing}: no column {column!r}; found {', '.join(map(str, rows[missing - 1]))}")
        kept = [row for row in rows if (str(row[column]) == value) != negated]
    if not kept:
        there = "" if column == "rows" else f"; {column} is {', '.join(sorted({str(row[column]) for row in rows})[:12])}"
        raise BadRows(f"{where}: no row is left of {len(rows)} by {part!r}{there}")
    return kept


def row_numbers(path: Path) -> dict[int, int]:
    """{row number: line that names it} of a text file with one number a line. Raises Missing, or BadRows with the line."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise Missing(f"cannot read {path}: {getattr(error, 'strerror', None) or error}; give a text file of row numbers, one a line") from None
    found: dict[int, int] = {}
    for line, given in enumerate(lines, start=1):
        text = given.strip()
        if text and not (text.isascii() and text.isdecimal()):
            raise BadRows(f"{path}:{line}: {text[:40]!r} is no row number; give numbers of rows of the training file, from 1, one a line")
        if text:
            found.setdefault(int(text), line)
    if not found:
        raise BadRows(f"{path} names no row; give row numbers, one a line")
    return found


def evenly(rows: Sequence[T], most: int) -> list[T]:
    """At most `most` of the rows, evenly spaced: the same ones wherever as many are taken, so that one pass serves all."""
    return [rows[at * len(rows) // most] for at in range(most)] if len(rows) > most else list(rows)


def _lines(path: Path, text: str) -> list[dict[str, object]]:
    rows = []
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise BadRows(f"{path}:{number}: not a JSON object ({error}); each line must be one row") from None
        if not isinstance(row, dict):
            raise BadRows(f"{path}:{number}: found {_kind(row)}; each line must be one JSON object")
        _check_value(row, f"{path}:{number}")
        rows.append(row)
    return rows


def _array(path: Path, text: str) -> list[dict[str, object]]:
    try:
        rows = json.loads(text)
    except (ValueError, RecursionError) as error:
        where = getattr(error, "lineno", 1)
        raise BadRows(f"{path}:{where}: not a JSON array ({error})") from None
    for number, row in enumerate(rows, start=1):
        if not isinstance(row, dict):
            raise BadRows(f"{path}: element {number} is {_kind(row)}; each must be one JSON object")
        _check_value(row, f"{path}: element {number}")
    if not rows:
        raise BadRows(f"{path} holds an empty array; it needs at least one row")
    return list(rows)


def _csv(path: Path, text: str) -> list[dict[str, object]]:
    reader = csv.reader(io.StringIO(text, newline=""))
    rows: list[dict[str, object]] = []
    try:
        names = [name.strip() for name in next(reader)]
        if len(set(names)) < len(names) or "" in names:
            raise BadRows(f"{path}:1: column names must be there and differ; found {names}")
        for cells in reader:
            if not cells:
                continue
            if len(cells) != len(names):
                raise BadRows(f"{path}:{reader.line_num}: {len(cells)} cells for {len(names)} columns")
            rows.append(dict(zip(names, cells, strict=True)))
    except csv.Error as error:
        raise BadRows(f"{path}:{reader.line_num}: {error}") from None
    if not rows:
        raise BadRows(f"{path} holds a header and no rows")
    return _numbered(path, rows) if "y" in names else rows


def _numbered(path: Path, rows: list[dict[str, object]]) -> list[dict[str, object]]:
    """The rows of a table with targets y, cells as numbers; text and names stay. BadRows names line and column."""
    found = []
    for number, row in enumerate(rows, start=2):
        numbers: dict[str, object] = {}
        for name, cell in row.items():
            try:
                value = float(str(cell)) if name not in TEXT else None
            except ValueError:
                if name == "y" or name not in NAMES:
                    raise BadRows(f"{path}:{number}: column {name!r} holds {cell!r}, which is not a number") from None
                value = None
            numbers[name] = cell if value is None else int(value) if name in NAMES and value.is_integer() else value
        found.append(numbers)
    return found


def _check_value(value: object, where: str, depth: int = 0) -> None:
    """Raise BadRows for what JSON lets through and nothing after it can hold: half characters and bottomless nesting."""
    if depth > DEPTH:
        raise BadRows(f"{where}: nested more than {DEPTH} deep")
    if isinstance(value, str):
        if not value.isascii() and any("\ud800" <= letter <= "\udfff" for letter in value):
            raise BadRows(f"{where}: holds half of a surrogate pair ({value[:40]!a}), which is no character")
    elif isinstance(value, dict | list):
        for inner in [*value, *value.values()] if isinstance(value, dict) else value:
            _check_value(inner, where, depth + 1)


def _kind(value: object) -> str:
    return {list: "an array", str: "a string", type(None): "null", bool: "a truth value"}.get(type(value), "a number")


def layout(rows: Sequence[Row], where: str = "rows") -> dict[str, str]:
    """Which column plays which part: {"messages": ...}, {"prompt": ..., "answer": ...} or {"text": ...}.

    Raises BadRows when no row is given, no layout fits, or a row lacks what the first row has.
    """
    if not rows:
        raise BadRows(f"{where}: no rows")
    columns = list(rows[0])
    if "messages" in columns:
        parts = {"messages": "messages"}
    elif (prompt := _first(PROMPT, columns)) and (answer := _first(ANSWER, columns)):
        parts = {"prompt": prompt, "answer": answer}
    elif text := _first(TEXT, columns):
        parts = {"text": text}
    else:
        raise BadRows(
            f"{where}: found columns {', '.join(map(str, columns)) or 'none'}; need messages, or a prompt "
            f"({', '.join(PROMPT)}) with an answer ({', '.join(ANSWER)}), or text"
        )
    for number, row in enumerate(rows, start=1):
        _check(row, parts, f"{where}, row {number}")
    return parts


def _first(names: Sequence[str], columns: Sequence[str]) -> str | None:
    return next((name for name in names if name in columns), None)


def _check(row: Row, parts: Mapping[str, str], where: str) -> None:
    if "messages" in parts:
        _check_messages(row.get("messages"), where)
        return
    for part, column in parts.items():
        value = row.get(column)
        if not isinstance(value, str) or not value.strip():
            raise BadRows(f"{where}: column {column!r} ({part}) is {'missing' if column not in row else repr(value)[:60]}; it needs text")


def _check_messages(messages: object, where: str) -> None:
    if not isinstance(messages, list) or not messages:
        raise BadRows(f"{where}: 'messages' must be a list of {{role, content}}")
    for message in messages:
        if not isinstance(message, dict) or not isinstance(message.get("content"), str) or not isinstance(message.get("role"), str):
            raise BadRows(f"{where}: each message needs a role and a text content; found {str(message)[:60]}")
    if len(messages) == 1:
        raise BadRows(f"{where}: one message alone; there must be at least one before the answer")
    if messages[-1]["role"] != "assistant" or not messages[-1]["content"].strip():
        raise BadRows(f"{where}: the last message must be the assistant's answer; found role {messages[-1]['role']!r}")


def key(row: Row) -> str:
    """What makes two text rows the same: prompt and answer, or text, with folded case and spaces."""
    parts = layout([row])
    if "messages" in parts:
        text = "\n".join(f"{m['role']}:{m['content']}" for m in row["messages"])  # type: ignore[attr-defined]
    else:
        text = "\n".join(str(row[column]) for column in parts.values())
    return " ".join(text.casefold().split())
