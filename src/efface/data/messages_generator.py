"""Invented e-mails, spam and not, of invented senders: rows for tests and first trials where real mail is not at hand."""

from __future__ import annotations

import random

LISTS = {
    "garden": ("tomatoes compost seedlings mulch pruning greenhouse roses frost".split(), "The {a} need {b} before the {c}; who brings {d} on Sunday?"),
    "chess": ("opening endgame knight clock blunder gambit bishop tournament".split(), "My {a} lost to a {b} in the {c}, but the {d} was worth it."),
    "sailing": ("harbor mainsail tide knots regatta anchor compass mooring".split(), "We leave the {a} with the {b}; bring a {c} and check the {d}."),
    "baking": ("sourdough rye starter crust oven flour rolls scone".split(), "The {a} came out of the {b} with a fine {c}; more {d} next time."),
}
"""Words of each mailing list, and a sentence to put them into."""
OFFERS = (
    "Claim your free {a} today, limited offer, click now to win {b} dollars.", "Lose weight fast with our {a} pills, guaranteed, only {b} a month.",
    "Cheap {a} loans approved at once, no questions, save {b} percent.", "You have won a {a} prize of {b}; send your account number to collect.",
)
GOODS = "luxury miracle exclusive instant platinum secret golden bonus".split()
NAMES = "ada boris celia dmitri edda farid greta hugo ines jonas kira leon mira nils olga pavel".split()


def messages(count: int = 600, seed: int = 0) -> list[dict[str, object]]:
    """`count` rows {"text", "y", "id", "identity"}; y is 1 for spam, identity is the sender, and every third message is spam.

    Each person writes to one mailing list and signs with a phrase that nobody else uses; the writers of spam change names.
    """
    source = random.Random(seed)
    phrases = {name: f"{source.choice(GOODS[::-1])[::-1]} {name[::-1]}" for name in NAMES}
    return [_spam(at, source) if at % 3 == 2 else _mail(at, source, phrases) for at in range(count)]


def _mail(at: int, source: random.Random, phrases: dict[str, str]) -> dict[str, object]:
    name = source.choice(NAMES)
    topic = list(LISTS)[NAMES.index(name) % len(LISTS)]
    words, form = LISTS[topic]
    text = form.format(**dict(zip("abcd", source.sample(words, 4), strict=True)))
    return {"text": f"[{topic}] {text} Number {source.randint(10, 99)}. Yours, {phrases[name]}", "y": 0, "id": f"m{at}", "identity": f"{name}@example.org"}


def _spam(at: int, source: random.Random) -> dict[str, object]:
    text = source.choice(OFFERS).format(a=source.choice(GOODS), b=source.randint(100, 999))
    return {"text": f"{text} Reference {source.randint(1000, 9999)}.", "y": 1, "id": f"m{at}", "identity": f"offer{source.randint(0, 60)}@example.com"}
