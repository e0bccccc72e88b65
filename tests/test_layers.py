"""Who may import whom; and that nothing heavy is imported before it is used."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import efface
from efface.core.card import FOLDERS

ROOT = Path(efface.__file__).parent
SYSTEMS = set(FOLDERS.values())
LAYERS = [{"core"}, {"data"}, {"ops"}, {"families"}, SYSTEMS, {"api", "sources", "runs", "evaluate", "evidence", "verdict", "intention", "audit", "folds", "compare", "comparison", "certify", "report", "exact"}, {"cli", "service", "testing"}]
"""Lowest first: a file imports from its own layer and from those below. `data` holds row generators, which need nothing."""
PYTHON_AND = {"efface", "pydantic"}
"""All that core may import besides the standard library."""
HEAVY = ("torch", "transformers", "accelerate", "peft", "sklearn", "numpy", "scipy", "safetensors", "matplotlib", "datasets", "gguf")
SCRIPTS = {"data/authors_passes.py", "data/emoji_pictures.py", "data/emoji_parts.py"}
"""Commands for the maintainer that remake shipped data; they may use everything, and nobody may import them."""
FILES = sorted(path for path in ROOT.rglob("*.py") if str(path.relative_to(ROOT)) not in {"__init__.py", *SCRIPTS})


def imported(tree: ast.AST):
    """(line, dotted name) of everything imported anywhere in a file."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            if node.level:
                yield node.lineno, "." * node.level
            elif node.module == "efface":
                yield from ((node.lineno, f"efface.{alias.name}") for alias in node.names)
            else:
                yield node.lineno, str(node.module)


def for_types(tree: ast.AST) -> set[int]:
    """Lines of imports that only a type checker sees."""
    blocks = [node for node in ast.walk(tree) if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"]
    return {inner.lineno for block in blocks for inner in block.body}


def layer_of(part: str) -> int:
    return next((number for number, names in enumerate(LAYERS) if part in names), -1)


def faults(source: str, path: Path, root: Path = ROOT) -> list[str]:
    """What a file imports and must not."""
    part = path.relative_to(root).parts[0].removesuffix(".py")
    found = []
    tree = ast.parse(source)
    unseen = for_types(tree)
    for line, name in imported(tree):
        if name.startswith("."):
            found.append(f"{path}:{line}: relative import")
            continue
        words = name.split(".")
        if part == "core" and line not in unseen and words[0] not in sys.stdlib_module_names and words[0] not in PYTHON_AND:
            found.append(f"{path}:{line}: core imports {name}")
        if words[0] != "efface" or len(words) < 2:
            continue
        other = words[1]
        if "/".join(words[1:]) + ".py" in SCRIPTS:
            found.append(f"{path}:{line}: {name} is a script")
        if layer_of(other) > layer_of(part) >= 0:
            found.append(f"{path}:{line}: {part} imports {name}, which stands above it")
        if part in SYSTEMS and other in SYSTEMS:
            found.append(f"{path}:{line}: a system imports another system, {name}")
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_down(path):
    assert layer_of(path.relative_to(ROOT).parts[0].removesuffix(".py")) >= 0, f"{path} stands in no layer"
    assert not faults(path.read_text(encoding="utf-8"), path)


@pytest.mark.parametrize(
    ("place", "source", "says"),
    [
        ("methods/npo.py", "from efface.methods.kl import KL", "a system imports another system"),
        ("metrics/probability.py", "import efface.attacks.loss", "a system imports another system"),
        ("ops/loop.py", "def f():\n    from efface.families.causal_lm import CausalLM", "stands above it"),
        ("families/causal_lm.py", "from efface import api", "stands above it"),
        ("core/types.py", "import torch", "core imports torch"),
        ("core/rows.py", "import numpy.linalg", "core imports numpy.linalg"),
        ("report/build.py", "from efface.cli import output", "stands above it"),
        ("methods/npo.py", "from . import kl", "relative import"),
        ("api.py", "from efface.data.authors_passes import write", "is a script"),
    ],
)
def test_the_rule_bites(place, source, says):
    assert says in " ".join(faults(source, ROOT / place))


def test_what_is_allowed_passes():
    assert not faults("from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from torch import Tensor", ROOT / "core/types.py")
    assert not faults("import json\nfrom efface.core import rows\nfrom efface.ops.loop import descend\nimport torch", ROOT / "methods/npo.py")


LISTING = """
import sys
import efface, efface.cli.main
import efface.core.{card,capabilities,config,context,digest,errors,files,registry,rows,types}
from efface.core import registry
cards = [registry.card(kind, name) for kind in registry.kinds() for name in registry.names(kind)]
efface.Request, efface.Data, efface.EffaceError, efface.Context
assert len(cards) > 10, cards
print(*[name for name in HEAVY if name in sys.modules])
"""


def test_listing_imports_nothing_heavy():
    """`efface list` must not wait for torch."""
    names = "card,capabilities,config,context,digest,errors,files,registry,rows,types".split(",")
    script = LISTING.replace("import efface.core.{" + ",".join(names) + "}", "import " + ", ".join(f"efface.core.{name}" for name in names))
    done = subprocess.run([sys.executable, "-c", f"HEAVY = {HEAVY}\n{script}"], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == []


def test_the_core_list_above_is_whole():
    assert {path.stem for path in (ROOT / "core").glob("[a-z]*.py")} == set(
        "card,capabilities,config,context,digest,errors,files,registry,rows,types".split(",")
    )
