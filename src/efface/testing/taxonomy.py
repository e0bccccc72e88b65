"""What the cards of methods and guards must say of what they do to the knowledge; one of the contracts reads it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import get_args, get_type_hints

from efface.core.card import TAXONOMY, Card

READ = {"forget rows": "forget", "keep rows": "keep", "names": "names", "reference model": "reference"}
"""Words of `data` that `uses` has as well."""
WEIGHTS = {"weights", "adapter", "merge"}
"""What of `touches` lies in the weights."""


def problems(kind: str, card: Card) -> list[str]:
    """One line for each field that is empty, holds another word than there are, or contradicts another field."""
    found = [*_words(card)]
    found += [
        f"{card.name} {'needs' if word in card.data else 'does not need'} {word!r} by its data, and its uses say otherwise about {use!r}"
        for word, use in READ.items() if (word in card.data) != (use in card.uses)
    ]  # fmt: skip
    return [*found, *(_of_guard(card) if kind == "guard" else _of_method(card))]


def _words(card: Card) -> Iterator[str]:
    for field in TAXONOMY:
        given = getattr(card, field)
        if given in ("", (), None) or (field == "operator" and given == "none"):
            yield f"the card of {card.name} does not say {field}"
        known = words(field)
        for word in given if isinstance(given, tuple) else (given,):
            if word not in known and word is not None:
                yield f"{card.name} has the {field} {word!r}; there are: {', '.join(map(str, sorted(known - {''}, key=str)))}"


def words(field: str) -> set[object]:
    """The words that a field of the card may hold, from its type."""
    hint = get_type_hints(Card)[field]
    if hint == bool | None:
        return {True, False}
    return {word for part in get_args(hint) for word in (get_args(part) or (part,)) if word is not Ellipsis}


def _of_guard(card: Card) -> Iterator[str]:
    """A guard leaves the weights as they are, so that nothing leaves them."""
    if card.intent == "remove":
        yield f"{card.name} is a guard and removes nothing; its intent is suppress"
    if WEIGHTS & set(card.touches) or card.locality not in ("", "none"):
        yield f"{card.name} is a guard and leaves weights as they are; its locality is none, and it touches none of {', '.join(sorted(WEIGHTS))}"
    if card.guarantee in ("exact", "bounded"):
        yield f"{card.name} is a guard, and no {card.guarantee} removal can be had from one; its guarantee is empirical or none"


def _of_method(card: Card) -> Iterator[str]:
    """A method changes weights, for which whoever runs it must have them."""
    if card.touches and (not WEIGHTS & set(card.touches) or card.locality == "none"):
        yield f"{card.name} is a method and changes weights; it touches one of {', '.join(sorted(WEIGHTS))}, and its locality is not none"
    if card.operator not in ("none", "weights"):
        yield f"{card.name} changes weights, and says that whoever runs it needs {card.operator} alone"
    if card.intent == "suppress" and card.guarantee in ("exact", "bounded"):
        yield f"{card.name} only suppresses, and promises {card.guarantee} removal"
