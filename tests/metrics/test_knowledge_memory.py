"""KnowMem: the published prompt and stop strings, both sides, and the space that byte-level tokenizers join to a word."""

import re
from types import SimpleNamespace

import pytest

from efface.core.errors import Missing
from efface.core.types import Data, Request
from efface.metrics.knowledge_memory import KnowledgeMemory
from efface.testing.tiny import context, facts

ROWS = [{"question": f"Capital {at}?", "answer": answer} for at, answer in enumerate(("Paris", "Rome", "Lima", "Oslo"))]


class Tokenizer:
    """One token a character, or, where spaces are joined, one a word with the space before it."""

    bos_token = None

    def __init__(self, joins: bool) -> None:
        self.joins = joins

    def __call__(self, text: str, add_special_tokens: bool = True) -> dict[str, list[str]]:
        return {"input_ids": re.findall(r" ?\S+| ", text) if self.joins else list(text)}


class Answering:
    """Answers prompts by their last question, and goes on with a question of its own; `joins` is whether its tokenizer joins spaces to words."""

    shields = ()
    origin = "answering"

    def __init__(self, answers: dict[str, str], joins: bool = False) -> None:
        self.known, self.tokenizer, self.prompts = answers, Tokenizer(joins), []

    def generate_each(self, rows, max_new):
        for at, row in enumerate(rows):
            self.prompts.append(row["text"])
            question = row["text"].rpartition("Question: ")[2].partition("\n")[0]
            yield at, f"{self.known.get(question, 'no idea')}\n\nQuestion: x"


def sets(**more):
    return {
        "knowledge": Data.inline(ROWS[:2]), "knowledge_keep": Data.inline(ROWS[2:]), "knowledge_examples": Data.inline([{"question": "Example?", "answer": "Yes"}]),
        **more,
    }


PLAIN = Request(forget=Data.inline([{"text": "some text"}]), keep=Data.inline([{"text": "other text"}]))


def test_both_sides_by_hand():
    """Forget: "Paris" is right (1) and "no idea" is not (0). Keep: "Lima" is right, and "Oslo town" against "Oslo" has recall 1,
    precision 1/2, F = 2/3, so the side's mean is 5/6."""
    subject = Answering({"Capital 0?": "Paris", "Capital 2?": "Lima", "Capital 3?": "Oslo town"})
    found = KnowledgeMemory().run(subject, PLAIN, context(sets=sets()))
    assert (found.value, found.n) == (0.5, 2) and found.low <= 0.5 <= found.high
    assert found.parts["keep"] == pytest.approx(5 / 6) and found.parts["keep questions"] == 2
    assert [row["answer"] for row in found.table] == ["Paris", "no idea", "Lima", "Oslo town"], "stop strings cut what comes behind"
    turned = KnowledgeMemory.set({"on": "keep"}).run(subject, PLAIN, context(sets=sets()))
    assert turned.value == pytest.approx(5 / 6) and turned.parts["forget"] == 0.5
    assert subject.prompts[0] == "Question: Example?\nAnswer: Yes\n\nQuestion: Capital 0?\nAnswer: "


def test_a_space_that_the_tokenizer_joins_to_the_next_word_is_left_to_the_model():
    joining = Answering({"Capital 0?": "Paris"}, joins=True)
    KnowledgeMemory().run(joining, PLAIN, context(sets=sets()))
    assert all(prompt.endswith("\nAnswer:") for prompt in joining.prompts)
    published = Answering({}, joins=True)
    KnowledgeMemory.set({"space": True}).run(published, PLAIN, context(sets=sets()))
    assert all(prompt.endswith("\nAnswer: ") for prompt in published.prompts)


def test_each_side_has_its_own_examples_where_the_benchmark_has_them():
    subject = Answering({})
    own = Data.inline([{"question": "Kept?", "answer": "Yes"}])
    KnowledgeMemory.set({"examples": 1}).run(subject, PLAIN, context(sets=sets(knowledge_keep_examples=own)))
    assert ["Kept?" in prompt for prompt in subject.prompts] == [False, False, True, True]


def test_without_a_benchmark_the_requests_own_questions_are_asked():
    rows = facts()
    subject = Answering({str(row["question"]): str(row["answer"]) for row in rows.forget})
    found = KnowledgeMemory().run(subject, rows.request, context())
    assert found.value == 1.0 and found.parts["keep"] is not None and found.parts["keep"] < 0.5
    assert str(rows.unseen[0]["question"]) in subject.prompts[0], "unseen rows are the examples"
    alone = KnowledgeMemory().run(subject, Request(forget=Data.inline(rows.forget)), context())
    assert alone.value == 1.0 and alone.parts == {"keep": None}


def test_chats_are_asked_by_their_last_question():
    chat = [{"messages": [{"role": "user", "content": "Capital 0?"}, {"role": "assistant", "content": "Paris"}]}]
    assert KnowledgeMemory().run(Answering({"Capital 0?": "Paris"}), Request(forget=Data.inline(chat)), context()).value == 1.0


def test_text_without_questions_is_refused():
    with pytest.raises(Missing, match="plain text"):
        KnowledgeMemory().run(SimpleNamespace(), PLAIN, context())
