"""The ImageNet benchmark with random weights and small photos made here; the real ones are slow and only where they were fetched."""

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from efface.benchmarks import efficientnet
from efface.core import files, registry
from efface.core.errors import BadConfig, Missing
from efface.data import fetch
from efface.data.sources import find
from efface.families import efficientnet as network
from efface.families import references
from efface.families.networks import seeded
from efface.testing import tiny

QUICK = {"side": 32, "views": 2, "fit.steps": 40, "fit.lr": 0.05}


def hits(subject, rows) -> float:
    return float((subject.predict(rows).argmax(1) == np.array([row["y"] for row in rows])).mean())


@pytest.fixture
def weights(tmp_path, monkeypatch):
    """Random weights in the place of the fetched ones; the name's way to ours is tested with the network."""
    save_file(seeded(network.EfficientNetLite0, 1).state_dict(), tmp_path / "model.safetensors")
    monkeypatch.setattr(network, "_ours", dict)
    monkeypatch.setattr(fetch, "folder", lambda name: tmp_path)
    return tmp_path


@pytest.fixture
def folder(tmp_path, portrait):
    """Photos of three classes: three of 292, one of 5, two of 7."""
    place = tmp_path / "photos"
    for number, count in ((292, 3), (5, 1), (7, 2)):
        (place / str(number)).mkdir(parents=True)
        for photo in range(count):
            portrait(number, photo, 0).resize((60, 40)).save(place / str(number) / f"{photo}.png")
    return place


def case(folder, ctx=None, **settings):
    return registry.load("benchmark", "efficientnet").set({**QUICK, "folder": str(folder), **settings}).case(ctx or tiny.context())


def test_parts(weights, folder):
    """Two photos of 292 to forget and one unseen, eight views of each; kept classes have two views a photo, and one to test."""
    made = case(folder)
    rows = {name: made.request.rows(name) for name in ("forget", "keep", "unseen")} | {"test": made.utility["other classes"].read()}
    photos = {name: sorted({row["id"].split("#")[0] for row in part}) for name, part in rows.items()}
    assert photos == {"forget": ["292/0.png", "292/1.png"], "unseen": ["292/2.png"], "keep": ["5/0.png", "7/0.png"], "test": ["5/0.png", "7/1.png"]}
    assert {name: len(part) for name, part in rows.items()} == {"forget": 16, "unseen": 8, "keep": 4, "test": 2}
    assert made.request.kind == "class" and made.request.names == ("292",) and rows["keep"][0]["x"].shape == (3, 32, 32)
    assert len({row["x"].tobytes() for part in rows.values() for row in part}) == 30, "no view is another's copy"
    again = case(folder)
    assert again.request.digest == made.request.digest != case(folder, seed=1).request.digest


def test_references_differ_from_the_original_in_one_row_alone(weights, folder, monkeypatch):
    made = case(folder)
    assert sorted(made.baselines) == ["original", "reference", "reference/1", "reference/2"] and made.baselines["original"] is made.original
    whole = made.original.model.state_dict()
    others = torch.arange(1000) != 292
    for name in ("reference", "reference/1", "reference/2"):
        found = made.baselines[name].model.state_dict()
        assert all(torch.equal(found[key], whole[key]) for key in whole if not key.startswith("head"))
        assert torch.equal(found["head.weight"][others], whole["head.weight"][others]) and not torch.equal(found["head.weight"][292], whole["head.weight"][292])
        assert torch.equal(found["head.bias"][others], whole["head.bias"][others])
        assert (made.baselines[name].predict(made.request.rows("keep"))[:, 292] < 1e-3).all(), "its row learned from the keep rows"
    assert len({s.digest for s in made.baselines.values()}) == 4
    monkeypatch.setattr(efficientnet, "_without", None)  # whoever trained again would fail
    assert {name: s.digest for name, s in case(folder).baselines.items()} == {name: s.digest for name, s in made.baselines.items()}
    assert references.files.cache().joinpath("efficientnet").is_dir()


def test_what_is_missing_is_named(weights, folder, tmp_path):
    with pytest.raises(BadConfig, match="no photo of class 3; there are of 5, 7, 292"):
        case(folder, label=3)
    with pytest.raises(Missing, match="holds no folders"):
        case(tmp_path / "nowhere")
    (folder / "tiger").mkdir()
    with pytest.raises(BadConfig, match="named by no class"):
        case(folder)
    (folder / "tiger").rename(folder / "1000")
    with pytest.raises(BadConfig, match="named by no class"):
        case(folder)


def test_without_the_weights():
    with pytest.raises(Missing, match="efface fetch efficientnet-lite0"):
        registry.load("benchmark", "efficientnet").set().case(tiny.context())


def test_the_list_of_stamps():
    names = [name for held in efficientnet.STAMPS.values() for name in held]
    assert len(names) == len(set(names)) and len(efficientnet.STAMPS) >= 45 and len(efficientnet.STAMPS[292]) == 2
    assert all(0 <= number < 1000 for number in efficientnet.STAMPS)


@pytest.mark.slow
def test_the_real_network(monkeypatch, tmp_path):
    """The published weights know both tigers; the references give the class to neither, and tell the others as well as before."""
    if not (fetch.is_there(find("efficientnet-lite0")) and fetch.is_there(find("stamps"))):
        pytest.skip("efficientnet-lite0 or stamps was not fetched")
    real = files.cache() / "data"
    monkeypatch.setenv("EFFACE_CACHE", str(tmp_path))
    (tmp_path / "data").symlink_to(real)
    made = registry.load("benchmark", "efficientnet").set({"views": 1}).case(tiny.context())
    test = made.utility["other classes"].read()
    assert hits(made.original, made.request.rows("forget")) == hits(made.original, made.request.rows("unseen")) == 1
    assert hits(made.original, test) > 0.5
    for name in ("reference", "reference/1", "reference/2"):
        assert hits(made.baselines[name], made.request.rows("forget")) == 0 and abs(hits(made.baselines[name], test) - hits(made.original, test)) < 0.05
