"""efface list: the catalogue."""

from __future__ import annotations

from typing import Annotated

import typer

from efface.cli.options import Json
from efface.cli.output import emit, say, table
from efface.core import registry
from efface.core.card import Card
from efface.core.errors import EffaceError, UnknownName


def list_systems(
    kind: Annotated[str, typer.Option("--kind", metavar="KIND", help="Only one kind: method, attack, metric, ...")] = "",
    family: Annotated[str, typer.Option("--family", metavar="FAMILY", help="Only one family of models, such as causal-lm.")] = "",
    as_json: Json = False,
) -> None:
    """List all systems: what can be trained, forgotten, attacked, measured."""
    found = _cards(kind)
    families = {name for _, _, card in found for name in card.families}
    if family and family not in families:
        raise UnknownName.among("family", family, families)
    shown = [(each, name, card) for each, name, card in found if not family or family in card.families]
    if as_json:
        emit([registry.as_dict(card, each) | {"name": name} for each, name, card in shown])
        return
    rows = [[each, name, card.title, card.paper, ", ".join(card.families)] for each, name, card in shown]
    table(["KIND", "NAME", "TITLE", "PAPER", "FAMILIES"], rows)


def _cards(kind: str) -> list[tuple[str, str, Card]]:
    """Kind, name and card of everything that can be listed; what cannot is named on standard error."""
    found = []
    for each in [kind] if kind else registry.kinds():
        for name in registry.names(each):
            try:
                found.append((each, name, registry.card(each, name)))
            except (EffaceError, SyntaxError) as error:
                say(f"{each} {name} is left out: {error}")
    return found
