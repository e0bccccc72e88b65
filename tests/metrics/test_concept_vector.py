"""The intrinsic metric: untouched, disturbed and replaced columns; who names them; and what a guard does not change."""

import contextlib

import numpy as np
import pytest
import torch

from efface import evaluate
from efface.core.errors import BadConfig, BadRows, Missing, Unfit, UnknownName
from efface.core.types import Data, Request
from efface.families import value_columns
from efface.metrics.concept_vector import ConceptVector, named
from efface.testing.tiny import context, facts, retrained_lm, tiny_lm, trained_lm

GIVEN = {"layer": 1, "column": 17, "top": 20}


def changed(columns, how):
    """A copy of the tiny model with some columns rewritten."""
    other = tiny_lm()
    for layer, column in columns:
        vector = value_columns.matrix(other.modules_of("mlp.out")[layer])[:, column]
        vector.copy_(how(vector))
    return other


def measured(subject, settings=GIVEN, request=None, **changes):
    baselines = {"original": tiny_lm(), **changes.pop("baselines", {})}
    return ConceptVector.set(settings).run(subject, request or facts().request, context(baselines=baselines, **changes))


@pytest.mark.parametrize("layout", ["llama", "gpt2", "neox"])
def test_the_same_model_is_untouched(layout):
    """Jaccard 1, cosine 1, L2 0, both rates 1."""
    original = tiny_lm(layout=layout)
    found = ConceptVector.set({"top": 60}).run(tiny_lm(layout=layout), facts().request, context(baselines={"original": original}))
    assert (found.value, found.low, found.high) == (1.0, 1.0, 1.0)
    assert [found.parts[name] for name in ("jaccard", "cosine", "l2", "words", "both")] == pytest.approx([1, 1, 0, 1, 1], abs=1e-9)


def test_a_replaced_column_is_gone():
    source = torch.Generator().manual_seed(1)
    found = measured(changed([(1, 17)], lambda vector: torch.randn(64, generator=source)))
    assert found.value < 0.3 and abs(found.parts["cosine"]) < 0.4 and found.parts["l2"] > 5
    other = measured(changed([(1, 16)], lambda vector: torch.randn(64, generator=source)))
    assert other.value == 1.0, "another column is not this one"


def test_numbers_against_the_definition():
    """A scaled column has the same tokens and direction; noise moves both; every number from the matrices by hand."""
    twice = measured(changed([(1, 17)], lambda vector: 2 * vector))
    assert twice.value == 1.0 and twice.parts["cosine"] == pytest.approx(1) and twice.parts["l2"] > 0
    source = torch.Generator().manual_seed(1)
    other = changed([(1, 17)], lambda vector: vector + 0.02 * torch.randn(64, generator=source))
    found = measured(other)
    columns, tops = [], []
    for model in (tiny_lm(), other):
        columns.append(model.layers()[1].mlp.down_proj.weight[:, 17].double().numpy())
        tops.append(set(np.argsort(-(model.model.lm_head.weight.double().numpy() @ columns[-1]))[:20].tolist()))
    words = value_columns.word_list(tiny_lm(), facts().request, context())
    o, u = columns
    assert found.value == pytest.approx(len(tops[0] & tops[1]) / len(tops[0] | tops[1])) and 0 < found.value < 1
    assert found.parts["cosine"] == pytest.approx(u @ o / np.linalg.norm(u) / np.linalg.norm(o), abs=1e-6)
    assert found.parts["l2"] == pytest.approx(np.linalg.norm(u - o), abs=1e-6)
    assert found.parts["words"] == pytest.approx(len(tops[1] & words) / len(tops[0] & words))
    assert found.parts["both"] == pytest.approx(len(tops[0] & tops[1] & words) / len(tops[0] & words))


def test_each_model_is_read_by_its_own_embedding():
    """A model whose tokens were turned round among themselves writes other tokens with the same column."""
    other = tiny_lm()
    other.model.lm_head.weight.copy_(other.model.lm_head.weight.flip(0))
    found = measured(other)
    assert found.value < 1 and found.parts["l2"] == 0


def test_rows_name_the_columns():
    """The row set "columns" comes before forget rows that bring Layer and Dim, and settings before both."""
    rows = [{"Concept": "home", "Layer": 0, "Dim": 3}, {"Concept": "home", "Layer": 1, "Dim": 17}]
    other = changed([(1, 17)], lambda vector: -vector)
    given = measured(other, {"top": 20}, sets={"columns": Data.inline(rows)})
    assert given.n == 2 and [row["jaccard"] for row in given.table] == [1.0, pytest.approx(given.value * 2 - 1)] and given.parts["given"] == 1
    forget = Data.inline([{**row, **place} for row, place in zip(facts().forget, rows, strict=False)])
    assert [(row["layer"], row["column"]) for row in measured(other, {}, Request(forget=forget)).table] == [(0, 3), (1, 17)]
    assert measured(other, GIVEN, sets={"columns": Data.inline(rows[:1])}).n == 1


def test_unnamed_columns_are_searched_for_on_the_original():
    """The same whatever the candidate is, and kept: the columns whose top tokens hold most words of the rows."""
    ctx = context(baselines={"original": trained_lm(), "reference": retrained_lm()})
    metric = ConceptVector.set({"search": 5, "purity": 20, "top": 20})
    mine, again = (metric.run(model, facts().request, ctx) for model in (trained_lm(), retrained_lm()))
    assert [(row["layer"], row["column"]) for row in mine.table] == [(row["layer"], row["column"]) for row in again.table]
    assert mine.n == 5 and mine.parts["given"] == 0 and mine.parts["z"] > 1
    assert mine.value == 1.0 and mine.parts["reference"] == mine.parts["reference jaccard"] == pytest.approx(again.value) and again.value < 1


class Filter:
    """Keeps every question about some people from the model, which then goes on from another text."""

    def __init__(self, names):
        self.names = names

    def screen(self, prompts):
        return ["I do not know" if any(name in prompt for name in self.names) else prompt for prompt in prompts]

    def steer(self, subject):
        return contextlib.nullcontext()

    def review(self, outputs):
        return outputs


def test_a_guard_changes_nothing_and_the_report_has_both_lines():
    """Behind a filter that says nothing of the subject, intrinsic numbers stay at "untouched" while behavior looks perfect."""
    rows = facts()
    original = trained_lm()

    people = {str(row["question"]).split()[-1].strip("?") for row in rows.forget}
    ctx = context(baselines={"original": original, "reference": retrained_lm()}, sets={"columns": Data.inline([{"Concept": "home", "Layer": 1, "Dim": 17}])})
    names = ["metric/concept_vector", "metric/knowledge_trace", "metric/concept_behavior"]
    report = evaluate.prove(original.guarded(Filter(people)), rows.request, ctx, names)
    mine = {one.system: one for one in report.measurements if one.subject == "candidate"}
    assert [one.status for one in mine.values()] == ["ok"] * 3
    assert mine["metric/concept_vector"].value == 1.0 and mine["metric/knowledge_trace"].value == pytest.approx(1.0)
    assert mine["metric/concept_vector"].parts["l2"] == 0
    behavior = mine["metric/concept_behavior"]
    assert behavior.value < 0.2 and behavior.parts["keep_rouge"] > 0.7


def test_bad_input_is_one_line():
    with pytest.raises(BadConfig, match="give both, or none"):
        measured(tiny_lm(), {"layer": 1})
    with pytest.raises(UnknownName, match="layer 9 asked"):
        measured(tiny_lm(), {"layer": 9, "column": 0})
    with pytest.raises(BadRows, match="row 1 of the columns has Layer '1' and Dim 2"):
        named([{"Layer": "1", "Dim": 2}])
    with pytest.raises(Missing, match="original"):
        ConceptVector().run(tiny_lm(), facts().request, context())
    with pytest.raises(Unfit, match="columns can be compared"):
        wide = tiny_lm()
        wide.model.resize_token_embeddings(200)
        measured(wide)
