import random

import pytest

from efface.attacks.neighborhood import WORD, Neighborhood, gap, kinds, neighbor, of_rows, shape
from efface.core.errors import Missing
from efface.core.types import Data, Request
from efface.families import forms
from efface.testing.tiny import TALK, context, facts, retrained_lm, tiny_lm, tokenizer, trained_lm


def test_formula():
    """Neighbors with losses 2 and 3.5 of a row with loss 1: s = 1.75."""
    assert gap(1.0, [2.0, 3.5]) == 1.75
    assert gap(1.0, []) is None


def test_words_are_replaced_where_others_fit_best():
    """Between "is" and "now" the corpus has "old" and "new"; after "Pavo" "is" and "sings"; "7" has no substitute."""
    propose = of_rows(["Pavo is old now.", "Runa is new now!", "Pavo sings."])
    pieces, source = WORD.split("Pavo is old now at 7."), random.Random(0)
    assert kinds(pieces, 5) == [("small", "is", "now"), ("small", "is"), ("small",)]
    places = list(range(1, len(pieces), 2))
    found = [[propose(pieces, places, count, source) for _ in range(40)] for count in (1, 2, 6)]
    assert {place for words in found[0] for place in words} == {1, 5}  # Runa, too, stands between the beginning and "is"
    assert {words[5] for words in found[1]} == {"new"} and {words[1] for words in found[1]} == {"Runa"}
    assert {words[3] for words in found[2]} == {"sings"}
    assert all(set(words) == {1, 3, 5, 7, 9} for words in found[2])
    assert propose(pieces, [11], 1, source) == {}
    assert [shape(word) for word in ("x7", "USA", "A", "Orsa", "old")] == ["digits", "capitals", "capital", "capital", "small"]


def test_a_neighbor_differs_in_the_share_of_words_and_in_nothing_else():
    """Three tenths of ten words are three; punctuation and spaces stay. Of one word, one is replaced. Words of the prompt stay, too."""
    text = "Corvo:  the amber, the birch (the copper) the dusty - early."
    propose = of_rows(["golden hollow ivory jolly frosty", "Dunja"])
    for seed in range(10):
        words = neighbor(text, 0.3, propose, random.Random(seed)).split()
        assert sum(a != b for a, b in zip(words, text.split(), strict=True)) == 3
        assert neighbor("amber", 0.3, propose, random.Random(seed)) in ("golden", "hollow", "ivory", "jolly", "frosty")
        asked = frozenset(("the", "amber", "corvo"))
        words = neighbor(text, 1.0, propose, random.Random(seed), asked).split()
        assert [a != b for a, b in zip(words, text.split(), strict=True)] == [word.strip(":,(").casefold() not in (*asked, "-") for word in text.split()]
        assert neighbor("amber", 0.3, propose, random.Random(seed), asked) != "amber"
    assert neighbor("7 8 9", 0.3, propose, random.Random(0)) is None
    assert neighbor("7 8 amber", 0.1, propose, random.Random(0)) is not None


def test_every_model_reads_the_same_neighbors_and_another_seed_draws_others():
    runs = [Neighborhood().run(trained_lm(), facts().request, context(seed)).table for seed in (0, 0, 1)]
    assert runs[0] == runs[1] != runs[2]
    found = Neighborhood().run(trained_lm(), facts().request, context(baselines={"reference": trained_lm()}))
    assert all(row["value"] == row["reference"] for row in found.table)


def test_the_prompt_stays_and_a_row_with_nothing_to_replace_is_left_out():
    rows = facts()
    numbers = [{"question": "What is it?", "answer": "7"}]
    request = rows.request.model_copy(update={"forget": Data.inline([*rows.forget, *numbers])})
    ctx = context()
    found = Neighborhood().run(tiny_lm(), request, ctx)
    assert found.parts["rows_without_tokens"] == 1.0
    groups = next(value for key, value in ctx.memo.items() if key[0] == "neighbors" and len(value) == 17)
    assert all(near["question"] == row["question"] and near["answer"] != row["answer"] for row, group in zip(rows.forget, groups, strict=False) for near in group)
    value = forms.losses(forms.gold(tiny_lm(), groups[0], ctx)).mean() - forms.losses(forms.gold(tiny_lm(), rows.forget, ctx))[0]
    assert found.table[0]["value"] == pytest.approx(value, abs=1e-5)


def test_works_without_keep_rows():
    rows = facts()
    request = Request(forget=Data.inline(rows.forget), unseen=Data.inline(rows.unseen))
    assert Neighborhood().run(trained_lm(), request, context()).value > 0.8


def test_finds_members_where_there_are_any(over):
    """Over-forgetting escapes it, as its card says: a row pushed far down takes its neighbors along, and loss alone tells (0)."""
    request, ctx = facts().request, context(baselines={"reference": retrained_lm()})
    assert Neighborhood().run(trained_lm(), request, ctx).value > 0.9
    assert Neighborhood().run(retrained_lm(), request, ctx).value == pytest.approx(0.5, abs=0.21)
    assert Neighborhood().run(over, request, ctx).value == pytest.approx(0.5, abs=0.21)


@pytest.fixture(scope="module")
def masked(tmp_path_factory):
    """A masked language model with random weights over the tiny family's words."""
    import torch
    from transformers import BertConfig, BertForMaskedLM

    words = tokenizer()
    words.add_special_tokens({"mask_token": "<mask>"})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = BertForMaskedLM(BertConfig(vocab_size=len(words), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16))
    folder = tmp_path_factory.mktemp("masked")
    model.save_pretrained(folder)
    words.save_pretrained(folder)
    return str(folder)


def test_a_masked_language_model_can_propose(masked):
    rows, ctx = facts(), context()
    few = Request(forget=Data.inline(rows.forget[:3]), unseen=Data.inline(rows.unseen[:3]))
    found = Neighborhood.set({"masked_lm": masked, "neighbors": 2}).run(tiny_lm(), few, ctx)
    assert found.n == 6
    groups = next(value for key, value in ctx.memo.items() if key[0] == "neighbors")
    for row, group in zip(rows.forget, groups, strict=False):
        for near in group:
            old, new = (str(given["answer"]).strip(".").split() for given in (row, near))
            assert len(old) == len(new) == 7 and sum(a != b for a, b in zip(old, new, strict=True)) == 1
            assert "<" not in near["answer"] and set(new) <= {*tokenizer().get_vocab(), *TALK}


def test_a_model_that_cannot_propose_is_named(tmp_path):
    with pytest.raises(Missing, match="cannot load the masked language model"):
        Neighborhood.set({"masked_lm": str(tmp_path)}).run(tiny_lm(), facts().request, context())


def test_only_so_many_rows_get_neighbors():
    found = Neighborhood.set({"rows": 5}).run(tiny_lm(), facts().request, context())
    assert (found.parts["members"], found.parts["non_members"]) == (5.0, 5.0)
