"""The logit view of RESTOR, against a model whose every probability is written down."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from efface.core.errors import Missing
from efface.core.types import Data, Request
from efface.families import recall
from efface.families.causal_lm import CausalLM
from efface.families.small_lm import small_lm, tokenizer
from efface.metrics.option_gap import OptionGap
from efface.testing.tiny import context, facts, tiny_lm, trained_lm

WORDS = ["who", "red", "fox", "blue", "cat"]
NEXT = {"who": {"red": 0.5, "blue": 0.25}, "red": {"fox": 0.8, "cat": 0.1}, "blue": {"fox": 0.2, "cat": 0.4}}
"""Probability of a word after another; what is left is shared by all other tokens."""


class Bigram(nn.Module):
    """A language model that looks at the last token alone."""

    def __init__(self, known):
        super().__init__()
        size = len(known)
        table = torch.full((size, size), 1.0 / size, dtype=torch.float64)
        for first, following in NEXT.items():
            at, rest = known.convert_tokens_to_ids(first), 1 - sum(following.values())
            table[at] = rest / (size - len(following))
            for word, chance in following.items():
                table[at, known.convert_tokens_to_ids(word)] = chance
        self.table = nn.Parameter(table.log(), requires_grad=False)
        self.config = SimpleNamespace(max_position_embeddings=64)
        self._is_stateful = True  # nothing to cache

    def forward(self, input_ids, attention_mask=None, logits_to_keep=0, use_cache=False):
        return SimpleNamespace(logits=self.table[input_ids][:, -logits_to_keep:])


@pytest.fixture
def model() -> CausalLM:
    known = tokenizer(WORDS)
    return CausalLM(Bigram(known), known)


def test_two_token_options_are_means_of_token_sums(model: CausalLM):
    """red fox: (ln 0.5 + ln 0.8) / 2; red cat: (ln 0.5 + ln 0.1) / 2; blue cat: (ln 0.25 + ln 0.4) / 2. Correct averages two options."""
    fox, red_cat, blue_cat = ((math.log(a) + math.log(b)) / 2 for a, b in ((0.5, 0.8), (0.5, 0.1), (0.25, 0.4)))
    rows = [{"text": "who"}]
    for options, value in ((["red fox"], fox), (["blue cat"], blue_cat), (["red fox", "red cat"], (fox + red_cat) / 2)):
        assert recall.means(model, rows, [[options]], context())[0, 0] == pytest.approx(value, abs=1e-6)
    row = {"question": "who", "answer": "red fox", "aliases": ["red cat"], "corrupted": "blue cat"}
    found = OptionGap().run(model, Request(forget=Data.inline([row])), context())
    assert found.value == pytest.approx((fox + red_cat) / 2 - blue_cat, abs=1e-6)
    assert found.parts["corrupted"] == pytest.approx(blue_cat, abs=1e-6) and found.parts["random"] is None


@pytest.mark.parametrize("make", [lambda: small_lm(WORDS, 3), trained_lm])
def test_padding_changes_nothing(make):
    """Options alone and beside longer ones, on either side of padding, to 1e-5."""
    subject, rows = make(), [{"text": "who red fox who"}, {"text": "who"}]
    options = [[["red", "blue cat who red fox"]], [["fox fox"]]]
    together = recall.means(subject, rows, options, context())
    apart = [[np.mean([recall.means(subject, [row], [[[option]]], context())[0, 0] for option in mine[0]])] for row, mine in zip(rows, options, strict=True)]
    assert together == pytest.approx(np.array(apart), abs=1e-5)
    before = subject.tokenizer.padding_side
    try:
        for side in ("left", "right"):
            subject.tokenizer.padding_side = side
            assert recall.means(subject, rows, options, context()) == pytest.approx(together, abs=1e-6)
    finally:
        subject.tokenizer.padding_side = before


def test_a_row_without_options_has_no_mean():
    assert np.isnan(recall.means(tiny_lm(), [{"text": "What"}], [[[], []]], context())).all()
    found = recall.means(small_lm(WORDS), [{"text": "who"}] * 2, [[["red"], []], [[], ["red"]]], context())
    assert np.isnan(found).tolist() == [[False, True], [True, False]] and found[0, 0] == pytest.approx(found[1, 1])


def test_knowing_widens_the_gap_and_the_clean_model_stands_beside():
    ctx = context(baselines={"original": tiny_lm(), "clean": trained_lm()})
    known, unknown = (OptionGap().run(model, facts().request, ctx) for model in (trained_lm(), tiny_lm()))
    assert known.value > 1 > unknown.value
    assert known.value == known.parts["clean"] and unknown.value == unknown.parts["original"]
    assert known.low <= known.value <= known.high and known.n == 16
    assert len(known.table) == 16 and not {"answer", "option"} & set(known.table[0])


def test_rows_without_a_false_answer_are_refused():
    request = Request(forget=Data.inline([{"question": "What is the home of Runa?", "answer": "amber bay"}]))
    with pytest.raises(Missing, match="'corrupted'"):
        OptionGap().run(tiny_lm(), request, context())
