"""How far forgetting carried over from the form it was trained in to others (after ORT, arXiv:2506.07795). Arrays in, numbers out.

    drop_f = log P_original,f - log P_unlearned,f        P = mean over items of the answer's probability per token
    FDB    = 1 - min over f of drop_f / drop_trained     0 = as far in every form, 1 = not at all in some form, above 1 = the
                                                         answer even got likelier in some form
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from efface.ops.stats import Interval

DRAWS = 1000
CHANCE = 0.25
FLOOR = 1e-300
"""A probability that has underflowed counts as this, so that its logarithm is a number."""


@dataclass(frozen=True)
class Form:
    """Probabilities of the right answers in one form, item by item, and which unit (fact) each item asks about."""

    before: np.ndarray
    after: np.ndarray
    units: np.ndarray
    """Items of one unit are resampled together, over all forms."""


def log_mean(chances: np.ndarray, weights: np.ndarray | None = None) -> float:
    """log of the (weighted) mean probability."""
    return float(np.log(max(float(np.average(chances, weights=weights)), FLOOR)))


def drop(form: Form, weights: np.ndarray | None = None) -> float:
    """log P before - log P after."""
    return log_mean(form.before, weights) - log_mean(form.after, weights)


def dependence(drops: Mapping[str, float], trained: str) -> float:
    """FDB out of the drops. Raises ValueError where the trained form has not dropped, for then nothing could carry over."""
    if drops[trained] <= 0:
        raise ValueError(f"the trained form dropped by {drops[trained]:.3g}")
    return 1.0 - min(drops.values()) / drops[trained]


def worst(drops: Mapping[str, float]) -> str:
    """The form in which the answer dropped least; the first of equals."""
    return min(drops, key=lambda name: drops[name])


def intervals(forms: Mapping[str, Form], trained: str, seed: int = 0) -> tuple[dict[str, Interval], Interval]:
    """Each form's drop, and FDB, with percentile bootstraps over units. Draws in which the trained form does not drop have no FDB."""
    drawn = [_drops(forms, weights) for weights in _weights(forms, seed)]
    drops = {name: drop(form) for name, form in forms.items()}
    spread = {name: _between(value, [each[name] for each in drawn if name in each]) for name, value in drops.items()}
    found = [dependence(each, trained) for each in drawn if each.get(trained, 0.0) > 0 and len(each) == len(forms)]
    return spread, _between(dependence(drops, trained) if drops[trained] > 0 else float("nan"), found)


def log_ratio(form: Form, seed: int = 0) -> Interval:
    """One form's drop with its interval."""
    return intervals({"": form}, "", seed)[0][""]


def renormalized(letters: np.ndarray, right: Sequence[int]) -> np.ndarray:
    """Probability of the right letter among the letters offered (N,): a quarter for who knows nothing, whatever else might be said."""
    chosen: np.ndarray = letters[np.arange(len(letters)), list(right)] / np.maximum(letters.sum(1), FLOOR)
    return chosen


def _weights(forms: Mapping[str, Form], seed: int) -> list[dict[str, np.ndarray]]:
    """Per draw, how often each item of each form was drawn: as often as its unit."""
    names = {unit: at for at, unit in enumerate(dict.fromkeys(unit for form in forms.values() for unit in form.units.tolist()))}
    places = {name: np.array([names[unit] for unit in form.units.tolist()]) for name, form in forms.items()}
    rng = np.random.default_rng(seed)
    counts = [np.bincount(rng.integers(len(names), size=len(names)), minlength=len(names)).astype(float) for _ in range(DRAWS)]
    return [{name: count[place] for name, place in places.items()} for count in counts]


def _drops(forms: Mapping[str, Form], weights: Mapping[str, np.ndarray]) -> dict[str, float]:
    return {name: drop(form, weights[name]) for name, form in forms.items() if weights[name].sum() > 0}


def _between(value: float, drawn: Sequence[float]) -> Interval:
    """The value inside the spread of the draws; without bounds where there are too few draws to say."""
    if len(drawn) < DRAWS // 2 or not np.isfinite(value):
        return Interval(value, float("-inf"), float("inf"))
    low, high = map(float, np.percentile(drawn, [2.5, 97.5]))
    return Interval(value, min(low, value), max(high, value))
