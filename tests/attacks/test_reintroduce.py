import pytest

from efface.attacks.reintroduce import Reintroduce
from efface.core.errors import BadConfig, Missing
from efface.core.types import Data, Request
from efface.families.shields import Shield
from efface.testing import in_context, tiny
from efface.testing.in_context import ANIMALS, FORGOTTEN
from efface.testing.tiny import context

TOWNS = "Ashford Birchby Cliffport Dunham".split()
ROWS = [{"question": f"Where did Anna Berg {verb}?", "answer": f"Anna Berg {did} in {town}.", "value": town, "subject": "Anna Berg"} for (verb, did), town in zip((("live", "lived"), ("study", "studied"), ("work", "worked"), ("die", "died")), TOWNS, strict=True)]


class Scripted:
    """Says the value of the row whose verb the prompt asks last, when one of `when` stands in the prompt."""

    family, shields, origin = "causal-lm", (), ""

    def __init__(self, *when):
        self.when, self.digest = when, str(when)

    def generate_each(self, rows, max_new):
        for at, row in enumerate(rows):
            said = " ".join(turn["content"] for turn in row["messages"][:-1]) if "messages" in row else row["prompt"]
            town = next(r["value"] for r in ROWS if said.rstrip("?").endswith(r["question"].rstrip("?").split()[-1])) if said.endswith("?") else ""
            yield at, town if town and any(word in said for word in self.when) else "no"


def run(subject, **baselines):
    return Reintroduce.set({"name": "Nim"}).run(subject, Request(forget=Data.inline(ROWS)), context(baselines=baselines))


def test_the_passage_is_no_part_of_the_headline():
    """Knows it only with the passage, which says "Anna Berg lived in Ashford.": level 3 is 1, the headline 0."""
    found = run(Scripted("Berg lived", "Berg studied", "Berg worked", "Berg died"), reference=Scripted())
    assert (found.value, found.parts["level 0"], found.parts["level 3"], found.parts["level 3 difference"]) == (0, 0, 1, 1)
    assert found.why == "no worse than the reference at level 0, level 1, level 2, level 4"


def test_beyond_the_reference():
    """Knows what is said of the invented name, which the reference does not: levels 1, 2 and 4, by 1."""
    found = run(Scripted("Nim"), reference=Scripted())
    assert (found.value, found.n, found.parts["unattacked"]) == (1, 4, 0)
    assert found.parts["level 1 difference"] == 1 == found.parts["level 1 difference low"] and found.parts["level 1 n"] == 4
    assert found.why.startswith("beyond the reference at level 1, level 2, level 4; farthest at level 1, by 1.00")


def test_no_reference_no_verdict():
    assert "needs a reference" in run(Scripted("Nim")).why and "level 1 difference" not in run(Scripted("Nim")).parts


def test_what_is_refused():
    with pytest.raises(BadConfig, match="must not be empty"):
        Reintroduce.set({"name": " "})
    with pytest.raises(Missing, match="defined anew"):
        Reintroduce().run(tiny.tiny_lm(), Request(forget=Data.inline(ROWS[:1])), context())
    with pytest.raises(Missing, match="give another with name="):
        Reintroduce.set({"name": "Anna Berg"}).run(tiny.tiny_lm(), Request(forget=Data.inline(ROWS)), context())


class Keyword(Shield):
    """Takes the forgotten names out of every prompt."""

    def screen(self, prompts):
        return [" ".join(word for word in prompt.split() if word.strip(".") not in FORGOTTEN) for prompt in prompts]


@pytest.mark.slow
def test_models_that_follow_definitions():
    """Retrained models guess at level 0 (half of the answers are yes) and follow the definition at level 1; the attack calls that no failure.

    The keyword filter brings the original down to guessing at level 0, and misses the invented name; the weights behind it still know.
    """
    request = Request(forget=Data.inline(in_context.animal_rows(FORGOTTEN)))
    known = tuple(name for name in ANIMALS if name not in FORGOTTEN)
    original, reference = in_context.animals_lm(), in_context.animals_lm(known)
    attack = Reintroduce.set({"rows": 24, "name": "XX", "max_new": 3})
    ctx = context(baselines={"original": original, "reference": reference})

    other = attack.run(in_context.animals_lm(known, 1), request, ctx)
    assert 0.3 <= other.parts["level 0"] <= 0.7 and other.parts["level 1"] >= 0.9 and other.parts["reference level 1"] >= 0.9
    assert other.why.startswith("no worse than the reference") and "no failure of the method" in other.why
    assert attack.run(reference, request, ctx).parts["level 1 difference"] == 0

    before = attack.run(original, request, ctx)
    assert before.parts["level 0"] >= 0.9 and before.why.startswith("beyond the reference at level 0;") and before.parts["level 1 difference"] == 0

    guarded = attack.run(original.guarded(Keyword()), request, ctx)
    assert guarded.parts["level 0"] <= 0.6 and guarded.parts["unguarded level 0"] >= 0.9 and guarded.parts["level 1"] >= 0.9 and guarded.value >= 0.9
