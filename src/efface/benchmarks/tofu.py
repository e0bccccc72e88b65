"""TOFU (arXiv:2401.06121): forget 1, 5 or 10 % of 200 invented authors that the model was fine-tuned on.

Reads the files of locuslab/TOFU as they are: `full.json` and every `*_perturbed.json` are JSON Lines in spite of their
name; forgetNN is always the last NN % of `full.json`, and an author is 20 rows in a run. Paraphrased and wrong answers exist
for the forget rows and for the first 400 retain rows; real authors and world facts have wrong answers alone. The model and
the reference are yours to give: one fine-tuned on all rows, and one fine-tuned by the same recipe on the retain rows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from efface.core import rows as row_files
from efface.core.card import Card
from efface.core.config import Config
from efface.core.context import Context
from efface.core.errors import BadRows, Missing
from efface.core.types import Benchmark, Case, Data, Request, Row, Subject
from efface.families import checkpoint

PER_AUTHOR = 20
FACTS = ("real_authors", "world_facts")
SUITE = (
    "metric/forget_quality", "metric/model_utility", "metric/truth_ratio", "metric/probability", "metric/rouge_recall", "metric/exact_memorization",
    "metric/extraction_strength", "attack/min_k",
)
"""TOFU's evaluation as open-unlearning has it: forget quality, utility with its nine parts, truth ratio, and memorization; for `efface prove --suite`."""
Source = Callable[[str], list[dict[str, Any]] | None]
"""Rows of a part of TOFU by its name ("full", "forget10_perturbed"); None when there is no such part."""


class TofuConfig(Config):
    """Settings of the benchmark."""

    model: str = ""
    """The model fine-tuned on all 200 authors: a folder or a hub name."""
    reference: str = ""
    """The model fine-tuned on the retain part alone, by the same recipe; "" for none."""
    folder: str = ""
    """Folder with TOFU's files; "" reads them from the hub."""
    hub: str = "locuslab/TOFU"
    """Name of the data set on the hub."""
    split: Literal["forget01", "forget05", "forget10"] = "forget10"
    """Which authors to forget: the last 1, 5 or 10 percent."""


class Tofu(Benchmark[TofuConfig]):
    """Forget some of TOFU's invented authors."""

    card = Card(
        name="tofu", title="TOFU, a task of fictitious unlearning", paper="arXiv:2401.06121", families=("causal-lm",),
        departs="rows and split only: the fine-tuned models are given by the user",
    )

    def case(self, ctx: Context) -> Case:
        """The case of one split. Raises Missing without a model, or naming the part of TOFU that is not there."""
        config = self.config
        if not config.model:
            raise Missing("tofu needs the model that was fine-tuned on all its authors; give --set model=FOLDER_OR_HUB_NAME")
        parts = read(_files(Path(config.folder)) if config.folder else _hub(config.hub), config.split)
        baselines: dict[str, Subject] = {"original": checkpoint.load(config.model, ctx.device)}
        if config.reference:
            baselines["reference"] = checkpoint.load(config.reference, ctx.device)
        retain = f"retain{100 - int(config.split[-2:])}"
        return Case(
            name=f"tofu {config.split}",
            original=baselines["original"],
            request=Request(
                kind="knowledge", forget=Data.inline(parts.forget, config.split), keep=Data.inline(parts.keep, retain),
                unseen=Data.inline(parts.unseen, "holdout") if parts.unseen else None, reason=f"benchmark tofu, {config.split}",
            ),
            baselines=baselines,
            reference=f"{config.reference}, given as trained on {retain} alone" if config.reference else "",
            utility={name: Data.inline(rows, name) for name, rows in parts.facts.items()},
        )


class Parts(NamedTuple):
    """The rows of one split. Keep rows have paraphrased and wrong answers where TOFU has them."""

    forget: list[Row]
    keep: list[Row]
    unseen: list[Row]
    facts: dict[str, list[Row]]


def read(source: Source, split: str) -> Parts:
    """The parts of one split, put together and checked against each other. Raises Missing or BadRows."""
    full, forget = _there(source, "full"), _there(source, f"{split}_perturbed")
    cut = len(full) - len(forget)
    _same("full", full[cut:], f"{split}_perturbed", forget)
    known = _there(source, "retain_perturbed")
    _same("full", full[: len(known)], "retain_perturbed", known)
    keep = (known + full[len(known) :])[:cut]
    holdout = source(f"holdout{split[-2:]}_perturbed") or source(f"holdout{split[-2:]}") or []
    return Parts(
        forget=[_named(row, cut + at) for at, row in enumerate(forget)],
        keep=[_named(row, at) for at, row in enumerate(keep)],
        unseen=[_named(row, len(full) + at) for at, row in enumerate(holdout)],
        facts={name: list(_there(source, f"{name}_perturbed")) for name in FACTS},
    )


def _named(row: Row, place: int) -> Row:
    """The row with its author's number, which TOFU leaves to the order of rows."""
    return {**row, "author": str(place // PER_AUTHOR)}


def _there(source: Source, part: str) -> list[dict[str, Any]]:
    rows = source(part)
    if not rows:
        raise Missing(f"TOFU's part {part!r} is not there; give the folder with full.json, forget*_perturbed.json, retain_perturbed.json, real_authors_perturbed.json and world_facts_perturbed.json")
    return rows


def _same(one: str, rows: Sequence[Row], other: str, others: Sequence[Row]) -> None:
    """Raise BadRows when two parts of TOFU that must hold the same questions do not."""
    if len(rows) != len(others):
        raise BadRows(f"TOFU's part {one!r} has fewer rows than {other!r} ({len(others)}); give files of one release")
    for number, (row, again) in enumerate(zip(rows, others, strict=True), start=1):
        if (row.get("question"), row.get("answer")) != (again.get("question"), again.get("answer")):
            raise BadRows(f"TOFU's parts {one!r} and {other!r} do not fit together: row {number} of {other!r} is another question; give files of one release")


def _files(folder: Path) -> Source:
    """Parts out of a folder; each file is JSON Lines, whatever its name ends in."""
    if not folder.is_dir():
        raise Missing(f"no folder {folder}; give the one with TOFU's files, or leave it out to read them from the hub")

    def part(name: str) -> list[dict[str, Any]] | None:
        found = [path for end in ("json", "jsonl") if (path := folder / f"{name}.{end}").exists()]
        return row_files.read(found[0]) if found else None

    return part


def _hub(name: str) -> Source:
    """Parts from the hub, through the library `datasets`. Raises Missing when it is not installed."""
    try:
        import datasets
    except ImportError:
        raise Missing('reading TOFU from the hub needs datasets; run: pip install "efface[hub]", or give --set folder=FOLDER with its files') from None

    def part(config: str) -> list[dict[str, Any]] | None:
        try:
            return [dict(row) for row in datasets.load_dataset(name, config, split="train")]
        except ValueError:  # no configuration of this name
            return None
        except (OSError, datasets.exceptions.DatasetsError) as error:
            raise Missing(f"cannot read {config!r} of {name} from the hub: {' '.join(str(error).split())[:200]}") from None

    return part
