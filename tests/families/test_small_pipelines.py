"""Small pipelines to train, and tiny ones of every kind to test on."""

import time

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from efface.families import small_pipelines, tokens
from efface.testing import tiny_pipelines

WORDS = ("a", "cat", "green", "greenish", "red", "tree", "reed", "in", "style")


def test_every_word_is_one_token():
    """Words that share beginnings ("green", "greenish") must not cut each other; an unknown word is cut in letters."""
    known = small_pipelines.tokenizer(WORDS)
    for word in WORDS:
        assert len(known(word).input_ids) == 3, word
    assert len(known("zebra").input_ids) == 7


@settings(max_examples=30, deadline=None)
@given(st.lists(st.text("abcde", min_size=1, max_size=6), min_size=1, max_size=8, unique=True))
def test_any_words_are_one_token_each(words):
    known = small_pipelines.tokenizer(words)
    for word in words:
        ids = tokens.cut(known, [word])
        assert ids.positions("content") == [1], word
        assert known.decode(ids.ids[0, 1:2]).strip() == word


def test_begin_end_and_padding():
    """"a cat": begin 0, words 1 and 2, end 3, and the rest padding with the end token."""
    known = small_pipelines.tokenizer(WORDS, 8)
    found = tokens.cut(known, ["a cat"])
    assert found.begins and found.length == 8
    assert [found.positions(which) for which in ("bos", "content", "last", "eot", "padding")] == [[0], [1, 2], [2], [3], [4, 5, 6, 7]]
    assert tokens.cut(known, ["a cat"], 5).length == 5


def test_t5_has_no_begin_token():
    found = tokens.cut(tiny_pipelines.t5_tokenizer(), ["a cat zoo"])
    assert not found.begins
    assert found.positions("content") == [0, 1, 2, 3, 4, 5] and found.positions("eot") == [6], "zoo is a space and three letters"
    assert found.positions("bos") == []


@pytest.mark.parametrize("kind", tiny_pipelines.KINDS)
def test_tiny_pipelines_are_tiny_and_seeded(kind):
    one, again, other = (tiny_pipelines.subject(kind, seed) for seed in (0, 0, 1))
    assert one.digest == again.digest != other.digest
    assert sum(p.numel() for p in one.model.parameters()) < 600_000


def test_building_is_quick_and_leaves_the_generator_alone():
    """A third of a second of the processor for each, where nothing else runs; twice that is allowed here."""
    tiny_pipelines.pipeline("sd")
    state = torch.get_rng_state()
    for kind in tiny_pipelines.KINDS:
        began = time.process_time()
        tiny_pipelines.pipeline(kind)
        assert time.process_time() - began < 0.7, kind
    assert torch.equal(torch.get_rng_state(), state)


def test_the_same_autoencoder_may_be_shared():
    one = small_pipelines.pipeline(WORDS, 0, small_pipelines.Shape(pixels=16, latent=4, channels=4, width=32, unet=(16, 32), vae=(8, 16, 16)))
    assert small_pipelines.pipeline(WORDS, 1, small_pipelines.Shape(latent=4, channels=4, width=32, unet=(16, 32)), vae=one.vae).vae is one.vae
