"""The registry is the file system: names, cards, plug-ins, and what is said of those that do not work."""

import sys
from types import SimpleNamespace

import pytest

from efface.core import registry
from efface.core.card import FOLDERS, Card
from efface.core.errors import EffaceError, Missing, UnknownName

SYSTEM = '''
"""Mine."""
from efface.core.card import Card
from efface.core.config import Config
from efface.core.types import Method


class Mine(Method[Config]):
    """Mine."""

    card = Card(name="mine", title="My idea", paper="", families=("causal-lm",), extra="{extra}")

    def run(self, subject, request, ctx):
        return subject.fork()
'''


@pytest.fixture
def plug(tmp_path, monkeypatch):
    """A function that installs a plug-in package with one method of the given source."""
    points = []
    monkeypatch.delenv("EFFACE_PLUGINS")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(registry, "entry_points", lambda group: points if group == "efface.systems" else [])
    registry._plugins.cache_clear()

    def install(package, source="", top="", there=True):
        if there:
            folder = tmp_path / package / "methods"
            folder.mkdir(parents=True)
            (folder.parent / "__init__.py").write_text(top)
            (folder / "__init__.py").write_text("")
            (folder / "mine.py").write_text(source)
        points.append(SimpleNamespace(value=package, name=package, dist=SimpleNamespace(name=package.replace("_", "-"))))
        registry._plugins.cache_clear()

    yield install
    registry._plugins.cache_clear()
    for name in [name for name in sys.modules if name.split(".")[0].startswith("plug_")]:
        del sys.modules[name]


def test_every_card_can_be_read_and_is_named_after_its_file():
    for kind in registry.kinds():
        for name in registry.names(kind):
            assert registry.card(kind, name).name == name


def test_kinds_are_the_folders():
    assert registry.kinds() == list(FOLDERS)
    with pytest.raises(UnknownName, match="no kind of system named 'methods'; did you mean method"):
        registry.names("methods")


def test_unknown_names_get_near_ones():
    with pytest.raises(UnknownName, match="no recipe named 'finetun'; did you mean finetune"):
        registry.card("recipe", "finetun")
    with pytest.raises(UnknownName, match="did you mean retrain"):
        registry.load("recipe", "retrian")


def test_load_gives_the_class_of_the_card():
    found = registry.load("recipe", "retrain")
    assert found.__name__ == "Retrain" and found.card == registry.card("recipe", "retrain") and found.kind == "recipe"


def test_as_dict_is_plain():
    found = registry.as_dict(registry.card("recipe", "retrain"), "recipe")
    assert found["kind"] == "recipe" and {"name", "title", "paper", "families"} <= set(found)


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("x = 1", "holds no card"),
        ('card = Card(name="a" + "b", title="", paper="", families=())', r":1: the card must be literal and complete"),
        ('card = Card(name="a")', "the card must be literal and complete"),
        ('card = Card(name="a", title="", paper="", families=(), color="red")', "the card must be literal and complete"),
        ("def broken(:", "is not valid Python"),
        ("x = '\0'", "is not valid Python"),
        (b"# \xff\n", "is not valid Python"),
    ],
)
def test_files_without_a_true_card(tmp_path, source, says):
    path = tmp_path / "mine.py"
    path.write_bytes(source if isinstance(source, bytes) else source.encode())
    with pytest.raises(EffaceError, match=says):
        registry.read_card(path)


def test_cards_are_read_without_running_the_file(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text('raise SystemExit\ncard = Card(name="a", title="A", paper="", families=("causal-lm",))')
    assert registry.read_card(path) == Card(name="a", title="A", paper="", families=("causal-lm",))


def test_a_plug_in_adds_its_systems(plug):
    before = registry.names("method")
    plug("plug_good", SYSTEM.format(extra=""))
    assert registry.names("method") == [*before, "plug-good/mine"]
    assert registry.card("method", "plug-good/mine").title == "My idea"
    assert registry.load("method", "plug-good/mine").__name__ == "Mine"
    assert registry.broken_plugins() == {}


def test_plug_ins_can_be_turned_off(plug, monkeypatch):
    plug("plug_good", SYSTEM.format(extra=""))
    monkeypatch.setenv("EFFACE_PLUGINS", "")
    registry._plugins.cache_clear()
    assert "plug-good/mine" not in registry.names("method")
    assert registry.broken_plugins() == {}


def test_broken_plug_ins_are_reported_and_break_nothing(plug):
    plug("plug_raises", SYSTEM.format(extra=""), top="raise RuntimeError('no luck')")
    plug("plug_gone", there=False)
    plug("plug_good", SYSTEM.format(extra=""))
    assert registry.broken_plugins() == {"plug-raises": "RuntimeError: no luck", "plug-gone": "the package 'plug_gone' is not there"}
    assert registry.load("method", "plug-good/mine")
    assert registry.card("recipe", "retrain")


def test_a_plug_in_file_that_is_not_python_is_said(plug):
    plug("plug_syntax", "def broken(:")
    with pytest.raises(EffaceError, match=r"mine\.py is not valid Python"):
        registry.card("method", "plug-syntax/mine")


def test_a_missing_extra_says_what_to_install(plug, monkeypatch):
    monkeypatch.setitem(registry.EXTRAS, "magic", ("no_such_module",))
    plug("plug_extra", SYSTEM.format(extra="magic"))
    with pytest.raises(Missing, match=r'mine needs no_such_module; run: pip install "efface\[magic\]"'):
        registry.load("method", "plug-extra/mine")


def test_a_card_that_no_class_carries(plug):
    plug("plug_loose", 'from efface.core.card import Card\ncard = Card(name="mine", title="A", paper="", families=("causal-lm",))')
    with pytest.raises(EffaceError, match="defines no class with the card 'mine'"):
        registry.load("method", "plug-loose/mine")
