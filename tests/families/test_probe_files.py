"""RWKU's files as released: of one target, with the target's name in front, and of all targets at once; passages are made up here."""

import json
import sys
from types import SimpleNamespace

import pytest

from efface.core.errors import BadRows, Missing
from efface.families.probe_files import SHIPPED, folder, hub, read, shipped

COUNTS = {"forget_level1": 8, "forget_level2": 10, "forget_level3": 29, "neighbor_level1": 30, "neighbor_level2": 30}


def passages(target, count=3):
    return [{"text": f"Passage {at} about somebody.", "subject": target, "ngram": 5} for at in range(count)]


def put(place, prefix="", **changes):
    """The files of the shipped target, with made-up passages, as a user has them."""
    source = shipped()
    parts = {name: source(name) for name in COUNTS} | {"forget_mia": passages(SHIPPED), "retain_mia": passages(SHIPPED, 2), "intro": [{"target": SHIPPED, "intro": f"Please forget {SHIPPED}."}]}
    for name, rows in {**parts, **changes}.items():
        if rows is not None:
            (place / f"{prefix}{name}.json").write_text(json.dumps(rows), encoding="utf-8")
    return place


def test_the_shipped_target_has_its_probes_and_no_passages():
    target, parts = read(shipped(), SHIPPED, "the package")
    assert target == SHIPPED and {name: len(rows) for name, rows in parts.items()} == COUNTS


@pytest.mark.parametrize("prefix", ["", "stephen_king_"])
def test_a_folder_of_one_target_with_or_without_its_name_in_front(tmp_path, prefix):
    for target in ("", SHIPPED):
        found, parts = read(folder(put(tmp_path, prefix), target), target, str(tmp_path))
        assert found == SHIPPED and {name: len(parts[name]) for name in COUNTS} == COUNTS
        assert len(parts["forget_mia"]) == 3 and len(parts["retain_mia"]) == 2 and len(parts["intro"]) == 1


def test_of_a_folder_with_all_targets_the_asked_one_is_taken(tmp_path):
    both = [*shipped()("forget_level1"), {"subject": "Confucius", "level": "1", "query": "___ was a philosopher.", "type": "cloze", "answer": "Confucius"}]
    put(tmp_path, forget_level1=both, forget_mia=passages(SHIPPED) + passages("Confucius", 1))
    target, parts = read(folder(tmp_path), "Confucius", "here")
    assert target == "Confucius" and len(parts["forget_level1"]) == 1 and len(parts["forget_mia"]) == 1 and "forget_level2" not in parts
    with pytest.raises(Missing, match="Stephen King, Confucius; say which with target=NAME"):
        read(folder(tmp_path), "", "here")
    with pytest.raises(Missing, match="say which"):
        read(folder(tmp_path), "Plato", "here")


def test_files_of_several_targets_need_a_name(tmp_path):
    put(put(tmp_path, "stephen_king_"), "bruce_lee_")
    with pytest.raises(Missing, match="forget_level1 of several targets"):
        read(folder(tmp_path), "", "here")
    assert read(folder(tmp_path, SHIPPED), SHIPPED, "here")[0] == SHIPPED


def test_what_is_not_there_is_named(tmp_path):
    with pytest.raises(Missing, match="no folder"):
        folder(tmp_path / "nowhere")
    with pytest.raises(Missing, match="none of forget_level1"):
        read(folder(tmp_path), "", str(tmp_path))


@pytest.mark.parametrize(("part", "column"), [("forget_level2", "answer"), ("neighbor_level1", "neighbor"), ("retain_mia", "text"), ("intro", "intro")])
def test_a_row_without_a_column_is_named(tmp_path, part, column):
    put(tmp_path)
    rows = json.loads((tmp_path / f"{part}.json").read_text())
    rows[0][column] = " "
    put(tmp_path, **{part: rows})
    with pytest.raises(BadRows, match=f"{part}, row 1: column '{column}'"):
        read(folder(tmp_path), "", "here")


def test_the_hub_is_read_through_datasets(monkeypatch):
    asked = []

    def load_dataset(name, config):
        asked.append((name, config))
        if config not in ("forget_level1", "mia_forget", "forget_target"):
            raise ValueError(f"no config {config}")
        row = {"forget_level1": {"subject": "Confucius", "level": "1", "query": "___", "type": "cloze", "answer": "x"}, "mia_forget": {"text": "t", "subject": "Confucius"}}
        return {"test": [row.get(config, {"target": "Confucius", "intro": "i"})]}

    library = SimpleNamespace(load_dataset=load_dataset, exceptions=SimpleNamespace(DatasetsError=RuntimeError))
    monkeypatch.setitem(sys.modules, "datasets", library)
    target, parts = read(hub("owner/RWKU"), "Confucius", "the hub")
    assert target == "Confucius" and set(parts) == {"forget_level1", "forget_mia", "intro"}
    assert ("owner/RWKU", "mia_retain") in asked
    library.load_dataset = lambda name, config: (_ for _ in ()).throw(OSError("no route to host"))
    with pytest.raises(Missing, match="cannot read 'forget_level1' of owner/RWKU from the hub: no route to host"):
        read(hub("owner/RWKU"), "", "the hub")
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(Missing, match=r"efface\[hub\]"):
        hub("owner/RWKU")
