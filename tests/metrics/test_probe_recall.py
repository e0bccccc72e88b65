"""RWKU's probes on a subject that answers out of a table, on the tiny model's facts, and on a country that the real model knows."""

import json
from importlib.resources import files

import pytest

from efface import evaluate
from efface.core.errors import Missing
from efface.core.types import Data, Request
from efface.families.causal_lm import CausalLM
from efface.metrics.probe_recall import ProbeRecall
from efface.ops.probe_rows import TYPES, probe
from efface.testing.tiny import context, facts, trained_lm

PARTS = ("forget_level1", "forget_level2", "forget_level3", "neighbor_level1", "neighbor_level2")
KING = Request(kind="knowledge", names=("Stephen King",))
"""A name and no rows at all."""


class Blanks:
    """A shield that empties every prompt with a name in it."""

    def __init__(self, name):
        self.name = name

    def screen(self, prompts):
        return [" " if self.name in prompt else prompt for prompt in prompts]

    def review(self, outputs):
        return outputs


class Scripted(CausalLM):
    """Answers by a table from prompts to texts, through its shields; nothing else of a language model is there."""

    def __init__(self, table, say=lambda text: text):
        self.table, self.say, self.origin, self.shields = table, say, f"scripted {id(table)}", ()

    def generate_each(self, prompts, max_new=64, size=40):
        texts = [str(row["prompt"]) for row in prompts]
        for shield in self.shields:
            texts = shield.screen(texts)
        for place, text in enumerate(texts):
            yield place, self.say(self.table.get(text, ""))


def king():
    """The published probes as the sets of a run, and a subject that answers all of them right."""
    parts = {part: json.loads(files("efface.data").joinpath(f"rwku/stephen_king_{part}.json").read_text(encoding="utf-8")) for part in PARTS}
    table = {probe(row).prompt: row["answer"] for rows in parts.values() for row in rows}
    return {name: Data.inline(rows) for name, rows in parts.items()}, table


def test_card_names_package_field_and_stemmer():
    for word in ("package rouge", "rouge-l recall", "no stemmer", "case kept"):
        assert word in ProbeRecall.card.title


def test_a_name_without_rows_is_measured_on_the_published_probes():
    sets, table = king()
    found = ProbeRecall().run(Scripted(table), KING, context(sets=sets))
    assert found.value == 1.0 and found.parts["FB"] == found.parts["QA"] == found.parts["AA"] == found.parts["neighbor QA"] == 1.0
    summary = [row for row in found.table if "n" in row]
    assert {row["type"]: row["n"] for row in summary if row["about"] == "target"}["cloze"] == 8
    assert [row["type"] for row in summary if row["about"] == "target"] == list(TYPES)
    assert sum(row["n"] for row in summary) == 107 == len([row for row in found.table if "n" not in row])
    assert all(row["low"] <= row["value"] <= row["high"] for row in summary)


def test_a_filter_on_the_name_leaves_the_question_back_and_the_headline_says_so():
    """The suppressor of the works-when: FB and QA fall to 0, the reverse query does not move, and it is what the value reports."""
    sets, table = king()
    # some questions back name the target in passing ("a collection that influenced Stephen King"); the other way round is meant
    level3 = [row for row in sets["forget_level3"].read() if row["type"] != "reverse query" or "King" not in row["query"]]
    ctx = context(sets={**sets, "forget_level3": Data.inline(level3)})
    whole = ProbeRecall().run(Scripted(table), KING, ctx)
    filtered = ProbeRecall().run(Scripted(table).guarded(Blanks("King")), KING, ctx)
    assert filtered.parts["FB"] == filtered.parts["QA"] == 0.0
    assert filtered.parts["reverse query"] == whole.parts["reverse query"] == 1.0
    assert filtered.value == 1.0 and filtered.why == "worst type: reverse query"
    assert filtered.parts["AA"] < 0.6 < filtered.value  # the mean would have hidden it
    assert filtered.parts["neighbor FB"] > 0.9


def test_case_counts_for_recall_and_not_for_hits():
    sets, table = king()
    found = ProbeRecall().run(Scripted(table, str.lower), KING, context(sets=sets))
    assert found.parts["QA hits"] == 1.0
    assert found.parts["QA"] < 0.2  # only "2003" has no case


def test_answers_end_at_a_line_and_silence_scores_nothing():
    sets, table = king()
    cut = ProbeRecall().run(Scripted(table, lambda text: f"\n {text}\nQuestion: And what else?"), KING, context(sets=sets))
    assert cut.value == 1.0 and all(row["answer"] == row["gold"] for row in cut.table if "gold" in row)
    mute = ProbeRecall().run(Scripted({}), KING, context(sets=sets))
    assert mute.value == 0.0 and {row["answer"] for row in mute.table if "gold" in row} == {"NOANSWER"}
    assert mute.high > 0.1  # few probes of a type: silence on them proves little


def test_an_exception_in_generation_is_a_failure_and_no_zero():
    class Broken(Scripted):
        def generate_each(self, prompts, max_new=64, size=40):
            raise RuntimeError("out of memory")

    sets, table = king()
    found = evaluate.measure(ProbeRecall(), Broken(table), KING, context(sets=sets))
    assert found.status == "failed" and found.value is None and "out of memory" in found.why


def test_types_with_few_probes_can_be_kept_out_of_the_headline():
    sets, table = king()
    found = ProbeRecall.set({"fewest": 5}).run(Scripted(table), KING, context(sets=sets))
    assert found.n >= 5
    with pytest.raises(Missing, match="no type of probe has 99"):
        ProbeRecall.set({"fewest": 99}).run(Scripted(table), KING, context(sets=sets))


def test_without_probes_the_facts_of_the_rows_are_asked():
    """The tiny model knows its facts as they were put, and the table has only the forms that its rows can take."""
    rows = [{**row, "value": row["answer"].split(" is ")[1].strip("."), "subject": row["question"].split()[-1].strip("?"), "relation": row["question"].split()[3]} for row in facts().forget[:4]]
    request = Request(forget=Data.inline(rows), keep=Data.inline(facts().keep[:3]))
    found = ProbeRecall.set({"max_new": 8}).run(trained_lm(), request, context())
    named = {row["type"] for row in found.table if "n" in row and row["about"] == "target"}
    assert {"cloze", "simple question", "synonym manipulation", "multiple choice", "role play"} <= named
    assert 0 < found.value <= 1 and found.parts["neighbor FB"] is not None


@pytest.mark.slow
def test_a_filter_on_a_country_shows_in_the_table_of_the_real_model():
    from efface.benchmarks.rwku import Rwku

    case = Rwku().case(context())
    rows = case.sets["forget_level3"].read()
    few = {**case.sets, "forget_level2": Data.inline(case.sets["forget_level2"].read()[::2]), "forget_level3": Data.inline([row for row in rows if row["type"] == "reverse query"])}
    ctx = context(sets={name: data for name, data in few.items() if name in ("forget_level2", "forget_level3")})
    known = ProbeRecall().run(case.original, case.request, ctx)
    filtered = ProbeRecall().run(case.original.guarded(Blanks("France")), case.request, ctx)
    assert known.parts["QA hits"] >= 0.5 and filtered.parts["QA hits"] == 0.0
    assert known.parts["reverse query"] == filtered.parts["reverse query"] == filtered.value == 1.0
    assert "reverse query" in filtered.why
