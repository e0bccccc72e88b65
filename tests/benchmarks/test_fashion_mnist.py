"""Fashion-MNIST from small idx files made here in the real layout; the real ones are slow and only where they were fetched."""

import gzip
import json
import struct

import numpy as np
import pytest

from efface.benchmarks import fashion_mnist
from efface.core import files, registry
from efface.core.errors import BadConfig, BadRows, Missing
from efface.data import fetch
from efface.data.sources import find
from efface.families import references
from efface.testing import tiny

QUICK = {"fit.epochs": 0, "fit.steps": 60, "fit.batch": 32, "fit.lr": 5e-3, "noisy_fit.epochs": 0, "noisy_fit.steps": 4, "train_rows": 300, "test_rows": 150}


def hits(subject, rows) -> float:
    return float((subject.predict(rows).argmax(1) == np.array([row["y"] for row in rows])).mean())


def idx(array):
    return gzip.compress(bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.astype(np.uint8).tobytes())


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """400 + 200 pictures: class c is a bright block in a place of its own, with noise over it."""
    place, source = tmp_path_factory.mktemp("idx"), np.random.default_rng(0)
    for part, count in (("train", 400), ("t10k", 200)):
        labels = np.arange(count) % 10
        pictures = source.integers(0, 60, (count, 28, 28))
        for at, label in enumerate(labels):
            pictures[at, 4 + 10 * (label // 5) : 12 + 10 * (label // 5), 5 * (label % 5) : 5 * (label % 5) + 6] += 180
        (place / f"{part}-images-idx3-ubyte.gz").write_bytes(idx(pictures))
        (place / f"{part}-labels-idx1-ubyte.gz").write_bytes(idx(labels))
    return place


def case(folder, ctx=None, **settings):
    return registry.load("benchmark", "fashion_mnist").set({**QUICK, "folder": str(folder), **settings}).case(ctx or tiny.context())


def test_class_case(folder):
    """The original knows the class, three references never saw it, and all know the rest; the second time nothing is trained."""
    made = case(folder)
    assert sorted(made.baselines) == ["original", "reference", "reference/1", "reference/2"] and made.name == "fashion_mnist/class"
    forget, test = made.request.rows("forget"), made.utility["test rows"].read()
    assert {row["y"] for row in forget} == {7} == {row["y"] for row in made.request.rows("unseen")} and made.request.names == ("7",)
    assert forget[0]["x"].shape == (1, 28, 28) and 0 <= forget[0]["x"].min() < forget[0]["x"].max() <= 1
    assert len(forget) + len(made.request.rows("keep")) == 300 and len(test) + len(made.request.rows("unseen")) == 150
    assert hits(made.original, forget) > 0.9 and hits(made.original, test) > 0.9
    for name in ("reference", "reference/1", "reference/2"):
        assert hits(made.baselines[name], forget) == 0 and hits(made.baselines[name], test) > 0.9
    again = case(folder)
    assert [s.digest for s in again.baselines.values()] == [s.digest for s in made.baselines.values()]


def test_other_scenarios(folder):
    """Sub-class: sneakers among what is for any season, four labels. Noisy: 30 of 300 labels are wrong, and the case says so row by row."""
    fine = case(folder, scenario="subclass", **{"fit.steps": 4})
    assert fine.original.classes == 4 and {(row["y"], row["fine"]) for row in fine.request.rows("forget")} == {(2, 7)}
    assert {row["fine"] for row in fine.request.rows("keep") if row["y"] == 2} == {1, 6}
    noisy = case(folder, scenario="noisy")
    assert len(noisy.request.rows("forget")) == 30 == len(noisy.request.rows("unseen")) and all(row["y"] != row["clean"] for row in noisy.request.rows("forget"))
    plain = case(folder, scenario="random", **{"fit.steps": 4})
    assert [row["id"] for row in plain.request.rows("forget")] == [row["id"] for row in noisy.request.rows("forget")]
    other = case(folder, scenario="random", seed=1, **{"fit.steps": 4})
    assert [row["id"] for row in plain.request.rows("forget")] != [row["id"] for row in other.request.rows("forget")]


def test_resnet(folder, monkeypatch):
    """ResNet-18 comes back out of the cache as it went in, normalization included."""
    settings = {"net": "resnet18", "train_rows": 40, "test_rows": 20, "fit.steps": 1, "fit.batch": 4}
    made = case(folder, **settings)
    monkeypatch.setattr(references, "_run", None)  # whoever trained again would fail
    again = case(folder, **settings)
    assert type(again.original.model).__name__ == "ResNetForImageClassification"
    rows = made.request.rows("keep")[:3]
    assert (again.original.predict(rows) == made.original.predict(rows)).all() and again.original.predict(rows).shape == (3, 10)


def test_copies_across_parts_are_noted_and_left_out(folder, tmp_path):
    """The first training picture is put among the test pictures: one leak, and the test loses that row."""
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    train, test = (gzip.decompress((folder / f"{part}-images-idx3-ubyte.gz").read_bytes()) for part in ("train", "t10k"))
    copied = test[:16] + train[16 : 16 + 784] + test[16 + 784 :]
    (tmp_path / "t10k-images-idx3-ubyte.gz").write_bytes(gzip.compress(copied))
    ctx = tiny.context(folder=tmp_path / "run")
    made = case(tmp_path, ctx, train_rows=400, test_rows=200, scenario="random", **{"fit.steps": 1})
    assert ctx.notes["duplicates"] == ctx.notes["leaks"] == 1
    rows = [row for name in ("forget", "keep", "unseen") for row in made.request.rows(name)] + made.utility["test rows"].read()
    assert len(rows) == 599 and "t10k-0" not in {row["id"] for row in rows}
    told = json.loads((tmp_path / "run" / "duplicates.json").read_text())
    assert told["pairs"][0]["rows"] == ["train-0", "t10k-0"] and told["pairs"][0]["across"]


def test_what_is_missing_is_named(tmp_path, folder):
    with pytest.raises(Missing, match="efface fetch fashion-mnist"):
        registry.load("benchmark", "fashion_mnist").set().case(tiny.context())
    with pytest.raises(Missing, match="train-images-idx3-ubyte"):
        case(tmp_path)
    with pytest.raises(BadConfig, match="share = 0.9"):
        case(folder, scenario="random", share=0.9)
    (tmp_path / "train-images-idx3-ubyte").write_bytes(b"no idx")
    with pytest.raises(BadRows, match="no idx file"):
        case(tmp_path)


def test_the_names_and_groups_fit_together():
    assert len(fashion_mnist.CLASSES) == len(fashion_mnist.GROUPS) == 10
    named = [[name for name, group in zip(fashion_mnist.CLASSES, fashion_mnist.GROUPS, strict=True) if group == each] for each in range(4)]
    assert named == [["t-shirt", "dress", "sandal"], ["pullover", "coat", "ankle boot"], ["trousers", "shirt", "sneaker"], ["bag"]]


@pytest.mark.slow
def test_the_fetched_set(monkeypatch, tmp_path):
    """70,000 real pictures, 6,000 and 1,000 a class; skipped where they were not fetched."""
    if not fetch.is_there(find("fashion-mnist")):
        pytest.skip("fashion-mnist was not fetched")
    real = files.cache() / "data" / "fashion-mnist"
    monkeypatch.setenv("EFFACE_CACHE", str(tmp_path))
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "fashion-mnist").symlink_to(real)
    made = registry.load("benchmark", "fashion_mnist").set({"train_rows": 1000, "test_rows": 500, "fit.epochs": 4}).case(tiny.context())
    assert hits(made.original, made.request.rows("forget")) > 0.7 and hits(made.baselines["reference"], made.request.rows("forget")) == 0
    assert hits(made.original, made.utility["test rows"].read()) > 0.65
