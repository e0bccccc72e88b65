"""How much of what corruption cost came back (RESTOR, arXiv:2411.00204), with what no memory is needed for set beside it.

    index = (acc_u - acc_x) / (acc_c - acc_x)

over the same questions: of the model after unlearning (u), of the corrupted one (x), and of the clean one before (c). It is 0 for
the corrupted model and 1 for the clean one, whatever the questions.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from efface.core.errors import Missing
from efface.ops.facts import Fact, words
from efface.ops.stats import DRAWS, Interval

LEAST = 0.1
"""Accuracy that corruption must have cost, so that there is something to recover."""
USABLE = 0.95
"""Share of the bootstrap's draws that must have something to recover, so that they make an interval."""


def index(after: np.ndarray, before: np.ndarray, clean: np.ndarray) -> float:
    """The recovery index of answers marked right (1) or wrong (0), each (N,). Raises Missing when corruption cost less than 0.1."""
    cost = float(clean.mean() - before.mean())
    if cost < LEAST:
        raise Missing(
            f"the model to forget answers {before.mean():.3f} of {len(clean)} questions and the clean one {clean.mean():.3f}: less than {LEAST} was lost, so that nothing can be recovered; "
            "ask about facts that the forget rows overwrite and that the clean model knows"
        )
    return float(after.mean() - before.mean()) / cost


def interval(after: np.ndarray, before: np.ndarray, clean: np.ndarray, groups: Sequence[str], seed: int = 0) -> tuple[Interval, np.ndarray]:
    """The index with its 95 % interval, and the draws it is made of: groups (entities) are drawn with replacement, all three models with the same ones.

    Low and high are NaN where more than a twentieth of the draws lost nothing, and NaN stands for such draws.
    """
    value = index(after, before, clean)
    above, below = _drawn(groups, seed, after - before, clean - before)
    drawn = np.where(below > 0, above / np.where(below > 0, below, 1.0), np.nan)
    return spread(value, drawn), drawn


def spread(value: float, drawn: np.ndarray) -> Interval:
    """A value with the middle 95 % of its draws; NaN for low and high where too many draws are NaN."""
    there = drawn[~np.isnan(drawn)]
    if len(there) < USABLE * len(drawn):
        return Interval(value, float("nan"), float("nan"))
    low, high = np.percentile(there, [2.5, 97.5])
    return Interval(value, min(float(low), value), max(float(high), value))


def grouped(values: np.ndarray, groups: Sequence[str], seed: int = 0) -> Interval:
    """The mean of values (N,) with its 95 % interval, groups drawn with replacement."""
    total, count = _drawn(groups, seed, values, np.ones(len(values)))
    return spread(float(values.mean()), total / count)


def _drawn(groups: Sequence[str], seed: int, *values: np.ndarray) -> list[np.ndarray]:
    """The sum of each array over the rows of drawn groups, (DRAWS,) each, from the same draws."""
    names, owner = np.unique(np.asarray(groups), return_inverse=True)
    picks = np.random.default_rng(seed).integers(len(names), size=(DRAWS, len(names)))
    return [np.bincount(owner, weights=part, minlength=len(names))[picks].sum(1) for part in values]


def majority(facts: Sequence[Fact]) -> np.ndarray:
    """1 where the answer that is right most often among the facts of the same relation is right (N,): what is had without knowing the subject."""
    accepted = [{" ".join(words(value)) for value in fact.accepted} for fact in facts]
    counts: dict[str, Counter[str]] = {}
    for fact, values in zip(facts, accepted, strict=True):
        counts.setdefault(fact.relation, Counter()).update(sorted(values))
    best = {relation: max(sorted(found), key=lambda value: found[value]) for relation, found in counts.items()}
    return np.array([float(best[fact.relation] in values) for fact, values in zip(facts, accepted, strict=True)])


def options(facts: Sequence[Fact], most: int) -> list[dict[str, tuple[str, ...]]]:
    """For each fact its options by category, at most `most` each: correct, corrupted (column "corrupted", or the wrong answers where there is none), random.

    Random options are values of the same relation of other subjects, evenly spaced; a category may be empty.
    """
    pools: dict[str, list[str]] = {}
    for fact in facts:
        pools.setdefault(fact.relation, []).append(fact.value)
    found = []
    for fact in facts:
        given = fact.extras.get("corrupted")
        corrupted = (given,) if isinstance(given, str) else tuple(map(str, given)) if isinstance(given, list | tuple) else fact.wrong
        taken = {" ".join(words(value)) for value in (*fact.accepted, *corrupted)}
        others = [value for value in dict.fromkeys(pools[fact.relation]) if " ".join(words(value)) not in taken]
        step = max(1, len(others) // most)
        found.append({"correct": fact.accepted[:most], "corrupted": corrupted[:most], "random": tuple(others[::step][:most])})
    return found
