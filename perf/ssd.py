"""Per-row Fisher and the whole of SSD against one backward pass a row, on a ResNet-18; prints seconds, ratios and differences.

    python perf/ssd.py                     96 digits of 28 x 28, 12 of them to forget
    python perf/ssd.py --rows 32 --batch 16

efface: the sums of squares come out of what each layer read and what came back to it, for a batch at a time, and the forget
rows are read once, for both importances. Row by row: what a published batch gradient becomes at batch size 1, forward,
backward, square, add; SSD in that form reads the forget rows for I_forget and again among all rows, as the published code
does. Both sides take pieces of the work by turns in one process, so that a change in the machine's load meets both.
The difference is the largest one of any tensor, relative to the largest entry of that tensor.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from efface.core.context import Context
from efface.core.types import Data, Request
from efface.families.classifier import Classifier
from efface.families.networks import resnet18, seeded
from efface.methods.ssd import SSD
from efface.ops.importance import Way, per_sample_squares

Rows = list[dict[str, Any]]
Sums = dict[str, Tensor]


def main() -> None:
    """Measure both and print the table."""
    options = _options()
    torch.set_num_threads(options.threads)
    rows = _digits(options.rows)
    subject = Classifier(seeded(resnet18, 0, channels=1))
    _layered(subject, rows[:2], "auto")
    _row_by_row(subject, rows[:2])
    weights = sum(p.numel() for p in subject.model.parameters())
    print(f"ResNet-18, {weights / 1e6:.1f} million weights, {len(rows)} rows of 1 x 28 x 28, batches of {options.batch}, {options.threads} thread(s), torch {torch.__version__}")

    spent = {"efface": [0.0, 0.0], "rows": [0.0, 0.0]}
    sums: dict[str, Sums] = {"efface": {}, "rows": {}}
    way: Way = "auto"  # the first batch is also where the way is chosen; that is measured too
    for at in range(0, len(rows), options.batch):
        piece = rows[at : at + options.batch]
        for side, measure in (("efface", partial(_layered, way=way)), ("rows", _row_by_row)):
            took, found = _timed(partial(measure, subject, piece))
            spent[side] = [a + b for a, b in zip(spent[side], took, strict=True)]
            sums[side] = {name: sums[side].get(name, 0) + value for name, value in found.items()}
        way = "layers"
    _table("per-row Fisher", spent["efface"], spent["rows"], _difference(sums["efface"], sums["rows"]))

    request = Request(forget=Data.inline(rows[: options.forget]), keep=Data.inline(rows[options.forget :]))
    ctx, system = Context(), SSD.set({"batch": options.batch})
    took, after = _timed(lambda: system.run(subject, request, ctx))
    alone, plain = _timed(lambda: _ssd_by_rows(subject, request, float(ctx.notes["alpha"])))
    print(f"SSD damps {100 * float(ctx.notes['selected']):.1f} % of the weights (alpha {float(ctx.notes['alpha']):.2f}, importance by {ctx.notes['importance']})")
    _table("whole SSD", took, alone, _difference(dict(after.model.named_parameters()), dict(plain.model.named_parameters())))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=96, help="rows in all")
    parser.add_argument("--forget", type=int, default=12, help="rows to forget among them")
    parser.add_argument("--batch", type=int, default=48, help="rows of one pass of efface")
    parser.add_argument("--threads", type=int, default=1, help="threads of both sides")
    return parser.parse_args()


def _digits(count: int) -> Rows:
    """scikit-learn's digits, each pixel three wide, in a frame of 28 x 28."""
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    wide = np.kron(images[:count].reshape(-1, 8, 8) / 16, np.ones((3, 3)))
    framed = np.pad(wide, ((0, 0), (2, 2), (2, 2))).astype(np.float32)[:, None]
    return [{"x": image, "y": int(label)} for image, label in zip(framed, labels, strict=False)]


def _layered(subject: Classifier, rows: Rows, way: Way) -> Sums:
    """The product's own sums, of one batch."""
    return per_sample_squares(subject.model, [subject.encode(rows)], subject.losses, way=way).total


def _row_by_row(subject: Classifier, rows: Rows) -> Sums:
    """One forward and one backward pass a row, squares added up."""
    model = subject.model.requires_grad_(True)
    total = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    for row in rows:
        model.zero_grad()
        subject.losses(subject.encode([row])).mean().backward()
        for name, p in model.named_parameters():
            if p.grad is not None:
                total[name] += p.grad.pow(2)
    model.zero_grad()
    model.requires_grad_(False)
    return total


@torch.no_grad()
def _damp(model: torch.nn.Module, forget: Sums, whole: Sums, alpha: float) -> None:
    for name, p in model.named_parameters():
        chosen = forget[name] > alpha * whole[name]
        p[chosen] = p[chosen] * (whole[name] / forget[name])[chosen].clamp(max=1.0)


def _ssd_by_rows(subject: Classifier, request: Request, alpha: float) -> Classifier:
    """SSD in the published form at batch size 1."""
    after = subject.fork()
    parts: dict[str, Sums] = {}
    for name, rows in (("forget", request.rows("forget")), ("all", [*request.rows("keep"), *request.rows("forget")])):
        with torch.enable_grad():
            sums = _row_by_row(after, [dict(row) for row in rows])
        parts[name] = {key: value / len(rows) for key, value in sums.items()}
    _damp(after.model, parts["forget"], parts["all"], alpha)
    return after


def _timed(work: Callable[[], Any]) -> tuple[list[float], Any]:
    """Seconds by the clock and of the processor, and what the work gave."""
    began, busy = time.perf_counter(), time.process_time()
    found = work()
    return [time.perf_counter() - began, time.process_time() - busy], found


def _difference(one: Sums, other: Sums) -> float:
    return max(float((one[name] - value).detach().abs().max() / value.detach().abs().max().clamp(min=1e-30)) for name, value in other.items())


def _table(what: str, ours: list[float], theirs: list[float], difference: float) -> None:
    for at, clock in enumerate(("by the clock", "of the processor")):
        print(f"{what:15} efface {ours[at]:6.2f} s   row by row {theirs[at]:6.2f} s   ratio {theirs[at] / ours[at]:5.1f}   {clock}")
    print(f"{'':15} largest difference {difference:.1e}")


if __name__ == "__main__":
    main()
