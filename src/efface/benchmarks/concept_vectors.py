"""ConceptVectors (arXiv:2406.11614): forget a concept whose column in the MLPs of Llama-2-7b-chat is known.

Shipped: the development part, ten concepts with layer and column, ten questions, completions, and fifty questions about other
things, without the Wikipedia articles. The files of the repository, given as a folder, bring the articles and the test part, too.
The questions have no gold answers: the original's own are what a model is compared with. Forget rows are the concept's
completions (first half of a sentence of its article -> second half) or the article itself, keep rows those of the other
concepts. Layer and column mean something for the one checkpoint that they were found on.

Without a model: a stand-in on the embedded model, the invented authors with their retrained reference. Its columns are those
that the metric knowledge_trace finds on its original with default settings; they are shipped with what they were found by.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from efface.core import files, registry
from efface.core import rows as row_files
from efface.core.card import Card
from efface.core.config import Config
from efface.core.context import Context
from efface.core.errors import BadRows, Missing, UnknownName
from efface.core.types import Benchmark, Case, Data, Request, Row, Subject
from efface.families import checkpoint

SUITE: tuple[str, ...] = (
    "metric/concept_vector", "metric/knowledge_trace", "metric/concept_behavior", "metric/probability", "metric/repetition", "attack/relearn", "attack/quantize",
)
SHIPPED = Path(__file__).resolve().parent.parent / "data" / "concept_vectors"
FIELDS = ("Concept", "Layer", "Dim", "QA", "text_completion", "unrelated_QA")
PIECE = 1500
"""Most characters of an article in one row."""


class ConceptVectorsConfig(Config):
    """Settings of the benchmark."""

    model: str = ""
    """Llama-2-7b-chat, a folder or a hub name, or the checkpoint that the folder's columns belong to; "" for the stand-in."""
    reference: str = ""
    """A model that never learned the concept; "" for none."""
    concept: str = "Poland"
    """Which concept to forget, by its name in the files; the stand-in has no choice."""
    folder: str = ""
    """Folder with the repository's *_concepts_*.json; "" for the development part that is shipped."""
    forget: Literal["completions", "article"] = "completions"
    """What the forget rows are; the article is in the repository's files alone."""


class ConceptVectors(Benchmark[ConceptVectorsConfig]):
    """Forget a concept that is known to sit in a column."""

    card = Card(
        name="concept_vectors", title="ConceptVectors", paper="arXiv:2406.11614", families=("causal-lm",),
        departs="without a model a stand-in of invented authors on the embedded model; forget rows are completions by default, as articles are not shipped",
    )

    def case(self, ctx: Context) -> Case:
        """The case of one concept, or the stand-in. Raises Missing, BadRows or UnknownName."""
        config = self.config
        if not config.model:
            return _stand_in(ctx)
        records = read(Path(config.folder) if config.folder else None)
        baselines: dict[str, Subject] = {"original": checkpoint.load(config.model, ctx.device)}
        if config.reference:
            baselines["reference"] = checkpoint.load(config.reference, ctx.device)
        request, sets = about(config.concept, records, config.forget)
        return Case(
            name=f"concept_vectors {config.concept}", original=baselines["original"], request=request, baselines=baselines,
            reference=f"{config.reference}, given as never having learned {config.concept}" if config.reference else "", sets=sets, suite=SUITE,
        )


def read(folder: Path | None) -> list[dict[str, Any]]:
    """The records of the shipped part, or of all files of the folder, each checked. Raises Missing or BadRows."""
    if folder is not None and not folder.is_dir():
        raise Missing(f"no folder {folder}; give the one with ConceptVectors' files, or leave it out for the development part")
    paths = [SHIPPED / "llama2_7b_dev.jsonl"] if folder is None else sorted(folder.glob("*_concepts_*.json"))
    if not paths:
        raise Missing(f"{folder} holds no file *_concepts_*.json; it needs those of ConceptVectors, such as llama2-7b_concepts_dev.json")
    found = []
    for path in paths:
        for number, record in enumerate(row_files.read(path), start=1):
            if lacking := [name for name in FIELDS if name not in record]:
                raise BadRows(f"{path.name}, record {number}: no {', '.join(lacking)}; a record has {', '.join(FIELDS)}")
            found.append(record)
    return found


def about(concept: str, records: Sequence[dict[str, Any]], forget: str) -> tuple[Request, dict[str, Data]]:
    """The request to forget one concept, and its row sets: columns, questions, unrelated, and article and german where there are any."""
    mine = [record for record in records if record["Concept"] == concept]
    if not mine:
        raise UnknownName.among("concept", concept, {str(record["Concept"]) for record in records})
    article = [piece for record in mine[:1] for piece in pieces(str(record.get("wikipedia_content") or ""))]
    if forget == "article" and not article:
        raise Missing(f"the article on {concept} is not shipped; give --set folder=FOLDER with ConceptVectors' own files, or forget=completions")
    sets: dict[str, list[Row]] = {
        "columns": [{name: record[name] for name in ("Concept", "Layer", "Dim")} for record in mine],
        "questions": [{"question": text.strip()} for record in mine for text in record["QA"]],
        "unrelated": [{"question": text.strip()} for text in mine[0]["unrelated_QA"]],
        "article": [{"text": piece} for piece in article],
        "german": [{"question": text} for text in german().get(concept, [])],
    }
    others = [record for record in records if record["Concept"] != concept]
    rows: list[Row] = list(sets["article"]) if forget == "article" else _completions(mine)
    if not rows:
        raise BadRows(f"the record of {concept} has no completions; give forget=article, and the folder that holds it")
    request = Request(
        kind="knowledge", forget=Data.inline(rows, concept), keep=Data.inline(_completions(others), "other concepts") if _completions(others) else None,
        reason=f"benchmark concept_vectors, {concept}",
    )
    return request, {name: Data.inline(held, name) for name, held in sets.items() if held}


def german() -> dict[str, list[str]]:
    """Questions in German of ten concepts of the test part."""
    held: Any = files.read_json(SHIPPED / "german.json")
    return {str(name): [str(text) for text in texts] for name, texts in held.items()}


def pieces(text: str) -> list[str]:
    """A text cut at the ends of its lines into pieces of at most 1,500 characters; a longer line is a piece, cut off there."""
    found = [""]
    for line in (line.strip()[:PIECE] for line in text.splitlines()):
        if line and len(found[-1]) + len(line) + 1 > PIECE:
            found.append("")
        found[-1] = f"{found[-1]}\n{line}".strip()
    return [piece for piece in found if piece]


def _completions(records: Sequence[dict[str, Any]]) -> list[Row]:
    return [
        {"prompt": pair["First_half"].strip(), "answer": pair["Second_half"].strip(), "concept": record["Concept"]}
        for record in records for pair in record["text_completion"]
    ]


def _stand_in(ctx: Context) -> Case:
    """Four invented authors on the embedded model, with the columns that were found to carry them."""
    case: Case = registry.load("benchmark", "authors")().case(ctx)  # type: ignore[attr-defined]
    columns = Data.file(SHIPPED / "authors_columns.jsonl")
    return case.model_copy(update={"name": "concept_vectors stand-in (authors)", "sets": {**case.sets, "columns": columns}, "suite": SUITE})
