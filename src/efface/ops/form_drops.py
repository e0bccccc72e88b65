"""How far forgetting carried over from the form it was trained in to others (after ORT, arXiv:2506.07795). Arrays in, numbers out.

    drop_f = log P_original,f - log P_unlearned,f        P = mean over items of the answer's probability per token
    FDB    = 1 - min over f of drop_f / drop_trained     0 = as far in every form, 1 = not at all in some form, above 1 = the
                                                         answer even got likelier in some form

Where guessing has a chance c, nobody can fall further than to it: such a form has carried drop_f / log(P_original,f / c), which
is 1 for who only guesses.
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
    chance: float = 0.0
    """Probability of who knows nothing, where there is a fixed number of answers to choose from."""


def log_mean(chances: np.ndarray, weights: np.ndarray | None = None) -> float:
    """log of the (weighted) mean probability."""
    return float(np.log(max(float(np.average(chances, weights=weights)), FLOOR)))


def drop(form: Form, weights: np.ndarray | None = None) -> float:
    """log P before - log P after."""
    return log_mean(form.before, weights) - log_mean(form.after, weights)


def carried(forms: Mapping[str, Form], trained: str, weights: Mapping[str, np.ndarray] | None = None) -> dict[str, float]:
    """Share of the trained form's drop that reached each form. Raises ValueError where there is no drop, or in a form nothing above chance to lose."""
    drops = {name: drop(form, weights[name] if weights else None) for name, form in forms.items()}
    could = {
        name: log_mean(form.before, weights[name] if weights else None) - float(np.log(form.chance)) if form.chance else drops[trained]
        for name, form in forms.items()
    }
    if drops[trained] <= 0 or min(could.values()) <= 0:
        raise ValueError(f"the trained form dropped by {drops[trained]:.3g}, and the least that a form could drop is {min(could.values()):.3g}")
    return {name: value / could[name] for name, value in drops.items()}


def dependence(shares: Mapping[str, float]) -> float:
    """FDB out of the shares that were carried."""
    return 1.0 - min(shares.values())


def worst(shares: Mapping[str, float]) -> str:
    """The form that least was carried to; the first of equals."""
    return min(shares, key=lambda name: shares[name])


def intervals(forms: Mapping[str, Form], trained: str, seed: int = 0) -> tuple[dict[str, Interval], Interval]:
    """Each form's drop, and FDB (NaN where the trained form has not dropped), with percentile bootstraps over units."""
    drawn = list(_weights(forms, seed))
    spread = {
        name: _between(drop(form), [drop(form, weights[name]) for weights in drawn if weights[name].sum() > 0]) for name, form in forms.items()
    }
    found = [value for weights in drawn if (value := _index(forms, trained, weights)) is not None]
    whole = _index(forms, trained, None)
    return spread, _between(float("nan") if whole is None else whole, found)


def _index(forms: Mapping[str, Form], trained: str, weights: Mapping[str, np.ndarray] | None) -> float | None:
    """FDB; None for a draw without items of some form, or without a drop to carry."""
    if weights is not None and not all(weights[name].sum() > 0 for name in forms):
        return None
    try:
        return dependence(carried(forms, trained, weights))
    except ValueError:
        return None


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


def _between(value: float, drawn: Sequence[float]) -> Interval:
    """The value inside the spread of the draws; without bounds where there are too few draws to say."""
    if len(drawn) < DRAWS // 2 or not np.isfinite(value):
        return Interval(value, float("-inf"), float("inf"))
    low, high = map(float, np.percentile(drawn, [2.5, 97.5]))
    return Interval(value, min(low, value), max(high, value))
