"""WMDP (arXiv:2403.03218): multiple-choice questions on biology, cybersecurity and chemistry that a model should not be able to answer.

Read as they are on the hub (cais/wmdp, parts wmdp-bio, wmdp-cyber, wmdp-chem: {"question", "choices", "answer": 0..3}), from a
folder of yours or from the hub; nothing of them is shipped. The number of questions changed between releases, so it stands in
the case's name. The published forget texts are partly gated: the request's forget rows are the questions, each with its
right option as the answer. MMLU, where you give its file, is what must stay; its subjects nearest to WMDP's are a set of their own.

Without model and folder: a harmless stand-in on the embedded model, 40 capitals to forget and 40 other facts of countries to
keep, as items of the same form. There is no retrained reference for it: the base model learned them long ago.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from efface.core import rows as row_files
from efface.core.card import Card
from efface.core.config import Config
from efface.core.context import Context
from efface.core.errors import BadRows, Missing
from efface.core.types import Benchmark, Case, Data, Request, Row, Subject
from efface.families import checkpoint
from efface.ops import facts, multiple_choice, probes

SUITE: tuple[str, ...] = ("metric/multiple_choice", "metric/probability", "metric/rouge_recall", "metric/repetition", "attack/relearn", "attack/quantize")
PARTS = {"bio": "biology", "cyber": "cybersecurity", "chem": "chemistry"}
"""What the line before a question says of each part."""
NEAR = ("virology", "college_biology", "college_computer_science", "computer_security")
"""Subjects of MMLU that neighbor WMDP's."""
COUNTRIES = Path(__file__).resolve().parent.parent / "data" / "authors"
Part = Literal["bio", "cyber", "chem"]


class WmdpConfig(Config):
    """Settings of the benchmark."""

    model: str = ""
    """The model: a folder or a hub name; "" for the embedded one."""
    reference: str = ""
    """A model of the same kind that never learned the subject; "" for none."""
    folder: str = ""
    """Folder with WMDP's files; "" reads them from the hub, or takes the stand-in where no model is given either."""
    hub: str = "cais/wmdp"
    """Name of the data set on the hub."""
    parts: tuple[Part, ...] = ("bio", "cyber", "chem")
    """Which parts to forget."""
    mmlu: str = ""
    """File of MMLU's rows (question, choices, answer, subject), which must stay; "" for none."""


class Wmdp(Benchmark[WmdpConfig]):
    """Forget a subject that is asked in multiple choices."""

    card = Card(
        name="wmdp", title="WMDP, hazardous knowledge as multiple choice", paper="arXiv:2403.03218", families=("causal-lm",),
        departs="without model and files a stand-in of capitals and countries; the forget rows are the questions, as the published forget texts are gated",
    )

    def case(self, ctx: Context) -> Case:
        """The case on the real questions, or the stand-in. Raises Missing or BadRows, naming the part that is not there or not right."""
        config = self.config
        baselines: dict[str, Subject] = {"original": checkpoint.load(config.model or checkpoint.EMBEDDED, ctx.device)}
        if config.reference:
            baselines["reference"] = checkpoint.load(config.reference, ctx.device)
        name, forget, keep, utility = self._rows() if config.model or config.folder else stand_in()
        return Case(
            name=f"{name}, {len(forget)} questions",
            original=baselines["original"],
            request=Request(kind="knowledge", forget=Data.inline(forget, name), keep=Data.inline(keep, "keep") if keep else None, reason=f"benchmark {name}"),
            baselines=baselines,
            reference=f"{config.reference}, given as never having learned the subject" if config.reference else "",
            utility={label: Data.inline(rows, label) for label, rows in utility.items() if rows},
            suite=SUITE,
        )

    def _rows(self) -> tuple[str, list[Row], list[Row], dict[str, list[Row]]]:
        """Name, forget rows, keep rows and utility sets of the real files."""
        config = self.config
        if not config.parts:
            raise Missing(f"no part of WMDP was named; give --set parts with some of {', '.join(PARTS)}")
        forget = [row for part in config.parts for row in read(part, Path(config.folder) if config.folder else None, config.hub)]
        others = _mmlu(Path(config.mmlu)) if config.mmlu else []
        near = [row for row in others if row["group"] in NEAR]
        keep = [row for row in others if row["group"] not in NEAR]
        return f"wmdp {'+'.join(config.parts)}", forget, keep, {"mmlu": keep, "mmlu near": near}


def read(part: str, folder: Path | None, hub: str) -> list[Row]:
    """The rows of one part, each checked. Raises Missing where there is none, BadRows for one that is no multiple choice among four."""
    given = _hub(hub, f"wmdp-{part}") if folder is None else _folder(folder, part)
    found = []
    for number, row in enumerate(given, start=1):
        item = multiple_choice.of_row({**row, "group": part}, f"wmdp-{part}, row {number}")
        if len(item.options) != 4:
            raise BadRows(f"wmdp-{part}, row {number}: {len(item.options)} choices; WMDP has four")
        found.append(multiple_choice.to_row(replace(item, about=PARTS[part])))
    return found


def stand_in() -> tuple[str, list[Row], list[Row], dict[str, list[Row]]]:
    """Capitals to forget, continents and countries to keep, as multiple choices."""
    forget, keep = ([*_items(row_files.read(COUNTRIES / f"{name}.jsonl"))] for name in ("capitals", "countries"))
    return "wmdp stand-in (capitals)", forget, keep, {"countries": keep}


def _items(rows: Sequence[Row]) -> Iterator[Row]:
    known = facts.of_rows(rows)
    for row, fact in zip(rows, known, strict=True):
        if item := probes.item(fact, known):
            made = multiple_choice.to_row(replace(item, group=fact.relation, about="geography"))
            # The sentences of the row itself are what the model is asked for elsewhere.
            yield {**made, **row}


def _mmlu(path: Path) -> list[Row]:
    return [multiple_choice.to_row(multiple_choice.of_row(row, f"{path}, row {number}")) for number, row in enumerate(row_files.read(path), start=1)]


def _folder(folder: Path, part: str) -> list[dict[str, Any]]:
    """The rows of a part out of a folder: JSON Lines or JSON by any of its names, or the hub's own parquet files."""
    if not folder.is_dir():
        raise Missing(f"no folder {folder}; give the one with WMDP's files, or leave it out to read them from the hub")
    named = [path for stem in (f"wmdp-{part}", f"wmdp_{part}", part) for end in ("jsonl", "json") if (path := folder / f"{stem}.{end}").exists()]
    if named:
        return row_files.read(named[0])
    packed = sorted((folder / f"wmdp-{part}").glob("*.parquet"))
    if not packed:
        raise Missing(f"WMDP's part {part!r} is not in {folder}; it needs wmdp-{part}.jsonl, or the hub's folder wmdp-{part} with its parquet files")
    try:
        from pyarrow import parquet
    except ImportError:
        raise Missing('reading parquet files needs pyarrow; run: pip install "efface[hub]"') from None
    return [dict(row) for path in packed for row in parquet.read_table(path).to_pylist()]


def _hub(name: str, config: str) -> list[dict[str, Any]]:
    """The rows of a configuration on the hub, through the library `datasets`. Raises Missing."""
    try:
        import datasets
    except ImportError:
        raise Missing('reading WMDP from the hub needs datasets; run: pip install "efface[hub]", or give --set folder=FOLDER with its files') from None
    try:
        return [dict(row) for row in datasets.load_dataset(name, config, split="test")]
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        raise Missing(f"cannot read {config!r} of {name} from the hub: {' '.join(str(error).split())[:200]}") from None
