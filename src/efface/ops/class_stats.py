"""The maths of judging a classifier that forgot: entropies, divergences, ToW, NoMUS, and what attackers compute. Arrays in, numbers out.

Everything is computed in float64, and a number that is not finite raises Unfit: an attack that is fitted on NaN gives a score
that means nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import special
from scipy import stats as tests

from efface.core.errors import Missing, Unfit
from efface.ops.stats import Interval, auc

TINY = 1e-45
"""Added to probabilities before their logarithm is taken, as the LiRA code does."""
DELTA, CAP, PER_UNIT, BUFFER = 1e-5, 50.0, 100, 2.0
"""Of the NeurIPS 2023 score: delta, the largest epsilon, thresholds a unit, and how far beyond the narrower set intervals begin and end."""
SPLITS, SHARE = 10, 0.1
"""Random splits of the loss attack, and the share of rows that each holds out."""


def finite(values: np.ndarray | Sequence[float], what: str) -> np.ndarray:
    """The values as float64; Unfit names the first row that holds a number that is not finite."""
    found = np.asarray(values, dtype=np.float64)
    good = np.isfinite(found).reshape(len(found), -1).all(1) if found.ndim else np.isfinite(found).reshape(1)
    if not good.all():
        raise Unfit(f"{what} of row {int(np.argmin(good)) + 1} is not finite; the model's weights are damaged or its inputs too large")
    return found


# -- single rows ------------------------------------------------------------------------------------------------------------


def softmax(logits: np.ndarray) -> np.ndarray:
    """Probabilities (rows, classes)."""
    found: np.ndarray = special.softmax(finite(logits, "a logit"), axis=1)
    return found


def cross_entropy(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """-log p_y of each row, in nats."""
    found: np.ndarray = -special.log_softmax(finite(logits, "a logit"), axis=1)[np.arange(len(labels)), labels]
    return found


def lira_scaling(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """log p_y - log(sum of all other p_c) of each row: about normal over models that differ in their training rows alone."""
    chances = softmax(logits)
    place = np.arange(len(labels))
    right = chances[place, labels].copy()
    chances[place, labels] = 0.0
    found: np.ndarray = np.log(right + TINY) - np.log(chances.sum(1) + TINY)
    return found


def entropy(chances: np.ndarray) -> np.ndarray:
    """-sum_c p_c log p_c of each row, in nats."""
    found: np.ndarray = special.entr(finite(chances, "a probability")).sum(1)
    return found


def modified_entropy(chances: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """-(1 - p_y) log p_y - sum over c != y of p_c log(1 - p_c) of each row: 0 when sure and right, large when sure and wrong."""
    p, place = finite(chances, "a probability"), np.arange(len(labels))
    right = p[place, labels]
    others = -p * np.log(np.maximum(1 - p, TINY))
    others[place, labels] = 0.0
    found: np.ndarray = -(1 - right) * np.log(np.maximum(right, TINY)) + others.sum(1)
    return found


def js(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    """Jensen-Shannon divergence of each row, in nats: 0 for equal distributions, log 2 for those that share no class."""
    p, q = finite(p, "a probability"), finite(q, "a probability")
    middle = (p + q) / 2
    found: np.ndarray = (special.rel_entr(p, middle) + special.rel_entr(q, middle)).sum(1) / 2
    return found


def js_published(p: np.ndarray, q: np.ndarray, floor: float = 1e-7) -> np.ndarray:
    """What arXiv:2205.08096's code computes in place of `js`: the divergence turned round, and divided by the number of classes.

    Its value grows without bound as `floor`, below which probabilities are cut, falls.
    """
    p, q = (np.clip(finite(side, "a probability"), floor, 1.0) for side in (p, q))
    middle = (p + q) / 2
    found: np.ndarray = (middle * (np.log(middle) - np.log(p)) + middle * (np.log(middle) - np.log(q))).mean(1) / 2
    return found


def activation_distance(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    """Euclidean distance between two distributions, row by row: from 0 to sqrt 2."""
    found: np.ndarray = np.linalg.norm(finite(p, "a probability") - finite(q, "a probability"), axis=1)
    return found


# -- scores of a whole model ------------------------------------------------------------------------------------------------


def tow(gaps: Sequence[float]) -> float:
    """Product of (1 - |gap|) over the gaps to the retrained model, as shares: 1 when there is none."""
    return float(np.prod([1 - abs(gap) for gap in gaps]))


def nomus(accuracy: float, attack: float, weight: float = 0.5) -> float:
    """weight * accuracy + (1 - weight) * (1 - 2 |attack - 1/2|), with the accuracy on test rows and that of the loss attack."""
    return weight * accuracy + (1 - weight) * (1 - 2 * abs(attack - 0.5))


def wilson(hits: np.ndarray) -> Interval:
    """The share of hits with its 95 % Wilson interval."""
    return wilson_of(float(np.mean(hits)), len(hits))


def wilson_of(share: float, count: int) -> Interval:
    """A share of `count` independent answers with its 95 % Wilson interval."""
    z = float(tests.norm.ppf(0.975))
    center = (share + z**2 / (2 * count)) / (1 + z**2 / count)
    reach = z / (1 + z**2 / count) * (share * (1 - share) / count + z**2 / (4 * count**2)) ** 0.5
    return Interval(share, max(0.0, min(share, center - reach)), min(1.0, max(share, center + reach)))


def t_interval(values: Sequence[float]) -> Interval | None:
    """Mean over runs with its 95 % t-interval; None for one run, whose scatter is unknown."""
    if len(values) < 2:
        return None
    mean, scatter = float(np.mean(values)), float(np.std(values, ddof=1)) / len(values) ** 0.5
    reach = float(tests.t.ppf(0.975, len(values) - 1)) * scatter
    return Interval(mean, mean - reach, mean + reach)


# -- attacks ----------------------------------------------------------------------------------------------------------------


def called_non_members(members: np.ndarray, others: np.ndarray, asked: np.ndarray) -> np.ndarray:
    """Which of the asked rows a support vector machine (C = 3, rbf), fitted on members against others, takes for non-members."""
    from sklearn.svm import SVC

    known = np.concatenate([finite(members, "a feature"), finite(others, "a feature")]).reshape(len(members) + len(others), -1)
    machine = SVC(C=3, gamma="auto", kernel="rbf", random_state=0).fit(known, np.r_[np.ones(len(members)), np.zeros(len(others))])
    called: np.ndarray = machine.predict(finite(asked, "a feature").reshape(len(asked), -1)) == 0
    return called


class LossAttack(NamedTuple):
    """Accuracy with its interval; `signed` is accuracy - 1/2, below 0 when members have the larger losses; AUC of -loss."""

    accuracy: float
    low: float
    high: float
    signed: float
    auc: float


def loss_attack(members: np.ndarray, others: np.ndarray, seed: int = 0) -> LossAttack:
    """How well a logistic regression tells members from others by their loss alone: mean over ten random splits.

    The larger side is cut to the size of the smaller, at random. The interval counts rows that were held out, each once
    however often it was. Raises Missing for fewer than ten rows a side.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedShuffleSplit

    sides = [finite(side, "the loss") for side in (members, others)]
    size = min(map(len, sides))
    if size < SPLITS:
        raise Missing(f"the loss attack needs at least {SPLITS} rows on each side; found {len(members)} and {len(others)}")
    rng = np.random.default_rng(seed % 2**32)
    one, other = (rng.choice(side, size, replace=False) if len(side) > size else side for side in sides)
    x, y = np.concatenate([one, other]).reshape(-1, 1), np.r_[np.ones(size), np.zeros(size)]
    right, asked = [], np.zeros(2 * size, bool)
    for fit, ask in StratifiedShuffleSplit(SPLITS, test_size=SHARE, random_state=0).split(x, y):
        right.append(LogisticRegression(random_state=0).fit(x[fit], y[fit]).predict(x[ask]) == y[ask])
        asked[ask] = True
    found, area = wilson_of(float(np.concatenate(right).mean()), int(asked.sum())), auc(-sides[0], -sides[1])
    away = found.value - 0.5
    # One threshold cannot tell on which side members stand when it does worse than chance; the AUC can.
    return LossAttack(*found, signed=abs(away) if area >= 0.5 else -abs(away), auc=area)


def spread(values: np.ndarray, shared: bool, there: np.ndarray | None = None) -> np.ndarray:
    """Standard deviation over models (axis 0) for each row: its own, or one of all rows together, which few models afford.

    `there` says which of the values count.
    """
    mask = np.ones(values.shape, bool) if there is None else there
    count = mask.sum(0)
    center = (values * mask).sum(0) / count
    square = (((values - center) * mask) ** 2).sum(0)
    variance = np.full(values.shape[1], square.sum() / np.maximum(count - 1, 1).sum()) if shared else square / np.maximum(count - 1, 1)
    found: np.ndarray = np.sqrt(np.maximum(variance, 1e-12))
    return found


def lira(target: np.ndarray, shadows: np.ndarray, inside: np.ndarray, offline: bool = False, shared: bool = True) -> np.ndarray:
    """Membership score of each row (rows,) from scaled confidences of the target (rows,) and of shadow models (models, rows).

    `inside` (models, rows) says which model was trained on which row. Online: log N(conf; in) - log N(conf; out). Offline:
    how many standard deviations the target stands above the models that were not trained on the row.
    """
    target, shadows = finite(target, "a confidence"), finite(shadows.T, "a confidence").T
    out = (shadows * ~inside).sum(0) / (~inside).sum(0)
    out_spread = spread(shadows, shared, ~inside)
    if offline:
        found: np.ndarray = (target - out) / out_spread
        return found
    within = (shadows * inside).sum(0) / inside.sum(0)
    ratio: np.ndarray = tests.norm.logpdf(target, within, spread(shadows, shared, inside)) - tests.norm.logpdf(target, out, out_spread)
    return ratio


class Told(NamedTuple):
    """Log-ratios (fits, rows), above 0 for "trained and then unlearned": of the target, and of models retrained without the rows."""

    target: np.ndarray
    retrained: np.ndarray


def u_lira(target: np.ndarray, unlearned: np.ndarray, inside: np.ndarray, retrained: np.ndarray, shared: bool = True) -> Told:
    """Scores of the target (rows,) and of each retrained model (models, rows), by Gaussians fitted to the *other* retrained models.

    Each fit leaves one retrained model out, which is then scored by it beside the target, so that both are new to the fit.
    """
    target, retrained = finite(target, "a confidence"), finite(retrained.T, "a confidence").T
    unlearned = finite(unlearned.T, "a confidence").T
    mean, deviation = (unlearned * inside).sum(0) / inside.sum(0), spread(unlearned, shared, inside)
    pairs = []
    for left, own in enumerate(retrained):
        rest = np.delete(retrained, left, 0)
        center, scatter = rest.mean(0), spread(rest, shared)
        pairs.append([tests.norm.logpdf(given, mean, deviation) - tests.norm.logpdf(given, center, scatter) for given in (target, own)])
    return Told(*np.stack(pairs, axis=1))


# -- the NeurIPS 2023 score --------------------------------------------------------------------------------------------------


def epsilon(one: np.ndarray, other: np.ndarray) -> float:
    """How far two sets of scaled confidences of one row can be told apart: the epsilon of the best rule, at most 50.

    Rules are one-sided thresholds, at every value, and intervals about as wide as the narrower set. A rule that errs on one
    side alone is discarded for want of samples; one that never errs, or a set a hundred times as narrow, gives the most.
    """
    one, other = np.sort(finite(one, "a confidence")), np.sort(finite(other, "a confidence"))
    widths = sorted([float(np.ptp(one)), float(np.ptp(other))])
    if not widths[1]:
        return CAP if one[0] != other[0] else 0.0
    if widths[0] / widths[1] < 0.01:
        return CAP
    rates = [_thresholds(one, other), _intervals(*((one, other) if np.ptp(one) <= np.ptp(other) else (other, one)))]
    fpr, fnr = np.concatenate([pair[0] for pair in rates]), np.concatenate([pair[1] for pair in rates])
    if ((fpr == 0) & (fnr == 0)).any():
        return CAP
    kept = (fpr > 0) & (fnr > 0)
    if not kept.any():
        return 0.0
    fpr, fnr = fpr[kept], fnr[kept]
    with np.errstate(divide="ignore", invalid="ignore"):
        found = np.fmax(np.log(1 - DELTA - fpr) - np.log(fnr), np.log(1 - DELTA - fnr) - np.log(fpr))
    return float(np.clip(np.nanmax(found, initial=0.0), 0.0, CAP))


def _thresholds(one: np.ndarray, other: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """False-positive and false-negative rates of "at least t belongs to the set with the larger median", for every t."""
    low, high = (one, other) if np.median(one) <= np.median(other) else (other, one)
    cuts = np.unique(np.concatenate([low, high]))
    return 1 - np.searchsorted(low, cuts, "left") / len(low), np.searchsorted(high, cuts, "left") / len(high)


def _intervals(narrow: np.ndarray, wide: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The same of "between l and r belongs to the narrower set", r within BUFFER of its top and l of r minus its width.

    Both ends lie on one grid, so that a left end is known by the sum of two places.
    """
    count = int(2 * BUFFER * PER_UNIT)
    steps = np.arange(2 * count - 1) * (2 * BUFFER / (count - 1))
    right = narrow[-1] - BUFFER + steps[:count]
    left = narrow[0] - 2 * BUFFER + steps  # the lowest right end, minus the width, minus BUFFER
    rights = _plateaus(*(np.searchsorted(side, right, "right") for side in (narrow, wide)))
    lefts = _plateaus(*(np.searchsorted(side, left, "left") for side in (narrow, wide)))
    # A right end of place i goes with left ends of places i to i + count - 1; most pairs of ends hold the same rows.
    first, last, *above = (part[:, None] for part in rights)
    start, stop, *below = lefts
    there = (stop >= first) & (start < last + count)
    within = [np.maximum(one - other, 0)[there] for one, other in zip(above, below, strict=True)]
    return within[1] / len(wide), 1 - within[0] / len(narrow)


def _plateaus(*counts: np.ndarray) -> tuple[np.ndarray, ...]:
    """First and last place of each stretch on which no count changes, and each count there."""
    change = np.flatnonzero(np.any([count[1:] != count[:-1] for count in counts], axis=0)) + 1
    first, last = np.r_[0, change], np.r_[change, len(counts[0])] - 1
    return first, last, *(count[first] for count in counts)


def forget_points(epsilons: np.ndarray, models: int) -> np.ndarray:
    """Points of each row: 1, 1/2, 1/4, ... for an epsilon in [0, .5), [.5, 1), [1, 1.5), ...; 0 beyond ceil(log(models - 1))."""
    bins = int(np.ceil(np.log(models - 1)) / 0.5)
    place = np.floor(np.asarray(epsilons) / 0.5)
    return np.where(place < bins, 0.5**place, 0.0)
