"""Shadow models: many models of the subject's kind, trained on row sets of one's own choice, and put through what the subject went through.

They are trained side by side where that works, kept in the run's memory and, as safetensors, in the first folder of passes
(or in the run's folder), sixteen at a time: a run that was killed goes on with those that are missing.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from efface.core import digest, registry
from efface.core.capabilities import check
from efface.core.config import Fit
from efface.core.context import Context, silent
from efface.core.errors import EffaceError, Unfit
from efface.core.rows import evenly
from efface.core.types import Data, Request, Row, Step
from efface.families import predictions
from efface.ops import side_by_side
from efface.ops.loop import in_steps

FORM = 1
"""Raised when the way shadow models are trained changes, so that old ones are not taken for new."""
TOGETHER = 16
"""Models that are trained at once, and kept when they are done."""
MOST = 400
"""Most forget rows, and unseen rows, that are attacked."""
DEFAULT = Fit(lr=1e-2, steps=300, batch=64, schedule="linear", weight_decay=5e-4, precision="no")
"""Optimizer settings of shadow models whose subject does not say how it was trained."""


def fit_of(subject: Any, otherwise: Fit) -> Fit:
    """How the subject was trained, as the last recipe in its lineage says; `otherwise` when none does."""
    said = [step.settings["fit"] for step in subject.lineage if step.kind == "recipe" and "fit" in step.settings]
    return Fit.model_validate(said[-1]) if said else otherwise


def methods_of(subject: Any) -> list[Step]:
    """The forgetting that the subject went through, in order."""
    return [step for step in subject.lineage if step.kind == "method"]


def passes_of(subject: Any, fit: Fit, request: Request) -> float:
    """Rows that the training of one model reads; all of them once, where it is refitted."""
    count = sum(len(data) for data in (request.forget, request.keep) if data is not None)
    if hasattr(subject, "refit"):
        return float(count)
    return in_steps(fit, {"all": range(count)}).steps * fit.batch  # type: ignore[dict-item]


def refuse_reference(name: str, subject: Any, ctx: Context) -> None:
    """Raise Unfit for the reference itself, which no method made: what it gives stands beside the candidate's number."""
    if subject is ctx.baselines.get("reference"):
        raise Unfit(f"{name} judges a method, and none made the reference; what the reference gives is a part of the candidate's measurement")


def refuse_costly(name: str, subject: Any, times: int, most_seconds: float) -> None:
    """Raise Unfit when doing to `times` shadow models what was done to the subject takes more than `most_seconds`."""
    seconds = sum(step.seconds for step in methods_of(subject)) * times
    if seconds > most_seconds:
        raise Unfit(f"{name} would repeat the method {times} times, about {seconds:.0f} s; its setting most_seconds = {most_seconds:g} allows no more")


def pool(request: Request) -> tuple[list[Row], int]:
    """Forget rows, then unseen rows where there are some, and how many of them are forget rows."""
    forget = evenly(request.rows("forget"), MOST)
    return [*forget, *(evenly(request.unseen.read(), MOST) if request.unseen is not None else [])], len(forget)


def halves(count: int, models: int, ctx: Context) -> np.ndarray:
    """Which model is trained on which row (models, rows): random halves and their complements, so that half of the models see each row."""
    rng = np.random.default_rng(ctx.seed_for("shadow halves"))
    inside = np.zeros((models, count), bool)
    for k in range(0, models, 2):
        inside[k, rng.permutation(count)[: count // 2]] = True
        inside[k + 1] = ~inside[k]
    return inside


def on_halves(subject: Any, request: Request, inside: np.ndarray, fit: Fit, ctx: Context) -> list[Any]:
    """One model for each row of `inside`, trained on all keep rows and its half of the pool."""
    keep, (attacked, _) = request.rows("keep"), pool(request)
    rows = [*keep, *attacked]
    return trained(subject, rows, [[*range(len(keep)), *(len(keep) + np.flatnonzero(mine)).tolist()] for mine in inside], "half", fit, ctx)


def without(subject: Any, request: Request, models: int, fit: Fit, ctx: Context) -> list[Any]:
    """Models that were trained on the keep rows alone, each from a start of its own."""
    keep = request.rows("keep")
    return trained(subject, keep, [range(len(keep))] * models, "without", fit, ctx)


def trained(subject: Any, rows: Sequence[Row], members: Sequence[Sequence[int]], label: str, fit: Fit, ctx: Context) -> list[Any]:
    """A fresh model of the subject's kind for each of `members`, trained on those places of `rows`; starts and orders depend on `label`."""
    named = [FORM, _architecture(subject), fit.model_dump(exclude={"checkpoint"}), digest.of_value([dict(row) for row in rows])]
    seeds = [ctx.seed_for("shadow", label, k) for k in range(len(members))]
    keys = [digest.of_value([named, list(map(int, own)), seed])[:32] for own, seed in zip(members, seeds, strict=True)]

    places = [ctx.memo.get(("shadow model", key)) for key in keys]
    left = [k for k, model in enumerate(places) if model is None]
    if hasattr(subject, "refit"):
        for k in ctx.progress(left, "fitting shadow models", len(left)):
            ctx.spend(steps=1)
            ctx.memo["shadow model", keys[k]] = subject.refit([rows[place] for place in members[k]], seeds[k])
    else:
        for k in list(left):
            if (model := _held(subject, _folder(ctx), keys[k], seeds[k])) is not None:
                ctx.memo["shadow model", keys[k]] = model
                left.remove(k)
        for at in ctx.progress(range(0, len(left), TOGETHER), "training shadow models", -(-len(left) // TOGETHER)):
            group = left[at : at + TOGETHER]
            starts = [subject.fresh(seeds[k]) for k in group]
            done = side_by_side.train(starts, rows, [members[k] for k in group], [seeds[k] for k in group], fit, ctx).subjects
            for k, model in zip(group, done, strict=True):
                ctx.memo["shadow model", keys[k]] = model
                _keep(model, _folder(ctx), keys[k])
    return [ctx.memo["shadow model", key] for key in keys]


def unlearned(shadow: Any, request: Request, steps: Sequence[Step], seed: int, ctx: Context) -> Any:
    """The shadow model after the same methods, with the same settings, on a request of its own; itself when there are none."""
    before = shadow
    for step in steps:
        system: Any = registry.load("method", step.system).set(step.settings)
        check(system, shadow, request)
        own = ctx.alone(
            seed=seed, folder=None, baselines={"original": before}, utility={}, passes=(), memo={}, progress=silent, curve=[], notes={},
            spent=ctx.spent, began=ctx.began,
        )
        shadow = system.run(shadow, request, own)
    return shadow


def own_request(request: Request, inside: np.ndarray) -> Request:
    """The request to forget what one shadow model saw of the pool; what it did not see is unseen, if the request has unseen rows at all."""
    rows, _ = pool(request)
    sides = {"forget": np.flatnonzero(inside)} | ({"unseen": np.flatnonzero(~inside)} if request.unseen is not None else {})
    return request.model_copy(update={name: Data.inline([rows[place] for place in places]) for name, places in sides.items()})


def scaled(models: Sequence[Any], rows: Sequence[Row]) -> np.ndarray:
    """Scaled confidences (models, rows)."""
    return np.stack([predictions.read(model, rows).scaled for model in models])


def kept_in(ctx: Context) -> Context:
    """The context with a folder for what is kept: that of the passes, or one in the run's folder."""
    folder = _folder(ctx)
    return ctx if ctx.passes or folder is None else ctx.alone(passes=(folder,), spent=ctx.spent, began=ctx.began)


def _architecture(subject: Any) -> object:
    """What shadow models have of the subject: its class, how it is built, and the shapes of its weights, but none of their values."""
    if hasattr(subject, "estimator"):
        return [type(subject.estimator).__qualname__, subject.estimator.get_params(), subject.classes]
    model = (subject.merged() if subject.adapted else subject).model
    return [type(model).__module__, type(model).__qualname__, str(subject.arguments), [(n, list(t.shape)) for n, t in model.state_dict().items()]]


def _folder(ctx: Context) -> Path | None:
    if ctx.passes:
        return ctx.passes[0]
    return ctx.folder / "shadows" if ctx.folder is not None else None


def _held(subject: Any, folder: Path | None, key: str, seed: int) -> Any:
    """A shadow model that was trained before; None when there is none, or its file is damaged."""
    from safetensors import SafetensorError
    from safetensors.torch import load_model

    path = folder / f"shadow-{key}.safetensors" if folder is not None else None
    if path is None or not path.exists():
        return None
    model = subject.fresh(seed)
    try:
        load_model(model.model, path)
    except (SafetensorError, OSError, RuntimeError):
        return None
    model.model.requires_grad_(False)
    return model


def _keep(model: Any, folder: Path | None, key: str) -> None:
    from safetensors import SafetensorError
    from safetensors.torch import save_model

    if folder is None:
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        aside = folder / f".shadow-{key}.part"
        save_model(model.model, str(aside))
        aside.replace(folder / f"shadow-{key}.safetensors")
    except (OSError, SafetensorError) as error:
        raise EffaceError(f"cannot keep shadow models in {folder}: {error}; free space or choose another place") from error
