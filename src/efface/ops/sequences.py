"""Orders in which the slices of a shard are learned, and how many deletions they survive. Numbers in, numbers out.

A shard's rows are cut into L slices. A sequence is an order of them: its k-th stage learns from the first k slices, so a deletion
leaves it the stages before the one that met the deleted row, and kills it when that is the first. Service ends when every
sequence of every shard is dead. That takes a hit on each slice that comes first somewhere, m * min(B, L) of the m * L there
are, so evenly spread requests bring on average m * L * H(m * min(B, L)), where H(n) = 1 + 1/2 + ... + 1/n.
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Collection, Sequence

import numpy as np

from efface.core.errors import BadConfig, BadRows

Order = tuple[int, ...]
TAKEN = -1e9
"""Score of a slice that a sequence has already."""


def cyclic(length: int, budget: int) -> list[Order]:
    """`budget` different orders of range(length). Up to `length` of them are rotations, so that each slice comes first at most once.

    Beyond that every first slice is followed by orders of the others, made in the same way. Raises BadConfig when there are not so many.
    """
    if not 1 <= budget <= math.factorial(length):
        raise BadConfig(f"{budget} orders of {length} slices were asked, and there are {math.factorial(length)}")
    return _orders(tuple(range(length)), budget)


def _orders(items: Order, budget: int) -> list[Order]:
    turns = [items[at:] + items[:at] for at in range(len(items))]
    if budget <= len(items):
        return turns[:budget]
    share, more = divmod(budget, len(items))
    return [(turn[0], *rest) for at, turn in enumerate(turns) for rest in _orders(turn[1:], share + (at < more))]


def is_latin(orders: Sequence[Order]) -> bool:
    """Whether every order holds each slice once and no slice stands twice in one position."""
    whole = set(range(len(orders[0])))
    return all(set(order) == whole and len(order) == len(whole) for order in orders) and all(len(set(place)) == len(orders) for place in zip(*orders, strict=True))


def worth(order: Order, chances: Sequence[float], exponent: float = 100.0) -> float:
    """sum over n of n * (1 - chance that one of the first n slices is hit) ** exponent: how long a prefix is likely to last."""
    hit, total = 0.0, 0.0
    for n, piece in enumerate(order, start=1):
        hit += chances[piece]
        total += n * max(0.0, 1.0 - hit) ** exponent
    return total


def matched(chances: Sequence[float], budget: int, exponent: float = 100.0) -> list[Order]:
    """`budget` orders for slices that are hit with these chances: in each position every order gets another slice, by best assignment.

    All orders grow together by one slice a round, and no slice goes to two of them in the same round. Raises BadConfig for
    chances that are none, or more orders than slices.
    """
    from scipy.optimize import linear_sum_assignment

    length = len(chances)
    if not all(0 <= chance <= 1 for chance in chances) or sum(chances) > 1 + 1e-9:
        raise BadConfig(f"chances {tuple(chances)}: each slice needs a probability, and together they may not pass 1")
    if not 1 <= budget <= length:
        raise BadConfig(f"{budget} orders were asked; with chances there can be 1 to {length}, as many as slices")
    orders: list[Order] = [()] * budget
    for n in range(1, length + 1):
        gain = np.array([
            [TAKEN if piece in order else n * max(0.0, 1.0 - sum(chances[k] for k in (*order, piece))) ** exponent for piece in range(length)]
            for order in orders
        ])
        rows, picked = linear_sum_assignment(gain, maximize=True)
        orders = [(*orders[row], int(piece)) for row, piece in zip(rows, picked, strict=True)]
    return orders


def prefix(order: Order, gone: Collection[int]) -> int:
    """How many stages of a sequence are left when these slices have lost a row."""
    return next((at for at, piece in enumerate(order) if piece in gone), len(order))


def capacity(shards: int, slices: int, firsts: int) -> float:
    """Deletions to expect until no shard is left, when each of the shards * slices is as likely: m * L * H(firsts).

    `firsts` counts the slices that stand first in a living sequence; with B orders a shard it begins at shards * min(B, slices).
    """
    return shards * slices * sum(1 / n for n in range(1, firsts + 1))


def simulate(shards: int, orders: Sequence[Order], runs: int, seed: int = 0) -> np.ndarray:
    """Deletions until no shard is left, in each of `runs` streams of requests that hit every slice of every shard alike, again and again."""
    source = np.random.default_rng(seed)
    slices = len(orders[0])
    first = sorted({order[0] for order in orders})  # a sequence is dead when its first slice is hit, whatever comes after
    gone = np.zeros((runs, shards, slices), dtype=bool)
    lasted, living = np.zeros(runs, dtype=int), np.arange(runs)
    while len(living):
        gone[living, source.integers(shards, size=len(living)), source.integers(slices, size=len(living))] = True
        lasted[living] += 1
        living = living[~gone[living][:, :, first].all(axis=(1, 2))]
    return lasted


def deal(count: int, shards: int, slices: int, seed: int | None) -> list[list[list[int]]]:
    """Positions of rows, by shard and slice: consecutive blocks make the slices, and each is dealt out to the shards in turn.

    Every position is in exactly one slice, remainders included. Rows are shuffled first by `seed`, or stay in their order when it
    is None. Raises BadRows when there are fewer rows than slices to fill.
    """
    if count < shards * slices:
        raise BadRows(f"{count} rows cannot fill {shards} x {slices} slices; give more rows, or set shards and slices lower")
    places = list(range(count))
    if seed is not None:
        random.Random(seed).shuffle(places)
    ends = [count * at // slices for at in range(slices + 1)]
    return [[sorted(places[at] for at in range(a, b) if at % shards == shard) for a, b in itertools.pairwise(ends)] for shard in range(shards)]
