"""efface list: the catalogue."""

from __future__ import annotations

from typing import Annotated, get_args

import typer

from efface.cli.options import Json
from efface.cli.output import emit, say, table
from efface.core import card as cards
from efface.core import registry
from efface.core.card import Card
from efface.core.errors import BadConfig, EffaceError, UnknownName

Entry = tuple[str, str, Card]
GROUPS: dict[str, tuple[str, ...]] = {"intent": get_args(cards.Intent), "technique": get_args(cards.Technique)}
"""What the catalogue can be grouped by, with the words in their order."""
UNSAID = "not said"


def list_systems(
    kind: Annotated[str, typer.Option("--kind", metavar="KIND", help="Only one kind: method, attack, metric, ...")] = "",
    family: Annotated[str, typer.Option("--family", metavar="FAMILY", help="Only one family of models, such as causal-lm.")] = "",
    by: Annotated[str, typer.Option("--by", metavar="FIELD", help="Group what makes models forget by intent (remove, suppress) or technique, and within it by what is touched.")] = "",
    as_json: Json = False,
) -> None:
    """List all systems: what can be trained, forgotten, attacked, measured."""
    if by and by not in GROUPS:
        raise UnknownName.among("field to group by", by, GROUPS)
    found = _cards(kind)
    families = {name for _, _, card in found for name in card.families}
    if family and family not in families:
        raise UnknownName.among("family", family, families)
    shown = [(each, name, card) for each, name, card in found if not family or family in card.families]
    if by:
        _grouped(shown, by, as_json)
        return
    if as_json:
        emit([_value(entry) for entry in shown])
        return
    rows = [[each, name, card.title, card.paper, ", ".join(card.families)] for each, name, card in shown]
    table(["KIND", "NAME", "TITLE", "PAPER", "FAMILIES"], rows)


def grouped(entries: list[Entry], by: str) -> dict[str, dict[str, list[Entry]]]:
    """{word of the field: {what is touched: systems}}, in the order of the words; methods and guards whose card is silent come last."""
    there = [entry for entry in entries if entry[0] in ("method", "guard") or entry[2].intent]
    found: dict[str, dict[str, list[Entry]]] = {}
    for word in (*(word for word in GROUPS[by] if word), ""):
        for entry in there:
            if getattr(entry[2], by) == word:
                found.setdefault(word or UNSAID, {}).setdefault(", ".join(entry[2].touches) or UNSAID, []).append(entry)
    return {word: dict(sorted(parts.items())) for word, parts in found.items()}


def _grouped(entries: list[Entry], by: str, as_json: bool) -> None:
    found = grouped(entries, by)
    if not found:
        raise BadConfig(f"--by {by}: nothing here makes a model forget; of recipes, methods and guards alone it is known")
    if as_json:
        emit({word: {touched: [_value(entry) for entry in some] for touched, some in parts.items()} for word, parts in found.items()})
        return
    other = "technique" if by == "intent" else "intent"
    rows = [
        [word, touched, kind, name, getattr(card, other) or UNSAID, card.guarantee or UNSAID, card.title]
        for word, parts in found.items() for touched, some in parts.items() for kind, name, card in some
    ]  # fmt: skip
    table([by.upper(), "TOUCHES", "KIND", "NAME", other.upper(), "GUARANTEE", "TITLE"], rows)


def _value(entry: Entry) -> dict[str, object]:
    kind, name, card = entry
    return registry.as_dict(card, kind) | {"name": name}


def _cards(kind: str) -> list[Entry]:
    """Kind, name and card of everything that can be listed; what cannot is named on standard error."""
    found = []
    for each in [kind] if kind else registry.kinds():
        for name in registry.names(each):
            try:
                found.append((each, name, registry.card(each, name)))
            except (EffaceError, SyntaxError) as error:
                say(f"{each} {name} is left out: {error}")
    return found
