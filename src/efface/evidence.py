"""What a verdict is made of: how well each model knows the forget rows, who can tell members, and what is still known.

One set of statistics for each family; every model that is compared (candidate, original, references) is read in the same way.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from efface.core.capabilities import has
from efface.core.context import Context
from efface.core.errors import Missing
from efface.core.rows import layout
from efface.core.types import Request, Row, Subject
from efface.families import concept_chances, drawn, forms, judges, passes
from efface.ops.text_stats import log_truth_ratio, lowest_mean, rouge_l_recalls
from efface.verdict import Evidence, Members, Rows

FORGET, KEEP, NEW_TOKENS = 200, 40, 64
"""Most forget rows and keep rows that the verdict reads, and most tokens of a generated answer."""


def evidence(candidate: Subject, request: Request, ctx: Context) -> Evidence:
    """What the verdict is made of, for the candidate's family."""
    if has(candidate, "score"):
        return _text_evidence(candidate, request, ctx)
    if candidate.family == "diffusion":
        return _picture_evidence(candidate, request, ctx)
    if candidate.family == "gan":
        return _latent_evidence(candidate, request, ctx)
    return _prediction_evidence(candidate, request, ctx)


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
        -log_truth_ratio((choice.paraphrased or choice.gold).loss, [wrong.loss for wrong in choice.wrong])
        for choice in passes.choices(subject, rows, ctx)
    ])


def _rouge(subject: Subject, rows: Sequence[Row], ctx: Context) -> np.ndarray:
    return np.array(rouge_l_recalls(passes.answers(subject, rows, ctx, NEW_TOKENS), [forms.gold_text(row) for row in rows]))


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


def _picture_evidence(candidate: Subject, request: Request, ctx: Context) -> Evidence:
    """What judges see in the pictures, drawn by every model for the same prompts from the same noise.

    Forgetting: the chance that the concept's judge gives it, for its prompts and for the same in other words. Utility: the
    share of the judges who see what was asked, for prompts to keep, for those of the neighbors, and, for prompts to forget,
    in what else they ask for. Raises Missing where no judge knows the concept.
    """
    models, found = _models(candidate, ctx), judges.judges(ctx)
    name, number = judges.asked(request.names, found)

    def seen(draw: Callable[..., tuple[list[Row], np.ndarray]]) -> Callable[[Subject], np.ndarray]:
        return lambda s: judges.chances(found[name], draw(s, request, ctx)[1])[:, number]

    forgetting = {f"chance that the {name} judge sees the concept": _rows(models, seen(drawn.forgotten))}
    if drawn.reworded(candidate, request, ctx)[0]:
        forgetting["the same, asked in other words"] = _rows(models, seen(drawn.reworded))
    kept = _right_pictures(found, drawn.kept)
    utility = {"kept prompts": _rows(models, lambda s: kept(s, request, ctx))}
    rest = _right_pictures({other: judge for other, judge in found.items() if other != name}, drawn.forgotten)
    if len(found) > 1:
        utility["what else the prompts to forget ask for"] = _rows(models, lambda s: rest(s, request, ctx))
    return Evidence(forgetting, {}, utility)


def _latent_evidence(candidate: Subject, request: Request, ctx: Context) -> Evidence:
    """What judges see in the pictures of random latents.

    A retrained generator's latents are its own, so nothing is paired with it: the means and their intervals are right, and no
    single row says anything of the reference.
    """
    models, found = _models(candidate, ctx), judges.judges(ctx)
    reference = models["reference"]
    forgetting = {"probability of the concept": _rows(models, lambda s: concept_chances.concept(s, request, ctx))}
    utility = {"likeness to sound pictures": _rows(models, lambda s: concept_chances.likeness(s, request, ctx))}
    utility |= {f"mix of {name}s": _rows(models, lambda s, name=name: concept_chances.coverage(s, reference, request, ctx)[name]) for name in found}  # type: ignore[misc]
    return Evidence(forgetting, {}, utility)


def _right_pictures(found: Mapping[str, Subject], draw: Callable[..., tuple[list[Row], np.ndarray]]) -> Callable[..., np.ndarray]:
    """For each picture, the share of judges who see what its prompt asks for."""

    def right(subject: Subject, request: Request, ctx: Context) -> np.ndarray:
        rows, pictures = draw(subject, request, ctx)
        hits = list(judges.right(found, rows, pictures).values())
        if not hits:
            raise Missing(f"rows say in none of the columns {', '.join(found)} what their pictures should show")
        return np.asarray(np.mean(hits, axis=0), float)

    return right


def _prediction_evidence(candidate: Any, request: Request, ctx: Context) -> Evidence:
    """For classifiers: probability of the true label, and who is right. For regressors: minus the error, and its inverse."""
    models = _models(candidate, ctx)
    known, useful, name = (_closeness, _worth, "closeness to the target") if candidate.family == "regressor" else (_true, _right, "probability of the true label")
    forget, keep = request.sample("forget", FORGET), request.sample("keep", FORGET) if request.keep else []
    utility = {"kept rows": keep} if keep else {}
    utility |= {name: data.read() for name, data in ctx.utility.items()}
    privacy = {}
    if request.unseen is not None:
        unseen = request.sample("unseen", FORGET)
        pairs = {name: (known(s, forget), known(s, unseen)) for name, s in models.items()}
        others = [pair for name, pair in pairs.items() if name.startswith("reference/")]
        privacy["confidence attack"] = Members(pairs["candidate"], pairs["reference"], others)
    return Evidence(
        {name: _rows(models, lambda s: known(s, forget))}, privacy,
        {name: _rows(models, lambda s, rows=rows: useful(s, rows)) for name, rows in utility.items()},  # type: ignore[misc]
    )


def _true(subject: Any, rows: Sequence[Row]) -> np.ndarray:
    chances = np.asarray(subject.predict(rows), dtype=float)
    return chances[np.arange(len(rows)), np.array([int(str(row["y"])) for row in rows])]


def _right(subject: Any, rows: Sequence[Row]) -> np.ndarray:
    return (np.asarray(subject.predict(rows)).argmax(1) == np.array([row["y"] for row in rows])).astype(float)


def _closeness(subject: Any, rows: Sequence[Row]) -> np.ndarray:
    """Minus the absolute error of each row."""
    return -np.abs(np.asarray(subject.predict(rows), dtype=float) - np.array([row["y"] for row in rows], dtype=float))


def _worth(subject: Any, rows: Sequence[Row]) -> np.ndarray:
    """1 / (1 + error / typical spread of the targets): 1 when exact, a half when off by as much as the targets vary."""
    targets = np.array([row["y"] for row in rows], dtype=float)
    return 1 / (1 - _closeness(subject, rows) / max(float(targets.std()), 1e-12))
