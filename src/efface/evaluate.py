"""From a subject and its baselines to a report: runs the suite, gathers the evidence, asks for the verdict.

A system that raises Missing or Unfit is reported as skipped with its reason; one that breaks in any other way is reported as
failed. Neither ever becomes a number. With a folder in the context, every finished measurement is kept there, so that a
run that was killed goes on where it stopped.
"""

from __future__ import annotations

import importlib
import json
import logging
import platform
import time
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from efface import intention
from efface.core import digest, files, registry
from efface.core.capabilities import check, has
from efface.core.context import Context
from efface.core.errors import BudgetSpent, EffaceError, Missing
from efface.core.rows import evenly, layout
from efface.core.types import Intent, Measurement, Report, Request, Row, Subject, System, Verdict
from efface.evidence import FORGET, KEEP, NEW_TOKENS, evidence
from efface.families import drawn, forms, passes
from efface.report import contact
from efface.verdict import PRIVACY, Evidence, distances, judge, of_distances

log = logging.getLogger("efface")


Settings = Mapping[str, Mapping[str, object]]
"""{"attack/quantize": {"bits": (4,)}}: settings of single systems of a suite."""


def prove(
    candidate: Subject, request: Request, ctx: Context, suite: Sequence[str] | None = None, title: str = "", settings: Settings | None = None,
) -> Report:
    """The report on `candidate`, against ctx.baselines "original" and "reference" (and "reference/SEED" for further ones).

    `suite` names systems as "metric/rouge_recall"; all that fit the family when None.
    """
    began = time.monotonic()
    names = list(suite) if suite is not None else default_suite(candidate)
    return conclude(candidate, request, ctx, measured(candidate, names, request, ctx, settings), title, began)


def measured(candidate: Subject, names: Sequence[str], request: Request, ctx: Context, settings: Settings | None = None) -> tuple[Measurement, ...]:
    """What each system measures on original, reference and candidate; those finished before come out of the context's folder."""
    return tuple(_measured(names, _subjects(candidate, ctx), request, ctx, settings or {}))


def conclude(candidate: Subject, request: Request, ctx: Context, measurements: tuple[Measurement, ...], title: str, began: float) -> Report:
    """The report that follows from measurements: the verdict against the reference, and whether it is removal or suppression."""
    missing = [name for name in ("original", "reference") if name not in ctx.baselines]
    why = f"no {' and no '.join(missing)} model was given to compare with." if missing else ""
    verdict, intent = _verdict(candidate, request, ctx, why, measurements)
    if candidate.shields:
        verdict = verdict.model_copy(update={"line": f"Guarded, the weights still know. {verdict.line}"})
    return _with_strongest(Report(
        title=title, verdict=verdict, intent=intent, request=request, steps=candidate.lineage, measurements=measurements,
        samples=tuple(_samples(_subjects(candidate, ctx), request, ctx)), curve=tuple(ctx.curve), environment=environment(ctx),
        weights={who: _name(subject, ctx) for who, subject in _subjects(candidate, ctx).items()}, seconds={"prove": time.monotonic() - began},
    ))


def _subjects(candidate: Subject, ctx: Context) -> dict[str, Subject]:
    return {**{name: s for name, s in (("original", ctx.baselines.get("original")), ("reference", ctx.baselines.get("reference"))) if s}, "candidate": candidate}


def _verdict(candidate: Subject, request: Request, ctx: Context, why: str, measurements: Sequence[Measurement]) -> tuple[Verdict, Intent | None]:
    """The verdict, and for language models whether it is removal or suppression; "can't say" where something to compare or to judge with is missing."""
    if why:
        return judge(Evidence(), why), None
    try:
        found = distances(evidence(candidate, request, ctx))
    except Missing as error:
        return judge(Evidence(), f"{error}."), None
    verdict = of_distances(found)
    attacked = any(m.system.startswith("attack/") for m in measurements)
    if candidate.family != "causal-lm" or not attacked:
        return verdict, None
    intent = intention.judge(verdict.word, found, measurements, bool(candidate.shields))
    return verdict, intention.against_claim(intent, candidate.lineage)


def _with_strongest(report: Report) -> Report:
    """The report, whose first line says so when the margins hold and an attack besides still tells the model from a retrained one."""
    if report.verdict.word != "forgotten":
        return report
    from efface.report import build

    worst = build.view(report).worst
    if worst is None or worst.distance is None or abs(worst.distance) <= PRIVACY:
        return report
    mine, reference = worst.cells["candidate"], worst.cells["reference"]
    line = f"{report.verdict.line} Yet an attack tells it from such a model: {worst.name} gives {mine.text}, and {reference.text} there."
    return report.model_copy(update={"verdict": report.verdict.model_copy(update={"line": line})})


STANDARD: Mapping[str, tuple[str, ...]] = {
    "causal-lm": (
        "metric/exact_memorization", "metric/extraction_strength", "metric/forget_quality", "metric/model_utility", "metric/perplexity",
        "metric/probability", "metric/repetition", "metric/rouge_recall", "metric/truth_ratio", "attack/logit_lens", "attack/loss", "attack/min_k", "attack/min_k_plus_plus", "attack/quantize",
        "attack/reference", "attack/relearn", "attack/zlib",
    ),
}
"""What is measured where nothing else is asked for: of a language model, what takes minutes; `efface audit` has more. Of the other families everything."""


def default_suite(subject: Subject) -> list[str]:
    """The standard suite of the subject's family with what plug-ins have for it; for most, every metric and attack whose card names it, metrics first."""
    standard = STANDARD.get(subject.family)
    return everything(subject) if standard is None else [*standard, *(name for name in everything(subject) if name.count("/") > 1)]


def everything(subject: Subject) -> list[str]:
    """Every metric and attack whose card names the subject's family, metrics first."""
    return [
        f"{kind}/{name}"
        for kind in ("metric", "attack")
        for name in registry.names(kind)
        if subject.family in registry.card(kind, name).families
    ]


def expand(names: Sequence[str]) -> list[str]:
    """The systems that a suite names, a benchmark by the literal SUITE of its file. Raises UnknownName, or EffaceError for a benchmark that has none."""
    found: list[str] = []
    for name in names:
        if "/" in name:
            found.append(name)
            continue
        registry.card("benchmark", name)
        module = importlib.import_module(registry.load("benchmark", name, to_run=False).__module__)
        if not hasattr(module, "SUITE"):
            raise EffaceError(f"the benchmark {name} has no suite of its own; name systems, such as metric/rouge_recall")
        found += module.SUITE
    return list(dict.fromkeys(found))


# -- measurements ---------------------------------------------------------------------------------------------------------


def _measured(names: Sequence[str], subjects: Mapping[str, Subject], request: Request, ctx: Context, settings: Settings) -> list[Measurement]:
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
            try:
                system = registry.load(kind, name).set(settings.get(full))
            except Missing as error:  # an optional part that is not installed
                result.append(Measurement.skipped(full, who, str(error)))
                continue
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
        own = ctx.alone(spent={})
        found: Measurement = system.run(subject, request, own)  # type: ignore[attr-defined]
    except (EffaceError, BudgetSpent) as error:
        return Measurement.skipped(name, "", str(error))
    except Exception as error:  # noqa: BLE001  one broken system must not cost the report; it is shown as failed
        log.exception("%s failed", name)
        return Measurement(system=name, subject="", status="failed", why=f"{type(error).__name__}: {error}")
    spent = {name: amount for name, amount in own.spent.items() if name != "seconds"}
    return found.model_copy(update={"seconds": time.monotonic() - began, "spent": spent})


def _name(subject: Subject, ctx: Context) -> str:
    """What names the weights of a subject; a digest is computed once for all who ask."""
    return ctx.once((subject, "name"), lambda: subject.origin or subject.digest)


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
        name, others = _name(subject, ctx), sorted(_name(s, ctx) for s in ctx.baselines.values())
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


# -- what goes beside the numbers -----------------------------------------------------------------------------------------


def _read_once(subjects: Mapping[str, Subject], request: Request, ctx: Context) -> None:
    """The passes that nearly everything needs, widest first, so that no narrower one is made besides."""
    sets = ([request.sample("forget", FORGET)] if request.forget else []) + ([request.sample("keep", KEEP)] if request.keep else []) + [d.read() for d in ctx.utility.values()]
    for subject in (*subjects.values(), *(s for name, s in ctx.baselines.items() if "/" in name)):
        for rows in sets:
            if all(row.get("perturbed_answer") for row in rows):
                passes.choices(subject, rows, ctx)
        if has(subject, "generate"):
            passes.answer_sets(subject, [rows for rows in sets if "text" not in layout(rows)], ctx, NEW_TOKENS)


def _samples(subjects: Mapping[str, Any], request: Request, ctx: Context) -> list[dict[str, str]]:
    """A few prompts with the right answer and what each model says, forget rows first."""
    if subjects["candidate"].family == "gan":
        return _latent_samples(subjects, ctx)
    if request.forget is None or not has(subjects["candidate"], "generate"):
        return []
    if subjects["candidate"].family == "diffusion":
        return _drawn_samples(subjects, request, ctx)
    result = []
    for part, rows in (("forget", request.sample("forget", FORGET)), ("keep", request.sample("keep", KEEP) if request.keep else [])):
        if not rows or "text" in layout(rows):
            continue
        said = {name: passes.answers(s, rows, ctx, NEW_TOKENS) for name, s in subjects.items()}
        gold = _gold(rows)
        for at in range(0, len(rows), max(1, len(rows) // (6 if part == "forget" else 3))):
            result.append({"part": part, "prompt": _prompt(rows[at]), "answer": gold[at], **{name: texts[at] for name, texts in said.items()}})
    return result


def _drawn_samples(subjects: Mapping[str, Any], request: Request, ctx: Context) -> list[dict[str, str]]:
    """A few prompts and what each model draws for them from the same noise; the sheet with all of them goes into the run's folder."""
    result = []
    sheet: list[tuple[str, dict[str, Any]]] = []
    for part, draw, most in (("forget", drawn.forgotten, 6), ("forget, in other words", drawn.reworded, 3), ("keep", drawn.kept, 6)):
        found = {name: draw(subject, request, ctx) for name, subject in subjects.items()}
        rows = found["candidate"][0]
        for at in evenly(range(len(rows)), most):
            shown = {name: pictures[at] for name, (_, pictures) in found.items()}
            sheet.append((str(rows[at]["prompt"]), shown))
            result.append({"part": part, "prompt": str(rows[at]["prompt"]), **{name: contact.uri(picture) for name, picture in shown.items()}})
    if ctx.folder is not None:
        columns = [(name, [shown[name] for _, shown in sheet]) for name in subjects]
        contact.write(ctx.folder / "pictures.png", [prompt for prompt, _ in sheet], columns)
    return result


def _latent_samples(subjects: Mapping[str, Any], ctx: Context) -> list[dict[str, str]]:
    """What each generator makes of the same few latents; a retrained one's are its own, and stand beside for their kind alone."""
    seeds = list(range(12))
    found = {name: subject.generate(len(seeds), seeds) for name, subject in subjects.items()}
    names = [f"latent {seed}" for seed in seeds]
    if ctx.folder is not None:
        contact.write(ctx.folder / "pictures.png", names, list(found.items()))
    return [{"prompt": label, **{name: contact.uri(pictures[at]) for name, pictures in found.items()}} for at, label in enumerate(names)]


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
    for package in ("efface", "torch", "transformers", "peft", "accelerate", "scikit-learn", "diffusers"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
