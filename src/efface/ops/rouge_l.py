"""ROUGE-L as the package `rouge` on PyPI counts it (the one of RWKU and ConceptVectors); pure functions on text.

Case and punctuation are kept and there is no stemmer, so "richard bachman" says nothing of "Richard Bachman", nor "Paris," of
"Paris". A text is cut into sentences at every full stop; of each pair of sentences the words of one longest common
subsequence are taken as a SET, so that repeated words collapse: "a b a b" recalls all of "b a b a b", whose words are two.
"""

from __future__ import annotations

from typing import NamedTuple

TINY = 1e-8
"""What the package adds to the denominator of F."""


class RougeL(NamedTuple):
    """Shares of the gold text's and of the answer's different words that are in common, and their harmonic mean."""

    recall: float
    precision: float
    f: float


def rouge_l(said: str, gold: str) -> RougeL:
    """The three numbers; all 0 where either text has nothing between its full stops, for which the package raises."""
    answer, right = _sentences(said), _sentences(gold)
    if not answer or not right:
        return RougeL(0.0, 0.0, 0.0)
    common = {word for sentence in right for other in answer for word in _subsequence(sentence, other)}
    recall = len(common) / len({word for sentence in right for word in sentence})
    precision = len(common) / len({word for sentence in answer for word in sentence})
    return RougeL(recall, precision, 2.0 * recall * precision / (recall + precision + TINY))


def _sentences(text: str) -> list[list[str]]:
    """The words of each sentence; one of spaces alone is a sentence with one empty word, as in the package."""
    return [" ".join(part.split()).split(" ") for part in text.split(".") if part]


def _subsequence(one: list[str], other: list[str]) -> list[str]:
    """A longest common subsequence; of several the one that the package finds, going back from the end."""
    table = [[0] * (len(other) + 1) for _ in range(len(one) + 1)]
    for i, word in enumerate(one, start=1):
        for j, same in enumerate(other, start=1):
            table[i][j] = table[i - 1][j - 1] + 1 if word == same else max(table[i - 1][j], table[i][j - 1])
    found: list[str] = []
    i, j = len(one), len(other)
    while i and j:
        if one[i - 1] == other[j - 1]:
            found.append(one[i - 1])
            i, j = i - 1, j - 1
        elif table[i - 1][j] > table[i][j - 1]:
            i -= 1
        else:
            j -= 1
    return found[::-1]
