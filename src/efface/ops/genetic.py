"""Genetic search over sequences of token ids, towards the smallest fitness."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Fitness = Callable[[Tensor], Tensor]


def children(parents: Tensor, vocabulary: Tensor, crossover: float, mutation: float, chance: torch.Generator) -> Tensor:
    """New sequences (m, K) of parents (n, K): pairs exchange their tails behind one cut, and some sequences change one token.

    A parent is crossed with a random one at the rate `crossover`, both children stay; children, and copies of parents, change
    one token to a random one of the vocabulary at the rate `mutation`. Parents themselves never change.
    """
    count, length = parents.shape
    mates = parents[torch.randint(count, (count,), generator=chance)]
    cut = torch.randint(1, length + 1, (count, 1), generator=chance)
    head = torch.arange(length) < cut
    crossed = torch.rand(count, generator=chance) < crossover
    born = torch.cat([torch.where(head, parents, mates)[crossed], torch.where(head, mates, parents)[crossed]])
    both = torch.cat([born, parents])
    changed = torch.rand(len(both), generator=chance) < mutation
    places = torch.randint(length, (len(both),), generator=chance)
    tokens = vocabulary[torch.randint(len(vocabulary), (len(both),), generator=chance)]
    mutants = both.clone()
    mutants[torch.arange(len(both)), places] = tokens
    return torch.cat([torch.where(changed[: len(born), None], mutants[: len(born)], born), mutants[len(born) :][changed[len(born) :]]])


def generation(population: Tensor, scores: Tensor, fitness: Fitness, half: int, born: Tensor) -> tuple[Tensor, Tensor]:
    """The best `half` of population (n, K) and those `born`, best first, and their scores: the best never gets worse."""
    fresh = _new(born, population)
    if len(fresh):
        population, scores = torch.cat([population, fresh]), torch.cat([scores, fitness(fresh)])
    order = scores.argsort(stable=True)[:half]
    return population[order], scores[order]


def _new(born: Tensor, known: Tensor) -> Tensor:
    """Those born that are not in the population yet, each once, in order: copies would crowd it."""
    seen = {tuple(row) for row in known.tolist()}
    kept = []
    for at, row in enumerate(map(tuple, born.tolist())):
        if row not in seen:
            seen.add(row)
            kept.append(at)
    return born[kept]
