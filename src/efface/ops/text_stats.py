"""Statistics of answers: of their token probabilities, of their losses, of their words. Arrays and text in, floats out.

A function that has nothing to measure (a row without tokens) returns None, and its row is left out; it is never 0.
"""

from __future__ import annotations

import math
import re
import zlib
from collections import Counter
from collections.abc import Sequence
from typing import Literal

import numpy as np

Space = Literal["loss", "probability"]


def lowest_mean(values: np.ndarray, share: float) -> float | None:
    """Mean of the lowest `share` of the values, of at least one."""
    if not len(values):
        return None
    count = max(1, int(share * len(values)))
    return float(np.sort(np.asarray(values, float))[:count].mean())


def exact_memorization(hit: np.ndarray) -> float | None:
    """Share of tokens that the model puts first when it is given the true tokens before them."""
    return float(np.mean(hit)) if len(hit) else None


def extraction_strength(hit: np.ndarray) -> float | None:
    """1 - k / T, where k is the fewest true tokens that make the model put every later one first; 0 when even the last is wrong."""
    if not len(hit):
        return None
    wrong = np.flatnonzero(~np.asarray(hit, bool))
    return 1.0 - (int(wrong[-1]) + 1) / len(hit) if len(wrong) else 1.0


def zlib_size(text: str) -> int:
    """Bytes of the compressed text."""
    return len(zlib.compress(text.encode("utf-8")))


def log_truth_ratio(right: float, wrong: Sequence[float], space: Space = "loss") -> float:
    """log(P_wrong / P_right) from mean losses per token.

    In loss space P_wrong = exp(-mean of the wrong losses); in probability space it is the mean of exp(-loss).
    """
    losses = np.asarray(wrong, float)
    if space == "loss":
        return right - float(losses.mean())
    return right + float(np.logaddexp.reduce(-losses)) - math.log(len(losses))


def closeness(log_ratio: np.ndarray) -> np.ndarray:
    """min(TR, 1 / TR): 1 where right and wrong answers are equally likely."""
    return np.exp(-np.abs(np.asarray(log_ratio, float)))


def trueness(log_ratio: np.ndarray) -> np.ndarray:
    """max(0, 1 - TR): 1 where wrong answers are impossible, 0 where they are as likely as the right one."""
    return -np.expm1(np.minimum(np.asarray(log_ratio, float), 0.0))


def options_probability(right: float, wrong: Sequence[float]) -> float:
    """p / (p + sum of the wrong ones), with p = exp(-mean loss): the right answer's share among the options."""
    return float(np.exp(-right - np.logaddexp.reduce([-right, *(-loss for loss in wrong)])))


def rouge_l_recalls(answers: Sequence[str], gold: Sequence[str]) -> list[float]:
    """ROUGE-L recall of each answer (package rouge-score, field rougeL, stemmer on, case folded)."""
    from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer(["rougeL"], use_stemmer=True)
    return [float(scorer.score(right, answer)["rougeL"].recall) for answer, right in zip(answers, gold, strict=True)]


def rouge_l_f(answers: Sequence[str], gold: Sequence[str]) -> list[float]:
    """ROUGE-L F-measure of each answer, as MUSE takes it (package rouge-score, field rougeL, no stemmer, case folded)."""
    from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer(["rougeL"], use_stemmer=False)
    return [float(scorer.score(right, answer)["rougeL"].fmeasure) for answer, right in zip(answers, gold, strict=True)]


def repeated_share(words: Sequence[str], n: int) -> float | None:
    """Share of n-grams that occurred before in the same text; None for a text of fewer than n words."""
    grams = _grams(words, n)
    return 1.0 - len(set(grams)) / len(grams) if grams else None


def ngram_entropy(words: Sequence[str], n: int) -> float | None:
    """Entropy in bits of the text's own n-grams, divided by its largest possible value; 1 for no repetition, 0 for one gram."""
    grams = _grams(words, n)
    if len(grams) < 2:
        return None
    shares = np.array(list(Counter(grams).values())) / len(grams)
    return float(-(shares * np.log2(shares)).sum() / math.log2(len(grams)))


def tokens(text: str) -> list[str]:
    """Words, and every mark of punctuation by itself."""
    return re.findall(r"\w+(?:['\u2019]\w+)?|[^\w\s]", text)


def fluency(words: Sequence[str]) -> float:
    """(2/3 H2 + 4/3 H3) / 2, with Hn the entropy in bits of the text's n-gram frequencies (as in ROME, arXiv:2202.05262, and RWKU).

    "a b a b" gives 0.972765. 0 for one repeated token and for a text too short to have n-grams; it grows with length.
    """
    return (2 / 3 * _bits(_grams(words, 2)) + 4 / 3 * _bits(_grams(words, 3))) / 2


def _bits(grams: Sequence[tuple[str, ...]]) -> float:
    shares = np.array(list(Counter(grams).values()), float) / max(1, len(grams))
    return float(abs((shares * np.log2(shares)).sum())) if grams else 0.0


def _grams(words: Sequence[str], n: int) -> list[tuple[str, ...]]:
    return [tuple(words[at : at + n]) for at in range(len(words) - n + 1)]
