"""Requests in a row and growing requests: what is run, from where, and what is measured again."""

import json

import pytest

from efface import api
from efface.core import rows as row_files
from efface.core.errors import BadConfig, BadRows, EffaceError
from efface.core.types import Data, Measurement, Request
from efface.folds import FoldsOptions, disjoint, first_crossing, lines, nested, requests, scaling, sequential, study, table
from efface.metrics.probability import Probability
from efface.testing.tiny import context, facts, trained_lm

SETTINGS = {"fit.lr": 1e-3, "fit.steps": 3, "fit.batch": 4, "fit.precision": "no"}


def forget(subject, request, number):
    return api.forget(subject, request, "grad_diff", SETTINGS, context(number))


def measure(subject, request):
    return {"probability": Probability().run(subject, request, context())}


def asked(count=3):
    rows = facts()
    return requests(rows.request, disjoint(rows.forget, count))


def test_a_sequence_is_what_three_runs_by_hand_are_and_earlier_requests_are_measured_again():
    rounds = sequential(trained_lm(), asked(), forget, measure)
    subject, by_hand = trained_lm(), []
    for number, request in enumerate(asked(), start=1):
        subject = forget(subject, request, number)
        by_hand.append(subject)
    assert [each.subject.digest for each in rounds] == [each.digest for each in by_hand]
    assert [list(each.measured) for each in rounds] == [[1], [1, 2], [1, 2, 3]]
    last = rounds[2].measured
    for number, request in enumerate(asked(), start=1):
        assert last[number]["probability"].value == pytest.approx(measure(subject, request)["probability"].value, abs=1e-12)
    assert last[1]["probability"].value != rounds[0].measured[1]["probability"].value, "the later rounds changed what is left of the first request"
    assert len(rounds[2].subject.lineage) == 3


def test_every_fold_of_a_scaling_study_starts_from_the_original():
    rows = facts()
    growing = requests(rows.request, nested(rows.forget, 2))
    rounds = scaling(trained_lm(), growing, forget, measure)
    assert [each.subject.digest for each in rounds] == [forget(trained_lm(), request, number).digest for number, request in enumerate(growing, start=1)]
    assert [(each.rows, list(each.measured)) for each in rounds] == [(8, [1]), (16, [2])]


def test_folds_of_rows():
    rows = [{"text": str(at)} for at in range(10)]
    apart, within = disjoint(rows, 4), nested(rows, 4)
    assert [len(part) for part in apart] == [2, 3, 2, 3] and [row for part in apart for row in part] == rows
    assert [len(part) for part in within] == [2, 5, 7, 10]
    assert all(outer[: len(inner)] == inner for inner, outer in zip(within, within[1:], strict=False))
    for bad in (0, 11):
        with pytest.raises(BadConfig, match="folds of 10 rows"):
            disjoint(rows, bad)


def test_a_row_that_another_request_keeps_is_refused():
    rows = facts()
    mixed = [Request(forget=Data.inline(rows.forget[:2])), Request(forget=Data.inline(rows.forget[4:6]), keep=Data.inline(rows.forget[1:3]))]
    with pytest.raises(BadRows, match="request 1 row 2 = keep row 1"):
        sequential(trained_lm(), mixed, forget, measure)
    with pytest.raises(EffaceError, match="no requests"):
        scaling(trained_lm(), [], forget, measure)


@pytest.mark.parametrize(
    ("levels", "chosen"),
    [
        ([(1, 0.6), (2, 0.3), (3, 0.1), (4, 0.5)], 2),  # a later epoch is lower, and one after it rises again
        ([(1, 0.6), (2, None), (3, 0.33), (4, 0.2)], 3),
        ([(1, 0.6), (2, 0.5)], None),
        ([("alpha 1", 0.33)], "alpha 1"),  # equal counts
    ],
)
def test_the_first_crossing_is_chosen_and_not_the_best(levels, chosen):
    assert first_crossing(levels, 0.33) == chosen


def test_the_table_says_value_interval_and_n_or_why_there_is_none():
    there = Measurement(system="a", subject="", value=0.5, low=0.25, high=0.75, n=8)
    rounds = sequential(trained_lm(), asked(2), lambda subject, request, number: subject, lambda subject, request: {"a": there, "b": Measurement.skipped("b", "", "no rows")})
    head, cells = lines(rounds)
    assert head == ["ROUND", "REQUEST", "A", "B"]
    assert cells == [["1", "1", "0.500 0.250..0.750 (n 8)", "skipped"], ["2", "1", *cells[0][2:]], ["2", "2", *cells[0][2:]]]
    assert [(row["round"], row["request"], row["measure"], row["why"]) for row in table(rounds)][1] == (1, 1, "b", "no rows")


def test_a_study_of_files(tmp_path):
    rows, model = facts(), tmp_path / "model"
    model.mkdir()
    trained_lm().save(model)
    for name in ("forget", "keep", "unseen"):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in getattr(rows, name)), encoding="utf-8")
    given = {name: tmp_path / f"{name}.jsonl" for name in ("forget", "keep", "unseen")}
    options = FoldsOptions.model_validate({"model": str(model), **given, "method": "grad_diff", "settings": SETTINGS, "folds": 2, "out": tmp_path / "out", "seed": 1})
    rounds = study(options)
    assert [list(each.measured) for each in rounds] == [[1], [1, 2]]
    assert set(rounds[1].measured[1]) == {"verbatim_memory", "knowledge_memory"}
    assert all(found.status == "ok" for found in rounds[1].measured[1].values())
    by_hand, whole = api.load(str(model), "cpu"), api.request(*(row_files.read(given[name]) for name in ("forget", "keep", "unseen")))
    for number, request in enumerate(requests(whole, disjoint(whole.rows("forget"), 2)), start=1):
        by_hand = api.forget(by_hand, request, "grad_diff", SETTINGS, context(number))
    assert rounds[-1].subject.digest == by_hand.digest == api.load(str(tmp_path / "out" / "model"), "cpu").digest
    stored = json.loads((tmp_path / "out" / "rounds.json").read_text())
    assert len(stored["rows"]) == 6 and stored["options"]["study"] == "sequential"
    with pytest.raises(EffaceError, match="exists already"):
        study(options)
