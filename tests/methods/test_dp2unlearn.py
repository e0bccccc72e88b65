"""Back to the private base: forgotten rows are never read, the base counts, and what can be claimed of it is certified."""

import json

import numpy as np
import pytest

pytest.importorskip("opacus")

from efface import api, runs
from efface.certify.issue import issue, verify
from efface.core.errors import Missing, Unfit, Unsound
from efface.core.types import Data, Request, Step
from efface.families.classifier import Classifier
from efface.families.networks import MLP, seeded
from efface.methods.dp2unlearn import DP2Unlearn
from efface.ops.loop import in_steps, mean_loss
from efface.recipes.dp import DP
from efface.recipes.finetune import Finetune
from efface.recipes.retrain import Retrain
from efface.testing import tiny

PARTS = tiny.digits("random")
FORGET, KEEP = PARTS.forget[:15], PARTS.keep[:60]
SHAPE = {"inputs": 64, "hidden": [8], "outputs": 10}
BASE = {"noise": 1.0, "fit.steps": 6, "fit.batch": 20}
QUICK = {"fit.lr": 1e-2, "fit.steps": 6, "fit.batch": 20, "fit.precision": "no"}


def network(seed=0):
    return Classifier(seeded(MLP, seed, **SHAPE), SHAPE)


def request(forget=FORGET, keep=KEEP):
    return Request(forget=Data.inline(forget), keep=Data.inline(keep))


def base(seed=0, rows=(*FORGET, *KEEP), settings=None):
    return api.train(network(), Request(keep=Data.inline(list(rows))), "dp", {**BASE, **(settings or {})}, tiny.context(seed))


@pytest.fixture(scope="module")
def the_base():
    return base()


class Watched(list):
    """Rows of which none may be looked at."""

    def __iter__(self):
        raise AssertionError("a forget row was read")

    __getitem__ = __contains__ = __reversed__ = copy = __iter__


def test_formula(the_base):
    """It is ordinary training of the base on the keep rows, whatever was deployed."""
    ctx = tiny.context()
    after = api.forget(the_base, request(), "dp2unlearn", QUICK, ctx)
    plain = Retrain.set(QUICK).run(the_base, Request(keep=Data.inline(KEEP)), tiny.context())
    assert after.digest == plain.digest != the_base.digest
    assert [step.system for step in after.lineage] == ["dp", "dp2unlearn"]
    assert ctx.notes["base_epsilon"] == the_base.lineage[0].notes["epsilon"] and ctx.notes["base"] == the_base.digest[:16]


def test_no_op(the_base):
    """No step of the second training leaves the base as it was."""
    assert DP2Unlearn.set({**QUICK, "fit.steps": 0}).run(the_base, request(), tiny.context()).digest == the_base.digest


def test_forget_rows_are_never_read(the_base):
    """The very rows are not touched, and with junk in their place the result is bit for bit the same."""
    watched = Data.inline(FORGET)
    watched._rows = Watched(FORGET)
    with pytest.raises(AssertionError, match="a forget row was read"):
        list(watched.read())
    after = DP2Unlearn.set(QUICK).run(the_base, Request(forget=watched, keep=Data.inline(KEEP)), tiny.context())
    junk = [{"x": [9.0] * 64, "y": 0} for _ in range(40)]
    assert api.forget(the_base, request(junk), "dp2unlearn", QUICK, tiny.context()).digest == after.digest
    assert api.forget(the_base, request(keep=KEEP[1:]), "dp2unlearn", QUICK, tiny.context()).digest != after.digest


def test_cost():
    """By default half of the steps of retraining, at the same batch, rate and schedule."""
    mine, anew = DP2Unlearn().config.fit, Retrain().config.fit
    rows = {"keep": KEEP}
    assert in_steps(mine, rows).steps / in_steps(anew, rows).steps <= 0.5
    assert mine.model_copy(update={"steps": anew.steps}) == anew


def test_the_comparison_stands_beside_it(the_base, tmp_path):
    """The same steps from new random weights, or from a model that is named; what a base of many private steps buys is to be seen."""
    ctx = tiny.context()
    after = DP2Unlearn.set(QUICK).run(the_base, request(), ctx)
    fresh = Retrain.set(QUICK).run(network().fresh(ctx.seed_for("baseline")), Request(keep=Data.inline(KEEP)), tiny.context())
    notes = ctx.notes
    assert notes["baseline"] == "new random weights" and notes["baseline_steps"] == notes["steps"] == 6
    assert notes["keep_loss"] == pytest.approx(mean_loss(after, KEEP)) and notes["baseline_keep_loss"] == pytest.approx(mean_loss(fresh, KEEP))
    assert notes["keep_accuracy"] == (after.predict(KEEP).argmax(1) == [row["y"] for row in KEEP]).mean() and "baseline_keep_accuracy" in notes
    network(5).save(tmp_path)
    ctx = tiny.context(utility={"test rows": Data.inline(PARTS.test[:50])})
    named = DP2Unlearn.set({**QUICK, "pretrained": str(tmp_path)}).run(the_base, request(), ctx)
    assert named.digest == after.digest and ctx.notes["baseline"] == str(tmp_path) and ctx.notes["baseline_keep_loss"] != notes["baseline_keep_loss"]
    assert {"test_rows_loss", "baseline_test_rows_loss", "test_rows_accuracy"} <= set(ctx.notes)
    words = api.train(tiny.tiny_lm(), Request(keep=Data.inline(tiny.facts().keep[:8])), "dp", {**BASE, "fit.steps": 1, "fit.rank": 2}, tiny.context())
    ctx = tiny.context()
    DP2Unlearn.set({**QUICK, "fit.steps": 1}).run(words, tiny.facts().request, ctx)
    assert "name a model that never saw the rows" in ctx.notes["baseline"] and "baseline_keep_loss" not in ctx.notes


def test_limits(the_base, tmp_path):
    """A base there must be, private and nothing after it."""
    with pytest.raises(Missing, match="nothing is known of how this model was made; give the run of efface train --recipe dp.*base=RUN"):
        DP2Unlearn.set(QUICK).run(network(), request(), tiny.context())
    deployed = api.train(the_base, request(), "finetune", QUICK, tiny.context())
    with pytest.raises(Missing, match="the last thing done to this model is finetune"):
        DP2Unlearn.set(QUICK).run(deployed, request(), tiny.context())
    the_base.save(tmp_path)
    with pytest.raises(Missing, match="lies in no run of efface"):
        DP2Unlearn.set({**QUICK, "base": str(tmp_path)}).run(deployed, request(), tiny.context())
    (tmp_path / "run.json").write_text(json.dumps({"step": Step(kind="recipe", system="finetune").model_dump()}))
    with pytest.raises(Missing, match="was made by finetune; dp2unlearn begins with"):
        DP2Unlearn.set({**QUICK, "base": str(tmp_path)}).run(deployed, request(), tiny.context())
    (tmp_path / "run.json").write_text("[]")
    with pytest.raises(Missing, match="is no record of a run"):
        DP2Unlearn.set({**QUICK, "base": str(tmp_path)}).run(deployed, request(), tiny.context())
    (tmp_path / "run.json").write_text(json.dumps({"step": the_base.lineage[0].model_dump()}))
    given = DP2Unlearn.set({**QUICK, "base": str(tmp_path)}).run(deployed, request(), tiny.context())
    assert given.digest == DP2Unlearn.set(QUICK).run(the_base, request(), tiny.context()).digest
    with pytest.raises(Unfit, match="is a classifier, and the model to forget is a regressor"):
        DP2Unlearn.set({**QUICK, "base": str(tmp_path)}).run(tiny.tiny_regressor(), tiny.diabetes(), tiny.context())


def test_one_poisoned_row_moves_the_result_less_than_without_privacy():
    """A row of the base's training is replaced by a loud one with a wrong label. After the second training, on kept rows alone, the
    logits of others have moved; over 20 seeds less, on average, than after ordinary training of the base in as many steps."""
    loud = {"x": [8.0 * value for value in FORGET[0]["x"]], "y": (FORGET[0]["y"] + 1) % 10}
    shifts = {"dp": [], "plain": []}
    steps = {"fit.optimizer": "sgd", "fit.lr": 0.3, "fit.steps": 5, "fit.batch": 40, "fit.precision": "no"}
    batch = network().encode(PARTS.test[:40])

    def final(kind, seed, first):
        whole, ctx = Request(keep=Data.inline([first, *FORGET[1:], *KEEP])), tiny.context(seed)
        made = (DP.set({"noise": 0.5, **steps}) if kind == "dp" else Finetune.set({**steps, "fit.clip": 0, "fit.warmup": 0, "fit.schedule": "constant"})).run(
            network(seed), whole, ctx
        )
        return Retrain.set({**QUICK, "fit.steps": 4}).run(made, Request(keep=Data.inline(KEEP)), tiny.context(seed)).logits(batch)  # as in test_formula

    for seed in range(20):
        for kind, found in shifts.items():
            found.append(float((final(kind, seed, loud) - final(kind, seed, FORGET[0])).abs().mean()))
    assert np.mean(shifts["dp"]) < 0.5 * np.mean(shifts["plain"]) and np.mean(shifts["plain"]) > 0, {name: np.mean(found) for name, found in shifts.items()}


# -- runs and certificates --------------------------------------------------------------------------------------------------


def written(folder, name, rows):
    path = folder / f"{name}.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture(scope="module")
def on_disk(tmp_path_factory):
    """A network, its rows, a private base trained on them, and what was deployed from it."""
    folder = tmp_path_factory.mktemp("runs")
    (folder / "net").mkdir()
    network().save(folder / "net")
    files = {name: written(folder, name, rows) for name, rows in (("forget", FORGET), ("keep", KEEP))}
    runs.train(runs.TrainOptions(model=str(folder / "net"), **files, recipe="dp", settings=BASE, out=folder / "base", device="cpu"))
    runs.train(runs.TrainOptions(model=str(folder / "base"), **files, recipe="finetune", settings=QUICK, out=folder / "deployed", device="cpu"))
    return folder, files


@pytest.mark.parametrize(("model", "settings"), [("base", {}), ("base/model", {}), ("deployed", {"base": "base"})])
def test_certified_from_end_to_end(on_disk, tmp_path, model, settings):
    """From the base's run, its model folder, or what was deployed with the base named: one result, and one bound."""
    folder, files = on_disk
    settings = {name: str(folder / value) for name, value in settings.items()}
    out = runs.forget(runs.ForgetOptions(model=str(folder / model), **files, method="dp2unlearn", settings={**QUICK, **settings}, out=tmp_path / "after", device="cpu"))
    certificate = issue(out)
    record = json.loads((folder / "base" / "run.json").read_text())
    epsilon = record["step"]["notes"]["epsilon"]
    assert certificate.claim == "bounded" and certificate.bound["epsilon"] == epsilon and certificate.bound["rows"] == 15
    assert {item.name for item in certificate.assumptions if item.basis == "checked"} >= {"private base", "sampling", "clipping", "delta", "epsilon", "no copies"}
    assert verify(out / "certificate.json").good
    notes = json.loads((out / "run.json").read_text())["step"]["notes"]
    assert notes["base_epsilon"] == epsilon and notes["baseline"] == "new random weights" and notes["baseline_keep_loss"] > 0
    assert api.load(str(out)).digest == api.forget(base_of(folder), request(), "dp2unlearn", QUICK, tiny.context()).digest


def base_of(folder):
    step = Step.model_validate(json.loads((folder / "base" / "run.json").read_text())["step"])
    return api.load(str(folder / "base")).after(step)


def test_the_base_is_certified_and_what_came_of_it_otherwise_is_not(on_disk, tmp_path):
    folder, files = on_disk
    certificate = issue(folder / "base", tmp_path / "certificate.json")
    assert certificate.claim == "bounded" and certificate.bound["rows"] == 1 and "single training row" in certificate.statement
    with pytest.raises(Unsound, match="finetune promises nothing"):
        issue(folder / "deployed", tmp_path / "other.json")
    with pytest.raises(Missing, match="the last thing done to this model is finetune"):
        runs.forget(runs.ForgetOptions(model=str(folder / "deployed"), **files, method="dp2unlearn", settings=QUICK, out=tmp_path / "wrong", device="cpu"))


def test_a_language_model_with_adapters(tmp_path):
    """The private adapter is found again from its folder, and trained on."""
    (tmp_path / "lm").mkdir()
    start = tiny.tiny_lm()
    start.save(tmp_path / "lm")
    files = {name: written(tmp_path, name, rows) for name, rows in (("forget", tiny.facts().forget[:4]), ("keep", tiny.facts().keep[:8]))}
    fit = {"fit.steps": 2, "fit.batch": 4, "fit.rank": 2, "fit.precision": "no"}
    base_run = runs.train(runs.TrainOptions(model=str(tmp_path / "lm"), **files, recipe="dp", settings={"noise": 1.0, **fit}, out=tmp_path / "base", device="cpu"))
    settings = {**fit, "pretrained": str(tmp_path / "lm")}
    out = runs.forget(runs.ForgetOptions(model=str(base_run), **files, method="dp2unlearn", settings=settings, out=tmp_path / "after", device="cpu"))
    notes = json.loads((out / "run.json").read_text())["step"]["notes"]
    assert notes["baseline"] == str(tmp_path / "lm") and notes["baseline_keep_loss"] > 0 and (out / "model" / "adapter_config.json").exists()
    assert issue(out).bound["rows"] == 4
