"""One NPO step of efface against the same step as the usual trainers make it; prints both and their ratio.

    python perf/llm_step.py                        full weights of the embedded model, no keep term
    python perf/llm_step.py --rank 8 --keep kl     LoRA adapters, KL to the model before on the kept rows

efface: the log-probabilities (and, for a KL keep term, the hidden states) of the model before forgetting are computed
once, before the loop, and logits are made only where there are answers. Usual, as open-unlearning does: a deep copy of the
model stands beside it and reads the same rows inside every step, and both make logits of every position of prompt and answer.
With --alike the usual side makes logits as efface does, so that the place of the reference alone differs. Rows, loop,
precision and optimizer are the same on both sides. Each side has a process of its own, so that its
peak memory is its own, and they take steps by turns, so that a change in the machine's load meets both.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

SIDES = ("efface", "usual")
WARMUP = 1
"""Steps at the start that are not counted."""


def main() -> None:
    """Let both sides take steps by turns and print the table."""
    options = _options()
    if options.side:
        print(json.dumps(_measure(options)), flush=True)
        return
    running = {}
    for side in SIDES:  # each gets ready alone
        running[side] = _Side(side)
        running[side].wait()
    found: dict[str, Any] = {}
    for _ in range(options.steps + 1):  # the steps, and the end
        for side, process in running.items():
            process.go()
            line = process.wait()
            if line.startswith("{"):
                found[side] = json.loads(line)
    first = found["efface"]
    weights = f"LoRA rank {options.rank}" if options.rank else "full weights"
    print(f"{options.model}, {weights}, keep = {options.keep}, {options.batch} rows of each kind, {first['threads']} threads, precision {first['precision']}")
    median = {side: statistics.median(run["seconds"]) for side, run in found.items()}
    for side, run in found.items():
        step = f"{statistics.mean(run['tokens']):6.0f} tokens a step  {median[side]:7.3f} s a step (median of {len(run['seconds'])})"
        print(f"{side:8} {step}  {run['peak_mb']:7.0f} MB peak  {run['once']:6.2f} s once, before the loop")
    print(f"ratio    {median['usual'] / median['efface']:.2f}")


class _Side:
    """One side in a process of its own, which takes one step each time it is told to."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.process = subprocess.Popen(
            [sys.executable, __file__, *sys.argv[1:], "--side", name], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def go(self) -> None:
        """Let it take the next step."""
        if self.process.stdin is not None:
            self.process.stdin.write("go\n")
            self.process.stdin.flush()

    def wait(self) -> str:
        """What it says once it has done so: that it is ready for the next one, or its numbers."""
        line = self.process.stdout.readline() if self.process.stdout is not None else ""
        if not line:
            sys.exit(f"the side {self.name} ended early, with code {self.process.wait()}")
        return line


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2", help="folder, hub name or smollm2; 'tiny' for a random model of two layers")
    parser.add_argument("--rank", type=int, default=0, help="rank of LoRA adapters; 0 trains all weights")
    parser.add_argument("--keep", choices=("none", "loss", "kl"), default="none", help="what holds the kept rows")
    parser.add_argument("--alike", action="store_true", help="let the usual side make logits only where there are answers too")
    parser.add_argument("--batch", type=int, default=8, help="rows of each kind in one step")
    parser.add_argument("--steps", type=int, default=12, help="steps of each side, the first of them not counted")
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    return parser.parse_args()


def _measure(options: argparse.Namespace) -> dict[str, Any]:
    """Seconds and tokens of each step of one side, and this process's peak memory."""
    import torch

    from efface import api
    from efface.core.config import Fit
    from efface.core.context import Context
    from efface.ops.loop import peak_mb

    if options.model == "tiny":
        from efface.testing.tiny import facts, tiny_lm

        subject, request = tiny_lm(), facts().request
    else:
        from efface.benchmarks.authors import request as authors

        subject, request = api.load(options.model), authors("10")
    began, clock = time.monotonic(), _Clock(subject, 1 if options.keep == "none" else 2)
    ctx = Context(seed=0, progress=clock.watch)
    fit = Fit(lr=1e-5, steps=options.steps, batch=options.batch, rank=options.rank)
    if options.side == "efface":
        _efface(subject, request, ctx, fit, options.keep)
    else:
        _usual(subject, request, ctx, fit, options.keep, options.alike)
    return {
        "seconds": clock.seconds[WARMUP:], "tokens": clock.tokens[WARMUP : len(clock.seconds)], "once": clock.started - began, "peak_mb": peak_mb(),
        "threads": torch.get_num_threads(), "precision": ctx.notes["precision"],
    }


def _efface(subject: Any, request: Any, ctx: Any, fit: Any, keep: str) -> None:
    """The product's own path, to the last detail."""
    from efface.core.config import Stop
    from efface.methods.npo import NPO, NPOConfig

    NPO(NPOConfig(fit=fit, keep=keep, stop=Stop(at="steps"))).run(subject, request, ctx)  # type: ignore[arg-type]


def _usual(subject: Any, request: Any, ctx: Any, fit: Any, keep: str, alike: bool) -> None:
    """The model trains in place (or its adapter does), and a deep copy made before the first step reads every batch too."""
    import torch

    from efface.methods.npo import npo
    from efface.ops.divergences import kl_rows
    from efface.ops.logprobs import nll_mean, nll_sum
    from efface.ops.loop import descend

    def logits(model: Any, batch: Any) -> tuple[torch.Tensor, torch.Tensor]:
        if alike:
            return model.logits(batch)  # type: ignore[no-any-return]
        out = model.model(input_ids=batch.input_ids, attention_mask=batch.attention_mask, use_cache=False).logits
        return out[:, :-1], batch.labels[:, 1:]

    reference = subject.fork()
    reference.model.requires_grad_(False)
    after = subject.trainable(fit.rank, 0) if fit.rank else subject
    if not fit.rank:
        after.model.requires_grad_(True)

    def loss(batches: Mapping[str, Any]) -> dict[str, torch.Tensor]:
        forget = batches["forget"]
        with torch.no_grad():
            before = -nll_sum(*logits(reference, forget))
        terms = {"forget": npo(-nll_sum(*logits(after, forget)), before, 0.1).mean()}
        if keep == "loss":
            terms["keep"] = nll_mean(*logits(after, batches["keep"])).mean()
        elif keep == "kl":
            with torch.no_grad():
                said, _ = logits(reference, batches["keep"])
            mine, labels = logits(after, batches["keep"])
            terms["keep"] = kl_rows(said, mine, labels).mean()
        return terms

    pools = {"forget": request.rows("forget"), **({} if keep == "none" else {"keep": request.rows("keep")})}
    descend(after, pools, loss, fit, ctx)


class _Clock:
    """A progress display that shows nothing, times each step of the training loop and counts its tokens, and waits for a word before it."""

    def __init__(self, subject: Any, pools: int) -> None:
        self.seconds: list[float] = []
        self.tokens: list[int] = []
        self.started = 0.0
        self.pools, self.encoded = pools, pools
        self.plain, subject.encode = subject.encode, self.encode

    def encode(self, rows: Any, index: Any = None) -> Any:
        """The subject's own batch. A step first encodes a batch of each pool; what is encoded later in it is not trained on."""
        batch = self.plain(rows, index)
        if self.encoded < self.pools:
            self.encoded += 1
            self.tokens[-1] += int(batch.attention_mask.sum())
        return batch

    def watch(self, items: Iterable[Any], label: str, total: int) -> Iterator[Any]:
        """The items; what the loop does between two of them is one step."""
        if label != "training":
            yield from items
            return
        self.started = time.monotonic()
        for item in items:
            print("ready", flush=True)
            sys.stdin.readline()
            self.encoded = 0
            self.tokens.append(0)
            began = time.monotonic()
            yield item
            self.seconds.append(time.monotonic() - began)


if __name__ == "__main__":
    main()
