"""Closed-form erasure at Stable Diffusion 1.4's shapes: whole UCE and RECE edits, against the loop over layers and pairs of the released code.

    python perf/closed_form.py               32 projections, d = 768, 10 concepts of which one is edited by RECE, 30 held texts
    python perf/closed_form.py --tiny        d = 96: says whether it runs, not how fast

Both sides get the same random weights and states in one process. Ours: one map in float64, and one product for each projection.
The loop: for each projection, a sum over pairs of texts and an explicit float32 inverse; RECE's also sums W'^T W' and W'^T W over all
projections in every round. It is kinder than the released code, which reads the texts again for each projection, adds outer
products position by position, and, in RECE, projects every text by all projections to use one. Processor seconds are printed beside wall-clock
seconds, as a busy machine stretches the latter.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

BLOCKS = {320: 5, 640: 5, 1280: 6}
"""Cross-attention blocks of Stable Diffusion 1.4 by width; each has keys and values."""


@dataclass(frozen=True)
class Problem:
    """Weights, pairs of states to move (positions, d), and states to hold."""

    weights: list[Tensor]
    pairs: list[tuple[Tensor, Tensor]]
    held: list[Tensor]


def main() -> None:
    """Measure both ways and print the table."""
    options = _options()
    d, scale = (96, 0.1) if options.tiny else (768, 1.0)
    weights = [_random(int(width * scale), d, seed) / d**0.5 for seed, width in enumerate(width for width, count in BLOCKS.items() for _ in range(2 * count))]
    # UCE moves one state a text, RECE all 77; states of one text are alike, and none is near zero.
    uce = Problem(weights, _pairs(options.concepts, 1, d), [_random(1, d, 900 + at) for at in range(options.held)])
    rece = Problem(weights, _pairs(1, 77, d), [_random(77, d, 990)])
    _whole_uce(Problem(weights[:1], uce.pairs, uce.held))  # the first call of all pays for imports and threads
    print(f"{len(weights)} projections, d = {d}, {torch.get_num_threads()} threads")
    print(f"{'':34}{'wall s':>9}{'cpu s':>9}")
    one = Problem(weights, uce.pairs[:1], [])
    for label, problem, ours, theirs in (
        ("UCE, 1 concept, none held", one, _whole_uce, _loop_uce),
        (f"UCE, {options.concepts} concepts, {options.held} held", uce, _whole_uce, _loop_uce),
        (f"RECE, 77 positions, {options.epochs} rounds", rece, lambda p: _whole_rece(p, options.epochs), lambda p: _loop_rece(p, options.epochs)),
    ):
        fast, slow = _timed(ours, problem), _timed(theirs, problem)
        print(f"{label:34}{fast[0]:9.2f}{fast[1]:9.2f}\n{'  loop, float32 inverse':34}{slow[0]:9.2f}{slow[1]:9.2f}")
        apart = max(float((one - two).abs().max()) / float(two.abs().max()) for one, two in zip(fast[2], slow[2], strict=True))
        print(f"{'  ratio':34}{slow[0] / fast[0]:9.1f}{slow[1] / fast[1]:9.1f}   largest relative difference {apart:.1e}")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiny", action="store_true", help="small matrices")
    parser.add_argument("--concepts", type=int, default=10, help="concepts that UCE erases")
    parser.add_argument("--held", type=int, default=30, help="texts that UCE holds")
    parser.add_argument("--epochs", type=int, default=3, help="rounds of RECE")
    return parser.parse_args()


def _random(count: int, width: int, seed: int) -> Tensor:
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed))


def _pairs(concepts: int, positions: int, d: int) -> list[tuple[Tensor, Tensor]]:
    return [(_random(positions, d, 100 + at), _random(positions, d, 500)) for at in range(concepts)]


def _timed(edit: Callable[[Problem], list[Tensor]], problem: Problem) -> tuple[float, float, list[Tensor]]:
    wall, processor = time.perf_counter(), time.process_time()
    found = edit(problem)
    return time.perf_counter() - wall, time.process_time() - processor, found


# -- ours -------------------------------------------------------------------------------------------------------------------


def _moves(problem: Problem) -> Any:
    from efface.families.concept_states import weighted

    contexts, targets = (torch.cat(side) for side in zip(*problem.pairs, strict=True))
    return weighted(contexts, targets, torch.cat(problem.held) if problem.held else None, 1.0, 1.0)


def _whole_uce(problem: Problem) -> list[Tensor]:
    from efface.ops import closed_form

    found = closed_form.solve(_moves(problem), 0.5)
    return [closed_form.edited(weight, found.map, found.factors) for weight in problem.weights]


def _whole_rece(problem: Problem, epochs: int) -> list[Tensor]:
    from efface.core.context import Context
    from efface.families.text_edit import Edit
    from efface.methods.rece import RECE
    from efface.ops import closed_form

    start = Edit(closed_form.solve(_moves(problem), 0.5).map, ())
    method = RECE.set({"epochs": epochs, "cumulative": False})  # as the released code does
    edit = method.rounds(problem.weights, start, problem.pairs[0], problem.held[0], Context())
    return [closed_form.edited(weight, edit.map) for weight in problem.weights]


# -- the released form --------------------------------------------------------------------------------------------------------


def _loop_uce(problem: Problem) -> list[Tensor]:
    return _loop_edit(problem.weights, problem.pairs, problem.held, 0.5, 1.0)


def _loop_edit(weights: Sequence[Tensor], pairs: Sequence[tuple[Tensor, Tensor]], held: Sequence[Tensor], lam: float, preserve: float) -> list[Tensor]:
    changed = []
    for weight in weights:
        one, two = lam * weight, lam * torch.eye(weight.shape[1])
        for context, target in pairs:
            one = one + (target @ weight.T).T @ context
            two = two + context.T @ context
        for state in held:
            one = one + preserve * (state @ weight.T).T @ state
            two = two + preserve * state.T @ state
        changed.append(one @ torch.inverse(two))
    return changed


def _loop_rece(problem: Problem, epochs: int) -> list[Tensor]:
    current = _loop_edit(problem.weights, problem.pairs, problem.held, 0.5, 1.0)
    context, target = problem.pairs[0]
    for _ in range(epochs):
        left, right = 0.1 * torch.eye(context.shape[1]), torch.zeros_like(context.T)
        for new, old in zip(current, problem.weights, strict=True):
            left = left + new.T @ new
            right = right + new.T @ (old @ context.T)
        derived = (torch.inverse(left) @ right).T
        current = _loop_edit(current, [(derived, target)], problem.held, 0.1, 0.1)
    return current


if __name__ == "__main__":
    main()
