"""From a subject and its baselines to a report: runs the suite, gathers the evidence, asks for the verdict.

A system that raises Missing or Unfit is reported as skipped with its reason; one that breaks in any other way is reported as
failed. Neither ever becomes a number. With a folder in the context, every finished measurement is kept there, so that a
run that was killed goes on where it stopped.
"""

from __future__ import annotations

import json
import logging
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from efface.core import digest, files, registry
from efface.core.capabilities import check, has
from efface.core.context import Context
from efface.core.errors import BudgetSpent, EffaceError
from efface.core.rows import layout
from efface.core.types import Measurement, Report, Request, Row, Subject, System
from efface.families import forms, passes
from efface.ops.text_stats import lowest_mean, rouge_l_recalls
from efface.verdict import Evidence, Members, Rows, judge

log = logging.getLogger("efface")
FORGET, KEEP, NEW_TOKENS = 200, 40, 64
"""Most forget rows and keep rows that the verdict reads, and most tokens of a generated answer."""


def prove(candidate: Subject, request: Request, ctx: Context, suite: Sequence[str] | None = None, title: str = "") -> Report:
    """The report on `candidate`, against ctx.baselines "original" and "reference" (and "reference/SEED" for further ones).

    `suite` names systems as "metric/rouge_recall"; all that fit the family when None.
    """
    began = time.monotonic()
    subjects = {name: s for name, s in (("original", ctx.baselines.get("original")), ("reference", ctx.baselines.get("reference"))) if s}
    subjects["candidate"] = candidate
    names = list(suite) if suite is not None else default_suite(candidate)
    measurements = tuple(_measured(names, subjects, request, ctx))
    missing = [name for name in ("original", "reference") if name not in ctx.baselines]
    why = f"no {' and no '.join(missing)} model was given to compare with." if missing else ""
    verdict = judge(Evidence() if missing else evidence(candidate, request, ctx), why)
    if candidate.shields:
        verdict = verdict.model_copy(update={"line": f"Guarded, the weights still know. {verdict.line}"})
    return Report(
        title=title, verdict=verdict, request=request, steps=candidate.lineage, measurements=measurements,
        samples=tuple(_samples(subjects, request, ctx)), curve=tuple(ctx.curve), environment=environment(ctx),
        seconds={"prove": time.monotonic() - began},
    )


def default_suite(subject: Subject) -> list[str]:
    """Every metric and attack whose card names the subject's family, metrics first."""
    return [
        f"{kind}/{name}"
        for kind in ("metric", "attack")
        for name in registry.names(kind)
        if subject.family in registry.card(kind, name).families
    ]


# -- measurements ---------------------------------------------------------------------------------------------------------


def _measured(names: Sequence[str], subjects: Mapping[str, Subject], request: Request, ctx: Context) -> list[Measurement]:
    done = _Ledger(ctx.folder)
    result = []
    if subjects["candidate"].family == "causal-lm":
        _read_once(subjects, request, ctx)
    for full in ctx.progress(names, "measuring", len(names)):
        kind, _, name = full.partition("/")
        card = registry.card(kind, name)
        # An adversary who changes weights costs minutes; it compares with the reference itself, so the candidate is enough.
        costly = kind == "attack" and card.access in ("weights", "gradients")
        for who, subject in subjects.items():
            if costly and who != "candidate":
                continue
            system = registry.load(kind, name)()
            key = _Ledger.key(full, who, system, subject, request, ctx)
            found = done.get(key)
            if found is None:
                found = measure(system, subject, request, ctx).model_copy(update={"system": full, "subject": who})
                found = done.put(key, found)
            result.append(found)
    return result


def measure(system: System[Any], subject: Subject, request: Request, ctx: Context) -> Measurement:
    """One measurement; skipped or failed with the reason when there is none."""
    began = time.monotonic()
    name = system.card.name
    try:
        check(system, subject, request)
        found: Measurement = system.run(subject, request, ctx.alone())  # type: ignore[attr-defined]
    except (EffaceError, BudgetSpent) as error:
        return Measurement.skipped(name, "", str(error))
    except Exception as error:  # noqa: BLE001  one broken system must not cost the report; it is shown as failed
        log.exception("%s failed", name)
        return Measurement(system=name, subject="", status="failed", why=f"{type(error).__name__}: {error}")
    return found.model_copy(update={"seconds": time.monotonic() - began})


class _Ledger:
    """Measurements finished so far, one JSON line each, and their per-row tables."""

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder
        self.path = folder / "measurements.jsonl" if folder else None
        self.held: dict[str, Measurement] = {}
        if self.path and self.path.exists():
            for line in self.path.read_text(encoding="utf-8").splitlines():
                try:
                    entry = json.loads(line)
                    self.held[entry["key"]] = Measurement.model_validate(entry["measurement"])
                except (ValueError, KeyError):
                    log.warning("%s: a line that was cut off is measured again", self.path)

    @staticmethod
    def key(full: str, who: str, system: System[Any], subject: Subject, request: Request, ctx: Context) -> str:
        """Equal for measurements that must come out equal."""
        name = ctx.once((subject, "name"), lambda: subject.origin or subject.digest)
        others = sorted(ctx.once((s, "name"), lambda s=s: s.origin or s.digest) for s in ctx.baselines.values())  # type: ignore[misc]
        return digest.of_value([full, who, system.config.model_dump(), name, request.digest, others, ctx.seed])

    def get(self, key: str) -> Measurement | None:
        found = self.held.get(key)
        return found if found is not None and found.status == "ok" else None

    def put(self, key: str, found: Measurement) -> Measurement:
        """Keep the measurement; its table goes into a file of its own and out of the record."""
        if self.folder is None or self.path is None:
            return found
        if found.table:
            name = f"rows/{found.system.replace('/', '-')}-{found.subject}.jsonl"
            files.write_text(self.folder / name, "".join(json.dumps(row, ensure_ascii=False, default=float) + "\n" for row in found.table))
            found = found.model_copy(update={"rows": name, "table": []})
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"key": key, "measurement": found.model_dump(mode="json")}) + "\n")
        return found


# -- evidence -------------------------------------------------------------------------------------------------------------


def evidence(candidate: Subject, request: Request, ctx: Context) -> Evidence:
    """What the verdict is made of, for a language model or for a classifier."""
    if has(candidate, "score"):
        return _text_evidence(candidate, request, ctx)
    return _class_evidence(candidate, request, ctx)


def _models(candidate: Subject, ctx: Context) -> dict[str, Subject]:
    return {"candidate": candidate, **{name: s for name, s in ctx.baselines.items() if name.split("/")[0] in ("original", "reference")}}


def _rows(models: Mapping[str, Subject], score: Callable[[Subject], np.ndarray], seeds: bool = True) -> Rows:
    others = [score(s) for name, s in models.items() if name.startswith("reference/")] if seeds else []
    return Rows(score(models["candidate"]), score(models["reference"]), score(models["original"]), others)


def _text_evidence(candidate: Subject, request: Request, ctx: Context) -> Evidence:
    models = _models(candidate, ctx)
    forget, keep = request.sample("forget", FORGET), request.sample("keep", KEEP) if request.keep else []
    forgetting = {"log-probability of the answers": _rows(models, lambda s: -_losses(s, forget, ctx))}
    if all(row.get("perturbed_answer") and row.get("paraphrased_answer") for row in forget):
        forgetting["truth ratio"] = _rows(models, lambda s: _truth(s, forget, ctx))
    parts = layout(forget)
    if "text" not in parts:
        forgetting["generated answers, ROUGE-L recall"] = _rows(models, lambda s: _rouge(s, forget, ctx))
    utility = {"kept rows": keep} if keep else {}
    utility |= {name: data.read() for name, data in ctx.utility.items()}
    return Evidence(
        forgetting, _membership(models, forget, request, lambda s, rows: passes.scores(s, rows, ctx)),
        {name: _rows(models, lambda s, rows=rows: _useful(s, rows, ctx)) for name, rows in utility.items()},  # type: ignore[misc]
    )


def _membership(
    models: Mapping[str, Subject], forget: Sequence[Row], request: Request, scored: Callable[[Subject, Sequence[Row]], Sequence[Any]]
) -> dict[str, Members]:
    """Members of the two cheapest attacks, loss and Min-40 %, where there are unseen rows to compare with."""
    if request.unseen is None:
        return {}
    unseen = request.unseen.read()

    def pair(subject: Subject, score: Callable[[Any], float]) -> tuple[np.ndarray, np.ndarray]:
        return tuple(np.array([score(row) for row in scored(subject, rows)]) for rows in (forget, unseen))  # type: ignore[return-value]

    def members(score: Callable[[Any], float]) -> Members:
        others = [pair(s, score) for name, s in models.items() if name.startswith("reference/")]
        return Members(pair(models["candidate"], score), pair(models["reference"], score), others)

    return {"loss attack": members(lambda row: -row.loss), "Min-40 % attack": members(_min_k)}


def _min_k(row: Any, share: float = 0.4) -> float:
    found = lowest_mean(row.log_probs[row.words], share)
    return float("-inf") if found is None else found


def _losses(subject: Subject, rows: Sequence[Row], ctx: Context) -> np.ndarray:
    return np.array([row.loss for row in passes.scores(subject, rows, ctx)])


def _truth(subject: Subject, rows: Sequence[Row], ctx: Context) -> np.ndarray:
    """-log truth ratio: by how many nats the right answer, put in other words, is likelier than the wrong ones."""
    return np.array([
        np.mean([wrong.loss for wrong in choice.wrong]) - (choice.paraphrased or choice.gold).loss for choice in passes.choices(subject, rows, ctx)
    ])


def _rouge(subject: Subject, rows: Sequence[Row], ctx: Context) -> np.ndarray:
    return np.array(rouge_l_recalls(passes.answers(subject, rows, ctx, NEW_TOKENS), _gold(rows)))


def _useful(subject: Subject, rows: Sequence[Row], ctx: Context) -> np.ndarray:
    """Mean of the answer's probability (against the wrong ones, where the set has options alone) and of ROUGE-L recall."""
    if "text" in layout(rows):
        return np.exp(-_losses(subject, rows, ctx))
    if all(row.get("perturbed_answer") and not row.get("paraphrased_answer") for row in rows):
        found = passes.choices(subject, rows, ctx)
        likely = np.array([np.exp(-c.gold.loss) / (np.exp(-c.gold.loss) + sum(np.exp(-w.loss) for w in c.wrong)) for c in found])
    else:
        likely = np.exp(-_losses(subject, rows, ctx))
    return (likely + _rouge(subject, rows, ctx)) / 2


def _class_evidence(candidate: Any, request: Request, ctx: Context) -> Evidence:
    models = _models(candidate, ctx)
    forget, keep = request.sample("forget", FORGET), request.sample("keep", FORGET) if request.keep else []

    def true(subject: Any, rows: Sequence[Row]) -> np.ndarray:
        chances = np.asarray(subject.predict(rows), dtype=float)
        return chances[np.arange(len(rows)), np.array([int(str(row["y"])) for row in rows])]

    def right(subject: Any, rows: Sequence[Row]) -> np.ndarray:
        return (np.asarray(subject.predict(rows)).argmax(1) == np.array([row["y"] for row in rows])).astype(float)

    utility = {"kept rows": keep} if keep else {}
    utility |= {name: data.read() for name, data in ctx.utility.items()}
    privacy = {}
    if request.unseen is not None:
        unseen = request.unseen.read()
        pairs = {name: (true(s, forget), true(s, unseen)) for name, s in models.items()}
        others = [pair for name, pair in pairs.items() if name.startswith("reference/")]
        privacy["confidence attack"] = Members(pairs["candidate"], pairs["reference"], others)
    return Evidence(
        {"probability of the true label": _rows(models, lambda s: true(s, forget))}, privacy,
        {name: _rows(models, lambda s, rows=rows: right(s, rows)) for name, rows in utility.items()},  # type: ignore[misc]
    )


# -- what goes beside the numbers -----------------------------------------------------------------------------------------


def _read_once(subjects: Mapping[str, Subject], request: Request, ctx: Context) -> None:
    """The passes that nearly everything needs, widest first, so that no narrower one is made besides."""
    sets = [request.sample("forget", FORGET)] + ([request.sample("keep", KEEP)] if request.keep else []) + [d.read() for d in ctx.utility.values()]
    for subject in (*subjects.values(), *(s for name, s in ctx.baselines.items() if "/" in name)):
        for rows in sets:
            if all(row.get("perturbed_answer") for row in rows):
                passes.choices(subject, rows, ctx)


def _samples(subjects: Mapping[str, Any], request: Request, ctx: Context) -> list[dict[str, str]]:
    """A few prompts with the right answer and what each model says, forget rows first."""
    if request.forget is None or not has(subjects["candidate"], "generate"):
        return []
    result = []
    for part, rows in (("forget", request.sample("forget", FORGET)), ("keep", request.sample("keep", KEEP) if request.keep else [])):
        if not rows or "text" in layout(rows):
            continue
        said = {name: passes.answers(s, rows, ctx, NEW_TOKENS) for name, s in subjects.items()}
        gold = _gold(rows)
        for at in range(0, len(rows), max(1, len(rows) // (6 if part == "forget" else 3))):
            result.append({"part": part, "prompt": _prompt(rows[at]), "answer": gold[at], **{name: texts[at] for name, texts in said.items()}})
    return result


def _gold(rows: Sequence[Row]) -> list[str]:
    return [forms.gold_text(row) for row in rows]


def _prompt(row: Row) -> str:
    parts = layout([row])
    if "messages" in parts:
        return str(row["messages"][-2]["content"]) if len(row["messages"]) > 1 else ""  # type: ignore[index, arg-type]
    return str(row[parts["prompt"]])


def environment(ctx: Context) -> dict[str, str]:
    """Versions, machine and seed: what a reader needs to run it again."""
    found = {"python": platform.python_version(), "machine": f"{platform.system()} {platform.machine()}", "seed": str(ctx.seed)}
    for package in ("efface", "torch", "transformers", "peft", "accelerate", "scikit-learn"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
