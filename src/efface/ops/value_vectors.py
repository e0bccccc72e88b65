"""Value vectors: columns of an MLP's output matrix, read as tokens (ConceptVectors, arXiv:2406.11614). Pure functions on tensors.

    Top(v) = the tokens with the largest entries of E v       E (V, d) output embedding, v (d,) a column
    purity = share of the first of Top(v) that stand in a word list; its z-score over all columns finds a concept's column
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

TOP = 200
"""Tokens that stand for a column."""
CHUNK = 256
"""Columns that are projected at a time."""
STOP_WORDS = frozenset(
    "a about above after again against all also am among an and any are as at be because been before being below between both but by can could "
    "did do does doing down during each either few for from further had has have having he her here hers herself him himself his how however i "
    "if in into is it its itself just let like many may me might more most much must my myself neither no nor not now of off on once one only or "
    "other our ours ourselves out over own per same shall she should since so some such than that the their theirs them themselves then there "
    "these they this those through thus to too two under until up upon us very was we were what when where whether which while who whom whose why "
    "will with within without would yet you your yours yourself yourselves s t d ll m o re ve y".split()
)
"""English words that say nothing of a concept."""


class Intrinsic(NamedTuple):
    """What is left of one column: u in the model at hand, o in the original, W a word list."""

    jaccard: float
    """|Top(u) and Top(o)| / |Top(u) or Top(o)|."""
    cosine: float
    l2: float
    """|u - o|."""
    words: float | None
    """|Top(u) and W| / |Top(o) and W|; None where the original's top tokens hold no word of the list."""
    both: float | None
    """|Top(u) and Top(o) and W| / |Top(o) and W|."""


class Found(NamedTuple):
    """One column with its place in a search."""

    layer: int
    column: int
    purity: float
    z: float


def top(vectors: Tensor, embedding: Tensor, count: int = TOP) -> Tensor:
    """The `count` tokens (n, count) with the largest projection of each of the vectors (d, n), largest first."""
    return (vectors.float().T @ embedding.float().T).topk(min(count, len(embedding)), dim=-1).indices


def compare(column: Tensor, original: Tensor, tops: tuple[Iterable[int], Iterable[int]], words: Collection[int]) -> Intrinsic:
    """What is left of the original's column, given the top tokens of both, each under its own model's embedding."""
    mine, other = map(set, tops)
    known = other & set(words)
    u, o = column.double(), original.double()
    return Intrinsic(
        jaccard=len(mine & other) / len(mine | other),
        cosine=float(torch.nn.functional.cosine_similarity(u, o, dim=0)),
        l2=float((u - o).norm()),
        words=len(mine & set(words)) / len(known) if known else None,
        both=len(mine & known) / len(known) if known else None,
    )


def purity(matrix: Tensor, embedding: Tensor, words: Collection[int], count: int = 50) -> np.ndarray:
    """Share of each column's `count` top tokens that stand in the word list (n,), for the columns of a matrix (d, n)."""
    listed = torch.zeros(len(embedding), device=embedding.device)
    listed[sorted(words)] = 1.0
    parts = [listed[top(piece, embedding, count)].mean(-1) for piece in matrix.split(CHUNK, dim=1)]
    return torch.cat(parts).double().cpu().numpy()


def ranked(purities: Sequence[np.ndarray]) -> list[Found]:
    """All columns of all layers, z-scored over all of them together, purest first; of equals the earliest layer and column."""
    every = np.concatenate(purities)
    mean, deviation = every.mean(), every.std()
    found = [
        Found(layer, column, float(value), float((value - mean) / deviation) if deviation else 0.0)
        for layer, values in enumerate(purities)
        for column, value in enumerate(values)
    ]
    return sorted(found, key=lambda one: (-one.purity, one.layer, one.column))


def search(matrices: Iterable[Tensor], embedding: Tensor, words: Collection[int], count: int = 50) -> list[Found]:
    """The columns of all layers' output matrices (d, n) by how much of their top tokens the word list holds, purest first."""
    return ranked([purity(matrix, embedding, words, count) for matrix in matrices])


def content(tokens: Iterable[tuple[int, str]]) -> set[int]:
    """Those of the tokens (id, text) that are words or pieces of words, and no stop words nor single Latin letters, which begin any word."""
    found = ((token, text.strip()) for token, text in tokens if any(map(str.isalpha, text)))
    return {token for token, text in found if text.casefold() not in STOP_WORDS and not (len(text) == 1 and text.isascii())}


def noise_score(activations: Tensor, gradients: Tensor, deviation: float) -> Tensor:
    """Estimated fall (n,) of the rows' log-probabilities under noise in each column: deviation^2 / 2 * sum over t of a_j(t)^2 |g(t)|^2.

    `activations` (B, T, n) is what the matrix reads, `gradients` (B, T, d) that of the log-probability by what it writes. Where a model
    knows the rows, first orders cancel (training saw to that) and the second is what counts, with squared gradients for the curvature.
    """
    return (activations.float().square() * gradients.float().square().sum(-1, keepdim=True)).sum((0, 1)) * (deviation**2 / 2)


def removal_score(activations: Tensor, gradients: Tensor, matrix: Tensor) -> Tensor:
    """The same (n,) when each column v_j of the matrix (d, n) is set to zero: 1/2 * sum over t of (a_j(t) g(t) v_j)^2."""
    return (activations.float() * (gradients.float() @ matrix.float())).square().sum((0, 1)) / 2


def noise(layer: int, column: int, size: int, deviation: float, seed: int) -> Tensor:
    """The change (d,) that disturbs a column: normal numbers that depend on its place and the seed alone, the same for every model."""
    source = np.random.default_rng([seed % 2**32, layer, column])
    return torch.from_numpy(source.normal(0.0, deviation, size)).float()
