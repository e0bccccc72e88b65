"""What SAFREE costs a picture, against the plain call and against the plain call with a negative prompt; prints seconds and ratios.

    python perf/safree.py                      a U-Net of 54 million weights, 8 x 8 latents, 20 steps, two pictures at a time
    python perf/safree.py --repeats 5 --steps 50

All arms take turns in one process, so that a change in the machine's load meets all of them; the ratio is that of the processor's
time, the smallest of all turns each. The guard filters at every step; wanted is at most 5 % on top of the plain call. Latent
re-attention draws a third row beside the two of guidance, which is half as much work again.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import torch

from efface.core.context import Context
from efface.core.types import Request
from efface.families import small_pipelines
from efface.families.diffusion import Diffusion, Sampling
from efface.guards.safree import Safree
from efface.testing.tiny_pipelines import WORDS

WANTED = 0.05
REQUEST = Request(kind="concept", names=("a cat", "a boat"))
PROMPTS = ["a cat in plain style", "a picture of a red dog in glossy style"]
ARMS: dict[str, tuple[dict[str, object], str]] = {
    "safree": ({"negative": False}, "plain"),
    "safree, with negative prompt": ({}, "plain, with negative prompt"),
    "safree, latent re-attention": ({"negative": False, "reattention": "low"}, "plain"),
}
"""{arm: (settings, what it is compared with)}."""


def main() -> None:
    """Measure every arm and print the table."""
    options = _options()
    torch.set_num_threads(options.threads)
    subject = _subject(options.steps)
    weights = sum(p.numel() for p in subject.denoiser.parameters())
    arms: dict[str, Callable[[], Any]] = {
        "plain": lambda: subject.generate(PROMPTS), "plain, with negative prompt": lambda: subject.generate(PROMPTS, negative_prompt=["a cat, a boat"] * 2),
    }
    for name, (settings, _) in ARMS.items():
        guarded = Safree.set({"steps": "all", **settings}).run(subject, REQUEST, Context())
        arms[name] = lambda guarded=guarded: guarded.generate(PROMPTS)
    print(f"U-Net of {weights / 1e6:.1f} million weights, {options.steps} steps, {len(PROMPTS)} pictures, {options.threads} thread(s), torch {torch.__version__}")
    spent: dict[str, list[float]] = {name: [] for name in arms}
    for turn in range(options.repeats + 1):
        for name, draw in arms.items():
            began = time.process_time()
            draw()
            if turn:  # the first turn warms up
                spent[name].append((time.process_time() - began) / len(PROMPTS))
    best = {name: min(each) for name, each in spent.items()}
    for name, seconds in best.items():
        compared = ARMS[name][1] if name in ARMS else ""
        print(f"{name:30} {seconds:7.3f} s a picture" + (f"   {seconds / best[compared]:5.3f} x {compared}" if compared else ""))
    over = max(best[name] / best[ARMS[name][1]] - 1 for name in ("safree", "safree, with negative prompt"))
    print(f"overhead {100 * over:.1f} % (without latent re-attention; wanted: at most {100 * WANTED:.0f} %)")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=20, help="sampling steps")
    parser.add_argument("--repeats", type=int, default=3, help="turns of each arm")
    parser.add_argument("--threads", type=int, default=1, help="threads of all arms")
    return parser.parse_args()


def _subject(steps: int) -> Diffusion:
    """The small pipeline with a U-Net of at least 50 million weights."""
    shape = small_pipelines.Shape(pixels=32, latent=8, channels=4, width=128, unet=(240, 480), head=16)
    return Diffusion(small_pipelines.pipeline(WORDS, 0, shape), Sampling(steps, 3.0))


if __name__ == "__main__":
    main()
