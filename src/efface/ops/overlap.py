"""Overlap of two texts in words, as ConceptVectors measures it (arXiv:2406.11614). Text in, a number in 0..1 out.

Words are what stands between spaces, case and punctuation kept.

    BLEU     brevity * exp(mean of log p_n, n = 1..4), p_n = share of the answer's n-grams that the reference has (each as often
             as there). Smoothing 3 (NIST): the k-th of the p_n that is zero becomes 1 / (2^k * number of n-grams).
    ROUGE-L  of the package `rouge`: sets of words on common subsequences, so that repeated words count once. Precision and recall
             divide by the different words of answer and reference.
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


def rouge_l_f(answer: str, reference: str) -> float:
    """ROUGE-L F of the package `rouge`: no stemmer, case kept, repeated words once; 0 for an empty text."""
    said, right = _sentences(answer), _sentences(reference)
    words, others = ({word for sentence in side for word in sentence} for side in (said, right))
    if not words or not others:
        return 0.0
    common = {word for one in right for other in said for word in _common(one, other)}
    recall, precision = len(common) / len(others), len(common) / len(words)
    return 2 * precision * recall / (precision + recall) if common else 0.0


def _matched(said: Sequence[str], right: Sequence[str], n: int) -> tuple[int, int]:
    """N-grams of the answer that the reference has, and how many the answer has (at least 1)."""
    mine, other = (Counter(tuple(words[at : at + n]) for at in range(len(words) - n + 1)) for words in (said, right))
    return sum((mine & other).values()), max(1, sum(mine.values()))


def _sentences(text: str) -> list[list[str]]:
    return [words for part in text.split(".") if (words := part.split())]


def _common(one: Sequence[str], other: Sequence[str]) -> list[str]:
    """Words of a longest common subsequence; of several the one that walking back from the ends finds, as the package does."""
    table = [[0] * (len(other) + 1) for _ in range(len(one) + 1)]
    for i, word in enumerate(one, start=1):
        for j, found in enumerate(other, start=1):
            table[i][j] = table[i - 1][j - 1] + 1 if word == found else max(table[i - 1][j], table[i][j - 1])
    i, j, shared = len(one), len(other), []
    while i and j:
        if one[i - 1] == other[j - 1]:
            shared.append(one[i - 1])
            i, j = i - 1, j - 1
        elif table[i - 1][j] > table[i][j - 1]:
            i -= 1
        else:
            j -= 1
    return shared
