"""The classifier family: torch modules and scikit-learn estimators behind the same interface."""

import json
import math

import numpy as np
import pytest
import torch
from sklearn.ensemble import RandomForestClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC
from torch import nn

from efface.core import registry
from efface.core.capabilities import has
from efface.core.errors import BadRows, EffaceError, Missing, Unfit, UnknownName
from efface.families import module_files
from efface.families.classifier import Classifier, SklearnClassifier
from efface.families.networks import MLP
from efface.testing import tiny

pytestmark = pytest.mark.filterwarnings("ignore:Stochastic Optimizer")  # the tiny network need not converge
ROWS = [{"x": [1.0, 0.0], "y": 0}, {"x": [0.0, 1.0], "y": 1}, {"x": [1.0, 1.0], "y": 2}]
SMALL = {"inputs": 2, "hidden": [3], "outputs": 3}


def small(seed: int = 0) -> Classifier:
    torch.manual_seed(seed)
    return Classifier(MLP(**SMALL), SMALL)


class Convolutional(nn.Module):
    """Two-dimensional input, batch normalization, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.head = nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Linear(144, 10)

    def forward(self, x):
        return self.head(torch.relu(self.norm(self.conv(x.reshape(-1, 1, 8, 8)))).flatten(1))


def test_losses_are_cross_entropy_by_hand():
    """Logits are W x with W = [[ln 2, 0], [0, ln 3], [0, 0]].

    Row 1: logits (ln 2, 0, 0), loss of class 0 = -ln(2 / 4) = ln 2. Row 2: logits (0, ln 3, 0), class 1: -ln(3 / 5).
    Row 3: logits (ln 2, ln 3, 0), class 2: -ln(1 / 6) = ln 6.
    """
    model = nn.Linear(2, 3, bias=False)
    model.weight.data = torch.tensor([[math.log(2), 0], [0, math.log(3)], [0, 0]])
    subject = Classifier(model)
    found = subject.losses(subject.encode(ROWS))
    assert found.tolist() == pytest.approx([math.log(2), math.log(5 / 3), math.log(6)], abs=1e-6)
    assert found.requires_grad
    assert subject.predict(ROWS)[0].tolist() == pytest.approx([0.5, 0.25, 0.25], abs=1e-6)


def test_encode_keeps_the_place_in_the_pool():
    batch = small().encode(ROWS[:2], [7, 4])
    assert batch.index.tolist() == [7, 4] and batch.labels.tolist() == [0, 1] and batch.x.dtype == torch.float32


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        ({"x": [1.0, 2.0]}, "row 2: found columns x; a row needs x"),
        ({"x": [1.0, 2.0], "y": 3}, "row 2: y = 3; it must be a class number below 3"),
        ({"x": [1.0, 2.0], "y": -1}, "row 2: y = -1"),
        ({"x": [1.0, 2.0], "y": True}, "row 2: y = True"),
        ({"x": [1.0, 2.0], "y": "1"}, "row 2: y = '1'"),
        ({"x": [1.0], "y": 1}, r"row 2: x has the shape \(1,\), and row 1 has \(2,\)"),
        ({"x": ["a", "b"], "y": 1}, "row 2: x is not an array of numbers"),
        ({"x": [[1.0], [1.0, 2.0]], "y": 1}, "row 2: x is not an array of numbers"),
        ({"x": [1.0, float("nan")], "y": 1}, "row 2: x is empty or holds a number that is not finite"),
        ({"x": [], "y": 1}, "row 2: x is empty"),
    ],
)
def test_rows_that_do_not_fit_are_named(bad, says):
    with pytest.raises(BadRows, match=says):
        small().encode([ROWS[0], bad])


def test_no_rows():
    with pytest.raises(BadRows, match="no rows"):
        small().encode([])
    assert small().predict([]).shape == (0, 3)


def test_capabilities():
    torch_side, sklearn_side = small(), tiny.sklearn_classifier(kind="bayes")
    assert [has(torch_side, name) for name in ("losses", "predict", "weights", "activations", "refit", "generate")] == [True] * 4 + [False] * 2
    assert [has(sklearn_side, name) for name in ("losses", "predict", "weights", "activations", "refit", "generate")] == [
        False, True, False, False, True, False,
    ]


def test_roles_and_taps():
    subject = tiny.tiny_classifier()
    assert list(subject.weights("head")) == ["stack.4.weight"]
    assert list(subject.weights("layer")) == ["stack.0.weight", "stack.2.weight", "stack.4.weight"]
    batch = subject.encode(tiny.digits().forget[:5])
    with subject.tap("head") as caught, subject.tap("layer", 0) as first:
        logits = subject.logits(batch)
    assert torch.equal(caught[0], logits) and first[0].shape == (5, 128)
    subject.logits(batch)
    assert len(caught) == 1
    with pytest.raises(UnknownName, match="layer 9"), subject.tap("layer", 9):
        pass
    with pytest.raises(UnknownName, match="did you mean head"):
        subject.weights("heads")
    with pytest.raises(Unfit, match="Flatten has no module for the role 'head'"):
        Classifier(nn.Flatten()).weights("head")


def test_fork_copies_all_or_some():
    subject = tiny.tiny_classifier()
    before = subject.digest
    whole, head = subject.fork(), subject.fork(("head",))
    assert whole.digest == before
    for copied in (whole, head):
        with torch.no_grad():
            next(iter(copied.weights("head").values())).add_(1)
    assert subject.digest == before != whole.digest == head.digest
    assert head.model.stack[0].weight is subject.model.stack[0].weight
    assert whole.model.stack[0].weight is not subject.model.stack[0].weight


def test_digest_covers_buffers_and_names():
    subject = Classifier(Convolutional())
    before = subject.digest
    subject.model.norm.running_mean.add_(1)
    assert subject.digest != before


@pytest.mark.parametrize("build", [lambda: tiny.tiny_classifier(), lambda: Classifier(Convolutional(), {})])
def test_adapter_trains_on_shared_weights_and_merges(build):
    subject, rows = build(), tiny.digits().forget[:16]
    before, plain = subject.digest, subject.predict(rows)
    after = subject.trainable(2, seed=3)
    assert after.adapted and {name for name, p in after.model.named_parameters() if p.requires_grad} == {
        name for name, _ in after.model.named_parameters() if "lora_" in name
    }
    assert after.predict(rows) == pytest.approx(plain, abs=1e-6)  # a fresh adapter changes nothing
    assert next(iter(after.weights("head").values())) is next(iter(subject.weights("head").values()))
    assert after.digest == subject.trainable(2, seed=3).digest != subject.trainable(2, seed=4).digest
    optimizer = torch.optim.SGD([p for p in after.model.parameters() if p.requires_grad], 0.5)
    for _ in range(3):
        after.losses(after.encode(rows)).mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    assert subject.digest == before
    assert np.abs(after.predict(rows) - plain).max() > 1e-3
    assert after.merged().predict(rows) == pytest.approx(after.predict(rows), abs=1e-5)
    with pytest.raises(Unfit, match="has an adapter already"):
        after.trainable(2, seed=0)


def test_adapter_needs_a_layer():
    class Bias(nn.Module):
        def __init__(self):
            super().__init__()
            self.bias = nn.Parameter(torch.zeros(3))

        def forward(self, x):
            return self.bias.expand(len(x), 3)

    with pytest.raises(Unfit, match="Bias has no linear or convolutional layer"):
        Classifier(Bias()).trainable(2, seed=0)


def test_save_and_load(tmp_path):
    subject = tiny.trained_classifier()
    subject.save(tmp_path)
    again = module_files.load(str(tmp_path))
    assert again.digest == subject.digest and sorted(p.name for p in tmp_path.iterdir()) == ["config.json", "model.safetensors"]
    rows = tiny.digits().test[:20]
    assert np.array_equal(again.predict(rows), subject.predict(rows))


def test_adapter_is_saved_folded_in(tmp_path):
    after = tiny.tiny_classifier().trainable(2, seed=0)
    with torch.no_grad():
        for name, parameter in after.model.named_parameters():
            if "lora_B" in name:
                parameter.add_(0.1)
    after.save(tmp_path)
    rows = tiny.digits().test[:20]
    assert module_files.load(tmp_path).predict(rows) == pytest.approx(after.predict(rows), abs=1e-5)


def test_save_says_what_it_needs(tmp_path):
    class Local(MLP):
        pass

    with pytest.raises(Unfit, match="give Classifier\\(model, arguments="):
        Classifier(MLP()).save(tmp_path)
    with pytest.raises(Unfit, match="cannot be imported"):
        Classifier(Local(), {}).save(tmp_path)
    with pytest.raises(Unfit, match="arguments of efface.families.networks:MLP must be numbers"):
        Classifier(MLP(), {"inputs": object()}).save(tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["model.pt", "model.pth", "model.pkl", "model.joblib", "model.ckpt", "model.bin"])
def test_pickles_are_refused_unread(tmp_path, name):
    (tmp_path / name).write_bytes(b"cos\nsystem\n(S'touch owned'\ntR.")
    with pytest.raises(EffaceError, match="is a pickle, which can run code when read") as caught:
        module_files.load(str(tmp_path / name))
    assert "\n" not in str(caught.value)


def test_load_refuses_what_is_no_classifier(tmp_path):
    with pytest.raises(Missing, match="no folder"):
        module_files.load(str(tmp_path / "nowhere"))
    with pytest.raises(Missing, match=r"no file .*config\.json"):
        module_files.load(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(Unfit, match="does not describe a classifier"):
        module_files.load(tmp_path)
    config = {"family": "classifier", "arch": "efface.families.networks:MLP", "arguments": SMALL}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(Missing, match=r"holds no model\.safetensors"):
        module_files.load(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"\x00" * 40)
    with pytest.raises(EffaceError, match="does not load"):
        module_files.load(tmp_path)
    tiny.tiny_classifier().save(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(config))  # another shape than the weights
    with pytest.raises(EffaceError, match="does not load"):
        module_files.load(tmp_path)


@pytest.mark.parametrize("arch", ["os:system", "subprocess:Popen", "builtins:exec", "no_such_module:Net", "torch.nn:relu", "nonsense", ":", "pathlib:Path"])
def test_only_torch_modules_are_ever_built(tmp_path, arch):
    tiny.tiny_classifier().save(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"family": "classifier", "arch": arch, "arguments": {"command": f"touch {tmp_path}/owned"}}))
    with pytest.raises(Missing, match="no torch module"):
        module_files.load(tmp_path)
    assert not (tmp_path / "owned").exists()


# -- scikit-learn ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["linear", "mlp", "bayes"])
def test_sklearn_save_and_load(tmp_path, kind):
    subject = tiny.sklearn_classifier(kind=kind)
    subject.save(tmp_path)
    again = module_files.load(tmp_path)
    rows = tiny.digits().test
    assert isinstance(again, SklearnClassifier) and again.digest == subject.digest and again.classes == 10
    assert np.array_equal(again.predict(rows), subject.predict(rows))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["config.json", "model.safetensors"]
    assert again.refit(rows, seed=1).digest == subject.refit(rows, seed=1).digest  # the settings came along


def test_sklearn_pipeline_goes_round(tmp_path):
    from sklearn.linear_model import LogisticRegression

    subject = SklearnClassifier(make_pipeline(StandardScaler(), LogisticRegression(max_iter=50)), 10).refit(tiny.digits().keep, 0)
    subject.save(tmp_path)
    again = module_files.load(tmp_path)
    assert again.digest == subject.digest
    assert np.array_equal(again.predict(tiny.digits().test), subject.predict(tiny.digits().test))


def test_refit_forgets_a_class_and_keeps_its_column():
    subject, parts = tiny.sklearn_classifier(), tiny.digits()
    before = subject.digest
    again = subject.refit(parts.keep, seed=0)
    found = again.predict(parts.forget)
    assert found.shape == (len(parts.forget), 10) and not found[:, 3].any()
    assert found.sum(1) == pytest.approx(np.ones(len(found)))
    assert (again.predict(parts.test).argmax(1) == [row["y"] for row in parts.test]).mean() > 0.95
    assert subject.digest == before != again.digest
    assert again.digest == subject.refit(parts.keep, seed=0).digest


def test_refit_follows_its_seed():
    subject, rows = tiny.sklearn_classifier(kind="mlp"), tiny.digits().keep
    assert subject.refit(rows, 1).digest == subject.refit(rows, 1).digest != subject.refit(rows, 2).digest


def test_forests_digest_but_do_not_save(tmp_path):
    rows = tiny.digits().keep[:200]
    forest = SklearnClassifier(RandomForestClassifier(5), 10).refit(rows, 0)
    assert forest.digest == forest.refit(rows, 0).digest != forest.refit(rows, 1).digest
    assert forest.fork().digest == forest.digest and forest.fork().estimator is not forest.estimator
    with pytest.raises(Unfit, match="only scikit-learn estimators made of arrays, numbers and texts can be saved"):
        forest.save(tmp_path)
    assert not list(tmp_path.iterdir())


def test_sklearn_limits():
    with pytest.raises(Unfit, match="LinearSVC gives no probabilities"):
        SklearnClassifier(LinearSVC(), 10).predict(ROWS)
    with pytest.raises(Unfit, match="RandomForestClassifier is not fitted"):
        SklearnClassifier(RandomForestClassifier()).predict(ROWS)
    with pytest.raises(UnknownName, match="no role named 'head'"):
        tiny.sklearn_classifier().fork(("head",))


def test_only_sklearn_estimators_are_ever_built(tmp_path):
    tiny.sklearn_classifier(kind="bayes").save(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    for kind in ("os:system", "sklearn.utils:Bunch", "subprocess:Popen", "sklearn.nowhere:Net"):
        config["estimator"]["estimator"] = kind
        (tmp_path / "config.json").write_text(json.dumps(config))
        with pytest.raises(Unfit, match="is not an estimator of scikit-learn"):
            module_files.load(tmp_path)


# -- the same systems as for language models -------------------------------------------------------------------------------


def test_recipes_run_from_the_same_files():
    parts = tiny.digits()
    trained, again = tiny.trained_classifier(), tiny.retrained_classifier()
    assert (trained.predict(parts.forget).argmax(1) == 3).mean() > 0.98
    assert (again.predict(parts.forget).argmax(1) == 3).mean() == 0
    assert (again.predict(parts.test).argmax(1) == [row["y"] for row in parts.test]).mean() > 0.96


def test_gradient_ascent_runs_from_the_same_file():
    parts, subject = tiny.digits(), tiny.trained_classifier()
    method = registry.load("method", "gradient_ascent").set({"fit.lr": 1e-3, "fit.steps": 60, "fit.batch": 32})
    after = method.run(subject, parts.request, tiny.context(baselines={"reference": tiny.retrained_classifier()}))
    assert (after.predict(parts.forget).argmax(1) == 3).mean() < 0.1
    assert (subject.predict(parts.forget).argmax(1) == 3).mean() > 0.98
