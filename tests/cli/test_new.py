import ast
import importlib.util
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from efface.cli import scaffold
from efface.core import registry
from efface.testing import taxonomy


def test_writes_a_method_and_its_tests(efface, tmp_path) -> None:
    done = efface("new", "method", "my_idea", "--folder", tmp_path, "--json")
    written = json.loads(done.out)
    assert done.code == 0
    assert written == {"source": str(tmp_path / "methods/my_idea.py"), "tests": str(tmp_path / "tests/methods/test_my_idea.py")}
    assert registry.read_card(Path(written["source"])).name == "my_idea"
    tests = [node.name for node in ast.parse(Path(written["tests"]).read_text()).body if isinstance(node, ast.FunctionDef)]
    assert tests == ["test_formula", "test_no_op", "test_forgets", "test_keeps", "test_limits"]


def test_goes_into_the_package_of_a_checkout(efface, tmp_path) -> None:
    (tmp_path / "src" / "efface").mkdir(parents=True)
    done = efface("new", "method", "my_idea", "--folder", tmp_path)
    assert done.code == 0
    assert (tmp_path / "src/efface/methods/my_idea.py").exists()
    assert "from efface.methods.my_idea import MyIdea" in (tmp_path / "tests/methods/test_my_idea.py").read_text()


def test_what_it_writes_has_a_whole_taxonomy(tmp_path) -> None:
    source, _ = scaffold.method("my_idea", tmp_path)
    card = registry.read_card(source)
    assert not taxonomy.problems("method", card) and card.intent == "remove"


def test_what_it_writes_is_clean(tmp_path) -> None:
    source, tests = scaffold.method("my_idea", tmp_path)
    if shutil.which("ruff", path=str(Path(sys.executable).parent)) is None:
        pytest.skip("ruff is not installed beside python")
    settings = Path(__file__).parents[2] / "pyproject.toml"
    ruff = [str(Path(sys.executable).parent / "ruff"), "check", "--no-cache", "--config", str(settings), "--ignore", "I001,S101"]
    done = subprocess.run([*ruff, str(source), str(tests)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_what_it_writes_passes_its_own_tests(tmp_path, monkeypatch) -> None:
    """The template is a working method: its five tests pass."""
    package = tmp_path / "newborn"
    package.mkdir()
    _, path = scaffold.method("my_idea", package)
    monkeypatch.syspath_prepend(tmp_path)
    spec = importlib.util.spec_from_file_location("test_my_idea", path)
    tests = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tests)
    ran = [getattr(tests, name)() for name in dir(tests) if name.startswith("test_")]
    assert len(ran) == 5


@pytest.mark.parametrize("name", ["MyIdea", "2fast", "with-dash", "a b", "class", "../evil", "", "é"])
def test_bad_names_are_refused(efface, tmp_path, name) -> None:
    done = efface("new", "method", name, "--folder", tmp_path)
    assert done.code == 2 and "my_idea" in done.line
    assert list(tmp_path.rglob("*.py")) == []


def test_what_is_there_is_never_overwritten(efface, tmp_path) -> None:
    assert efface("new", "method", "npo", "--folder", tmp_path).line.startswith("there is a method named npo already")
    test = tmp_path / "tests/methods/test_my_idea.py"
    test.parent.mkdir(parents=True)
    test.write_text("mine")
    done = efface("new", "method", "my_idea", "--folder", tmp_path)
    assert done.code == 2 and "exists already" in done.line
    assert test.read_text() == "mine" and not (tmp_path / "methods").exists()


def test_other_kinds_and_missing_folders_are_refused(efface, tmp_path) -> None:
    assert "src/efface/attacks" in efface("new", "attack", "mine", "--folder", tmp_path).line
    assert "'toast'" in efface("new", "toast", "mine", "--folder", tmp_path).line
    assert "no folder" in efface("new", "method", "mine", "--folder", tmp_path / "nowhere").line
