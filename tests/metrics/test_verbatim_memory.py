"""VerbMem: a model that memorized paragraphs has 1, and after retraining it is where the reference is."""

import functools
import random

import pytest

from efface.core.errors import Missing, UnknownName
from efface.core.types import Data, Request
from efface.metrics.verbatim_memory import VerbatimMemory
from efface.recipes.finetune import Finetune
from efface.recipes.retrain import Retrain
from efface.testing.tiny import FIT_LM, NAMES, context, facts, tiny_lm, trained_lm

FIT = {**FIT_LM, "fit.steps": 150, "fit.batch": 12}


def paragraphs(count: int, seed: int) -> list[dict[str, object]]:
    """Paragraphs of all 24 names in no order, so that nobody can guess how one goes on."""
    draw = random.Random(seed)
    return [{"text": " ".join(draw.sample(NAMES, 24))} for _ in range(count)]


def request() -> Request:
    return Request(forget=Data.inline(paragraphs(6, 0)), keep=Data.inline(paragraphs(6, 1)), unseen=Data.inline(paragraphs(6, 2)))


@functools.cache
def memorized():
    return Finetune.set(FIT).run(tiny_lm(), request(), context())


@functools.cache
def retrained(seed: int):
    return Retrain.set(FIT).run(tiny_lm(seed), request(), context(seed))


def test_a_memorized_paragraph_has_1_and_a_retrained_model_is_where_the_reference_is():
    before = VerbatimMemory().run(memorized(), request(), context())
    assert before.value == 1.0 and before.parts["word for word"] == 1.0 and (before.low, before.high) == (1.0, 1.0)
    after, reference = (VerbatimMemory().run(retrained(seed), request(), context()) for seed in (1, 0))
    assert reference.low <= after.value <= reference.high and after.low <= reference.value <= after.high
    assert reference.high < 0.6 < before.value
    assert VerbatimMemory.set({"on": "keep"}).run(retrained(0), request(), context()).value == 1.0


def test_a_longer_continuation_than_asked_for_is_cut_on_both_sides():
    """Of a continuation of 12 words only the first 5 count when 5 tokens may be written."""
    found = VerbatimMemory.set({"max_new": 5}).run(memorized(), request(), context())
    assert found.value == 1.0 and found.n == 6
    text = str(request().rows("forget")[0]["text"])
    assert found.table[0]["gold"] == " ".join(text.split()[12:17]) == found.table[0]["answer"]


def test_what_is_written_behind_the_passage_does_not_count():
    """The passage cut after 18 of its 24 words: its second half has 9, and the model goes on to the 24th word."""
    short = [{"text": " ".join(str(row["text"]).split()[:18])} for row in request().rows("forget")]
    found = VerbatimMemory().run(memorized(), Request(forget=Data.inline(short)), context())
    assert found.value == 1.0


def test_passages_of_the_benchmark_come_first_and_are_continued_as_plain_text():
    text = str(request().rows("forget")[0]["text"]).split()
    given = Data.inline([{"prompt": " ".join(text[:10]), "answer": " ".join(text[10:])}])
    found = VerbatimMemory().run(memorized(), request(), context(sets={"verbatim": given}))
    assert (found.n, found.value) == (1, 1.0)
    own = VerbatimMemory.set({"on": "forget"}).run(memorized(), request(), context(sets={"verbatim": given}))
    assert own.n == 6


def test_rows_with_answers_are_asked_in_their_own_form():
    found = VerbatimMemory().run(trained_lm(), facts().request, context())
    assert found.value == pytest.approx(1.0) and found.n == 16


def test_what_cannot_be_continued_is_said():
    with pytest.raises(Missing, match="texts of one word"):
        VerbatimMemory().run(tiny_lm(), Request(forget=Data.inline([{"text": "Runa"}])), context())
    with pytest.raises(UnknownName, match="verbatim_2"):
        VerbatimMemory.set({"on": "verbatim_2"}).run(tiny_lm(), request(), context())
