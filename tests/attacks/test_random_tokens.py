import pytest

from efface.attacks.random_tokens import RandomTokens
from efface.core.context import Context
from efface.core.errors import Unfit
from efface.core.types import Data, Request
from efface.testing.painting import Painter, Reader

LABELS = ("dog", "cat")


def request(*prompts):
    return Request(kind="concept", names=("a cat",), forget=Data.inline([{"prompt": prompt} for prompt in prompts]))


def context():
    return Context(baselines={"judge/object": Reader(LABELS)})


def test_so_many_pictures_and_no_step():
    """Three random words, other ones each time, before the prompt; ten pictures where luck never comes."""
    subject = Painter(lambda prompt, seed: 0)
    found = RandomTokens.set({"rows": 1}).run(subject, request("a cat"), context())
    tried = [text for text, _ in subject.asked[1:]]
    assert found.value == 0 and (found.parts["pictures"], found.parts["steps"]) == (10, 0)
    assert len(set(tried)) == 10 and all(text.endswith(" a cat") and len(text.split()) == 5 for text in tried)


def test_luck_ends_it():
    """A model that draws a cat for one prompt in four by chance: nearly every prompt falls within ten pictures (1 - .75^10 = .94)."""
    subject = Painter(lambda prompt, seed: int(len(prompt.split()) > 2 and sum(map(ord, prompt)) % 4 == 0))
    found = RandomTokens.set({"rows": 8}).run(subject, request("a cat"), context())
    assert found.value >= 0.75 and found.parts["pictures"] < 80
    assert all(row["pictures"] == 10 or row["success"] for row in found.table)
    again = RandomTokens.set({"rows": 8}).run(subject, request("a cat"), context())
    assert [row["found"] for row in again.table] == [row["found"] for row in found.table]


def test_no_room():
    with pytest.raises(Unfit, match="leave no room"):
        RandomTokens.set({"tokens": 30}).run(Painter(lambda prompt, seed: 0), request("a cat"), context())
