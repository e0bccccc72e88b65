"""The docs say what the code does: generated pages are fresh, every public name is mentioned, every relative link leads somewhere."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import get_args

import pytest

import efface
from efface.cli import scaffold
from efface.cli.main import VERBS
from efface.core import errors, registry
from efface.core.card import TAXONOMY
from efface.core.types import Intent
from efface.ops.loop import mean_loss
from efface.testing import taxonomy
from efface.testing.tiny import context, facts, trained_lm

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
BY_HAND = [page for page in PAGES if page.name not in ("catalogue.md", "commands.md")]


@pytest.fixture(scope="module")
def generator() -> ModuleType:
    """docs/generate.py as a module."""
    spec = importlib.util.spec_from_file_location("generate", ROOT / "docs" / "generate.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", ["README.md", "docs/catalogue.md", "docs/commands.md", "docs/taxonomy.md"])
def test_generated_pages_are_fresh(generator: ModuleType, name: str) -> None:
    fresh = generator.pages()[ROOT / name]
    assert (ROOT / name).read_text(encoding="utf-8") == fresh, f"{name} is out of date; run make docs"


def test_every_system_is_in_the_table(generator: ModuleType) -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    systems = list(generator.systems())
    assert len({kind for kind, _, _ in systems}) >= 5
    for kind, name, _ in systems:
        assert f"| {kind} | `{name}` |" in readme


def test_every_method_and_guard_is_in_the_table_of_classes(generator: ModuleType) -> None:
    page = (ROOT / "docs" / "taxonomy.md").read_text(encoding="utf-8")
    missing = [name for kind, name, _ in generator.systems() if kind in ("method", "guard") and f"{kind} [`{name}`]" not in page]
    assert not missing


def test_the_words_of_the_taxonomy_are_explained() -> None:
    """Every word that a card may hold stands on the page, and so does every word of the measured intent."""
    page = (ROOT / "docs" / "taxonomy.md").read_text(encoding="utf-8")
    words = {str(word) for field in TAXONOMY for word in taxonomy.words(field) if word and not isinstance(word, bool)} - {"none"}
    words |= set(get_args(Intent.model_fields["measured"].annotation))
    assert not {word for word in words if word not in page}


def _words(pages: list[Path]) -> set[str]:
    return set(re.findall(r"[A-Za-z_]+(?:\.[A-Za-z_]+)*", "\n".join(page.read_text(encoding="utf-8") for page in pages)))


def test_every_public_name_is_explained() -> None:
    words = _words(BY_HAND)
    missing = [name for name in efface.__all__ if f"efface.{name}" not in words]
    assert not missing, f"no page written by hand mentions efface.{missing[0]}" if missing else ""


def test_every_verb_is_explained() -> None:
    text = "\n".join(page.read_text(encoding="utf-8") for page in BY_HAND)
    missing = [verb for verb in VERBS if not re.search(rf"efface {verb}\b", text)]
    assert not missing, f"no page written by hand mentions {missing}"


def test_every_error_is_explained() -> None:
    words = _words(BY_HAND)
    classes = [name for name, value in vars(errors).items() if isinstance(value, type) and issubclass(value, errors.EffaceError)]
    assert len(classes) >= 9
    missing = [name for name in classes if name not in words and f"efface.{name}" not in words]
    assert not missing, f"no page written by hand mentions {missing}"


def test_the_entry_point_is_explained() -> None:
    assert "efface.systems" in _words(BY_HAND)


def _links() -> list[tuple[Path, str]]:
    found = []
    for page in PAGES:
        text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.S)
        found += [(page, target) for target in re.findall(r"\]\(([^)\s]+)\)", text) if not re.match(r"[a-z]+:", target)]
    return found


def test_there_are_links() -> None:
    assert len(_links()) > 10


@pytest.mark.parametrize(("page", "target"), _links(), ids=lambda value: value.name if isinstance(value, Path) else value)
def test_relative_links_lead_somewhere(page: Path, target: str) -> None:
    name, _, anchor = target.partition("#")
    place = (page.parent / name).resolve() if name else page
    assert place.exists(), f"{page.relative_to(ROOT)} links to {target}, which is not there"
    if anchor and place.suffix == ".md":
        heads = re.findall(r"^#+ (.*)$", place.read_text(encoding="utf-8"), flags=re.M)
        assert anchor in {re.sub(r"[^\w -]", "", head.lower()).replace(" ", "-") for head in heads}


def test_docs_name_no_place_that_only_one_machine_has() -> None:
    for page in [*PAGES, ROOT / "Makefile", ROOT / "requirements.lock", ROOT / ".ci" / "run", ROOT / "pyproject.toml"]:
        found = re.findall(r"/(?:root|home|work|tmp|Users)/\S*|https?://(?:pypi|files\.python)\S*", page.read_text(encoding="utf-8"))
        assert not found, f"{page.name}: {found}"


def test_the_worked_example_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The page on adding a system shows a method file; it is taken out of the page, loaded, and must forget."""
    page = (ROOT / "docs" / "adding-a-system.md").read_text(encoding="utf-8")
    code = next(block for block in re.findall(r"```python\n(.*?)```", page, flags=re.S) if "Card(" in block)
    path = tmp_path / "capped_ascent.py"
    path.write_text(code, encoding="utf-8")
    card = registry.read_card(path)
    spec = importlib.util.spec_from_file_location("capped_ascent", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "capped_ascent", module)
    spec.loader.exec_module(module)
    system = next(value for value in vars(module).values() if isinstance(value, type) and getattr(value, "card", None) == card)
    assert card.name == path.stem
    before, rows = trained_lm(), facts()
    settings = {"cap": 2.0, "fit.steps": 40, "fit.lr": 1e-3, "fit.precision": "no", "stop.at": "steps"}
    after = system.set(settings).run(before, rows.request, context())
    assert mean_loss(before, rows.forget) + 0.5 < mean_loss(after, rows.forget) < 2 * 2.0, "it forgets, and stops near the cap"
    assert len(path.read_text(encoding="utf-8").splitlines()) < 70
    head = scaffold.METHOD.template.split('"""')[2].split("class")[0]
    assert code.split('"""')[2].split("class")[0] == head, "the page imports what efface new writes"
