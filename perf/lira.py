"""Shadow models trained side by side against the same models one after another, in one process; prints both and their ratio.

    python perf/lira.py                      16 copies of a network 64-128-64-10 on scikit-learn's digits
    python perf/lira.py --copies 64          more copies at once

Side by side: efface's stacked training, as the attacks lira and u_lira and the metric neurips_score use it. Plain loop: one
after another by the barest loop there is, on tensors made beforehand, with the same optimizer. Own loop: one after another by
efface's training loop, which encodes rows, logs and checks every step. Starts, rows, order and settings are the same on all
sides, and so must the losses be. The sides take turns, so that a change in the machine's load meets all; medians are printed.
The ratio is that of the plain loop, the harder of the two.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

SIDES = ("side by side", "plain loop", "own loop")


def main() -> None:
    """Train on all sides by turns and print the table."""
    options = _options()
    import torch

    from efface.core.config import Fit

    fit = Fit(lr=1e-2, steps=options.steps, batch=64, weight_decay=5e-4, clip=0, precision="no")
    rows, members = _rows(options.copies)
    ways: dict[str, Callable[[Sequence[Any], Any], None]] = {
        "side by side": lambda starts, steps: _together(starts, rows, members, fit.model_copy(update={"steps": steps})),
        "plain loop": lambda starts, steps: _plain(starts, rows, members, fit.model_copy(update={"steps": steps})),
        "own loop": lambda starts, steps: _own(starts, rows, members, fit.model_copy(update={"steps": steps})),
    }
    for way in ways.values():  # the first call of all pays for imports
        way(_starts(options.copies), 2)
    wall: dict[str, list[float]] = {name: [] for name in SIDES}
    cpu: dict[str, list[float]] = {name: [] for name in SIDES}
    losses: dict[str, Any] = {}
    for _ in range(options.rounds):
        for name in SIDES:
            starts = _starts(options.copies)
            began, busy = time.perf_counter(), time.process_time()
            ways[name](starts, options.steps)
            wall[name].append(time.perf_counter() - began)
            cpu[name].append(time.process_time() - busy)
            losses[name] = _losses(starts, rows)
    print(f"{options.copies} copies, {options.steps} steps of 64 rows, {torch.get_num_threads()} threads, median of {options.rounds}")
    for name in SIDES:
        print(f"{name:14}{statistics.median(wall[name]):8.2f} s wall {statistics.median(cpu[name]):8.2f} s cpu")
    apart = max(float((losses[name] - losses[SIDES[0]]).abs().max()) for name in SIDES)
    print(f"largest difference between the copies' mean losses on the sides: {apart:.1e}")
    median = {name: statistics.median(wall[name]) for name in SIDES}
    print(f"ratio    {median['plain loop'] / median['side by side']:.2f} to the plain loop, {median['own loop'] / median['side by side']:.2f} to efface's own loop")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--copies", type=int, default=16, help="shadow models")
    parser.add_argument("--steps", type=int, default=100, help="optimizer steps of each")
    parser.add_argument("--rounds", type=int, default=3, help="turns of each side")
    return parser.parse_args()


def _rows(copies: int) -> tuple[Sequence[Any], list[list[int]]]:
    """The digits' training rows, and a random half of the forget rows with all others for each copy."""
    import numpy as np

    from efface.benchmarks.digits import split

    parts = split("random")
    rows, rng = [*parts.keep, *parts.forget], np.random.default_rng(0)
    halves = [rng.permutation(len(parts.forget))[: len(parts.forget) // 2] + len(parts.keep) for _ in range(copies)]
    return rows, [[*range(len(parts.keep)), *half.tolist()] for half in halves]


def _starts(copies: int) -> list[Any]:
    from efface.benchmarks.digits import network

    return [network(seed).trainable(0, 0) for seed in range(copies)]


def _together(starts: Sequence[Any], rows: Sequence[Any], members: Sequence[Sequence[int]], fit: Any) -> None:
    from efface.core.context import Context
    from efface.ops import side_by_side

    done = side_by_side.train(starts, rows, members, range(len(starts)), fit, Context())
    if not done.together:
        raise SystemExit(f"not trained side by side: {done.why}")


def _own(starts: Sequence[Any], rows: Sequence[Any], members: Sequence[Sequence[int]], fit: Any) -> None:
    from efface.core.context import Context
    from efface.ops import side_by_side

    side_by_side.one_by_one(starts, rows, members, range(len(starts)), fit, Context())


def _plain(starts: Sequence[Any], rows: Sequence[Any], members: Sequence[Sequence[int]], fit: Any) -> None:
    """One copy after another: pick rows, loss, backward, step, and nothing else."""
    import torch

    from efface.ops.side_by_side import row_order

    batch = starts[0].encode(rows)
    for seed, (start, own) in enumerate(zip(starts, members, strict=True)):
        x, y = batch.x[torch.tensor(own)], batch.labels[torch.tensor(own)]
        optimizer = torch.optim.AdamW(start.model.parameters(), lr=fit.lr, weight_decay=fit.weight_decay, fused=True)
        start.model.train()
        for places in row_order(len(own), fit.batch, fit.steps, seed):
            torch.nn.functional.cross_entropy(start.model(x[places]), y[places]).backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        start.model.eval()


def _losses(starts: Sequence[Any], rows: Sequence[Any]) -> Any:
    import torch

    from efface.ops.loop import mean_loss

    return torch.tensor([mean_loss(start, rows, 2000) for start in starts])


if __name__ == "__main__":
    main()
