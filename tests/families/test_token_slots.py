import pytest
import torch

from efface.core.context import Context
from efface.core.errors import Unfit
from efface.families import soft_tokens, token_slots
from efface.families.tokens import cut
from efface.testing import tiny_images


@pytest.fixture(scope="module")
def subject():
    return tiny_images.pipeline()


def test_before(subject):
    """Two places behind the begin token, then the prompt's own tokens, the end token, and padding as the tokenizer pads."""
    tokenizer = subject.pipe.tokenizer
    slots = token_slots.before(tokenizer, ["a cat", "a cat in plain style"], 2)
    own = cut(tokenizer, ["a cat", "a cat in plain style"])
    assert slots.places == ((1, 2), (1, 2))
    assert slots.tokens.ids[:, 3:].tolist() == own.ids[:, 1:-2].tolist() and slots.tokens.mask.sum(1).tolist() == [6, 9]
    assert slots.filled(0, [5, 6]) == [5, 6, *own.ids[0, 1:3].tolist()]


def test_among(subject):
    """P4D-K's layout: x a cat in x plain style x? Five words, one place before each three: positions 1 and 5. Three words: 1 and, behind them, 5."""
    tokenizer = subject.pipe.tokenizer
    slots = token_slots.among(tokenizer, ["a cat in plain style", "a cat image"], 3)
    assert slots.places == ((1, 5), (1, 5))
    words = cut(tokenizer, ["a cat image"]).ids[0, 1:4].tolist()
    assert slots.filled(1, [8, 9]) == [8, *words, 9]


def test_no_more_than_fits(subject):
    tokenizer = subject.pipe.tokenizer
    assert token_slots.alone(tokenizer, 99).places == (tuple(range(1, 15)),)
    long = token_slots.before(tokenizer, ["a cat " * 20], 3)
    assert int(long.tokens.mask.sum()) == 16 and len(long.filled(0, [1, 2, 3])) == 14
    assert int(token_slots.among(tokenizer, ["a cat " * 20], 3).tokens.mask.sum()) == 16
    with pytest.raises(Unfit, match="14 free places leave no room"):
        token_slots.before(tokenizer, ["a cat"], 14)


def test_states_of_words_in_the_free_places(subject):
    """The embeddings of words, put into free places, give the states of the prompt with those words; gradients reach them, row by row."""
    tokenizer, table = subject.pipe.tokenizer, soft_tokens.table(subject)
    for slots in (token_slots.before(tokenizer, ["a cat", "a dog in style"], 2), token_slots.among(tokenizer, ["a cat", "a dog in style"], 2)):
        ids = [[tokenizer.convert_tokens_to_ids("boat</w>")] * len(places) for places in slots.places]
        typed = [token_slots.spelled(tokenizer, slots.filled(row, ids[row])) for row in range(2)]
        vectors = [table[torch.tensor(row)].clone().requires_grad_() for row in ids]
        found = token_slots.states(subject, slots, vectors, [0, 1]).states
        assert torch.allclose(found, subject.embed_text(typed).states, atol=1e-6)
        assert torch.allclose(token_slots.states(subject, slots, vectors[1:], [1]).states, found[1:], atol=1e-6)
        found[1].square().sum().backward()
        assert vectors[0].grad is None or not vectors[0].grad.any()
        assert vectors[1].grad.abs().sum() > 0


def test_what_can_be_typed(subject):
    """Whole words can; "c" and "at" as two pieces cannot, for they are typed as one token; special tokens never."""
    tokenizer = subject.pipe.tokenizer
    known = token_slots.typeable(subject, Context()).tolist()
    cat, piece, end = (tokenizer.convert_tokens_to_ids(token) for token in ("cat</w>", "c", "t</w>"))
    assert cat in known and piece not in known and not set(tokenizer.all_special_ids) & set(known)
    assert token_slots.spelled(tokenizer, [cat, cat]) == "cat cat"
    pieces = [tokenizer.convert_tokens_to_ids(letter) for letter in ("c", "a")]
    assert token_slots.spelled(tokenizer, [*pieces, end]) is None
    assert token_slots.spelled(tokenizer, [tokenizer.eos_token_id]) is None
    assert token_slots.spelled(tokenizer, [cat] * 15) is None, "what is cut off is not given back"
