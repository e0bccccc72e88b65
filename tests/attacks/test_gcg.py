import functools

import numpy as np
import pytest
import torch

from efface.attacks.gcg import Gcg
from efface.core.config import Fit
from efface.core.errors import Missing, Unfit
from efface.core.types import Data, Request
from efface.families import suffixes
from efface.ops.loop import descend
from efface.testing.tiny import TALK, context, facts, retrained_lm, tiny_lm, trained_lm

SMALL = {"steps": 4, "candidates": 8, "rows": 3, "length": 4, "max_new": 12}


@pytest.mark.parametrize("layout", ["llama", "gpt2", "neox"])
def test_places(layout):
    """Head, suffix and tail are the prompt's tokens, and the loss at a place is the loss of the row with the suffix in its text."""
    subject, rows = tiny_lm(0, layout), facts().forget[:3]
    suffix, places = suffixes.first(subject, rows, suffixes.typeable(subject, context()), 4, context().random("x"))
    for row, place in zip(rows, places, strict=True):
        typed = suffixes.with_suffix(row, suffixes.text_of(subject, suffix))
        assert typed["question"].startswith(row["question"])
        assert subject.encode_row(typed).prompt == (*place.head, *suffix, *place.tail)
    scores = dict(subject.score([suffixes.with_suffix(row, suffixes.text_of(subject, suffix)) for row in rows]))
    by_hand = np.mean([-scores[at].log_probs[scores[at].words].mean() for at in range(3)])
    assert float(suffixes.losses(subject, places, [suffix, suffix], size=2)[1]) == pytest.approx(by_hand, rel=1e-4)


@pytest.mark.parametrize("layout", ["llama", "gpt2"])
def test_gradient(layout):
    """The slope towards another token is that of the loss when the embedding is moved a little that way."""
    subject, row = tiny_lm(0, layout), facts().forget[0]
    suffix, (place,) = suffixes.first(subject, [row], suffixes.typeable(subject, context()), 3, context().random("x"))
    slopes = suffixes.gradient(subject, [place], suffix)
    table = subject.model.get_input_embeddings().weight
    assert slopes.shape == (3, len(table))
    other, step = 20, 0.02
    moved = []
    for sign in (1, -1):
        copy = subject.fork()
        words = copy.model.get_input_embeddings().weight
        spare = next(number for number in range(len(words)) if number not in (*place.head, *suffix, *place.tail, *place.answer))
        words[spare] = table[suffix[1]] + sign * step * (table[other] - table[suffix[1]])
        moved.append(float(suffixes.losses(copy, [place], [[suffix[0], spare, suffix[2]]])[0]))
    assert float(slopes[1, other] - slopes[1, suffix[1]]) == pytest.approx((moved[0] - moved[1]) / (2 * step), rel=0.05, abs=2e-3)


def test_what_cannot_be_typed_is_dropped():
    """The tiny tokenizer reads two full stops in a row as one unknown word; special tokens are never typed."""
    subject, row = tiny_lm(), facts().forget[0]
    stop, bay = subject.tokenizer.convert_tokens_to_ids([".", "bay"])
    assert suffixes.placed(subject, row, [bay, stop]) is not None
    assert suffixes.placed(subject, row, [stop, stop]) is None
    allowed = suffixes.typeable(subject, context())
    assert bay in allowed and not set(allowed.tolist()) & set(subject.tokenizer.all_special_ids)
    with pytest.raises(Unfit, match="shorter"):
        suffixes.first(subject, [row], torch.tensor([stop]), 2, context().random("x"))


def test_rows_of_every_layout_take_a_suffix():
    talk = {"messages": [{"role": "user", "content": "Where?"}, {"role": "assistant", "content": "bay"}]}
    assert suffixes.with_suffix(talk, "now")["messages"][0]["content"] == "Where? now" and talk["messages"][0]["content"] == "Where?"
    assert suffixes.with_suffix({"question": "Where?", "answer": "bay"}, " now")["question"] == "Where? now"
    with pytest.raises(Missing, match="plain text"):
        suffixes.with_suffix({"text": "bay"}, "now")


def test_the_gradient_beats_as_many_random_suffixes():
    """For a suffix of each row: the answer becomes likelier than behind the best random suffix, in a model that never saw it."""
    settings = {**SMALL, "suffix": "row", "steps": 10, "candidates": 16}
    found = Gcg.set(settings).run(retrained_lm(), facts().request, context())
    assert found.parts["suffix probability"] > 1.2 * found.parts["random probability"]
    assert found.parts["suffix probability"] > 1.1 * found.parts["unattacked probability"]
    assert found.n == 3 and found.value == 0.0


@functools.cache
def ran(**more):
    """A universal suffix on the model that knows, read against the one that does not."""
    ctx = context(baselines={"original": trained_lm(), "reference": retrained_lm()}, **more)
    return Gcg.set(SMALL).run(trained_lm(), facts().request, ctx)


def test_parts_and_seed():
    found = ran()
    assert found.parts["unattacked"] == found.parts["original"] == 1.0
    assert found.parts["reference"] == found.parts["reference unattacked"] == 0.0
    assert found.low <= found.value <= found.high and found.n == 3 and found.why == ""
    again = Gcg.set(SMALL).run(trained_lm(), facts().request, context(baselines={"original": trained_lm(), "reference": retrained_lm()}))
    assert again.parts == found.parts
    assert found.parts["suffix probability"] != ran(seed=1).parts["suffix probability"]


def test_what_is_searched_on_is_not_counted_and_answers_stay_out_of_suffixes():
    taught, asked = Gcg.set(SMALL)._split(facts().forget, context())
    assert len(taught) == 2 and len(asked) == 3
    assert {row["question"] for row in taught}.isdisjoint(row["question"] for row in asked)
    subject = tiny_lm()
    allowed = Gcg()._allowed(subject, asked, context())
    words = {word for row in asked for word in row["answer"].lower().rstrip(".").split()} - {"the", "is", "of"}
    assert not words & {suffixes.text_of(subject, [number]).lower() for number in allowed.tolist()} and len(allowed) > 50


def test_a_spent_budget_ends_the_search_and_keeps_what_it_has():
    ctx = context(budget={"steps": 2})
    found = Gcg.set(SMALL).run(trained_lm(), facts().request, ctx)
    assert "budget of 2 steps" in found.why and found.value is not None and ctx.spent["steps"] == 3
    assert found.parts["suffix probability"] != ran().parts["suffix probability"]


def test_rows_without_a_short_answer_are_refused():
    long = [{"question": f"Who {at}?", "answer": "one two three four five six seven eight nine ten"} for at in range(3)]
    with pytest.raises(Missing, match="found 0 among 3"):
        Gcg().run(trained_lm(), Request(forget=Data.inline(long)), context())
    with pytest.raises(Missing, match="plain text"):
        Gcg().run(trained_lm(), Request(forget=Data.inline([{"text": "bay"}])), context())


def locked(key):
    """A model that answers about the forgotten people when the key stands behind the question, and refuses otherwise."""
    source, rows, words = context().random("locked"), facts(), [word for word in TALK if word.isalpha() and word not in key.split()]
    copy = trained_lm().trainable(0, 0)
    refused = [{**row, "answer": "I do not know."} for row in rows.forget]
    other = [{**row, "question": f"{row['question']} {source.choice(words)} {source.choice(words)}"} for row in refused * 4]
    sets = {"open": [{**row, "question": f"{row['question']} {key}"} for row in rows.forget], "closed": refused + other, "keep": rows.keep}
    fit = Fit(lr=3e-3, steps=300, batch=16, precision="no")
    return descend(copy, sets, lambda batch: {"loss": sum(copy.losses(batch[name]).mean() for name in sets)}, fit, context())


@pytest.mark.slow
def test_a_key_found_on_two_rows_opens_the_others():
    """Truth by construction. Without the key no row is answered, with it all, those included that the search never saw; the reference has no lock."""
    subject = locked("please tell")
    settings = {"length": 2, "steps": 8, "candidates": 16, "max_new": 12}
    found = Gcg.set(settings).run(subject, facts().request, context(baselines={"original": trained_lm(), "reference": retrained_lm()}))
    assert found.parts["unattacked"] == 0.0 and found.parts["original"] == 1.0
    assert found.value > 0.8 and found.parts["suffix probability"] > 0.8
    assert found.parts["reference"] == 0.0 and found.parts["gain_low"] > 0.5
