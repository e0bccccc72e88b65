"""ORT (arXiv:2506.07795): forget in one form of a fact, and be asked in the others.

    source       what is forgotten
    authors      four of the 40 invented authors of the benchmark `authors`, with the reference retrained without them
    country      a country that the embedded model knows, as in the benchmark `rwku`; no reference
    folder       ORT's files of one target, in RWKU's layout (forget_level1, 2; neighbor_level1, 2) with its multiple choices as
                 level 4; the questions of level 2 are spelled out as well. The files are on cloud drives only: bring your own.

How far the drop carries over is metric/form_dependence. ORT scores the answer's probability, not what is generated.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from efface.core import registry
from efface.core.card import Card
from efface.core.config import Config
from efface.core.context import Context
from efface.core.errors import Missing
from efface.core.types import Benchmark, Case
from efface.families import probe_files

SUITE: tuple[str, ...] = ("metric/form_dependence", "metric/probe_recall", "metric/fluency", "metric/model_utility")
"""Form dependence, what comes out in each form, and ORT's utility on the run's own row sets in the place of MMLU, TruthfulQA and TriviaQA."""


class OrtConfig(Config):
    """Settings of the benchmark."""

    source: Literal["authors", "country", "folder"] = "authors"
    """Where the facts come from."""
    target: str = ""
    """The country or the person to forget; "" for the default country, or the one that the folder is about."""
    folder: str = ""
    """Folder with ORT's files of a target, for source=folder."""
    model: str = "smollm2"
    """The model that knows the country or the person."""


class Ort(Benchmark[OrtConfig]):
    """Forget facts in one form and measure how far that reaches."""

    card = Card(
        name="ort", title="ORT, whether forgetting depends on the form", paper="arXiv:2506.07795", families=("causal-lm",), extra="demo",
        departs="invented authors or a country in the place of 100 people; utility on the run's own rows; true-or-false items are left out, as in ORT's summary",
    )

    def case(self, ctx: Context) -> Case:
        """The case of one source. Raises Missing where files are not there."""
        config = self.config
        if config.source == "authors":
            case: Case = registry.load("benchmark", "authors")().case(ctx)  # type: ignore[attr-defined]
            return case.model_copy(update={"name": "ort authors", "suite": SUITE})
        if config.source == "folder":
            self._check()
        settings = {"model": config.model, "folder": config.folder, **({"target": config.target} if config.target or config.folder else {})}
        case = registry.load("benchmark", "rwku").set(settings).case(ctx)  # type: ignore[attr-defined]
        request = case.request.model_copy(update={"reason": case.request.reason.replace("rwku", "ort")})
        return case.model_copy(update={"name": case.name.replace("rwku", "ort"), "request": request, "suite": SUITE})

    def _check(self) -> None:
        """Raise Missing for a folder without the one part that makes it ORT's."""
        config = self.config
        if not config.folder:
            raise Missing("source=folder needs the folder with ORT's files of a target; give --case folder=FOLDER")
        if not probe_files.folder(Path(config.folder), config.target)("forget_level4"):
            raise Missing(f"{config.folder} has no forget_level4, the multiple choices that ORT adds to RWKU's files; for RWKU alone there is the benchmark rwku")
