"""New systems from templates: a source file that runs as it stands, and the five tests it must pass."""

from __future__ import annotations

import keyword
import re
from pathlib import Path
from string import Template

from efface.core import files, registry
from efface.core.card import FOLDERS
from efface.core.errors import BadConfig, EffaceError, Missing

METHOD = Template('''"""$title (where it comes from: paper, or nothing).

minimized = -strength * mean m(forget) + mean m(keep), m a row's mean loss. Put the formula of your method here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import Field
from torch import Tensor

from efface.core.card import Card
from efface.core.config import Config, Fit, Stop
from efface.core.context import Context
from efface.core.types import Method, Request
from efface.ops.loop import descend, watch


class ${classname}Config(Config):
    """Settings of $name."""

    strength: float = Field(1.0, ge=0)
    """Weight of the term on forget rows."""
    fit: Fit = Fit(lr=1e-5, steps=200, batch=8)
    """Optimizer settings."""
    stop: Stop = Stop()
    """When to end."""


class $classname(Method[${classname}Config]):
    """Says in one sentence what happens to the model."""

    card = Card(
        name="$name", title="$title", paper="", families=("causal-lm", "classifier"), needs=("losses",), uses=("forget", "keep"),
        technique="parameter optimization", intent="remove", touches=("weights", "adapter"), locality="all", data=("forget rows", "keep rows"),
        operator="weights", sequence="accumulates", reversible=False, guarantee="empirical",
    )

    def run(self, subject: Any, request: Request, ctx: Context) -> Any:
        """Return the subject that should no longer hold the forget rows."""
        after = subject.trainable(self.config.fit.rank, ctx.seed_for("adapter"))

        def loss(batches: Mapping[str, Any]) -> dict[str, Tensor]:
            return terms(after.losses(batches["forget"]), after.losses(batches["keep"]), self.config.strength)

        pools = {"forget": request.rows("forget"), "keep": request.rows("keep")}
        return descend(after, pools, loss, self.config.fit, ctx, watch(subject, after, request, self.config.stop, ctx))


def terms(forget: Tensor, keep: Tensor, strength: float) -> dict[str, Tensor]:
    """The two terms out of each row's loss: (rows,) and (rows,)."""
    return {"forget": -strength * forget.mean(), "keep": keep.mean()}
''')

TESTS = Template('''"""Tests of $name, in the order that every system has."""

from __future__ import annotations

import torch

from $module import $classname, terms
from efface.core.types import Data
from efface.ops.loop import mean_loss
from efface.testing.tiny import context, facts, trained_lm

FIT = {"fit.lr": 1e-3, "fit.steps": 12, "fit.precision": "no", "stop.at": "steps"}


def test_formula() -> None:
    """Losses 1 and 3 on forget rows, 2 on a keep row, strength 0.5: -0.5 * (1 + 3) / 2 = -1, and 2."""
    found = terms(torch.tensor([1.0, 3.0]), torch.tensor([2.0]), 0.5)
    assert {name: float(term) for name, term in found.items()} == {"forget": -1.0, "keep": 2.0}


def test_no_op() -> None:
    """No step, no change."""
    before = trained_lm()
    after = $classname.set({**FIT, "fit.steps": 0}).run(before, facts().request, context())
    assert after.digest == before.digest


def test_forgets() -> None:
    """The loss on the forget rows rises."""
    before = trained_lm()
    after = $classname.set(FIT).run(before, facts().request, context())
    assert mean_loss(after, facts().forget) > mean_loss(before, facts().forget) + 0.5


def test_keeps() -> None:
    """The loss on the kept rows rises by far less than that on the forget rows."""
    before = trained_lm()
    after = $classname.set(FIT).run(before, facts().request, context())
    lost = mean_loss(after, facts().keep) - mean_loss(before, facts().keep)
    assert lost < 0.5 * (mean_loss(after, facts().forget) - mean_loss(before, facts().forget))


def test_limits() -> None:
    """At strength 0 it does not matter which rows are to be forgotten."""
    settings = {**FIT, "strength": 0.0, "fit.steps": 3}
    request = facts().request
    other = request.model_copy(update={"forget": Data.inline(facts().unseen)})
    one, two = ($classname.set(settings).run(trained_lm(), each, context()) for each in (request, other))
    assert one.digest == two.digest
''')


def method(name: str, folder: Path) -> tuple[Path, Path]:
    """Write the method and its tests, and return both paths. Raises EffaceError when a name is bad or taken, or a file is there."""
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name) or keyword.iskeyword(name):
        raise BadConfig(f"no system can be named {name!r}; use lower case letters, digits and underscores, as in my_idea")
    if name in registry.names("method"):
        raise EffaceError(f"there is a method named {name} already; choose another name")
    if not folder.is_dir():
        raise Missing(f"no folder {folder}; give the root of a checkout of efface, or the folder of your package")
    package, module = _package(folder)
    source = package / FOLDERS["method"] / f"{name}.py"
    tests = folder / "tests" / FOLDERS["method"] / f"test_{name}.py"
    for path in (source, tests):
        if path.exists():
            raise EffaceError(f"{path} exists already; choose another name or remove it")
    given = {
        "name": name, "title": name.replace("_", " ").capitalize(), "classname": "".join(word.capitalize() for word in name.split("_")),
        "module": f"{module}.{FOLDERS['method']}.{name}",
    }  # fmt: skip
    files.write_text(source, METHOD.substitute(given))
    files.write_text(tests, TESTS.substitute(given))
    return source, tests


def _package(folder: Path) -> tuple[Path, str]:
    """Where sources go and what they are imported as: src/efface in a checkout, the folder itself for a plug-in."""
    if (folder / "src" / "efface").is_dir():
        return folder / "src" / "efface", "efface"
    return folder, folder.resolve().name
