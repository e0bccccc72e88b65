"""Draws docs/results/s3t_deletions.svg: how many deletions a run of S3T survives, and how well it answers on the way.

    python docs/s3t_deletions.py             about three minutes of one core
    python docs/s3t_deletions.py --quick     fewer streams and one step a stage: says whether it runs

Left: deletions until no shard is left, m = 5 shards and L = 6 slices, simulated (2000 streams) and by the formula
m L H(m min(B, L)). Right: a small network that was taught the digits 0 to 4 learns all ten by adapters, in the same shards and
slices; accuracy on 500 test rows against deletions, each of a random row's slice, mean over streams. Where no shard is left
nothing answers, and that counts as wrong. One order a shard (B = 1) is what SISA survives without retraining.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np

matplotlib.use("svg")
from matplotlib import pyplot as plt  # noqa: E402

from efface.ops import sequences  # noqa: E402

SHARDS, SLICES, BUDGETS = 5, 6, (1, 3, 6)
INK, MUTED, RULE = "#1c2126", "#5d6670", "#d9dde2"
COLORS, MARKS, DASHES = {1: "#a8550a", 3: "#6b4a8f", 6: "#1d5fa6"}, {1: "s", 3: "D", 6: "o"}, {1: (0, (5, 2)), 3: (0, (1, 1.5)), 6: "-"}
STYLE: Any = {
    "font.size": 10, "axes.edgecolor": MUTED, "axes.labelcolor": INK, "text.color": INK, "xtick.color": MUTED, "ytick.color": MUTED,
    "axes.spines.top": False, "axes.spines.right": False, "grid.color": RULE, "legend.frameon": False, "svg.hashsalt": "s3t", "svg.fonttype": "none", "axes.axisbelow": True,
}
TARGET = Path(__file__).resolve().parent / "results" / "s3t_deletions.svg"
Table = dict[tuple[int, int, int], np.ndarray]
"""(shard, sequence, stages left) -> logits of the test rows."""


def main() -> None:
    """Simulate, train, draw, and print the numbers in the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer streams and one step a stage")
    parser.add_argument("--out", type=Path, default=TARGET, help="the picture to write")
    options = parser.parse_args()
    began = time.monotonic()
    lasted = {budget: sequences.simulate(SHARDS, sequences.cyclic(SLICES, budget), 200 if options.quick else 2000) for budget in range(1, SLICES + 1)}
    table, labels = trained(options.quick)
    curves = {budget: streams(table, labels, budget, 20 if options.quick else 300) for budget in BUDGETS}
    for budget, found in lasted.items():
        say(f"B = {budget}: simulated {found.mean():6.1f}   formula {sequences.capacity(SHARDS, SLICES, SHARDS * budget):6.1f}")
    for budget, curve in curves.items():
        say(f"B = {budget}: accuracy after 0, 25, 50, 75, 100, 125 deletions: {', '.join(f'{curve[at]:.3f}' for at in range(0, 126, 25))}")
    with plt.rc_context(STYLE):
        draw(lasted, curves, options.out)
    say(f"{options.out} written after {time.monotonic() - began:.0f} s")


def say(line: str) -> None:
    """Write one line to standard output."""
    sys.stdout.write(f"{line}\n")


def trained(quick: bool) -> tuple[Table, np.ndarray]:
    """Logits of the test rows by every prefix of every sequence, and the right labels."""
    from efface.benchmarks.digits import split
    from efface.core.context import Context
    from efface.core.types import Data, Request
    from efface.families import lineage, stages
    from efface.families.classifier import Classifier
    from efface.families.networks import MLP, seeded
    from efface.recipes.finetune import Finetune
    from efface.recipes.s3t import S3T

    parts = split("random")
    rows, test = [*parts.forget, *parts.keep], [*parts.unseen, *parts.test]
    shape: dict[str, Any] = {"inputs": 64, "hidden": [64] * SLICES, "outputs": 10}
    known = Request(keep=Data.inline([row for row in rows if int(str(row["y"])) < 5]))
    teach: dict[str, object] = {"fit.lr": 5e-3, "fit.steps": 300, "fit.batch": 64, "fit.precision": "no", "fit.schedule": "linear"}
    start = Finetune.set(teach).run(Classifier(seeded(MLP, 0, **shape), shape), known, Context(device="cpu"))
    settings: dict[str, object] = {
        "shards": SHARDS, "slices": SLICES, "sequences": max(BUDGETS), "dropout": 0.0, "fit.lr": 0.02, "fit.epochs": 0 if quick else 40, "fit.steps": 1,
        "fit.batch": 32, "fit.rank": 16,
    }
    table: Table = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _, record = S3T.set(settings).build(start, lineage.training(Request(keep=Data.inline(rows))), (), Context(device="cpu", folder=folder))
        for piece in record.pieces:
            shard, sequence, stage = (int("".join(filter(str.isdigit, part))) for part in piece.name.split("-"))
            chain = [found for found in record.pieces if found.name in piece.after] + [piece]
            place = folder / piece.name
            place.mkdir()
            stages.join(place, [(folder / next(iter(link.files))).parent for link in chain])
            member = stages.restore(start, place)
            table[shard - 1, sequence - 1, stage] = member.logits(member.encode(test)).detach().numpy()
    return table, np.array([int(str(row["y"])) for row in test])


def streams(table: Table, labels: np.ndarray, budget: int, count: int, length: int = 150) -> np.ndarray:
    """Mean accuracy after 0 .. `length` deletions, over `count` streams of them."""
    orders = sequences.cyclic(SLICES, budget)
    source = np.random.default_rng(0)
    known: dict[tuple[tuple[int, int], ...], float] = {}
    found = np.zeros((count, length + 1))
    for stream in range(count):
        gone: list[set[int]] = [set() for _ in range(SHARDS)]
        for at in range(length + 1):
            state = tuple(best(orders, mine) for mine in gone)
            if state not in known:
                known[state] = accuracy(table, labels, state)
            found[stream, at] = known[state]
            gone[int(source.integers(SHARDS))].add(int(source.integers(SLICES)))
    return found.mean(0)


def best(orders: Sequence[sequences.Order], gone: set[int]) -> tuple[int, int]:
    """The sequence with most stages left, and how many they are."""
    lengths = [sequences.prefix(order, gone) for order in orders]
    return lengths.index(max(lengths)), max(lengths)


def accuracy(table: Table, labels: np.ndarray, state: Sequence[tuple[int, int]]) -> float:
    """Share of the test rows that the mean of the living shards' logits gets right; 0 where none lives."""
    living = [table[shard, sequence, left] for shard, (sequence, left) in enumerate(state) if left]
    return float(np.mean(np.mean(living, axis=0).argmax(1) == labels)) if living else 0.0


def draw(lasted: dict[int, np.ndarray], curves: dict[int, np.ndarray], target: Path) -> None:
    """Write the picture."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4.2), layout="constrained")
    budgets = list(lasted)
    formula = [sequences.capacity(SHARDS, SLICES, SHARDS * budget) for budget in budgets]
    left.plot(budgets, formula, color=INK, linewidth=1.5, label="formula  m L H(m min(B, L))")
    means = [lasted[budget].mean() for budget in budgets]
    spread = [1.96 * lasted[budget].std(ddof=1) / len(lasted[budget]) ** 0.5 for budget in budgets]
    left.errorbar(budgets, means, yerr=spread, fmt="o", color=COLORS[6], markersize=6, capsize=3, label="simulated, with 95 % interval")
    left.axhline(formula[0], color=COLORS[1], dashes=DASHES[1][1], linewidth=1.2, label="SISA, one order a shard (B = 1)")
    left.set(xlabel="orders of the slices in each shard, B", ylabel="deletions until no shard is left", ylim=(0, 135), title="How long it lasts")
    left.legend(loc="lower right", fontsize=9)
    left.text(1.0, 128, f"m = {SHARDS} shards, L = {SLICES} slices", color=MUTED)
    for budget, curve in curves.items():
        name = "SISA without retraining" if budget == 1 else "S3T"
        right.plot(curve, color=COLORS[budget], linestyle=DASHES[budget], marker=MARKS[budget], markevery=25, markersize=5, label=f"B = {budget}  {name}")
        right.axvline(formula[budget - 1], ymax=0.06, color=COLORS[budget], linewidth=2)
    right.text(formula[0] - 2, 0.075, "end expected by the formula:", color=MUTED, fontsize=8.5, ha="right")
    right.set(xlabel="deletions, each in a random slice", ylabel="accuracy (no answer counts as wrong)", ylim=(0, 1.0), xlim=(0, 150), title="How well it answers")
    right.legend(loc="upper right", fontsize=9)
    for axes in (left, right):
        axes.grid(axis="y", linewidth=0.7)
        axes.title.set_fontsize(11)
    target.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(target, format="svg", metadata={"Date": None, "Creator": None})
    plt.close(figure)


if __name__ == "__main__":
    main()
