"""EU-k: where the last layers begin, retraining as its limit, and that a class goes while the rest stays."""

import pytest
import torch

from efface.core.errors import BadConfig
from efface.families.classifier import Classifier
from efface.families.networks import SmallCNN, seeded
from efface.methods.eu_k import EUk
from efface.recipes.retrain import Retrain
from efface.testing.tiny import context, digits, tiny_classifier, trained_classifier

NONE = {"fit.epochs": 0, "fit.steps": 0}
LAST = ("stack.2.weight", "stack.2.bias", "stack.4.weight", "stack.4.bias")


def run(settings, subject=None, seed=0):
    ctx = context(seed)
    return EUk.set(settings).run(subject or trained_classifier(), digits().request, ctx), ctx


def test_formula():
    """Before training, the last two layers are those that seed 0 drew, bit for bit, and the first is the trained one."""
    after, ctx = run({**NONE, "seed": 0})
    initial, trained = tiny_classifier(0).model.state_dict(), trained_classifier(0).model.state_dict()
    for name, tensor in after.model.state_dict().items():
        assert torch.equal(tensor, (initial if name in LAST else trained)[name])
    assert ctx.notes["initial_weights"] == "those of seed 0"


def test_without_the_seed_new_weights_are_drawn():
    """They depend on the run's seed, and are neither the initial nor the trained ones."""
    found = [run(NONE, seed=seed)[0].model.state_dict()["stack.4.weight"] for seed in (0, 1)]
    others = [subject.model.state_dict()["stack.4.weight"] for subject in (tiny_classifier(0), trained_classifier(0))]
    assert all(not torch.equal(one, other) for one in found for other in others) and not torch.equal(*found)
    assert found[0].abs().max() <= 1 / 8  # torch draws a layer of 64 inputs within 1 / sqrt(64)
    assert "anew" in run(NONE)[1].notes["initial_weights"]


def test_forgets_and_keeps():
    """Calibration: unlearned accuracy 0 as after retraining, keep rows 100 %, test rows 98.2 %."""
    after, _ = run({"fit.lr": 0.05, "fit.epochs": 8})
    rows = digits()
    right = [(after.predict(part).argmax(1) == [row["y"] for row in part]).mean() for part in (rows.forget, rows.keep, rows.test)]
    assert right[0] == 0 and right[1] >= 0.98 and right[2] >= 0.95


def test_the_frozen_part_stays():
    """Batch normalization of the frozen part keeps its statistics; that of the last layers begins anew."""
    shape = {"side": 8, "widths": (4, 6), "embedding": 8}
    model = seeded(SmallCNN, 0, **shape)
    for part in (model.body[1], model.body[5]):
        part.running_mean.fill_(0.1)
    before = Classifier(model, shape)
    after, _ = run({"k": 3, "fit.epochs": 0, "fit.steps": 2}, before)
    old, new = before.model.state_dict(), after.model.state_dict()
    same = {name for name in new if torch.equal(new[name], old[name])}
    assert same == {name for name in new if name.startswith(("body.0", "body.1"))}
    assert not run({"k": 3, **NONE}, before)[0].model.body[5].running_mean.any()


def test_limits():
    """With all layers and the seed it is retraining from the same start, bit for bit."""
    few = {"fit.epochs": 0, "fit.steps": 6, "fit.batch": 64}
    settings = {f"fit.{name}": value for name, value in EUk().config.fit.model_dump().items()} | few
    other = Retrain.set(settings).run(tiny_classifier(0), digits().request, context())
    assert run({**few, "k": 3, "seed": 0})[0].digest == other.digest
    with pytest.raises(BadConfig, match="k = 4: MLP has 3 layers"):
        run({"k": 4})
    with pytest.raises(BadConfig, match="fit.rank = 2"):
        run({"fit.rank": 2})
