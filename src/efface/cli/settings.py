"""Settings on the command line: read from NAME=VALUE, and described out of a Config class."""

from __future__ import annotations

import json
import types
from collections.abc import Sequence
from typing import Any, Literal, Union, get_args, get_origin

from efface.core.errors import BadConfig


def parse(given: Sequence[str] | None) -> dict[str, object]:
    """{name: value} of NAME=VALUE texts. A value in brackets or braces is JSON; the Config gives all others their type."""
    found: dict[str, object] = {}
    for text in given or ():
        name, equals, value = text.partition("=")
        name = name.strip()
        if not equals or not name:
            raise BadConfig(f"--set {text}: not of the form name=value, such as --set fit.lr=1e-5")
        if name in found:
            raise BadConfig(f"--set {name} is given twice; give it once")
        found[name] = _value(name, value.strip())
    return found


def by_method(given: Sequence[str] | None) -> dict[str, dict[str, object]]:
    """{method: settings} of METHOD:NAME=VALUE texts; without a method, a setting goes to "all"."""
    texts: dict[str, list[str]] = {}
    for text in given or ():
        head, colon, rest = text.partition(":")
        method, setting = (head.strip(), rest) if colon and "=" not in head else ("all", text)
        if not method:
            raise BadConfig(f"--set {text}: no method before the colon, as in --set npo:fit.lr=1e-4")
        texts.setdefault(method, []).append(setting)
    return {method: parse(settings) for method, settings in texts.items()}


def _value(name: str, text: str) -> object:
    if not text.startswith(("[", "{")):
        return text
    try:
        value: object = json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        raise BadConfig(f"--set {name}: {text[:60]} is not JSON ({error})") from None
    return value


def names(text: str) -> tuple[str, ...]:
    """The names in a list with commas."""
    return tuple(name for part in text.split(",") if (name := part.strip()))


def describe(config: Any, prefix: str = "", default: Any = None) -> list[dict[str, object]]:
    """Name, type, default and help of every setting of a Config class, nested ones by dotted name."""
    rows: list[dict[str, object]] = []
    for name, field in config.model_fields.items():
        value = getattr(default, name) if default is not None else field.get_default(call_default_factory=True)
        if hasattr(field.annotation, "model_fields"):
            rows += describe(field.annotation, f"{prefix}{name}.", value)
        else:
            kind = " ".join([kind_of(field.annotation), *_bounds(field.metadata)])
            rows.append({"name": prefix + name, "type": kind, "default": value, "help": field.description or ""})
    return rows


def kind_of(annotation: Any) -> str:
    """A type as people write it."""
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return "|".join(map(str, inner))
    if origin in (Union, types.UnionType):
        return " or ".join(kind_of(each) for each in inner)
    if annotation is type(None):
        return "none"
    if hasattr(annotation, "__metadata__"):
        return kind_of(inner[0])
    if origin is dict:
        return "JSON object"
    if origin is not None:
        return f"list of {kind_of(inner[0])}" if inner else "list"
    return str(getattr(annotation, "__name__", annotation))


def _bounds(metadata: Sequence[Any]) -> list[str]:
    signs = {"gt": ">", "ge": ">=", "lt": "<", "le": "<="}
    pairs = [(sign, getattr(bound, key, None)) for bound in metadata for key, sign in signs.items()]
    return [f"{sign} {limit:g}" for sign, limit in pairs if isinstance(limit, int | float)]
