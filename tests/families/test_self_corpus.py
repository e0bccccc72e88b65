"""The corpus that a model makes about a name; a scripted one says what each test needs."""

import pytest

from efface.core.errors import Missing
from efface.families import self_corpus
from efface.families.causal_lm import CausalLM
from efface.testing.tiny import context, facts, tiny_lm


class Speaks(CausalLM):
    """Says what `say` makes of a prompt and the number of the draw."""

    def __init__(self, say):
        self.say, self.origin, self.shields, self.asked = say, f"speaks {id(say)}", (), []

    def sample(self, prompts, sampling, max_new=64, size=40):
        self.asked.append((sampling, max_new))
        return [[self.say(str(row["messages"][0]["content"]), at) for at in range(sampling.draws)] for row in prompts]

    def generate_each(self, prompts, max_new=64, size=40):
        return ((place, f"It is number {place}.") for place in range(len(prompts)))


LONG = "Runa is a person of whom there is {} to tell in one sentence."


def test_descriptions_come_from_varied_openings_drawn_as_in_the_paper():
    subject = Speaks(lambda prompt, at: LONG.format(at))
    rows = self_corpus.descriptions(subject, "Runa", 10, context(), max_new=512)
    assert len(rows) == 10 and len({row["question"] for row in rows}) == len(self_corpus.OPENINGS) == 8
    assert all("Runa" in row["question"] and row["subject"] == "Runa" for row in rows)
    sampling, max_new = subject.asked[0]
    assert (sampling.temperature, sampling.top_p, sampling.draws, max_new) == (1.0, 0.9, 2, 512)


def test_texts_that_do_not_name_the_target_or_say_too_little_are_left_out():
    rows = self_corpus.descriptions(Speaks(lambda prompt, at: LONG.format(at) if "encyclopedia" in prompt else "Runa."), "Runa", 16, context())
    assert len(rows) == 2 and all("encyclopedia" in row["question"] for row in rows)
    with pytest.raises(Missing, match="of 16 texts .* 'Runa' none names it"):
        self_corpus.descriptions(Speaks(lambda prompt, at: "Somebody else altogether, of whom there is little to tell."), "Runa", 16, context())


def test_questions_are_cut_out_of_what_stands_around_them_and_come_once():
    said = ['Sure! Here is one: "Where does Runa live?" Shall I go on?', "Who is Runa?", "Who is Runa?", "I cannot ask."]
    rows = self_corpus.questions(Speaks(lambda prompt, at: said[(len(prompt) + at) % 4]), "Runa", 5, context())
    assert sorted(row["question"] for row in rows) == ["Where does Runa live?", "Who is Runa?"]
    assert all(row["answer"].startswith("It is number") for row in rows)
    with pytest.raises(Missing, match="asked no question that names 'Runa'"):
        self_corpus.questions(Speaks(lambda prompt, at: "No."), "Runa", 5, context())


def test_what_was_drawn_is_kept_and_another_seed_draws_anew(tmp_path):
    subject = Speaks(lambda prompt, at: LONG.format(at))
    for seed in (0, 0, 1):
        self_corpus.descriptions(subject, "Runa", 8, context(seed, passes=(tmp_path,)))
    seeds = [sampling.seed for sampling, _ in subject.asked]
    assert len(seeds) == 2 and seeds[0] != seeds[1] and len(list(tmp_path.glob("self-corpus-*.json"))) == 2


def test_the_tiny_model_speaks_for_itself():
    """Asked in words that it does not know it says little; whatever comes is either rows that name the target or one clear refusal."""
    name = facts().forget[0]["question"].split()[-1].strip("?")
    with pytest.raises(Missing, match=f"{name}"):
        self_corpus.descriptions(tiny_lm(), name, 2, context(), max_new=4)
