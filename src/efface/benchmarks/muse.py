"""MUSE (arXiv:2407.06460): forget news articles or novels from a model that was fine-tuned on them; a six-way evaluation.

Reads the folder of one corpus as it is laid out, from --case folder=FOLDER (that of the corpus, or one that holds it by name):

    raw/       forget, retain1 (kept in training), retain2 (kept, to measure on), holdout (seen by nobody)
    verbmem/   forget: {"prompt", "gt"}
    knowmem/   forget_qa, forget_qa_icl, retain_qa, retain_qa_icl (retain2_qa.. in older releases): {"question", "answer"}
    privleak/  forget, retain, holdout: texts
    scal/      forget_1 .. forget_4, each within the next (news alone)
    sust/      forget_1 .. forget_4, with no text in two of them (news alone)

Each part is a .json (a list of texts or of objects, or JSON Lines), a .jsonl or, for one long text, a .txt. Without a folder the
parts are read from the hub. Long texts are cut into rows of at most `length` tokens, as they are trained on.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from pydantic import Field

from efface.core import rows as row_files
from efface.core.card import Card
from efface.core.config import Config
from efface.core.context import Context
from efface.core.errors import BadRows, Missing
from efface.core.types import Benchmark, Case, Data, Request, Row, Subject
from efface.families import checkpoint

SUITE: tuple[str, ...] = ("metric/verbatim_memory", "metric/knowledge_memory", "metric/privleak", "attack/min_k", "metric/perplexity")
"""Verbatim memory, knowledge memory of both sides (that of the kept side is MUSE's utility), PrivLeak with the attack that it is made of, and fluency on kept text."""
PARTS = ("forget", "retain1", "retain2", "holdout")
FOLDS = 4
SPARE = 4
ENDS = ("json", "jsonl", "txt")
Source = Callable[[str, str], "list[Any] | None"]
"""Entries of a part by its folder and name ("knowmem", "forget_qa"); None where there is no such part."""
Fold = Literal["raw", "scal", "sust", "scal_1", "scal_2", "scal_3", "scal_4", "sust_1", "sust_2", "sust_3", "sust_4"]


class MuseConfig(Config):
    """Settings of the benchmark."""

    corpus: Literal["news", "books"] = "news"
    """Which corpus."""
    model: str = ""
    """The model fine-tuned on forget and retain texts: a folder or a hub name."""
    reference: str = ""
    """The model fine-tuned on the retain texts alone; "" for none (PrivLeak then uses MUSE's stored area)."""
    folder: str = ""
    """Folder with MUSE's files; "" reads them from the hub."""
    hub: str = ""
    """Name of the data set on the hub; "" is muse-bench/MUSE-News or muse-bench/MUSE-Books."""
    length: int = Field(2048, ge=16)
    """Most tokens of a row of text."""
    fold: Fold = "raw"
    """Which texts to forget: those of raw, one fold of the scaling (scal) or the sequential (sust) study, or all of a study, for `efface folds`."""


class Muse(Benchmark[MuseConfig]):
    """Forget the forget texts of one of MUSE's corpora."""

    card = Card(
        name="muse", title="MUSE, machine unlearning six-way evaluation", paper="arXiv:2407.06460", families=("causal-lm",),
        departs="texts and questions only: the fine-tuned models are given by the user",
    )

    def case(self, ctx: Context) -> Case:
        """The case of one corpus. Raises Missing without a model, or naming the part of MUSE that is not there; BadRows with part and row."""
        config = self.config
        if not config.model:
            raise Missing("muse needs the model that was fine-tuned on its texts; give --case model=FOLDER_OR_HUB_NAME")
        source = _files(Path(config.folder), config.corpus) if config.folder else _hub(config.hub or f"muse-bench/MUSE-{config.corpus.title()}")
        parts = read(source, config.fold)
        baselines: dict[str, Subject] = {"original": checkpoint.load(config.model, ctx.device)}
        if config.reference:
            baselines["reference"] = checkpoint.load(config.reference, ctx.device)
        original: Any = baselines["original"]
        length = min(config.length, original.context_length)
        texts: dict[str, list[Row]] = {name: [{"text": piece} for text in held for piece in pieces(text, original.tokenizer, length)] for name, held in parts.texts.items()}
        firsts: dict[str, list[Row]] = {name: [{"text": next(pieces(text, original.tokenizer, length)), "corpus": config.corpus} for text in held] for name, held in parts.privleak.items()}
        sets = {**parts.sets, **firsts, **texts}
        return Case(
            name=f"muse {config.corpus}{'' if config.fold == 'raw' else ' ' + config.fold}",
            original=original,
            request=Request(
                kind="knowledge", forget=_data(texts, "forget"), keep=_data(texts, "retain1"), unseen=_data(texts, "holdout"),
                reason=f"benchmark muse, {config.corpus}, {config.fold}",
            ),
            baselines=baselines,
            reference=f"{config.reference}, given as trained on the retain texts alone" if config.reference else "",
            utility={"retain2": _data(texts, "retain2")},
            sets={name: Data.inline(rows, name) for name, rows in sets.items() if name not in PARTS},
            suite=SUITE,
        )


class Parts(NamedTuple):
    """What one corpus holds."""

    texts: dict[str, list[str]]
    """forget, retain1, retain2, holdout, and the folds of a study that was asked for as a whole ("sust_1")."""
    sets: dict[str, list[Row]]
    """Row sets that the metrics read by name."""
    privleak: dict[str, list[str]]


def read(source: Source, fold: Fold = "raw") -> Parts:
    """The parts of one corpus; every part that is not there is named. Raises Missing or BadRows."""
    texts = {name: _texts(source, "raw", name) for name in PARTS}
    if fold != "raw":
        study, _, number = fold.partition("_")
        found = folds(source, study)  # type: ignore[arg-type]
        texts["forget"] = found[int(number) - 1] if number else found[-1] if study == "scal" else [text for held in found for text in held]
        texts |= {} if number else {f"{study}_{at}": held for at, held in enumerate(found, start=1)}
    sets = {"verbatim": _objects(source, "verbmem", "forget", {"prompt": "prompt", "gt": "answer"})}
    for name, part in (("knowledge", "forget_qa"), ("knowledge_examples", "forget_qa_icl"), ("knowledge_keep", "retain_qa"), ("knowledge_keep_examples", "retain_qa_icl")):
        there = part if source("knowmem", part) is not None else part.replace("retain", "retain2")
        sets[name] = _objects(source, "knowmem", there, {"question": "question", "answer": "answer"})
    return Parts(texts, sets, {f"privleak_{name}": _texts(source, "privleak", name) for name in ("forget", "holdout")})


def folds(source: Source, study: Literal["scal", "sust"]) -> list[list[str]]:
    """The four forget sets of a study. Raises BadRows, with fold and row, where they are not nested ("scal") or not disjoint ("sust")."""
    found = [_texts(source, study, f"forget_{number}") for number in range(1, FOLDS + 1)]
    for number in range(1, FOLDS):
        if study == "scal":
            inner, outer = found[number - 1], set(found[number])
            if lost := next((row for row, text in enumerate(inner, start=1) if text not in outer), 0):
                raise BadRows(f"MUSE's scal/forget_{number + 1} does not hold row {lost} of scal/forget_{number}; each fold must hold the one before it")
        else:
            before = {text: earlier for earlier, texts in enumerate(found[:number], start=1) for text in texts}
            if twice := next((row for row, text in enumerate(found[number], start=1) if text in before), 0):
                raise BadRows(f"MUSE's sust/forget_{number + 1}, row {twice}, stands in sust/forget_{before[found[number][twice - 1]]} too; no text may be in two folds")
    return found


def pieces(text: str, tokenizer: Any, length: int) -> Iterator[str]:
    """The text in pieces of at most `length` tokens, cut between words."""
    spans = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
    start, taken = 0, 0
    for at, (begins, _) in enumerate(spans):
        # Places are left for the token that begins a row, and for a first word that is cut in more pieces without its space.
        if at - taken >= length - SPARE:
            cut = max(text.rfind(" ", start, begins), text.rfind("\n", start, begins))
            cut = cut if cut > start else begins
            yield text[start:cut].strip()
            start = cut
            taken = next((place for place in range(taken, at) if spans[place][1] > cut), at)
    if rest := text[start:].strip():
        yield rest


def _data(texts: Mapping[str, Sequence[Row]], name: str) -> Data:
    return Data.inline(texts[name], name)


def _there(source: Source, folder: str, part: str) -> list[Any]:
    entries = source(folder, part)
    if not entries:
        raise Missing(f"MUSE's part {folder}/{part} is not there; give the folder of a corpus with raw, verbmem, knowmem and privleak (news has scal and sust too)")
    return entries


def _texts(source: Source, folder: str, part: str) -> list[str]:
    """The texts of a part, each an entry by itself or in a column "text"."""
    found = []
    for number, entry in enumerate(_there(source, folder, part), start=1):
        text = entry.get("text") if isinstance(entry, Mapping) else entry
        if not isinstance(text, str) or not text.strip():
            raise BadRows(f"MUSE's {folder}/{part}, row {number}: found {_short(entry)}; each row must be a text, or an object with a text in \"text\"")
        found.append(text)
    return found


def _objects(source: Source, folder: str, part: str, columns: Mapping[str, str]) -> list[Row]:
    """The rows of a part, its columns under the names that the metrics read."""
    found: list[Row] = []
    for number, entry in enumerate(_there(source, folder, part), start=1):
        bad = [name for name in columns if not isinstance(entry, Mapping) or not isinstance(entry.get(name), str) or not str(entry[name]).strip()]
        if bad:
            raise BadRows(f"MUSE's {folder}/{part}, row {number}: no text in {bad[0]!r} (found {_short(entry)}); each row needs {' and '.join(map(repr, columns))}")
        found.append({to: entry[name] for name, to in columns.items()})
    return found


def _short(entry: object) -> str:
    text = json.dumps(entry, ensure_ascii=False, default=str)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _files(folder: Path, corpus: str) -> Source:
    """Parts out of a folder."""
    place = folder / corpus if (folder / corpus).is_dir() else folder
    if not place.is_dir():
        raise Missing(f"no folder {folder}; give the one with MUSE's files, or leave it out to read them from the hub")

    def part(kind: str, name: str) -> list[Any] | None:
        path = next((path for end in ENDS if (path := place / kind / f"{name}.{end}").is_file()), None)
        return None if path is None else _entries(path)

    return part


def _entries(path: Path) -> list[Any]:
    """The entries of a file: the whole text of a .txt, the items of a JSON array, the lines of JSON Lines. Raises BadRows with file and line."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise BadRows(f"{path}: byte {error.start} is not UTF-8; save the file as UTF-8 text") from None
    if path.suffix == ".txt":
        return [text] if text.strip() else []
    if not text.lstrip().startswith("["):
        return list(row_files.read(path))
    try:
        return list(json.loads(text))
    except (ValueError, RecursionError) as error:
        raise BadRows(f"{path}:{getattr(error, 'lineno', 1)}: not a JSON array ({error})") from None


def _hub(name: str) -> Source:
    """Parts from the hub, through the library `datasets`. Raises Missing when it is not installed."""
    try:
        import datasets
    except ImportError:
        raise Missing('reading MUSE from the hub needs datasets; run: pip install "efface[hub]", or give --case folder=FOLDER with its files') from None

    def part(kind: str, split: str) -> list[Any] | None:
        try:
            return [dict(row) for row in datasets.load_dataset(name, kind, split=split)]
        except (ValueError, KeyError):  # no configuration or no split of this name
            return None
        except (OSError, datasets.exceptions.DatasetsError) as error:
            raise Missing(f"cannot read {kind}/{split} of {name} from the hub: {' '.join(str(error).split())[:200]}") from None

    return part
