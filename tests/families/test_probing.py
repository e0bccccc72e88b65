"""Asking a language model in every form."""

import math

import numpy as np
import pytest
import torch

from efface.core.context import Context
from efface.core.errors import Missing
from efface.families import passes, probing
from efface.families.decoding import Sampling
from efface.ops import facts, probes
from efface.ops.probes import Probe
from efface.testing import tiny

FACTS = tiny.facts()


class Canned:
    """A subject that answers from a table and remembers what it was asked."""

    family, shields, origin = "causal-lm", (), "canned"

    def __init__(self, answers):
        self.answers, self.asked = answers, []

    def generate_each(self, rows, max_new):
        for at, row in enumerate(rows):
            last = row["messages"][-2]["content"] if "messages" in row else row["prompt"]
            self.asked.append([m["content"] for m in row["messages"]] if "messages" in row else [last])
            yield at, self.answers.get(last, "")


def test_a_trained_model_answers_its_questions_and_the_reference_does_not():
    asked = probes.ask("question", facts.of_rows(FACTS.forget))
    rates = [probing.hits(probing.ask(s, asked, Context(), 12), asked).mean() for s in (tiny.trained_lm(), tiny.retrained_lm())]
    assert rates[0] == 1.0 and rates[1] <= 0.25


def test_chances_leave_the_end_token_out():
    """Three tokens of log-probability -1, -2, -3 and an end token of -9 give exp(-2)."""
    subject = tiny.tiny_lm()
    probe = Probe("", "What is the home of Mirel?", ("amber bay",))
    (score,) = passes.scores(subject, [probe.row], Context())
    assert len(score.log_probs) == 3 and score.ends
    (chance,) = probing.chances(subject, [probe], Context())
    assert chance == pytest.approx(math.exp(score.log_probs[:2].mean()))


def test_letters_are_probabilities_over_the_whole_vocabulary():
    """A uniform model gives each of four letters 1 / V, so that their shares are a quarter."""
    subject = tiny.tiny_lm().fork()
    with torch.no_grad():
        subject.model.lm_head.weight.zero_()
    asked = [probes.choice("What is the home of Mirel?", ["amber", "birch", "copper", "dusty"], at) for at in (0, 3)]
    found = probing.letters(subject, asked, Context())
    assert found.shape == (2, 4) and np.allclose(found, 1 / subject.model.config.vocab_size)
    with pytest.raises(ValueError, match="multiple choices"):
        probing.letters(subject, [Probe("", "q", ("a",))], Context())


def test_turns_before_are_put_with_the_models_own_words():
    said = {"Who is Petra?": "A writer.", "And more?": "She bakes.", "So where?": "In Thornbridge."}
    subject = Canned(said)
    chain = Probe("chain", "So where?", ("Thornbridge",), before=("Who is Petra?", "And more?"))
    plain = Probe("question", "So where?", ("Thornbridge",))
    texts = probing.ask(subject, [chain, plain], Context())
    assert texts == ["In Thornbridge."] * 2 and probing.hits(texts, [chain, plain]).tolist() == [1.0, 1.0]
    assert ["Who is Petra?", "A writer.", "And more?", "She bakes.", "So where?", "Thornbridge"] in subject.asked


def test_probes_are_answered_once():
    subject, ctx = Canned({"q": "a"}), Context()
    for _ in range(2):
        probing.ask(subject, [Probe("", "q", ("a",))], ctx)
    assert len(subject.asked) == 1


def test_forms_that_no_fact_can_take_are_refused_together():
    bare = facts.of_rows([{"question": "Who?", "answer": "She"}])
    assert list(probing.by_form(["question", "cloze"], bare)) == ["question"]
    with pytest.raises(Missing, match="cloze, reverse"):
        probing.by_form(["cloze", "reverse"], bare)


def test_a_beginning_is_read_and_gone_on_with():
    """The prefill stands between prompt and answer, in scoring as in generation."""
    subject = tiny.trained_lm()
    plain, begun = ({"question": "What is the home of Mirel?", "answer": "amber bay", **more} for more in ({}, {"prefill": "The home"}))
    one, other = (subject.encode_row(row) for row in (plain, begun))
    assert other.prompt[: len(one.prompt)] == one.prompt and len(other.prompt) == len(one.prompt) + 2 and other.answer == one.answer
    assert subject.generate([begun], 8)[0].startswith("of")


def test_samples_are_seeded_and_leave_no_trace():
    subject, row = tiny.tiny_lm(), {"question": "What is the home of Mirel?", "answer": "x"}
    torch.manual_seed(3)
    before = torch.get_rng_state()
    one, again, other = (subject.sample([row], Sampling(draws=3, seed=seed), 6) for seed in (1, 1, 2))
    assert one == again and one != other and len(one[0]) == 3
    assert torch.equal(before, torch.get_rng_state())


def test_one_prompt_and_sixteen_give_the_same_answers_where_pad_is_the_end_token():
    import copy

    subject = copy.copy(tiny.trained_lm())
    subject.tokenizer = tiny.tokenizer()
    subject.tokenizer.pad_token = subject.tokenizer.eos_token
    rows = FACTS.forget + [{**row, "question": "Please tell me " + row["question"]} for row in FACTS.forget]
    assert subject.generate(rows, 10, size=1) == subject.generate(rows, 10, size=16)
    alone = {at: score.loss for at, score in subject.score(rows, size=1)}
    together = {at: score.loss for at, score in subject.score(rows, size=16)}
    assert all(alone[at] == pytest.approx(together[at], abs=1e-5) for at in alone)
