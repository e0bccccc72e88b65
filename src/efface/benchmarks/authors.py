"""`authors`: 40 invented authors with ten questions each, in the manner of TOFU (arXiv:2401.06121), on the embedded model.

Shipped: the rows, and adapters of the embedded model trained on all authors (the model to be cleaned) and on the retain
authors of split 10 alone (the reference, with a second seed to show how far references differ). `MODELS` says how each
was trained; `efface train --benchmark authors --part NAME --out DIR` remakes it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from efface.core import rows as row_files
from efface.core.card import Card
from efface.core.config import Config
from efface.core.context import Context
from efface.core.errors import UnknownName
from efface.core.types import Benchmark, Case, Data, Request, Row, Subject
from efface.data.authors_generator import SPLITS
from efface.families import checkpoint

FOLDER = Path(__file__).resolve().parent.parent / "data" / "authors"
PER_AUTHOR = 10
TRAINING: Mapping[str, object] = {
    "fit.rank": 6, "fit.lr": 2e-3, "fit.batch": 16, "fit.warmup": 10, "fit.schedule": "linear",
}
"""Settings of every model of the benchmark; steps are ten epochs over its rows."""
SUITE = (
    "metric/forget_quality", "metric/model_utility", "metric/truth_ratio", "metric/probability", "metric/rouge_recall", "metric/exact_memorization",
    "metric/extraction_strength", "attack/min_k",
)
"""TOFU's evaluation as open-unlearning has it: forget quality, utility with its nine parts, truth ratio, and memorization; for `efface prove --suite`."""
EPOCHS = 10
MODELS: Mapping[str, tuple[str, str, int]] = {
    "full": ("finetune", "10", 0),
    "retain90": ("retrain", "10", 0),
    "retain90-seed1": ("retrain", "10", 1),
    "retain95": ("retrain", "05", 0),
    "retain75": ("retrain", "25", 0),
}
"""Recipe, split and seed of each model."""


class AuthorsConfig(Config):
    """Settings of the benchmark."""

    split: Literal["05", "10", "25"] = "10"
    """Share of the authors to forget, in percent; always the last ones."""


class Authors(Benchmark[AuthorsConfig]):
    """Forget some of 40 invented authors."""

    card = Card(
        name="authors", title="Invented authors", paper="after TOFU, arXiv:2401.06121", families=("causal-lm",), extra="demo",
        departs="own rows: TOFU has 200 authors with 20 questions; questions and answers here have three forms a fact",
    )

    def case(self, ctx: Context) -> Case:
        """Original, request, and the reference where one is shipped or was made into the cache."""
        split = self.config.split
        base = checkpoint.load(checkpoint.EMBEDDED, ctx.device)
        baselines: dict[str, Subject] = {"original": checkpoint.attach(base, model_folder("full"))}
        for name, (recipe, of, seed) in MODELS.items():
            if recipe == "retrain" and of == split and model_folder(name).exists():
                baselines["reference" if seed == 0 else f"reference/{seed}"] = checkpoint.attach(base, model_folder(name))
        return Case(
            name=f"authors forget{split}",
            original=baselines["original"],
            request=request(split),
            baselines=baselines,
            reference="the same base trained by the same recipe on the retain authors alone",
            utility={name: Data.file(FOLDER / f"{name}.jsonl") for name in ("capitals", "countries")},
        )


def model_folder(name: str) -> Path:
    """Where the adapter `name` is: shipped with the package, or made into the cache."""
    shipped = FOLDER / "models" / name
    return shipped if shipped.exists() else checkpoint.cache() / "authors" / name


def request(split: str) -> Request:
    """Forget the last authors, keep those before, and hold out those that no model saw."""
    rows = row_files.read(FOLDER / "full.jsonl")
    cut = len(rows) - SPLITS[split] * PER_AUTHOR
    return Request(
        kind="knowledge", forget=_part(rows[cut:], f"forget{split}"), keep=_part(rows[:cut], f"retain{100 - int(split)}"),
        unseen=Data.file(FOLDER / "holdout.jsonl"), reason=f"benchmark authors, forget{split}",
    )


def training(part: str) -> tuple[str, Request, dict[str, object], int]:
    """Recipe, request, settings and seed that make the model `part`. Raises UnknownName."""
    if part not in MODELS:
        raise UnknownName.among("part of authors", part, MODELS)
    recipe, split, seed = MODELS[part]
    asked = request(split)
    rows = len(asked.rows("keep")) + (len(asked.rows("forget")) if recipe == "finetune" else 0)
    return recipe, asked, {**TRAINING, "fit.steps": EPOCHS * rows // 16}, seed


def _part(rows: list[dict[str, object]], part: str) -> Data:
    held: list[Row] = list(rows)
    return Data.inline(held, part)
