"""Which rows metrics read, and what they get of them."""

import math

import numpy as np
import pytest
import torch

from efface.core.errors import EffaceError, Missing, UnknownName
from efface.core.types import Data
from efface.families import forms, passes
from efface.testing.tiny import context, facts, tiny_lm


def test_row_sets_by_name():
    rows, ctx = facts(), context(utility={"capitals": Data.inline(facts(1).keep[:3])})
    assert forms.row_set("forget", rows.request, ctx) == rows.forget
    assert len(forms.row_set("capitals", rows.request, ctx)) == 3
    with pytest.raises(UnknownName, match="capitals"):
        forms.row_set("capitols", rows.request, ctx)


def test_samples_are_those_of_the_request():
    ask = facts().request
    assert forms.sample(ask.rows("keep"), 7) == ask.sample("keep", 7)
    assert forms.sample(ask.rows("keep"), 0) == ask.rows("keep")


def test_rows_without_wrong_answers_are_named():
    rows = [{"question": "Who?", "answer": "Ann."}]
    with pytest.raises(Missing, match="perturbed_answer"):
        forms.with_wrong(rows, "keep")
    assert forms.with_wrong([*rows, facts().keep[0]], "keep") == [facts().keep[0]]


def test_options_are_the_losses_of_each_form_read_by_itself():
    """Gold, paraphrase and wrong answers, one by one through the model's own loss."""
    subject, rows = tiny_lm(), facts().forget[:3]
    found = forms.options(subject, rows, context())
    for row, got in zip(rows, found, strict=True):
        texts = [row["answer"], row["paraphrased_answer"], *row["perturbed_answer"]]
        alone = [float(subject.losses(subject.encode([{"question": row["question"], "answer": text}]))[0]) for text in texts]
        assert [got.gold, got.right, *got.wrong] == pytest.approx(alone, abs=1e-5)


def test_the_gold_answer_stands_in_for_a_missing_paraphrase():
    rows = [{name: value for name, value in facts().forget[0].items() if name != "paraphrased_answer"}]
    (found,) = forms.options(tiny_lm(), rows, context())
    assert found.right == found.gold and len(found.wrong) == 5


def test_one_pass_feeds_gold_and_options():
    subject, rows, ctx = tiny_lm(), facts().forget, context()
    reads = []
    score = subject.score
    subject.score = lambda rows: reads.append(len(rows)) or score(rows)
    forms.options(subject, rows, ctx)
    forms.gold(subject, rows, ctx)
    forms.options(subject, list(rows), ctx)
    assert reads == [len(rows) * 7]


@pytest.mark.parametrize("layout", ["llama", "gpt2", "neox"])
def test_batches_of_one_equal_batches_of_sixteen(layout):
    """Padding and the shared reading of prompts change nothing: every array of every row to 1e-5."""
    subject = tiny_lm(3, layout)
    rows = [{"question": row["question"], "answer": text} for row in facts().keep[:6] for text in (row["answer"], *row["perturbed_answer"][:2])]
    rows[0] = {**rows[0], "answer": "The song."}  # another length, so that there is padding
    many, one = dict(subject.score(rows, size=16)), dict(subject.score(rows, size=1))
    for place in range(len(rows)):
        for field in ("log_probs", "mean", "deviation"):
            assert getattr(many[place], field) == pytest.approx(getattr(one[place], field), abs=1e-5), field
        assert (many[place].hit == one[place].hit).all()


def test_gold_text_of_each_layout():
    assert forms.gold_text({"prompt": "a", "answer": " b "}) == "b"
    assert forms.gold_text({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "c"}]}) == "c"
    with pytest.raises(Missing, match="plain text"):
        forms.gold_text({"text": "a b c"})


def test_a_broken_model_is_said_and_never_scored():
    subject = tiny_lm(4)
    with torch.no_grad():
        subject.model.lm_head.weight.fill_(math.nan)
    with pytest.raises(EffaceError, match="row 1 .*not finite"):
        forms.gold(subject, facts().forget, context())
    with pytest.raises(EffaceError, match="not finite"):
        forms.options(subject, facts().forget, context())


def test_losses_of_rows_without_tokens_are_not_numbers():
    empty = passes.RowScore(np.array([]), np.array([]), np.array([]), np.array([], bool), False, "")
    assert np.isnan(forms.losses([empty])[0])
