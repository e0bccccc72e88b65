"""Remakes the stored passes of the benchmark `authors`: `python -m efface.data.authors_passes [FOLDER]`, about ten minutes.

What original and reference say of the benchmark's rows is the same on every run, so it is measured once and shipped. The
files are named by the digests of model, rows and settings: a change of any of them makes them unused, never wrong.
"""

from __future__ import annotations

import sys
from pathlib import Path

from efface import evaluate
from efface.benchmarks.authors import FOLDER, Authors
from efface.cli.progress import Bars
from efface.core.context import Context


def write(folder: Path) -> None:
    """Measure the shipped models on split 10 and keep the passes in `folder`."""
    bars = Bars()
    case = Authors().case(Context())
    ctx = Context(baselines=case.baselines, utility=case.utility, passes=(folder,), progress=bars)
    report = evaluate.prove(case.original, case.request, ctx)
    sys.stdout.write(f"{report.verdict.line}\n")


if __name__ == "__main__":
    write(Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER / "passes")
