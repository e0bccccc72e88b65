"""The maths of private training: opacus' accountants, each asked in one line, and the exponential mechanism.

The exponential mechanism draws an output v for an input w with P(v | w) ~ exp(epsilon u(w, v) / (2 sensitivity)), where sensitivity is
the most that u(w, v) can change when w becomes any other input. Then P(v | w) / P(v | w') <= e^epsilon for every v, w and w', as
long as the outputs to choose from are the same for every input.
"""

from __future__ import annotations

import functools
import math
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn.functional import normalize

from efface.core.errors import BadConfig, Missing, Unsound

Accountant = Literal["rdp", "prv"]
FAILURES = (ValueError, RuntimeError, MemoryError, OverflowError)
"""What opacus' accountants raise for numbers that they cannot count: the mesh of prv grows without bound as delta or the noise shrinks."""


@functools.lru_cache(maxsize=256)
def count_epsilon(noise: float, rate: float, steps: int, delta: float, accountant: str = "rdp") -> float:
    """Epsilon of DP-SGD by opacus' accountant; infinite without noise. Raises Missing without opacus, Unsound where the accountant fails."""
    if noise <= 0:
        return math.inf
    try:
        counter: Any = _opacus().create_accountant(mechanism=accountant)
        counter.history = [(noise, rate, steps)]
        return float(counter.get_epsilon(delta=delta))
    except FAILURES as error:
        raise Unsound(f"the accountant {accountant!r} cannot count this: {_line(error)}") from None


@functools.lru_cache(maxsize=64)
def noise_for(epsilon: float, delta: float, rate: float, steps: int, accountant: str = "rdp") -> float:
    """The least noise multiplier, to a hundredth of epsilon, whose epsilon is not above the one asked for.

    Raises Missing without opacus and BadConfig when no noise is enough or the accountant cannot count it.
    """
    search = _opacus().utils.get_noise_multiplier
    try:
        return float(search(
            target_epsilon=epsilon, target_delta=delta, sample_rate=rate, steps=steps, accountant=accountant, epsilon_tolerance=min(0.01, epsilon / 100)
        ))
    except FAILURES as error:
        cure = "" if accountant == "rdp" else "; take accountant = rdp, a larger delta or a smaller epsilon"
        raise BadConfig(
            f"epsilon = {epsilon:g} at delta = {delta:g}: the accountant {accountant!r} finds no noise for {steps} steps at sampling rate {rate:.4g}: {_line(error)}{cure}"
        ) from None


def _opacus() -> Any:
    try:
        from opacus import accountants
        from opacus.accountants import utils  # noqa: F401  which the package does not import by itself
    except ImportError:
        raise Missing('counting epsilon needs opacus; pip install "efface[dp]"') from None
    return accountants


def _line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


def likeness(words: Tensor, vocabulary: Tensor, low: float = -1.0) -> Tensor:
    """Cosines (n, V) between vectors (n, d) and (V, d), those below `low` raised to it: the range, and so the sensitivity, is 1 - low."""
    return (normalize(words.double(), dim=-1) @ normalize(vocabulary.double(), dim=-1).T).clamp(low, 1.0)


def exponential(utility: Tensor, epsilon: float, sensitivity: float) -> Tensor:
    """Log-probabilities (..., V) of the exponential mechanism over utilities (..., V): log P(v) = epsilon u(v) / (2 sensitivity) - log sum.

    Raises BadConfig unless epsilon is at least 0 and the sensitivity above 0.
    """
    if epsilon < 0 or sensitivity <= 0:
        raise BadConfig(f"epsilon = {epsilon}, sensitivity = {sensitivity}: the exponential mechanism needs epsilon of at least 0 and a sensitivity above 0")
    return torch.log_softmax(utility.double() * (epsilon / (2 * sensitivity)), dim=-1)
