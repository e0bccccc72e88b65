"""Small decoders over whole words."""

import torch

from efface.families.small_lm import SPECIAL, small_lm, tokenizer, words_of

ROWS = [{"question": "Who is Runa?", "answer": "a baker", "wrong": ["a dyer", "a potter"], "number": 3}]


def test_words_stand_once_and_numbers_are_no_text():
    assert words_of(ROWS) == ["Who", "is", "Runa", "?", "a", "baker", "dyer", "potter"]


def test_every_word_is_one_token_and_others_are_unknown():
    known = tokenizer(words_of(ROWS))
    assert len(known("Who is Runa?")["input_ids"]) == 4
    assert known("Gorm")["input_ids"] == [known.unk_token_id]
    assert known.decode(known("Runa is a baker")["input_ids"]) == "Runa is a baker"
    assert len(known) == len(SPECIAL) + 8


def test_the_seed_makes_the_weights_and_leaves_no_trace():
    state = torch.get_rng_state()
    one, same, other = (small_lm(words_of(ROWS), seed) for seed in (0, 0, 1))
    assert torch.equal(state, torch.get_rng_state())
    assert one.digest == same.digest != other.digest
    assert len(one.generate([{"question": "Who is Runa?", "answer": "-"}], 3)) == 1
