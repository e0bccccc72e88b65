"""A deletion from a run of S3T against the training of what it switches off; prints both and their ratio.

    python perf/s3t.py                     a vision transformer of 12 layers on scikit-learn's digits
    python perf/s3t.py --epochs 0          one step a stage, in seconds: says whether it runs, not how fast

One run is trained; its log says how long each stage took. Then rows are deleted from it one after the other, each with the
record, the served model and the files on disk brought up to date. A deletion is held against the shortest stage among those
that saw the row, and against all of them: what SISA would have to train again.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

LIMIT = 0.05
"""Largest share of the shortest stage's training time that a deletion may take."""


def main() -> None:
    """Train, delete, print."""
    options = _options()
    warnings.simplefilter("ignore", FutureWarning)  # of transformers, to programmers
    with tempfile.TemporaryDirectory() as folder:
        run = _train(Path(folder), options)
        stages = {(line["shard"], line["sequence"], line["stage"]): line["seconds"] for line in map(json.loads, (run / "log.jsonl").read_text().splitlines())}
        print(f"{len(stages)} stages, {min(stages.values()):.2f} to {max(stages.values()):.2f} s each, {sum(stages.values()):.1f} s together")
        found = [_delete(run, row, stages) for row in range(1, options.deletions + 1)]
    print(f"{'row':>4}{'deletion s':>12}{'stages off':>12}{'shortest s':>12}{'all s':>10}{'share':>9}")
    for row, (seconds, off) in enumerate(found, start=1):
        numbers = f"{min(off):12.2f}{sum(off):10.2f}{seconds / min(off):9.2%}" if off else f"{'-':>12}{'-':>10}{'-':>9}"
        print(f"{row:4}{seconds:12.3f}{len(off):12}{numbers}")
    counted = [(seconds, off) for seconds, off in found if off]
    alone = statistics.median(seconds / min(off) for seconds, off in counted)
    whole = statistics.median(seconds / sum(off) for seconds, off in counted)
    print(f"a deletion takes {alone:.2%} of training its shortest stage again (limit {LIMIT:.0%}), {whole:.2%} of training all that saw the row")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=5, help="passes of each stage over its rows")
    parser.add_argument("--deletions", type=int, default=5, help="rows to delete, one after the other")
    return parser.parse_args()


def _train(folder: Path, options: argparse.Namespace) -> Path:
    """A finished run: 2 shards, 4 slices, 1 sequence."""
    import numpy as np

    from efface import runs
    from efface.benchmarks.digits import split
    from efface.families import tables
    from efface.families.classifier import Classifier
    from efface.families.networks import seeded, vit

    parts = split("random")
    rows = [{"x": np.reshape(row["x"], (1, 8, 8)), "y": row["y"]} for row in (*parts.forget, *parts.keep)]
    tables.write_arrays(folder / "rows.safetensors", rows)
    start: Any = Classifier(seeded(vit, 0, side=8, channels=1, outputs=10, hidden=64, layers=12, patch=2))
    (folder / "start").mkdir()
    start.save(folder / "start")
    settings = {"shards": 2, "slices": 4, "sequences": 1, "fit.batch": 32, "fit.lr": 1e-3, "fit.rank": 8, "fit.epochs": options.epochs, "fit.steps": 1}
    asked = runs.TrainOptions(
        model=str(folder / "start"), data=folder / "rows.safetensors", recipe="s3t", settings=settings, device="cpu", out=folder / "run",
    )
    return runs.train(asked)


def _delete(run: Path, row: int, stages: dict[tuple[int, int, int], float]) -> tuple[float, list[float]]:
    """Seconds of the deletion, and of training each stage that it switched off."""
    from efface import exact

    began = time.perf_counter()
    done = exact.delete(run, [row])
    seconds = time.perf_counter() - began
    return seconds, [stages[exact.place_of(name)] for name in done.stopped]


if __name__ == "__main__":
    main()
