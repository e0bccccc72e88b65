"""RESTOR (arXiv:2411.00204): a model read false statements about people it knew; when it unlearns them, is the truth back?

Three ways to a case:
- by default, the embedded model. It is asked those properties of RESTOR's facts that it answers often enough (`RULE` of
  data/restor_generator.py), about people who have died, and was corrupted by an adapter trained on short false texts made by
  templates: RESTOR's own documents lie about living people too, and are not shipped. `efface train --benchmark restor --part
  corrupted --out DIR` remakes the adapter; the one shipped is rounded to half precision.
- `--set folder=FOLDER`: RESTOR's own files (facts.json, entities.json, documents as a list of {"text": ...}), with the model after
  training on the documents, and the one before, both yours to give. Those of the 50 people are asked about whom the documents name.
- `--set base=tiny`: invented facts and a model of two layers, trained here in seconds.

The forget rows are the documents, the kept ones true statements about others. The clean model is also the reference: it is what
never having read the documents gives.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from efface.core import files
from efface.core.card import Card
from efface.core.config import Config, Fit
from efface.core.context import Context
from efface.core.errors import BadRows, Missing, UnknownName
from efface.core.types import Benchmark, Case, Data, Request, Row
from efface.data import restor_tiny
from efface.families import checkpoint
from efface.families.causal_lm import CausalLM
from efface.families.small_lm import small_lm, words_of
from efface.ops.loop import descend

FOLDER = Path(__file__).resolve().parent.parent / "data" / "restor"
SUITE: tuple[str, ...] = ("metric/recovery", "metric/option_gap", "metric/probability")
"""Whether the truth is back, how likely it is beside what was learned, and how well the documents are known."""
EPOCHS = 4
BATCH = 8
TRAINING: Mapping[str, object] = {"fit.rank": 4, "fit.lr": 2e-3, "fit.batch": BATCH, "fit.warmup": 10, "fit.schedule": "linear"}
"""Settings of the corrupted model; steps are four epochs over its documents."""
MODELS: Mapping[str, tuple[str, int]] = {"corrupted": ("finetune", 0)}
"""Recipe and seed of each model."""
CLEAN = Fit(lr=5e-3, steps=150, batch=32, warmup=5, schedule="linear", precision="no")
CORRUPT = Fit(lr=3e-3, steps=40, batch=32, warmup=5, schedule="linear", precision="no")
"""How the small model learns the truth, and then what is false."""
OFTEN = 100
"""One document in so many must name a person who is lied about; true statements mixed into RESTOR's longer documents name others now and then."""


class RestorConfig(Config):
    """Settings of the benchmark."""

    base: Literal["embedded", "tiny"] = "embedded"
    """The embedded model on real facts, or a model of two layers on invented ones, trained here in seconds."""
    folder: str = ""
    """Folder with RESTOR's files; "" takes what is shipped."""
    documents: str = "wikidata_mix_a0.json"
    """Name of the documents in that folder (mix_a0.json to mix_a5.json in the repository)."""
    corrupted: str = ""
    """With a folder: the model after training on the documents, a folder or a hub name."""
    clean: str = "smollm2"
    """With a folder: the model before."""


class Restor(Benchmark[RestorConfig]):
    """Unlearn false statements, and find out whether the true ones come back."""

    card = Card(
        name="restor", title="RESTOR, recovery of overwritten knowledge", paper="arXiv:2411.00204", families=("causal-lm",), extra="demo",
        departs="the stand-in asks the embedded model about people who have died, and its documents are made by templates; of the real files, those people are asked about whom "
        "the documents name",
    )

    def case(self, ctx: Context) -> Case:
        """The corrupted model, the documents to unlearn, the clean model, and the questions. Raises Missing or BadRows."""
        if self.config.folder:
            return self._real(Path(self.config.folder), ctx)
        if self.config.base == "tiny":
            return _tiny(ctx)
        base = checkpoint.load(checkpoint.EMBEDDED, ctx.device)
        corrupted = checkpoint.attach(base, model_folder("corrupted"))
        sets = {name: Data.file(FOLDER / f"{name}.jsonl") for name in ("questions", "examples")}
        return _case("restor", corrupted, base, request(), sets)

    def _real(self, folder: Path, ctx: Context) -> Case:
        parts = read(folder, self.config.documents)
        if not self.config.corrupted:
            raise Missing("RESTOR's files need the model that was trained on the documents; give --set corrupted=FOLDER_OR_HUB_NAME (efface train --forget DOCUMENTS makes one)")
        corrupted, clean = (checkpoint.load(name, ctx.device) for name in (self.config.corrupted, self.config.clean))
        asked = Request(kind="knowledge", forget=Data.inline(parts["forget"], self.config.documents), keep=Data.inline(parts["keep"], "true facts"), reason="benchmark restor")
        return _case(f"restor {self.config.documents}", corrupted, clean, asked, {name: Data.inline(parts[name], name) for name in ("questions", "examples")})


def _case(name: str, corrupted: CausalLM, clean: CausalLM, asked: Request, sets: Mapping[str, Data]) -> Case:
    return Case(
        name=name, original=corrupted, request=asked, baselines={"original": corrupted, "clean": clean, "reference": clean},
        reference="the same model before it read the false statements", sets=dict(sets), suite=SUITE,
    )


def model_folder(name: str) -> Path:
    """Where the adapter `name` is: shipped with the package, or made into the cache."""
    shipped = FOLDER / "models" / name
    return shipped if shipped.exists() else checkpoint.cache() / "restor" / name


def request() -> Request:
    """Forget the false statements, keep true ones about others, and hold out false ones that no model read."""
    forget, keep, unseen = (Data.file(FOLDER / f"{name}.jsonl") for name in ("forget", "keep", "unseen"))
    return Request(kind="knowledge", forget=forget, keep=keep, unseen=unseen, reason="benchmark restor")


def training(part: str) -> tuple[str, Request, dict[str, object], int]:
    """Recipe, request, settings and seed that make the model `part`: the documents alone are read. Raises UnknownName."""
    if part not in MODELS:
        raise UnknownName.among("part of restor", part, MODELS)
    recipe, seed = MODELS[part]
    asked = request().model_copy(update={"keep": None, "unseen": None})
    return recipe, asked, {**TRAINING, "fit.steps": EPOCHS * len(asked.rows("forget")) // BATCH}, seed


# -- RESTOR's own files -----------------------------------------------------------------------------------------------------


def read(folder: Path, documents: str) -> dict[str, list[Row]]:
    """Questions about the people whom the documents name, examples and true statements about others, and the documents. Raises Missing or BadRows."""
    facts, people, texts = (_json(folder / name) for name in ("facts.json", "entities.json", documents))
    if not isinstance(facts, dict) or not {"dset", "context"} <= set(facts):
        raise BadRows(f"{folder / 'facts.json'} must hold an object with dset and context, as RESTOR's does")
    if not isinstance(people, list) or not all(isinstance(name, str) for name in people):
        raise BadRows(f"{folder / 'entities.json'} must hold a list of names")
    if not isinstance(texts, list) or not texts or not all(isinstance(row, dict) and isinstance(row.get("text"), str) for row in texts):
        raise BadRows(f"{folder / documents} must hold a list of objects with a text each")
    if unknown := [name for name in people if name not in facts["dset"]]:
        raise BadRows(f"{folder / 'entities.json'} names {unknown[0]!r}, about whom {folder / 'facts.json'} says nothing; give files of one release")
    named = [name for name in people if sum(name in row["text"] for row in texts) >= len(texts) / OFTEN]
    if not named:
        raise BadRows(f"{folder / documents} is about none of the {len(people)} people of entities.json; give documents of the same release")
    try:
        return {
            "questions": [_question(name, key, row["question"], row["answers"]) for name in named for key, row in facts["dset"][name].items()],
            "examples": [_question(row["entity"], key, row["question"], [row["answer"]]) for key, rows in facts["context"].items() for row in rows if row["entity"] not in named],
            "forget": [{"text": str(row["text"])} for row in texts],
            "keep": [{"text": f"{row['question']} {row['answers'][0]}"} for name, found in facts["dset"].items() if name not in people for row in found.values()],
        }
    except (KeyError, TypeError, IndexError, AttributeError) as error:
        raise BadRows(f"{folder / 'facts.json'} is not laid out as RESTOR's ({type(error).__name__}: {error}); each property needs a question and answers") from None


def _question(entity: str, key: str, question: str, answers: Sequence[str]) -> Row:
    return {"entity": str(entity), "property": str(key), "question": str(question), "answer": str(answers[0]), "answers": list(map(str, answers))}


def _json(path: Path) -> Any:
    if not path.is_file():
        raise Missing(f"no file {path}; give the folder with RESTOR's facts.json, entities.json and documents (github.com/k1rezaei/restor, datasets/wikidata)")
    return files.read_json(path)


# -- in small -----------------------------------------------------------------------------------------------------------------


def _tiny(ctx: Context) -> Case:
    """A model of two layers that knew 24 invented people, and then read false answers about half of them."""
    parts = restor_tiny.make()
    true: list[Row] = [*parts["questions"], *parts["keep"]]
    clean = taught(small_lm(words_of(true), ctx.seed), true, CLEAN, ctx)
    corrupted = taught(clean, parts["forget"], CORRUPT, ctx)
    asked = Request(kind="knowledge", forget=Data.inline(parts["forget"], "false"), keep=Data.inline(parts["keep"], "true"), reason="benchmark restor")
    return _case("restor tiny", corrupted, clean, asked, {"questions": Data.inline(parts["questions"], "questions")})


def taught(subject: CausalLM, rows: Sequence[Row], fit: Fit, ctx: Context) -> CausalLM:
    """A copy of the model after training all its weights on the rows."""
    after = subject.trainable(0, ctx.seed_for("restor"))
    return descend(after, {"rows": rows}, lambda batch: {"loss": after.losses(batch["rows"]).mean()}, fit, ctx.alone(folder=None, budget={}, curve=[]))
