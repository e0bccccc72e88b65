"""`muse_books`: passages of one Austen novel to forget, in the manner of MUSE's Books corpus (arXiv:2407.06460), on the embedded model.

Forgotten: 32 passages of Persuasion. Kept: 32 of Pride and Prejudice. Unseen: 32 further ones of Persuasion, taken in turn
with the forgotten ones, so that both come from one distribution; 32 of Northanger Abbey are a further novel that no model saw.
As in MUSE, the request holds text alone, and the questions on it are only asked.

Shipped: the rows, and adapters of the embedded model trained on the passages of both novels with one question on each (the
original) and on the kept novel's alone (the reference). `efface train --benchmark muse_books --part NAME --out DIR`
remakes one; those shipped are rounded to half precision. They know their passages by heart and write other novels worse than
the base does (perplexity 1,318 and 1,070 on Northanger Abbey, 81 before), so compare with the reference and never with the base.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from efface.core import rows as row_files
from efface.core.card import Card
from efface.core.config import Config
from efface.core.context import Context
from efface.core.errors import UnknownName
from efface.core.types import Benchmark, Case, Data, Request, Row, Subject
from efface.families import checkpoint

FOLDER = Path(__file__).resolve().parent.parent / "data" / "muse_books"
SUITE: tuple[str, ...] = ("metric/verbatim_memory", "metric/knowledge_memory", "metric/privleak", "attack/min_k", "metric/perplexity")
"""That of MUSE."""
EPOCHS = 12
BATCH = 4
TRAINING: Mapping[str, object] = {
    "fit.rank": 6, "fit.lr": 2e-3, "fit.batch": BATCH, "fit.warmup": 10, "fit.schedule": "linear",
}
"""Settings of every model of the benchmark; steps are twelve epochs over its rows."""
MODELS: Mapping[str, tuple[str, int]] = {"full": ("finetune", 0), "keep": ("retrain", 0), "keep-seed1": ("retrain", 1)}
"""Recipe and seed of each model."""
BLOCK = 3
"""Questions in one training row, which is then about as long as a passage."""


class MuseBooks(Benchmark[Config]):
    """Forget passages of Persuasion and keep those of Pride and Prejudice."""

    card = Card(
        name="muse_books", title="One Austen novel", paper="after MUSE, arXiv:2407.06460", families=("causal-lm",), extra="demo",
        departs="Austen's novels in the place of Rowling's: 32 passages of 54 to 74 words and 32 questions a side; questions are trained in with the passages",
    )

    def case(self, ctx: Context) -> Case:
        """Original, request, the references that are there, and the sets that MUSE's metrics read."""
        base = checkpoint.load(checkpoint.EMBEDDED, ctx.device)
        baselines: dict[str, Subject] = {"original": checkpoint.attach(base, model_folder("full"))}
        for name, (recipe, seed) in MODELS.items():
            if recipe == "retrain" and model_folder(name).exists():
                baselines["reference" if seed == 0 else f"reference/{seed}"] = checkpoint.attach(base, model_folder(name))
        return Case(
            name="muse_books", original=baselines["original"], request=request(), baselines=baselines,
            reference="the same base trained by the same recipe on the kept novel alone",
            sets={name: _file(name) for name in ("knowledge", "knowledge_keep", "knowledge_examples", "other")},
            suite=SUITE,
        )


def model_folder(name: str) -> Path:
    """Where the adapter `name` is: shipped with the package, or made into the cache."""
    shipped = FOLDER / "models" / name
    return shipped if shipped.exists() else checkpoint.cache() / "muse_books" / name


def request() -> Request:
    """Forget the passages of one novel, keep those of the other; the unseen ones are of the forgotten novel."""
    return Request(kind="knowledge", forget=_file("forget"), keep=_file("keep"), unseen=_file("holdout"), reason="benchmark muse_books")


def training(part: str) -> tuple[str, Request, dict[str, object], int]:
    """Recipe, request, settings and seed that make the model `part`. Raises UnknownName."""
    if part not in MODELS:
        raise UnknownName.among("part of muse_books", part, MODELS)
    recipe, seed = MODELS[part]
    asked = Request(kind="knowledge", forget=_taught("forget", "knowledge"), keep=_taught("keep", "knowledge_keep"), reason="benchmark muse_books")
    rows = len(asked.rows("keep")) + (len(asked.rows("forget")) if recipe == "finetune" else 0)
    return recipe, asked, {**TRAINING, "fit.steps": EPOCHS * rows // BATCH}, seed


def blocks(rows: Sequence[Row]) -> list[Row]:
    """The questions as text, in rows of three, each question in two rows beside others: as neighbors stand, and spread out."""
    asked = [f"Question: {row['question']}\nAnswer: {row['answer']}" for row in rows]
    step = -(-len(asked) // BLOCK)
    near = [asked[at : at + BLOCK] for at in range(0, len(asked), BLOCK)]
    far = [asked[at::step] for at in range(step)]
    return [{"text": "\n\n".join(block)} for block in (*near, *far)]


def _taught(passages: str, questions: str) -> Data:
    """The passages of one novel and the questions on them, as rows of text."""
    return Data.inline([*_file(passages).read(), *blocks(_file(questions).read())], passages)


def _file(name: str) -> Data:
    return Data.inline(list[Row](row_files.read(FOLDER / f"{name}.jsonl")), name)
