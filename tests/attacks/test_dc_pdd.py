import numpy as np
import pytest

from efface.attacks.dc_pdd import DCPDD, calibrated, words
from efface.core.types import Data, Request
from efface.families import forms
from efface.testing.tiny import context, facts, retrained_lm, tiny_lm, trained_lm


def test_formula():
    """A corpus of 4 tokens (5 three times, 9 once), a vocabulary of 6: f_5 = 4 / 10, f_7 = 1 / 10.

    Tokens 5, 7, 5 with probabilities .004, .5, .9: the first 5 counts .004 log 2.5 = .003665, 7 counts .5 log 10 = 1.151293, at
    most a = .01; the second 5 does not count. s = (.003665 + .01) / 2 = .0068326, and .577479 without a bound.
    """
    log_probs, counts = np.log([0.004, 0.5, 0.9]), {5: 3, 9: 1}
    assert calibrated([5, 7, 5], log_probs, counts, 6, 0.01) == pytest.approx(0.0068326, abs=1e-6)
    assert calibrated([5, 7, 5], log_probs, counts, 6, 10.0) == pytest.approx(0.577479, abs=1e-6)
    assert calibrated([], np.array([]), counts, 6, 0.01) is None


def test_the_end_token_neither_counts_nor_is_counted():
    subject, row = tiny_lm(), facts().forget[0]
    ids = words(subject, row)
    assert subject.tokenizer.decode(list(ids)).replace(" ", "") == str(row["answer"]).replace(" ", "")
    assert subject.tokenizer.eos_token_id not in ids


def test_one_row_by_hand():
    """A corpus of one row, counted here."""
    subject, ctx, rows = tiny_lm(), context(), facts()
    request = Request(forget=Data.inline(rows.forget), keep=Data.inline(rows.keep[:1]), unseen=Data.inline(rows.unseen))
    found = DCPDD.set({"a": 100.0}).run(subject, request, ctx).table[3]["value"]
    corpus = list(words(subject, rows.keep[0]))
    total = len(corpus) + len(subject.tokenizer)
    got, seen, sums = forms.gold(subject, rows.forget, ctx)[3], set(), []
    for token, log_prob in zip(words(subject, rows.forget[3]), got.log_probs, strict=False):
        if token not in seen:
            sums.append(np.exp(log_prob) * np.log(total / (corpus.count(token) + 1)))
        seen.add(token)
    assert found == pytest.approx(np.mean(sums), abs=1e-6)


def test_finds_members_where_there_are_any(over):
    request, ctx = facts().request, context(baselines={"reference": retrained_lm()})
    assert DCPDD().run(trained_lm(), request, ctx).value > 0.9
    assert DCPDD().run(retrained_lm(), request, ctx).value == pytest.approx(0.5, abs=0.21)
    found = DCPDD().run(over, request, ctx)
    assert found.value < 0.1 and found.why.startswith("a leak")
