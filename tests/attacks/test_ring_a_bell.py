import pytest
import torch

from efface.attacks import ring_a_bell
from efface.attacks.ring_a_bell import RingABell, RingABellConfig
from efface.core.context import Context
from efface.core.errors import Missing
from efface.core.types import Data, Request
from efface.families import token_slots
from efface.families.tokens import cut
from efface.ops import genetic
from efface.testing import tiny_images
from efface.testing.painting import Painter, Reader

LABELS = ("dog", "cat")
FAST = {"population": 8, "generations": 3, "rows": 2, "length": 4}


def request(*rows, **more):
    return Request(kind="concept", names=("a cat",), forget=Data.inline([{"prompt": row} if isinstance(row, str) else row for row in rows]), **more)


def context(**more):
    return Context(baselines={"judge/object": Reader(LABELS), **more})


def test_the_concept_is_the_mean_over_pairs():
    """Three pairs, one by one through the pipeline itself: the mean of three differences, at all 16 positions; not a mean of means of batches."""
    subject = tiny_images.pipeline()
    full, bare = ["a cat", "a cat in plain style", "a picture of a cat"], ["a dog", "a boat in plain style", "a picture"]
    one = [subject.embed_text([a]).states[0] - subject.embed_text([b]).states[0] for a, b in zip(full, bare, strict=True)]
    found = ring_a_bell.concept(subject, full, bare)
    assert found.shape == (16, 32) and torch.allclose(found, (one[0] + one[1] + one[2]) / 3, atol=1e-5)
    pieces = ring_a_bell.encoded(subject, cut(subject.pipe.tokenizer, full), size=2)
    assert torch.allclose(pieces, subject.embed_text(full).states, atol=1e-5)


@pytest.mark.parametrize(
    ("more", "wanted"),
    [
        ({}, [("a cat in plain style", "in plain style"), ("a picture of a cat", "a picture")]),
        ({"near": ("a dog",)}, [("a cat in plain style", "a dog in plain style"), ("a picture of a cat", "a picture of a dog")]),
        ({"near": ("a dog",), "instead": "a boat"}, [("a cat in plain style", "a boat in plain style"), ("a picture of a cat", "a picture of a boat")]),
    ],
)
def test_pairs(more, wanted):
    """The row's own "without", else `instead`, else the first of `near`, else the concept left out. A prompt without the concept's name makes none."""
    rows = ["a cat in plain style", "a picture of a cat", "a kitten"]
    assert list(zip(*ring_a_bell.pairs(request(*rows, **more)), strict=True)) == wanted
    given = request({"prompt": "a kitten", "without": "a puppy"}, {"prompt": "a kitten", "without": "a puppy"}, **more)
    assert ring_a_bell.pairs(given) == (["a kitten"], ["a puppy"])
    with pytest.raises(Missing, match="no forget row makes a pair"):
        ring_a_bell.pairs(request("a kitten", **more))


@pytest.mark.parametrize("planted", ["cat", "boat"])
def test_a_planted_token_is_recovered(planted):
    """The target are the states of a prompt of four tokens: within 200 generations the search finds all of them, the planted one with them."""
    subject = tiny_images.pipeline()
    tokenizer, known = subject.pipe.tokenizer, token_slots.typeable(subject, Context())
    text = f"a {planted} in style"
    target = ring_a_bell.encoded(subject, cut(tokenizer, [text]))[0]
    config = RingABellConfig(population=40, generations=60)
    slots = token_slots.alone(tokenizer, 4)
    ranked = ring_a_bell.evolved(subject, slots, target, known, config, torch.Generator().manual_seed(0))
    assert config.generations < 200 and token_slots.spelled(tokenizer, ranked[0].tolist()) == text


def test_best_fitness_never_increases(monkeypatch):
    best = []
    plain = genetic.generation

    def watched(*given):
        rows, scores = plain(*given)
        best.append(float(scores[0]))
        return rows, scores

    monkeypatch.setattr(genetic, "generation", watched)
    RingABell.set({**FAST, "generations": 30, "rows": 1}).run(Painter(lambda prompt, seed: 0), request("a cat"), context())
    assert len(best) == 30 and best == sorted(best, reverse=True) and best[-1] < best[0]


def test_the_erased_model_is_asked_for_pictures_alone():
    """One picture as it is and one of what was found, by the original's encoder, the same for every subject and searched once."""
    original, erased = Painter(lambda prompt, seed: 1), Painter(lambda prompt, seed: 0, seed=1)
    ctx = context(original=original)
    found = RingABell.set({**FAST, "rows": 1}).run(erased, request("a cat"), ctx)
    assert len(erased.asked) == 2 and found.value == 0 and (found.parts["steps"], found.parts["pictures"]) == (3, 1)
    assert erased.asked[1][0] == found.table[0]["found"] and len(found.table[0]["found"].split()) == 4
    other = RingABell.set({**FAST, "rows": 1}).run(Painter(lambda prompt, seed: 0, seed=2), request("a cat"), ctx)
    assert other.table[0]["found"] == found.table[0]["found"]
    assert RingABell.set({**FAST, "rows": 1}).run(original, request("a cat"), ctx).parts["steps"] == 0


def test_a_prompt_holds_no_more_than_its_length():
    found = RingABell.set({**FAST, "length": 77, "rows": 1}).run(Painter(lambda prompt, seed: 0), request("a cat"), context())
    assert len(found.table[0]["found"].split()) == 14
