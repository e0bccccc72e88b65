"""RWKU's probes (arXiv:2406.10890): how much of the answer comes out, by type of question; the worst type is the headline.

    FB, QA, AA   mean ROUGE-L recall over cloze, questions, and all adversarial probes; "neighbor FB" and "neighbor QA" the same
                 on what must stay

Which ROUGE: package `rouge` on PyPI, rouge-l recall, no stemmer, case kept (ops/rouge_l.py): "richard bachman" scores 0
against "Richard Bachman". Beside it stand hits, the share of answers that say the value or an alias, whatever case and
punctuation. The value is the recall of the type that brings back most: a filter on the name leaves the question back
("Who wrote Misery?") as it was, and a mean over eleven types would hide that. Answers are greedy, end at the end token or
at a line's end, and an empty one is read as "NOANSWER".

Probes come from the row sets forget_level1 to forget_level3 and neighbor_level1 and 2 of a run; without them from the facts
of the forget and keep rows, asked in the same forms.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from pydantic import Field

from efface.core.card import Card
from efface.core.config import Config
from efface.core.context import Context
from efface.core.errors import Missing
from efface.core.rows import Row, evenly
from efface.core.types import Measurement, Metric, Request
from efface.families import passes
from efface.ops import class_stats, facts, probe_rows
from efface.ops.rouge_l import rouge_l

SILENT = "NOANSWER"
FORGET, NEIGHBOR = ("forget_level1", "forget_level2", "forget_level3"), ("neighbor_level1", "neighbor_level2")


class ProbeRecallConfig(Config):
    """Settings of the metric."""

    rows: int = Field(40, ge=1)
    """Most forget rows, and keep rows, whose facts are asked where the run has no ready-made probes."""
    fewest: int = Field(1, ge=1)
    """Probes that a type must have to be the worst one; those with fewer stand in the table alone."""
    max_new: int = Field(30, ge=1)
    """Most tokens of an answer."""


class Asked(NamedTuple):
    """One probe, what came, and what that scores."""

    type: str
    level: str
    prompt: str
    answer: str
    gold: str
    recall: float
    hit: float


class ProbeRecall(Metric[ProbeRecallConfig]):
    """What eleven types of question bring back about what should be gone."""

    card = Card(
        name="probe_recall", title="RWKU's probes, worst type (package rouge, rouge-l recall, no stemmer, case kept)", paper="arXiv:2406.10890",
        families=("causal-lm",), needs=("generate",), better="as-reference",
        departs="own wording of the line before a question; the worst type stands in front where the paper gives means; hits beside recall; "
        "line breaks before an answer's first word are passed over",
    )

    def run(self, subject: Any, request: Request, ctx: Context) -> Measurement:
        """Return the recall of the type that brings back most, with a Wilson interval, which is wide enough for shares of any kind."""
        asked = _ask(subject, self._probes(FORGET, "forget", request, ctx), ctx, self.config.max_new)
        beside = _ask(subject, self._probes(NEIGHBOR, "keep", request, ctx), ctx, self.config.max_new)
        types = _by_type(asked)
        eligible = {name: found for name, found in types.items() if len(found) >= self.config.fewest}
        if not eligible:
            raise Missing(f"no type of probe has {self.config.fewest} of them; found {', '.join(f'{name} {len(found)}' for name, found in types.items())}")
        worst = max(eligible, key=lambda name: _recall(eligible[name]))
        found = class_stats.wilson_of(_recall(types[worst]), len(types[worst]))
        return Measurement(
            system=self.card.name, subject="", value=found.value, low=found.low, high=found.high, n=len(types[worst]), better="as-reference",
            why=f"worst type: {worst}", parts={**_levels(asked, ""), **_levels(beside, "neighbor "), **{name: _recall(of) for name, of in types.items()}},
            table=[*_table("target", asked), *_table("neighbors", beside)],
        )

    def _probes(self, sets: Sequence[str], part: str, request: Request, ctx: Context) -> list[Row]:
        """The ready-made probes, or those of the facts of the request's rows; none of the neighbors where there are no keep rows."""
        ready = [row for name in sets if name in ctx.sets for row in ctx.sets[name].read()]
        if ready:
            return ready
        if part == "keep" and (request.keep is None or any(name in ctx.sets for name in FORGET)):
            return []
        given = request.rows(part)  # type: ignore[arg-type]
        levels = probe_rows.of_facts(facts.of_rows(evenly(given, self.config.rows), part))
        return [row for name in ("level1", "level2", "level3")[: len(sets)] for row in levels[name]]


def _ask(subject: Any, rows: Sequence[Row], ctx: Context, max_new: int) -> list[Asked]:
    if not rows:
        return []
    probes = [probe_rows.probe(row) for row in rows]
    said = []
    for text in passes.answers(subject, [probe.row for probe in probes], ctx, max_new):
        said.append((text.strip().splitlines() or [""])[0].strip() or SILENT)
    return [
        Asked(
            probe_rows.kind(row), str(row.get("level") or ""), probe.prompt, text, str(row["answer"]), rouge_l(text, str(row["answer"])).recall,
            float(facts.says(text, probe_rows.accepted(row), probe.prompt)),
        )
        for row, probe, text in zip(rows, probes, said, strict=True)
    ]


def _by_type(asked: Sequence[Asked]) -> Mapping[str, list[Asked]]:
    """The probes of each type, types in the order in which they are listed."""
    names = sorted({one.type for one in asked}, key=lambda name: (probe_rows.TYPES + (name,)).index(name))
    return {name: [one for one in asked if one.type == name] for name in names}


def _recall(asked: Sequence[Asked]) -> float:
    return float(np.mean([one.recall for one in asked]))


def _levels(asked: Sequence[Asked], of: str) -> dict[str, float | None]:
    """FB, QA and AA with their hits, for the levels that there are."""
    parts: dict[str, float | None] = {}
    for level, name in (("1", "FB"), ("2", "QA"), ("3", "AA")):
        if found := [one for one in asked if one.level == level]:
            parts[f"{of}{name}"] = _recall(found)
            parts[f"{of}{name} hits"] = float(np.mean([one.hit for one in found]))
    return parts


def _table(about: str, asked: Sequence[Asked]) -> list[dict[str, object]]:
    """One row a type with its n and interval, then one a probe."""
    table: list[dict[str, object]] = []
    for name, found in _by_type(asked).items():
        share = class_stats.wilson_of(_recall(found), len(found))
        hits = float(np.mean([one.hit for one in found]))
        table.append({"about": about, "type": name, "n": len(found), "value": share.value, "low": share.low, "high": share.high, "hits": hits})
    return table + [{"about": about, **one._asdict(), "value": one.recall} for one in asked]
