"""Soft tokens: the normal path is met exactly, gradients reach the vectors alone, and no hook outlives its block."""

import pytest
import torch

from efface.core.errors import Unfit
from efface.families import soft_tokens, tokens
from efface.testing.tiny_images import pipeline

SUBJECT = pipeline()
CUTTER = SUBJECT.pipe.tokenizer
ENCODER = SUBJECT.parts["text_encoder"]
PROMPTS = ["a cat in plain style", "a picture of a dog"]


def hooks() -> int:
    return len(ENCODER.get_input_embeddings()._forward_hooks)


def test_without_vectors_it_is_the_normal_path():
    cut = tokens.cut(CUTTER, [*PROMPTS, ""])
    assert torch.equal(soft_tokens.states(SUBJECT, cut).states, SUBJECT.embed_text([*PROMPTS, ""]).states)


def test_a_words_own_embedding_in_its_place_changes_nothing():
    cut = tokens.cut(CUTTER, PROMPTS)
    own = soft_tokens.table(SUBJECT)[cut.ids[:, 2:5]]
    assert torch.equal(soft_tokens.states(SUBJECT, cut, own, [2, 3, 4]).states, SUBJECT.embed_text(PROMPTS).states)


def test_another_words_embedding_is_that_word():
    """ "a cat" with the embedding of "dog" at position 2 (begin token, a, cat) reads like "a dog"."""
    dog = tokens.cut(CUTTER, ["dog"]).ids[0, 1]
    found = soft_tokens.states(SUBJECT, tokens.cut(CUTTER, ["a cat"]), soft_tokens.table(SUBJECT)[dog][None], [2])
    assert torch.equal(found.states, SUBJECT.embed_text(["a dog"]).states)


def test_each_row_has_its_own_vectors_and_places():
    ids = tokens.cut(CUTTER, ["cat in style", "a picture of cat"])
    table = soft_tokens.table(SUBJECT)
    dog, boat = (table[tokens.cut(CUTTER, [word]).ids[0, 1]][None] for word in ("dog", "boat"))
    found = soft_tokens.states(SUBJECT, ids, torch.stack([dog, boat]), torch.tensor([[1], [4]]))
    assert torch.equal(found.states, SUBJECT.embed_text(["dog in style", "a picture of boat"]).states)


def test_gradients_flow_to_the_vectors():
    """Central differences in double precision would need a double model; in float32 they agree to 1 %."""
    vectors = torch.randn(1, 32, generator=torch.Generator().manual_seed(0)).requires_grad_(True)
    cut, places = soft_tokens.with_prefix(CUTTER, tokens.cut(CUTTER, ["a cat"]), 1)

    def total(given):
        return soft_tokens.states(SUBJECT, cut, given, places).states[0, 3, :8].sum()  # the last norm makes the whole sum constant

    (gradient,) = torch.autograd.grad(total(vectors), vectors)
    nudge = torch.zeros(1, 32)
    nudge[0, 5] = 1e-2
    with torch.no_grad():
        slope = (total(vectors + nudge) - total(vectors - nudge)) / 2e-2
    assert gradient.abs().max() > 0
    assert float(gradient[0, 5]) == pytest.approx(float(slope), rel=1e-2, abs=1e-3)
    assert all(p.grad is None for p in SUBJECT.model.parameters())


def test_the_hook_goes_even_when_the_block_fails():
    before = hooks()
    with pytest.raises(ZeroDivisionError), soft_tokens.injected(ENCODER, torch.zeros(1, 32), [1]):
        assert hooks() == before + 1
        raise ZeroDivisionError
    assert hooks() == before
    with pytest.raises(RuntimeError):  # vectors of a width that does not fit fail inside the encoder
        soft_tokens.states(SUBJECT, tokens.cut(CUTTER, ["a cat"]), torch.zeros(1, 7), [1])
    assert hooks() == before
    assert torch.equal(soft_tokens.states(SUBJECT, tokens.cut(CUTTER, PROMPTS)).states, SUBJECT.embed_text(PROMPTS).states)


def test_a_prefix_stands_behind_the_begin_token():
    """begin a cat end -> begin * * a cat end: two place holders at 1 and 2, the mask longer by two."""
    cut = tokens.cut(CUTTER, ["a cat"])
    found, places = soft_tokens.with_prefix(CUTTER, cut, 2)
    assert places == [1, 2]
    assert found.ids[0, 3:6].tolist() == cut.ids[0, 1:4].tolist() and found.ids[0, 0] == cut.ids[0, 0]
    assert int(found.mask.sum()) == int(cut.mask.sum()) + 2 and found.length == cut.length
    with pytest.raises(Unfit, match="12 of 16 positions are free"):
        soft_tokens.with_prefix(CUTTER, cut, 13)


def test_holders_take_the_place_of_a_phrase():
    """ "a cat in plain style" with 3 for "cat": begin a * * * in plain style end; with 1 for "plain style": begin a cat in * end."""
    (a, cat, into, plain, style) = tokens.cut(CUTTER, ["a cat in plain style"]).ids[0, 1:6].tolist()
    end = CUTTER.eos_token_id
    found, places = soft_tokens.in_place(CUTTER, ["a cat in plain style", "a picture of cat"], "cat", 3)
    assert places.tolist() == [[2, 3, 4], [4, 5, 6]]
    assert found.ids[0, 1:9].tolist() == [a, end, end, end, into, plain, style, end] and found.mask.sum(1).tolist() == [9, 8]
    found, places = soft_tokens.in_place(CUTTER, ["a cat in plain style"], "plain style", 1)
    assert places.tolist() == [[4]] and found.ids[0, 1:6].tolist() == [a, cat, into, end, end]
    assert found.mask[0].tolist() == [1] * 6 + [0] * 10


def test_one_holder_for_one_word_is_the_prompt_itself():
    found, places = soft_tokens.in_place(CUTTER, PROMPTS[:1], "cat", 1)
    own = soft_tokens.table(SUBJECT)[tokens.cut(CUTTER, ["cat"]).ids[0, 1]][None]
    assert torch.equal(soft_tokens.states(SUBJECT, found, own, places).states, SUBJECT.embed_text(PROMPTS[:1]).states)


@pytest.mark.parametrize(("prompt", "count", "says"), [("a dog", 1, "does not stand in the prompt 'a dog'"), ("a cat", 14, "longer than 16 tokens")])
def test_no_place_for_a_holder(prompt, count, says):
    with pytest.raises(Unfit, match=says):
        soft_tokens.in_place(CUTTER, [prompt], "cat", count)


def test_two_text_encoders_are_refused():
    other = SUBJECT.fork()
    other.pipe.register_modules(text_encoder_2=ENCODER)
    with pytest.raises(Unfit, match="one text encoder"):
        soft_tokens.states(other, tokens.cut(CUTTER, ["a cat"]))


def test_a_search_takes_fresh_gradients_and_gives_the_last_vectors():
    """Adam on (v - 3)^2 / 2 from 0 with lr 1. Step 1: g = -3, moments say g/|g|, v = 1. Step 2: g = -2,
    m = .9 (-.3) + .1 (-2) = -.47, m / (1 - .81) = -2.473684; s = .999 (.009) + .001 (4) = .012991, s / (1 - .998001) = 6.498749;
    v = 1 + 2.473684 / 2.549264 = 1.970352. Gradients that add up would have -5 in step 2 and give v = 1.982785.
    """
    start = torch.zeros(1)
    found = soft_tokens.searched(lambda v: (v - 3).square().sum() / 2, start, 2, 1.0)
    assert float(found) == pytest.approx(1.970352, abs=1e-5)
    assert float(start) == 0.0 and not found.requires_grad


def test_a_signed_search_sees_signs():
    """Signs are -1 and -1, whatever the size: each step of Adam is then exactly lr."""
    found = soft_tokens.searched(lambda v: (1000 * (v - torch.tensor([3.0, 30.0]))).square().sum(), torch.zeros(2), 2, 0.5, signed=True)
    assert found.tolist() == pytest.approx([1.0, 1.0], abs=1e-5)


def test_a_search_ends_where_it_is_told_to():
    allowed = iter([True, True, False])
    found = soft_tokens.searched(lambda v: v.sum(), torch.zeros(1), 9, 0.5, goes_on=lambda: next(allowed))
    assert float(found) == pytest.approx(-1.0, abs=1e-5)
