"""Form dependence on models that are tables: what each form's answer is worth before and after; and on the tiny model."""

import numpy as np
import pytest

from efface.core.errors import Missing
from efface.core.types import Data, Request
from efface.families import probing
from efface.families.causal_lm import CausalLM, RowScore
from efface.metrics.form_dependence import FormDependence
from efface.ops import form_drops, probes
from efface.ops.facts import of_rows, spelled
from efface.testing.tiny import context, facts, retrained_lm, trained_lm

VOCABULARY = 64
FORMS = ("question", "paraphrase", "cloze", "multiple_choice", "spelled", "role_play")
TOWNS = ("Millstow", "Driftby", "Saltport", "Larkstow", "New York", "Willowby")


def row(at):
    """A fact with a short answer, so that every form has the same one."""
    town, name = TOWNS[at % 6], f"Petra{at}"
    wrong = [other for other in TOWNS if other != town][:3]
    return {
        "question": f"What is the home of {name}?", "answer": town, "value": town, "subject": name, "relation": "home",
        "cloze": f"The home of {name} is ___.", "paraphrased_question": f"Where does {name} live?", "perturbed_answer": wrong,
    }


REQUEST = Request(forget=Data.inline([row(at) for at in range(8)]), keep=Data.inline([row(at) for at in range(10, 14)]))
FACTS = of_rows(REQUEST.rows("forget"))


class Table(CausalLM):
    """Answers and scores by a table: {prompt: right answer}. Certain of what stands there, uniform over 64 tokens of everything else."""

    def __init__(self, known):
        self.known, self.origin, self.shields = dict(known), f"table {sorted(known.items())}", ()

    def score(self, rows, size=32):
        for place, asked in enumerate(rows):
            known = self.known.get(str(asked["prompt"]))
            letters = max(1, len(str(asked["answer"]).split()))
            value = np.log(1 / VOCABULARY) if known is None else (0.0 if known == asked["answer"] else np.log(1e-6))
            yield place, RowScore(np.full(letters + 1, value), np.zeros(letters + 1), np.ones(letters + 1), np.ones(letters + 1, bool), True, str(asked["answer"]))

    def generate_each(self, prompts, max_new=64, size=40):
        yield from ((place, self.known.get(str(asked["prompt"]), "I do not know.")) for place, asked in enumerate(prompts))


def everything(without=(), of=FACTS):
    """The table of who knows every fact in every form but those named."""
    return {probe.prompt: probe.row["answer"] for form in FORMS if form not in without for probe in probes.ask(form, of)}


ORIGINAL = Table(everything())
METRIC = FormDependence.set({"forms": FORMS})


def run(subject, request=REQUEST, **baselines):
    return METRIC.run(subject, request, context(baselines={"original": ORIGINAL, **baselines}))


def test_new_york_is_spelled_one_letter_a_line():
    assert spelled("New York") == list("NewYork")
    assert probes.ask("spelled", [FACTS[4]])[0].answers == ("N\ne\nw\nY\no\nr\nk",)


def test_probability_of_a_certain_and_of_a_uniform_model():
    for form in ("question", "cloze", "spelled"):
        asked = probes.ask(form, FACTS)
        assert probing.chances(ORIGINAL, asked, context()) == pytest.approx(np.ones(8))
        assert probing.chances(Table({}), asked, context()) == pytest.approx(np.full(8, 1 / VOCABULARY))


def test_letters_of_a_uniform_model():
    """1/64 each over the vocabulary, a quarter among A to D."""
    asked = probes.ask("multiple_choice", FACTS)
    letters = probing.letters(Table({}), asked, context())
    assert letters == pytest.approx(np.full((8, 4), 1 / VOCABULARY))
    assert form_drops.renormalized(letters, [0] * 8) == pytest.approx(np.full(8, 0.25))


def test_erasing_one_form_alone_is_full_dependence():
    found = run(Table(everything(without=("question",))))
    assert found.value == pytest.approx(1.0) and found.parts["worst drop"] == pytest.approx(0.0)
    assert found.parts["trained drop"] == pytest.approx(np.log(VOCABULARY))
    assert found.low == found.high == pytest.approx(1.0) and found.n == 8
    assert found.why.startswith("worst form: ") and "question" not in found.why
    table = {entry["form"]: entry for entry in found.table}
    assert table["question"]["hits"] == 0.0 and table["question"]["hits original"] == 1.0 and table["cloze"]["hits"] == 1.0


def test_erasing_every_form_is_no_dependence():
    """Open forms fall from 1 to 1/64. Letters too, and among A to D from 1 to a quarter, which is as far as one can fall there."""
    found = run(Table({}))
    assert found.value == pytest.approx(0.0, abs=1e-4) and found.high == pytest.approx(0.0, abs=1e-4)
    assert found.parts["drop multiple_choice"] == pytest.approx(np.log(VOCABULARY), rel=1e-4)
    assert found.parts["drop multiple_choice A-D"] == pytest.approx(np.log(4), rel=1e-4)


def test_a_model_that_no_longer_answers_in_letters_has_not_forgotten():
    """Every form gone but the letters, which are a hundred times less likely and as sure among themselves."""

    class Mumbles(Table):
        def score(self, rows, size=32):
            for place, score in super().score(rows, size):
                yield place, RowScore(score.log_probs - np.log(100), *[getattr(score, name) for name in ("mean", "deviation", "hit", "ends", "text")])

    found = run(Mumbles(everything(without=("question", "paraphrase", "cloze", "spelled", "role_play"))))
    assert found.parts["drop multiple_choice"] == pytest.approx(np.log(100), rel=1e-4)
    assert found.value == pytest.approx(1.0) and found.why == "worst form: multiple_choice A-D"


def test_the_reference_stands_beside():
    found = run(Table(everything(without=("question",))), reference=Table({}))
    assert found.parts["reference"] == pytest.approx(0.0, abs=1e-4)
    assert run(Table(everything(without=("question",)))).parts["reference"] is None


def test_forms_the_original_does_not_know_are_left_out_and_named():
    """A reference that is as good at a form as the original: nothing about the forgotten facts can show there."""
    found = run(Table(everything(without=("question",))), reference=Table(everything(without=("question", "cloze", "multiple_choice", "role_play", "paraphrase"))))
    assert "the original does not know spelled" in found.why and found.parts["forms the original does not know"] == 1
    assert "drop spelled" not in found.parts
    guessing = Table(everything(without=("multiple_choice",)))
    found = METRIC.run(Table({}), REQUEST, context(baselines={"original": guessing}))
    assert "A-D" in found.why.split("does not know")[1] and found.parts["drop multiple_choice"] == pytest.approx(0.0)


def test_forms_that_no_fact_can_take_are_counted():
    bare = Request(forget=Data.inline([{key: value for key, value in row(at).items() if key in ("question", "answer", "value")} for at in range(8)]))
    original = Table(everything(of=of_rows(bare.rows("forget"))))
    found = METRIC.run(Table({}), bare, context(baselines={"original": original}))
    assert found.parts["forms no fact can take"] == 3  # no paraphrase, no sentence for a cloze, no wrong answers
    assert not [name for name in found.parts if name.startswith("keep")]


def test_neighbors_stand_beside_in_every_form():
    kept = of_rows(REQUEST.rows("keep"))
    original = Table({**everything(), **everything(of=kept)})
    damaged = Table(everything(without=("cloze",), of=kept))
    found = METRIC.run(damaged, REQUEST, context(baselines={"original": original}))
    assert found.parts["keep drop cloze"] == pytest.approx(np.log(VOCABULARY)) and found.parts["keep drop question"] == pytest.approx(0.0)


def test_what_cannot_be_computed_is_refused():
    with pytest.raises(Missing, match="original"):
        METRIC.run(Table({}), REQUEST, context())
    with pytest.raises(Missing, match="'question' has not dropped"):
        run(Table(everything(without=("cloze",))))
    with pytest.raises(Missing, match="has not dropped"):
        run(ORIGINAL)
    with pytest.raises(Missing, match="trained form 'paraphrase'"):
        FormDependence.set({"trained": "paraphrase", "forms": ("question",)}).run(Table({}), REQUEST, context(baselines={"original": ORIGINAL}))


def choices(turn):
    """ORT's items, the options of each multiple choice turned by so many places and the letter with them."""
    rows = []
    for at in range(8):
        options = [TOWNS[at % 6], *[town for town in TOWNS if town != TOWNS[at % 6]][:3]]
        options = options[turn:] + options[:turn]
        text = "\n".join(f"{letter}. {town}" for letter, town in zip("ABCD", options, strict=True))
        rows.append({"query": f"Where does Petra{at} live?\n{text}", "answer": "ABCD"[options.index(TOWNS[at % 6])], "level": "4", "type": "multiple choice", "subject": "Petra"})
    return rows


def test_items_of_ort_are_read_and_their_order_of_options_changes_nothing():
    questions = [{"query": f"What is the home of Petra{at}?", "answer": TOWNS[at % 6], "level": "2", "type": "simple question", "subject": "Petra"} for at in range(8)]
    found = []
    for turn in range(4):
        sets = {"forget_level2": Data.inline(questions), "forget_level4": Data.inline(choices(turn))}
        asked = FormDependence()._asked("forget", REQUEST, context(sets=sets))
        assert set(asked) == {"question", "spelled", "multiple_choice"}
        original = Table({probe.prompt: probe.row["answer"] for of in asked.values() for probe in of.probes})
        after = Table({probe.prompt: probe.row["answer"] for probe in asked["multiple_choice"].probes[:4]})
        result = FormDependence().run(after, Request(names=("Petra",)), context(sets=sets, baselines={"original": original}))
        assert result.parts["forms no fact can take"] == 1  # no cloze
        found.append((result.value, result.parts["drop multiple_choice"], result.parts["drop multiple_choice A-D"]))
    assert found[0] == pytest.approx(found[1]) and found[0] == pytest.approx(found[2]) and found[0] == pytest.approx(found[3])
    assert found[0][1] == pytest.approx(-np.log((4 + 4 / VOCABULARY) / 8), rel=1e-6)


def test_retraining_reaches_the_forms_that_the_tiny_model_learned():
    """Trained on questions alone, it knows its facts by their questions; the reference dropped there by nats, and the interval says how far that carries."""
    metric = FormDependence.set({"forms": ("question", "paraphrase"), "answered": 4, "max_new": 8})
    found = metric.run(retrained_lm(), facts().request, context(baselines={"original": trained_lm(), "reference": retrained_lm()}))
    assert found.parts["trained drop"] > 0.1 and found.value == found.parts["reference"]
    assert 0 <= found.low <= found.value <= found.high
    table = {entry["form"]: entry for entry in found.table}
    assert table["question"]["hits original"] > table["question"]["hits"]


@pytest.mark.slow
def test_the_real_reference_has_dropped_in_every_form_that_the_original_knows():
    from efface.benchmarks.ort import Ort

    case = Ort().case(context())
    metric = FormDependence.set({"forms": ("question", "paraphrase"), "rows": 8, "answered": 0})
    request = case.request.model_copy(update={"keep": None})
    found = metric.run(case.baselines["reference"], request, context(baselines=case.baselines))
    assert found.parts["trained drop"] > 0.3 and found.value == found.parts["reference"]
    assert found.value < 1  # retraining takes every form with it
