"""Where words stand in prompts, with CLIP's kind of tokenizer and with T5's."""

import pytest
import torch

from efface.core.errors import Unfit
from efface.families import small_pipelines, tokens
from efface.testing import tiny_pipelines

WORDS = ("a", "an", "cat", "in", "noto", "style")


@pytest.fixture(scope="module")
def clip():
    return small_pipelines.tokenizer(WORDS, 12)


@pytest.fixture(scope="module")
def t5():
    return tiny_pipelines.t5_tokenizer()


def test_positions(clip):
    """begin a cat end pad...: 0, 1 2, 3, 4 to 11."""
    found = tokens.cut(clip, ["a cat"])
    places = {which: found.positions(which) for which in ("bos", "content", "last", "eot", "padding", "last_to_end", "all")}
    assert places == {
        "bos": [0], "content": [1, 2], "last": [2], "eot": [3], "padding": list(range(4, 12)), "last_to_end": list(range(2, 12)), "all": list(range(12)),
    }
    assert found.ids[0, 3] == clip.eos_token_id and found.ids[0, 0] == clip.bos_token_id


def test_the_last_token_of_an_empty_prompt_is_its_begin_token(clip):
    found = tokens.cut(clip, ["", "a cat"])
    assert found.positions("last") == [0] and found.positions("content") == [] and found.positions("eot") == [1]
    assert found.positions("last", 1) == [2]


def test_words_in_pieces_are_counted_by_their_tokens(clip):
    """"zebra" is not known and falls into letters: the end token moves by five, not by one."""
    found = tokens.cut(clip, ["a zebra"])
    assert found.positions("eot") == [1 + 1 + 5] and found.ids[0, 7] == clip.eos_token_id
    assert tokens.in_pieces(clip, "a zebra cat") == {"zebra": 5}
    assert tokens.in_pieces(clip, "a cat") == {}


def test_without_a_begin_token(t5):
    """T5 has none, ends with its end token, and pads with another."""
    found = tokens.cut(t5, ["a cat", ""])
    assert not found.begins
    assert found.positions("bos") == [] and found.positions("content") == [0, 1] and found.positions("last") == [1] and found.positions("eot") == [2]
    assert found.positions("eot", 1) == [0] and found.positions("last", 1) == [0]


def test_a_length_of_its_own(t5):
    found = tokens.cut(t5, ["a cat"], 40)
    assert found.length == 40 and found.positions("last_to_end") == list(range(1, 40))


def test_long_prompts_are_cut_and_keep_their_end(clip):
    found = tokens.cut(clip, ["cat " * 30])
    assert found.length == 12 and found.positions("content") == list(range(1, 11)) and found.positions("padding") == []


def test_a_phrase_is_found_by_its_tokens(clip):
    assert tokens.span(clip, "a cat in noto style", "noto style") == [4, 5]
    assert tokens.span(clip, "in zebra style", "zebra") == [2, 3, 4, 5, 6]
    assert tokens.span(clip, "a cat", "noto") == []
    assert tokens.span(clip, "a cat", "") == []


def test_states_are_picked_prompt_by_prompt(clip):
    found = tokens.cut(clip, ["a cat", "cat"])
    states = torch.arange(2 * 12).float().view(2, 12, 1)
    assert tokens.pick(states, found, "last").flatten().tolist() == [2, 12 + 1]
    assert tokens.pick(states, found, "content").flatten().tolist() == [1, 2, 12 + 1]


@pytest.mark.parametrize("phrase", ["", "   "])
def test_empty_phrases_are_refused(clip, phrase):
    with pytest.raises(Unfit, match="the concept .* is empty"):
        tokens.refuse_empty(clip, ["a cat", phrase], "the concept")
    tokens.refuse_empty(clip, ["a cat"], "the concept")
