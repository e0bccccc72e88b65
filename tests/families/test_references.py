"""A benchmark's models: reproducible, trained once, damaged ones made again, and an interrupted training that goes on."""

import numpy as np
import pytest
import torch

from efface.core import files
from efface.core.config import Fit
from efface.core.types import Data, Request
from efface.families.classifier import Classifier
from efface.families.networks import SmallCNN, seeded
from efface.families.references import trained
from efface.testing.tiny import context

FIT = Fit(lr=1e-2, steps=12, batch=8, precision="no", checkpoint=4)
NAMES = ["original", "reference", "reference/1", "reference/2"]


def start(seed):
    """A network with normalization, whose running statistics are part of what must be resumed."""
    shape = {"channels": 1, "side": 8, "outputs": 3, "widths": [4, 8], "embedding": 8}
    return Classifier(seeded(SmallCNN, seed, **shape), shape)


def rows(count, seed):
    source = np.random.default_rng(seed)
    return [{"x": source.random((1, 8, 8), dtype=np.float32), "y": int(source.integers(3)), "id": at} for at in range(count)]


@pytest.fixture
def request_of():
    return Request(forget=Data.inline(rows(8, 1)), keep=Data.inline(rows(24, 2)))


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("EFFACE_CACHE", str(tmp_path))
    return tmp_path / "bench"


def test_four_models_that_depend_on_the_seed_alone(request_of):
    one, other, more = (trained(start, request_of, FIT, context(seed)) for seed in (0, 0, 1))
    assert list(one) == NAMES and len({s.digest for s in one.values()}) == 4
    assert [s.digest for s in one.values()] == [s.digest for s in other.values()]
    assert not {s.digest for s in one.values()} & {s.digest for s in more.values()}


def test_the_references_saw_no_forget_row(request_of):
    """Other forget rows change the original alone."""
    other = request_of.model_copy(update={"forget": Data.inline(rows(8, 3))})
    one, two = trained(start, request_of, FIT, context()), trained(start, other, FIT, context())
    assert [one[name].digest == two[name].digest for name in NAMES] == [False, True, True, True]


def test_the_cache_gives_the_same_weights_and_trains_once(request_of, cache, monkeypatch):
    plain = trained(start, request_of, FIT, context())
    first = trained(start, request_of, FIT, context(), "bench")
    folders = sorted(cache.iterdir())
    assert len(folders) == 4 and all((folder / "trained.json").exists() for folder in folders), "and no half one is left"
    monkeypatch.setattr("efface.families.references._run", None)  # whoever trained again would fail
    second = trained(start, request_of, FIT, context(), "bench")
    assert [s.digest for s in plain.values()] == [s.digest for s in first.values()] == [s.digest for s in second.values()]


def test_a_change_of_anything_trains_anew(request_of, cache):
    trained(start, request_of, FIT, context(), "bench")
    for count, changed in ((8, (request_of, FIT.model_copy(update={"lr": 2e-2}), 0)), (12, (request_of, FIT, 5))):
        asked, fit, seed = changed
        trained(start, asked, fit, context(seed), "bench")
        assert len(list(cache.iterdir())) == count
    trained(start, request_of.model_copy(update={"forget": Data.inline(rows(8, 3))}), FIT, context(), "bench")
    assert len(list(cache.iterdir())) == 13, "other forget rows need another original and the same references"
    trained(start, request_of, FIT.model_copy(update={"checkpoint": 3}), context(), "bench")
    assert len(list(cache.iterdir())) == 13, "how often a checkpoint is saved changes nothing"


def test_a_damaged_model_is_made_again(request_of, cache):
    first = trained(start, request_of, FIT, context(), "bench")
    weights = next(cache.glob("*/model.safetensors"))
    weights.write_bytes(weights.read_bytes()[:-4] + b"\0\0\x80\x3f")
    assert [s.digest for s in trained(start, request_of, FIT, context(), "bench").values()] == [s.digest for s in first.values()]
    weights.write_bytes(b"half")
    assert [s.digest for s in trained(start, request_of, FIT, context(), "bench").values()] == [s.digest for s in first.values()]
    files.write_json(weights.with_name("trained.json"), {})
    assert [s.digest for s in trained(start, request_of, FIT, context(), "bench").values()] == [s.digest for s in first.values()]


def test_a_stopped_training_goes_on_to_the_same_weights(request_of, cache):
    """Stopped in the sixth step of the second model: the first is there already, the second goes on from step 4."""
    whole = trained(start, request_of, FIT, context())
    told = []

    def stopping(items, label, total):
        for item in items:
            told.append(label)
            if told.count("training") == 13 + 6:
                raise KeyboardInterrupt
            yield item

    with pytest.raises(KeyboardInterrupt):
        trained(start, request_of, FIT, context(progress=stopping), "bench")
    assert len(list(cache.glob("*/trained.json"))) == 1 and len(list(cache.glob("*.partial/checkpoint/state.json"))) == 1
    steps = []

    def counting(items, label, total):
        steps.append((label, total))
        return iter(items)

    again = trained(start, request_of, FIT, context(progress=counting), "bench")
    assert [total for label, total in steps if label == "training"] == [9, 13, 13]
    assert [s.digest for s in again.values()] == [s.digest for s in whole.values()]
    assert not list(cache.glob("*.partial"))


def test_global_random_state_is_left_alone(request_of, cache):
    before = torch.random.get_rng_state(), np.random.get_state()[1].copy()
    trained(start, request_of, FIT, context(), "bench")
    assert torch.equal(before[0], torch.random.get_rng_state()) and (before[1] == np.random.get_state()[1]).all()
