"""The metrics' own functions on the logs that TOFU's authors published give TOFU's numbers.

The documented utilities 0.622684, 0.613746 and 0.585921 are the harmonic mean of nine parts that were printed with four
digits before they were averaged; without that rounding the same parts give 0.622677, 0.613745 and 0.585886. Both are checked.
"""

import gzip
import json
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from efface.families.forms import Options
from efface.metrics import forget_quality, model_utility
from efface.ops import stats, text_stats

GOLDEN = Path(__file__).resolve().parent.parent / "golden"
SETS = {"keep": "eval_log", "real_authors": "eval_real_author_wo_options", "world_facts": "eval_real_world_wo_options"}


@cache
def log(name):
    return json.loads(gzip.decompress((GOLDEN / f"tofu_llama2_{name}.json.gz").read_bytes()))


def options(table):
    columns = (table["avg_gt_loss"], table["avg_paraphrased_loss"], table["average_perturb_loss"])
    return [Options(gold, right, tuple(wrong)) for gold, right, wrong in zip(*columns, strict=True)]


def ratios(name, space):
    return np.array([text_stats.log_truth_ratio(row.right, row.wrong, space) for row in options(log(name)["eval_log_forget"])])


def utility(name, space):
    tables = {which: log(name)[table] for which, table in SETS.items()}
    return {
        which: model_utility.numbers_of(options(table), table["rougeL_recall"], which != "keep", space) for which, table in tables.items()
    }


@pytest.mark.parametrize(("space", "p", "statistic"), [("loss", 1.834066e-21, 0.396667), ("probability", 6.0319e-23, 0.41)])
def test_forget_quality_of_full_against_retain90(space, p, statistic):
    value, parts = forget_quality.compare(ratios("full", space), ratios("retain90", space))
    assert value == pytest.approx(p, rel=1e-5)
    assert parts["statistic"] == pytest.approx(statistic, abs=1e-6)
    assert parts["log10_p"] == pytest.approx(np.log10(p), abs=1e-4)
    assert parts["statistic_low"] < statistic < parts["statistic_high"]
    assert parts["n"] == 300 and parts["floor"] == 0.0


def test_forget_quality_is_blind_to_turning_the_ratio_over():
    mine, base = ratios("full", "loss"), ratios("retain90", "loss")
    assert forget_quality.compare(-mine, -base)[0] == pytest.approx(1.834066e-21, rel=1e-5)


@pytest.mark.parametrize(
    ("name", "space", "printed", "exact"),
    [
        ("full", "loss", 0.622684, 0.622677),
        ("retain90", "loss", 0.613746, 0.613745),
        ("full", "probability", 0.585921, 0.585886),
        ("retain90", "probability", 0.575243, 0.575240),
    ],
)
def test_model_utility(name, space, printed, exact):
    found = utility(name, space)
    value, low, high = model_utility.harmonic(found)
    assert value == pytest.approx(exact, abs=6e-7)
    assert low < value < high and high - low < 0.1
    rounded = [round(float(values.mean()), 4) for numbers in found.values() for values in numbers.values()]
    assert len(rounded) == 9
    assert stats.harmonic_mean(rounded) == pytest.approx(printed, abs=6e-7)


def test_the_nine_parts_of_full():
    parts = {which: [round(float(values.mean()), 4) for values in numbers.values()] for which, numbers in utility("full", "loss").items()}
    assert parts == {"keep": [0.9895, 0.9857, 0.4747], "real_authors": [0.4555, 0.9330, 0.5962], "world_facts": [0.4186, 0.8825, 0.5390]}


@pytest.mark.parametrize(("name", "probability", "rouge", "truth"), [("full", 0.9909, 0.9854, 0.5160), ("retain90", 0.1476, 0.4082, 0.6740)])
def test_the_forget_row_aggregates(name, probability, rouge, truth):
    table = log(name)["eval_log_forget"]
    assert np.exp(-np.array(table["avg_gt_loss"])).mean() == pytest.approx(probability, abs=5e-5)
    assert np.mean(table["rougeL_recall"]) == pytest.approx(rouge, abs=5e-5)
    assert text_stats.closeness(ratios(name, "loss")).mean() == pytest.approx(truth, abs=5e-5)


def test_all_stored_rouge_recalls():
    tables = log("full").values()
    said, gold = zip(*(pair for table in tables for pair in table["generated_text"]), strict=True)
    stored = [recall for table in tables for recall in table["rougeL_recall"]]
    assert len(stored) == 817
    assert text_stats.rouge_l_recalls(said, gold) == pytest.approx(stored, abs=1e-12)
