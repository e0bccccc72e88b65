"""Tiny models and rows on disk, and runs on them that were proven: one that forgot, and one behind a guard."""

import json
import shutil
from contextlib import nullcontext

import pytest

from efface import runs
from efface.core import registry
from efface.core.card import Card
from efface.core.config import Config
from efface.core.types import Guard
from efface.testing import tiny

SUITE = ("metric/probability", "metric/knowledge_trace", "attack/loss", "attack/relearn", "attack/quantize")


class Swapped:
    """A shield that says a wrong value in the place of a right one; known rows alone, so that a rewording goes around it."""

    def __init__(self, rows):
        self.wrong = {str(row["answer"]): str(row["perturbed_answer"][0]) for row in rows}

    def screen(self, prompts):
        return prompts

    def steer(self, subject):
        return nullcontext()

    def review(self, outputs):
        return [self.wrong.get(text.strip(), text) for text in outputs]


class Swap(Guard[Config]):
    """Says something else in the place of the forget rows' answers."""

    card = Card(
        name="swap", title="Swapped answers", paper="", families=("causal-lm",), needs=("generate",), uses=("forget",), technique="filtering",
        intent="suppress", touches=("output",), locality="none", data=("forget rows",), operator="outputs", sequence="independent", reversible=True,
        guarantee="none",
    )

    def run(self, subject, request, ctx):
        """Return the subject behind the shield."""
        return subject.guarded(Swapped(request.rows("forget")))


@pytest.fixture(scope="session")
def models(tmp_path_factory):
    """The trained and the retrained tiny model, and three files of rows."""
    folder = tmp_path_factory.mktemp("models")
    for name in ("forget", "keep", "unseen"):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in getattr(tiny.facts(), name)))
    for name, subject in (("original", tiny.trained_lm()), ("reference", tiny.retrained_lm())):
        (folder / name).mkdir()
        subject.save(folder / name)
    return folder


def rows(models):
    return {name: models / f"{name}.jsonl" for name in ("forget", "keep", "unseen")}


@pytest.fixture(scope="session")
def forgotten(models, tmp_path_factory):
    """A run whose model lies three tiny steps beside the reference, proven."""
    out = tmp_path_factory.mktemp("forgotten") / "run"
    settings = {"fit.steps": 3, "fit.lr": 1e-6, "fit.precision": "no", "stop.at": "steps"}
    runs.forget(runs.ForgetOptions(model=str(models / "reference"), method="finetune", settings=settings, device="cpu", out=out, **rows(models)))
    runs.prove(out, runs.ProveOptions(original=str(models / "original"), reference=str(models / "reference"), suite=SUITE))
    return out


@pytest.fixture(scope="session")
def behind(models, tmp_path_factory):
    """A run that put a guard before the trained model, proven."""
    out = tmp_path_factory.mktemp("behind") / "run"
    card, load = registry.card, registry.load
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(registry, "card", lambda kind, name: Swap.card if name == "swap" else card(kind, name))
        patch.setattr(registry, "load", lambda kind, name, **more: Swap if name == "swap" else load(kind, name, **more))
        runs.guard(runs.GuardOptions(model=str(models / "original"), guard="swap", device="cpu", out=out, **rows(models)))
        runs.prove(out, runs.ProveOptions(reference=str(models / "reference"), suite=("metric/rouge_recall", "attack/paraphrase", "attack/loss")))
    return out


@pytest.fixture
def run(forgotten, tmp_path):
    """A copy of the run that forgot."""
    return shutil.copytree(forgotten, tmp_path / "run")


@pytest.fixture
def guarded_run(behind, tmp_path):
    """A copy of the run behind a guard."""
    return shutil.copytree(behind, tmp_path / "run")


@pytest.fixture
def edit():
    """Changes the report of a run by a function of its JSON, in the record of measurements as well where asked."""

    def change(folder, function, record=False):
        path = folder / "report.json"
        report = json.loads(path.read_text())
        function(report)
        path.write_text(json.dumps(report))
        if record:
            held = {(m["system"], m["subject"]): m for m in report["measurements"]}
            lines = [json.loads(line) for line in (folder / "measurements.jsonl").read_text().splitlines()]
            for line in lines:
                line["measurement"] = held[line["measurement"]["system"], line["measurement"]["subject"]]
            (folder / "measurements.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        return folder

    return change
