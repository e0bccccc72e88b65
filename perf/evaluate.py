"""All likelihood metrics and membership attacks from shared passes, against one pass for each; prints both and their ratio.

    python perf/evaluate.py                  models and rows of the benchmark authors, 16 rows of each kind
    python perf/evaluate.py --all            with the metrics on generated answers too
    python perf/evaluate.py --model tiny     a random model of two layers, in seconds: says whether it runs, not how fast

Shared: all metrics run in one context, as in `efface prove`, so that each row set is read once for each model. Alone:
every metric runs by itself in a context of its own, and reads what it needs, no more. Metrics, rows, models and code are the
same on both sides, and so must the values be. Processor seconds are printed beside wall-clock seconds, as a busy machine
stretches the latter; set OMP_NUM_THREADS=1 there, since threads that wait for each other count as busy.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from typing import Any

LIKELIHOOD = (
    "metric/truth_ratio", "metric/forget_quality", "metric/probability", "metric/exact_memorization", "metric/extraction_strength",
    "metric/perplexity", "attack/loss", "attack/zlib", "attack/min_k", "attack/min_k_plus_plus", "attack/reference",
)
ONCE = "answers of all row sets"
GENERATED = ("metric/model_utility", "metric/rouge_recall", "metric/repetition")


def main() -> None:
    """Measure both ways and print the table."""
    options = _options()
    names = (*GENERATED, *LIKELIHOOD) if options.all else LIKELIHOOD
    subject, reference, request = _case(options)
    _measure(LIKELIHOOD[:1], subject, reference, _cut(request, 1), shared=False)  # the first call of all pays for imports
    shared = _measure(names, subject, reference, request, shared=True)
    alone = _measure(names, subject, reference, request, shared=False)
    print(f"{options.model}, {options.rows} rows of each kind, {len(names)} metrics and attacks")
    print(f"{'':28}{'shared':>18}{'alone':>18}")
    print(f"{'':28}{'wall s':>9}{'cpu s':>9}{'wall s':>9}{'cpu s':>9}")
    for name in [ONCE, *names] if ONCE in shared else names:
        print(f"{name:28}" + "".join(f"{side[name][at]:9.2f}" if name in side else f"{'':9}" for side in (shared, alone) for at in (0, 1)))
    total = [[sum(row[at] for row in side.values()) for at in (0, 1)] for side in (shared, alone)]
    print(f"{'all':28}" + "".join(f"{seconds:9.2f}" for side in total for seconds in side))
    apart = max(abs(shared[name][2] - alone[name][2]) for name in names)
    print(f"largest difference between the values of the two sides: {apart:.1e}")
    print(f"ratio    {total[1][0] / total[0][0]:.2f} in wall-clock seconds, {total[1][1] / total[0][1]:.2f} in processor seconds")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="authors", help="folder, hub name or smollm2; 'authors' for the benchmark's models, 'tiny' for a random one")
    parser.add_argument("--rows", type=int, default=16, help="rows of each kind (forget, keep, unseen)")
    parser.add_argument("--all", action="store_true", help="with the metrics on generated answers, which no pass over given answers can serve")
    return parser.parse_args()


def _case(options: argparse.Namespace) -> tuple[Any, Any, Any]:
    """Model, reference and request: those of the benchmark, or a given model beside a reference of its own weights, read like any other."""
    subject: Any
    if options.model == "tiny":
        from efface.testing.tiny import facts, tiny_lm

        subject = tiny_lm()
        return subject, subject.view(), _cut(facts().request, options.rows)
    from efface import api
    from efface.benchmarks.authors import Authors
    from efface.benchmarks.authors import request as authors
    from efface.core.context import Context

    if options.model == "authors":
        case = Authors().case(Context())
        return case.original, case.baselines["reference"], _cut(case.request, options.rows)
    subject = api.load(options.model)
    return subject, subject.view(), _cut(authors("10"), options.rows)


def _cut(request: Any, rows: int) -> Any:
    from efface.core.types import Data, Request

    return Request(**{side: Data.inline(request.sample(side, rows)) for side in ("forget", "keep", "unseen")})


def _measure(names: Sequence[str], subject: Any, reference: Any, request: Any, shared: bool) -> dict[str, tuple[float, float, float]]:
    """Wall-clock seconds, processor seconds and value of each; `shared` says whether they know of each other's passes."""
    from efface.core import registry
    from efface.core.context import Context
    from efface.families import passes

    one = Context(baselines={"reference": reference})
    found: dict[str, tuple[float, float, float]] = {}
    if shared and set(GENERATED) & set(names):  # answers to all row sets in one go, as `efface prove` begins
        wall, processor = time.perf_counter(), time.process_time()
        passes.answer_sets(subject, [request.rows("forget"), request.rows("keep")], one)
        found[ONCE] = time.perf_counter() - wall, time.process_time() - processor, 0.0
    for full in names:
        kind, _, name = full.partition("/")
        ctx = one if shared else Context(baselines={"reference": reference})
        wall, processor = time.perf_counter(), time.process_time()
        value = registry.load(kind, name)().run(subject, request, ctx).value
        found[full] = time.perf_counter() - wall, time.process_time() - processor, value
    return found


if __name__ == "__main__":
    main()
