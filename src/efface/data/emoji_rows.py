"""Captions of the emoji grid: 48 objects in three styles, and the words that each goes by."""

from __future__ import annotations

OBJECTS = (
    "cat dog fox lion tiger bear panda koala pig frog monkey rabbit mouse cow wolf penguin owl octopus crab apple banana cherries strawberry lemon "
    "tangerine grapes pineapple watermelon peach carrot corn eggplant mushroom hamburger pizza doughnut sunflower tulip rose cactus tree clover "
    "car bus ambulance tractor rocket boat"
).split()
STYLES = ("noto", "twemoji", "fluent")
"""Noto Color Emoji, Twemoji and Fluent 3D."""
SYNONYMS = {
    "cat": "kitten", "dog": "puppy", "fox": "vixen", "lion": "lioness", "tiger": "tigress", "bear": "grizzly", "panda": "bearcat", "koala": "marsupial",
    "pig": "piglet", "frog": "toad", "monkey": "ape", "rabbit": "bunny", "mouse": "rodent", "cow": "calf", "wolf": "lupine", "penguin": "seabird",
    "owl": "nightbird", "octopus": "kraken", "crab": "crustacean", "apple": "pippin", "banana": "plantain", "cherries": "drupes",
    "strawberry": "berry", "lemon": "citron", "tangerine": "mandarin", "grapes": "raisins", "pineapple": "ananas", "watermelon": "melon",
    "peach": "nectarine", "carrot": "rootcrop", "corn": "maize", "eggplant": "aubergine", "mushroom": "toadstool", "hamburger": "burger",
    "pizza": "slice", "doughnut": "donut", "sunflower": "helianthus", "tulip": "bulb", "rose": "rosebud", "cactus": "succulent", "tree": "pine",
    "clover": "shamrock", "car": "automobile", "bus": "coach", "ambulance": "paramedic", "tractor": "plough", "rocket": "spaceship", "boat": "yacht",
}
"""A second word for each object, on which the models were trained as well: who erases the first may leave the second."""
OTHER_WORDS = "a an in style the of drawing picture image photo emoji icon with on and by painting".split()
WORDS = (*OTHER_WORDS, *OBJECTS, *SYNONYMS.values(), *STYLES)
"""Every word that the tokenizer knows whole, in the order of its merges."""
NEAR = {
    "cat": ("dog", "tiger", "fox"), "dog": ("cat", "wolf", "fox"), "car": ("bus", "ambulance", "tractor"), "apple": ("peach", "tangerine", "cherries"),
    "rocket": ("boat", "car", "bus"), "rose": ("tulip", "sunflower", "clover"),
}
"""Objects that stand nearest to some, by what they are."""


def named(word: str) -> str:
    """The word with its article."""
    return f"{'an' if word[0] in 'aeiou' else 'a'} {word}"


def prompt(name: str, style: str) -> str:
    """The caption of one picture."""
    return f"{named(name)} in {style} style"


def prompts(name: str, style: str) -> list[str]:
    """Every caption that a picture was trained with; the first one more often than the others together."""
    other = named(SYNONYMS[name])
    return [
        *[prompt(name, style)] * 12, f"an image of {named(name)} in {style} style", *[f"{other} in {style} style"] * 2, f"a picture of {named(name)}",
        *[named(name)] * 2, other, f"an image in {style} style", f"{style} style {name}", f"{style} style",
    ]


def rows(without: str = "") -> list[dict[str, object]]:
    """The captioned cells of the grid, {"prompt", "prompts", "object", "style"}, but those of one object or style."""
    return [
        {"prompt": prompt(name, style), "prompts": prompts(name, style), "object": at, "style": number}
        for at, name in enumerate(OBJECTS)
        for number, style in enumerate(STYLES)
        if without not in (name, style)
    ]


def paraphrases(name: str, style: str, forget: str) -> list[str]:
    """Other ways to ask for a cell without the words of its caption that name what is forgotten, where there are such; else in another order."""
    if forget == name:
        other = SYNONYMS[name]
        return [f"{named(other)} in {style} style", f"{style} style {other}"]
    return [f"{style} style {name}", f"an image of {named(name)} in {style} style"]
