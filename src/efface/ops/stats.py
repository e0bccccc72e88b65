"""Intervals, areas and tests. Arrays in, floats out; every resampling is seeded."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats

DRAWS = 1000


class Interval(NamedTuple):
    """A number with its 95 % interval."""

    value: float
    low: float
    high: float


def bootstrap(rows: Sequence[float] | np.ndarray, statistic: Callable[[np.ndarray], float] = np.mean, seed: int = 0, level: float = 0.95) -> Interval:
    """The statistic over rows with its percentile bootstrap interval (rows drawn with replacement) of that level."""
    values = np.asarray(rows, dtype=float)
    if not len(values):
        raise ValueError("no rows to average")
    picks = np.random.default_rng(seed).integers(len(values), size=(DRAWS, len(values)))
    drawn = values[picks].mean(axis=1) if statistic is np.mean else np.array([statistic(values[pick]) for pick in picks])
    return Interval(float(statistic(values)), *map(float, np.percentile(drawn, [50 * (1 - level), 50 * (1 + level)])))


def auc(members: Sequence[float] | np.ndarray, others: Sequence[float] | np.ndarray) -> float:
    """P(score of a member > score of a non-member), ties counted one half."""
    a, b = np.asarray(members, float), np.asarray(others, float)
    ranks = stats.rankdata(np.concatenate([a, b]))
    return float((ranks[: len(a)].sum() - len(a) * (len(a) + 1) / 2) / (len(a) * len(b)))


def auc_interval(members: Sequence[float] | np.ndarray, others: Sequence[float] | np.ndarray, seed: int = 0) -> Interval:
    """AUC with a bootstrap interval that resamples members and non-members apart."""
    a, b = np.asarray(members, float), np.asarray(others, float)
    rng = np.random.default_rng(seed)
    drawn = [auc(rng.choice(a, len(a)), rng.choice(b, len(b))) for _ in range(DRAWS)]
    return Interval(auc(a, b), *map(float, np.percentile(drawn, [2.5, 97.5])))


def tpr_at_fpr(members: Sequence[float] | np.ndarray, others: Sequence[float] | np.ndarray, fpr: float) -> float | None:
    """True-positive rate at a false-positive rate; None when there are too few non-members to tell (fewer than 1 / fpr)."""
    a, b = np.asarray(members, float), np.sort(np.asarray(others, float))
    if len(b) < 1 / fpr:
        return None
    threshold = b[::-1][int(fpr * len(b))] if int(fpr * len(b)) < len(b) else -np.inf
    return float((a > threshold).mean())


class KS(NamedTuple):
    """Two-sample Kolmogorov-Smirnov test; `floor` says that the samples do not overlap, so that p means nothing finer."""

    statistic: float
    p: float
    floor: bool


def ks(a: Sequence[float] | np.ndarray, b: Sequence[float] | np.ndarray) -> KS:
    """The two-sample test with scipy's default p-value."""
    result = stats.ks_2samp(np.asarray(a, float), np.asarray(b, float))
    return KS(float(result.statistic), float(result.pvalue), bool(result.statistic >= 1 - 1e-12))


def harmonic_mean(parts: Sequence[float]) -> float:
    """Harmonic mean; 0 when a part is 0 or less."""
    values = np.asarray(parts, float)
    return 0.0 if (values <= 0).any() else float(len(values) / (1 / values).sum())
