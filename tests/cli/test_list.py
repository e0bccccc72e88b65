import json
import resource
import subprocess
import sys

from efface.core import registry

QUICK = """
import sys
from efface.cli.main import run
code = run(["list"])
heavy = {"torch", "numpy", "rich", "transformers", "matplotlib", "scipy", "jinja2"} & set(sys.modules)
sys.exit(f"imported {heavy}" if heavy else code)
"""


def test_list_is_quick_and_imports_nothing_heavy() -> None:
    """About 0.27 s of processor time; time by the clock would be that of whatever else the machine does."""
    seconds = []
    for _ in range(3):
        began = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
        done = subprocess.run([sys.executable, "-c", QUICK], capture_output=True, text=True, timeout=60, check=False)
        seconds.append(resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - began)
        assert done.returncode == 0, done.stderr
        if seconds[-1] < 0.4:
            break
    assert min(seconds) < 0.6
    assert "npo" in done.stdout


def test_json_is_an_array_of_cards(efface) -> None:
    done = efface("list", "--json")
    entries = json.loads(done.out)
    assert done.code == 0 and isinstance(entries, list)
    for entry in entries:
        assert {"kind", "name", "title", "paper", "families"} <= set(entry) and isinstance(entry["families"], list)
    assert {(entry["kind"], entry["name"]) for entry in entries} == {
        (kind, name) for kind in registry.kinds() for name in registry.names(kind)
    }


def test_kind_and_family_narrow_it(efface) -> None:
    entries = json.loads(efface("list", "--kind", "method", "--family", "classifier", "--json").out)
    assert entries and all(entry["kind"] == "method" and "classifier" in entry["families"] for entry in entries)
    assert "npo" not in {entry["name"] for entry in entries}
    assert efface("list", "--kind", "method", "--family", "classifier").out.startswith("KIND ")


def test_unknown_kind_and_family_say_what_there_is(efface) -> None:
    done = efface("list", "--kind", "metod")
    assert done.code == 2 and "did you mean method" in done.line
    done = efface("list", "--family", "toaster")
    assert done.code == 2 and "classifier" in done.line


def test_a_broken_card_is_named_and_breaks_nothing(efface, monkeypatch, tmp_path) -> None:
    (tmp_path / "methods").mkdir()
    (tmp_path / "methods" / "broken.py").write_text("card = Card(name=1 + x)\n")
    (tmp_path / "methods" / "worse.py").write_text("def (\n")
    (tmp_path / "methods" / "fine.py").write_text('card = Card(name="fine", title="Fine", paper="", families=("gan",))\n')
    monkeypatch.setattr(registry, "_plugins", lambda: {"dist": ("dist", tmp_path)})
    done = efface("list", "--kind", "method", "--json")
    names = {entry["name"] for entry in json.loads(done.out)}
    assert done.code == 0 and {"npo", "dist/fine"} <= names and "dist/broken" not in names
    assert "dist/broken" in done.err and "dist/worse" in done.err


def test_by_intent_groups_by_what_is_touched(efface) -> None:
    found = json.loads(efface("list", "--by", "intent", "--json").out)
    assert list(found) == ["remove", "suppress"]
    names = {word: {touched: {entry["name"] for entry in some} for touched, some in parts.items()} for word, parts in found.items()}
    assert "npo" in names["remove"]["weights, adapter"] and "uce" in names["suppress"]["weights"]
    assert {"idk", "dpo"} <= names["suppress"]["weights, adapter"] and "negative_prompt" in names["suppress"]["input"]
    there = {name for parts in names.values() for some in parts.values() for name in some}
    assert set(registry.names("method")) | set(registry.names("guard")) <= there, "every method and guard says its intent"


def test_by_intent_is_a_table_in_the_order_of_the_words(efface) -> None:
    lines = efface("list", "--by", "intent").out.splitlines()
    words = [line.split()[0] for line in lines[1:]]
    assert lines[0].split() == ["INTENT", "TOUCHES", "KIND", "NAME", "TECHNIQUE", "GUARANTEE", "TITLE"]
    assert words == sorted(words) and set(words) == {"remove", "suppress"}
    assert not [line for line in lines if " metric " in line or " attack " in line]


def test_by_technique(efface) -> None:
    found = json.loads(efface("list", "--by", "technique", "--kind", "method", "--family", "causal-lm", "--json").out)
    assert {"retraining", "parameter optimization", "relabeling"} <= set(found) and "filtering" not in found
    assert {entry["name"] for some in found["relabeling"].values() for entry in some} >= {"idk"}


def test_by_needs_nothing_heavy() -> None:
    """Grouping reads cards alone, with no import of a system."""
    quick = QUICK.replace('run(["list"])', 'run(["list", "--by", "intent"])')
    done = subprocess.run([sys.executable, "-c", quick], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert "suppress" in done.stdout


def test_what_cannot_be_grouped_says_why(efface) -> None:
    assert "did you mean intent" in efface("list", "--by", "intend").line
    done = efface("list", "--by", "intent", "--kind", "metric")
    assert done.code == 2 and "nothing here makes a model forget" in done.line


def test_a_card_that_is_silent_comes_last(efface, monkeypatch, tmp_path) -> None:
    (tmp_path / "methods").mkdir()
    (tmp_path / "methods" / "fine.py").write_text('card = Card(name="fine", title="Fine", paper="", families=("gan",))\n')
    monkeypatch.setattr(registry, "_plugins", lambda: {"dist": ("dist", tmp_path)})
    found = json.loads(efface("list", "--by", "intent", "--json").out)
    assert list(found) == ["remove", "suppress", "not said"] and [entry["name"] for entry in found["not said"]["not said"]] == ["dist/fine"]


def test_json_carries_the_taxonomy(efface) -> None:
    (entry,) = [entry for entry in json.loads(efface("list", "--kind", "method", "--json").out) if entry["name"] == "rmu"]
    assert entry["intent"] == "remove" and entry["touches"] == ["weights"] and entry["locality"] == "selected layers" and entry["reversible"] is False
    assert entry["data"] == ["forget rows", "keep rows"] and entry["operator"] == "weights" and entry["sequence"] == "accumulates" and entry["guarantee"] == "empirical"
