"""RWKU (arXiv:2406.10890): forget a name of which no rows are given, and be asked about it in eleven ways.

    target       what is measured
    a country    embedded: facts about it out of `countryinfo`, asked as RWKU asks; neighbors are the countries around it
    Stephen King the published probes of RWKU's first target, which come with the package (without its Wikipedia passages)
    any other    RWKU's files from your folder, or from the hub

The request names the target. What a method is given to train on is the setting `corpus`: the questions about it, texts or
questions that the model makes itself, as the paper does (the method idk puts refusals in the place of their answers, which is
the paper's rejection tuning), or nothing. Nobody retrained a model without a real person or country, so there is no reference
and the verdict is "can't say": what is left are probes, membership means and fluency against the original. RWKU's utility sets
(MMLU, BBH, TruthfulQA, TriviaQA) are no part of this: run lm-evaluation-harness on the saved model for them. Utility is taken
here on questions about other countries, which say less.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from efface.core import rows as row_files
from efface.core.card import Card
from efface.core.config import Config
from efface.core.context import Context
from efface.core.types import Benchmark, Case, Data, Request, Row
from efface.data import country_facts
from efface.families import checkpoint, probe_files, self_corpus
from efface.ops import facts, probe_rows

SUITE: tuple[str, ...] = ("metric/probe_recall", "metric/membership_means", "metric/fluency", "metric/model_utility")
"""Probes of eleven types on target and neighbors, the four membership scores on two sets, fluency, and utility on the run's own row sets."""
AUTHORS = Path(__file__).resolve().parent.parent / "data" / "authors"
UTILITY = ("capitals", "countries")


class RwkuConfig(Config):
    """Settings of the benchmark."""

    target: str = "France"
    """Whom or what to forget, by name; "" takes the one that the folder is about."""
    model: str = checkpoint.EMBEDDED
    """The model that knows it: the embedded one, a folder, or a hub name."""
    folder: str = ""
    """Folder with RWKU's files; "" for the targets that come with the package, and for any other the hub."""
    hub: str = "jinzhuoran/RWKU"
    """Name of the data set on the hub."""
    corpus: Literal["facts", "texts", "questions", "names"] = "facts"
    """Forget rows: the questions about the target; texts, or questions and answers, that the model makes itself; or none beside the name."""
    rows: int = Field(40, ge=1)
    """Most self-made rows; the paper makes hundreds."""
    max_new: int = Field(128, ge=8)
    """Most tokens of a self-made text; 512 in the paper."""


class Rwku(Benchmark[RwkuConfig]):
    """Forget a country or a famous person by name."""

    card = Card(
        name="rwku", title="RWKU, real-world knowledge unlearning", paper="arXiv:2406.10890", families=("causal-lm",),
        departs="own wording of the line before a question; for the embedded model countries in the place of people; utility on the run's own rows; "
        "the default forget rows are the questions themselves, which is more than a name",
    )

    def case(self, ctx: Context) -> Case:
        """The case of one target. Raises Missing for files that are not there, BadRows for rows that lack a column."""
        config = self.config
        original = checkpoint.load(config.model, ctx.device)
        if not config.folder and config.target in country_facts.countries():
            target, forget, keep, near, sets = country(config.target)
        else:
            target, forget, keep, near, sets = published(*self._source())
        made = self._made(original, target, ctx) if config.corpus not in ("facts", "names") else forget if config.corpus == "facts" else None
        return Case(
            name=f"rwku {target}", original=original, baselines={"original": original},
            request=Request(
                kind="knowledge", names=(target,), forget=Data.inline(made, config.corpus) if made else None,
                keep=Data.inline(keep, "neighbors") if keep else None, near=tuple(near), reason=f"benchmark rwku, {target}",
            ),
            utility=utility((target, *near)), sets={name: Data.inline(rows, name) for name, rows in sets.items()}, suite=SUITE,
        )

    def _source(self) -> tuple[probe_files.Source, str, str]:
        config = self.config
        if config.folder:
            return probe_files.folder(Path(config.folder), config.target), config.target, config.folder
        if config.target == probe_files.SHIPPED:
            return probe_files.shipped(), config.target, "the package"
        return probe_files.hub(config.hub), config.target, config.hub

    def _made(self, original: Any, target: str, ctx: Context) -> list[Row]:
        config, name = self.config, country_facts.name_of(target)
        if config.corpus == "texts":
            return self_corpus.descriptions(original, name, config.rows, ctx, config.max_new)
        return self_corpus.questions(original, name, config.rows, ctx)


Told = tuple[str, Sequence[Row], Sequence[Row], Sequence[str], Mapping[str, Sequence[Row]]]
"""Target, forget rows, keep rows, neighbors, and sets by name."""


def country(name: str) -> Told:
    """A country as a target: its facts, those of the countries around it that do not name it, and both as RWKU's rows."""
    near = country_facts.near(name)
    forget: list[Row] = list(country_facts.rows(name))
    keep: list[Row] = [row for other in near for row in country_facts.rows(other, variant=0) if not facts.says(f"{row['value']} {row['aliases']}", [name])]
    own, others = probe_rows.of_facts(facts.of_rows(forget)), probe_rows.of_facts(facts.of_rows(keep, "keep"))
    sets = {f"forget_{level}": rows for level, rows in own.items()}
    sets |= {f"neighbor_{level}": [{**row, "neighbor": row["subject"], "subject": name} for row in others[level]] for level in ("level1", "level2")}
    return name, forget, keep, near, sets


def published(source: probe_files.Source, target: str, where: str) -> Told:
    """A target of RWKU: its files as sets, and the simple questions as rows to forget and to keep."""
    chosen, parts = probe_files.read(source, target, where)
    near = list(dict.fromkeys(str(row["neighbor"]) for part in ("neighbor_level1", "neighbor_level2") for row in parts.get(part, ())))
    forget = [_asked(row, str(row["subject"])) for row in parts.get("forget_level2", ())]
    keep = [_asked(row, str(row["neighbor"])) for row in parts.get("neighbor_level2", ())]
    return chosen, forget, keep, near, {name: rows for name, rows in parts.items() if name != "intro"}


def utility(about: Sequence[str]) -> dict[str, Data]:
    """Questions about countries none of which names the target or a neighbor of it."""
    found: dict[str, Data] = {}
    for name in UTILITY:
        rows: list[Row] = [row for row in row_files.read(AUTHORS / f"{name}.jsonl") if not facts.says(f"{row['question']} {row['answer']}", about)]
        found[name] = Data.inline(rows, name)
    return found


def _asked(row: Row, subject: str) -> Row:
    return {"question": row["query"], "answer": row["answer"], "value": row["answer"], "subject": subject}
