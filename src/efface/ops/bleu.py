"""Sentence BLEU with smoothing method 3, as nltk counts it and ConceptVectors uses it (arXiv:2406.11614). Text in, a number in 0..1 out.

    BLEU = brevity * exp(mean of log p_n, n = 1..4),  p_n = share of the answer's n-grams that the reference has, each as often as there

Smoothing 3 (NIST): the k-th of the p_n that is zero becomes 1 / (2^k * number of n-grams). Words are what stands between spaces,
case and punctuation kept.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

ORDERS = 4


def bleu(answer: str, reference: str) -> float:
    """Sentence BLEU with smoothing method 3; 0 where no word is shared. Short texts lose even to themselves: they have no 4-grams."""
    said, right = answer.split(), reference.split()
    matched = [_matched(said, right, n) for n in range(1, ORDERS + 1)]
    if not said or matched[0][0] == 0:
        return 0.0
    zeros, logs = 0, 0.0
    for hits, count in matched:
        zeros += hits == 0
        logs += math.log(hits / count if hits else 1 / (2**zeros * count))
    brevity = 1.0 if len(said) > len(right) else math.exp(1 - len(right) / len(said))
    return brevity * math.exp(logs / ORDERS)


def _matched(said: Sequence[str], right: Sequence[str], n: int) -> tuple[int, int]:
    """N-grams of the answer that the reference has, and how many the answer has (at least 1)."""
    mine, other = (Counter(tuple(words[at : at + n]) for at in range(len(words) - n + 1)) for words in (said, right))
    return sum((mine & other).values()), max(1, sum(mine.values()))
