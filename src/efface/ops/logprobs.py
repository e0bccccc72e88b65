"""Log-probabilities of labeled tokens. One convention everywhere: labels are already aligned with the logits that predict them.

`logits` (B, T, V) at position t predict `labels` (B, T) at t; a label of -100 (prompt, padding) counts for nothing.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

IGNORE = -100


def token_log_probs(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Log-probability of each labeled token (B, T), zero where there is no label, and the mask (B, T) of labels."""
    mask = labels != IGNORE
    picked = logits.float().gather(-1, labels.clamp(min=0).unsqueeze(-1)).squeeze(-1)
    log_probs = picked - logits.float().logsumexp(-1)
    return torch.where(mask, log_probs, 0.0), mask


def nll_sum(logits: Tensor, labels: Tensor) -> Tensor:
    """-log p(y | x) of each row (B,), in nats, summed over its labeled tokens."""
    return -token_log_probs(logits, labels)[0].sum(-1)


def nll_mean(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean loss per labeled token of each row (B,); a row without labels gives 0."""
    log_probs, mask = token_log_probs(logits, labels)
    return -log_probs.sum(-1) / mask.sum(-1).clamp(min=1)


class TokenStats(NamedTuple):
    """Per labeled token, each (B, T): log-probability, mean and deviation of log p under p, and whether the label is the argmax."""

    log_probs: Tensor
    mean: Tensor
    deviation: Tensor
    hit: Tensor
    mask: Tensor


@torch.no_grad()
def token_stats(logits: Tensor, labels: Tensor) -> TokenStats:
    """All that likelihood metrics need of one forward pass. The variance is clamped at 1e-6 (Min-K%++ on uniform logits)."""
    mask = labels != IGNORE
    all_log = logits.float().log_softmax(-1)
    log_probs = all_log.gather(-1, labels.clamp(min=0).unsqueeze(-1)).squeeze(-1)
    hit = all_log.argmax(-1) == labels
    probs = all_log.exp()
    mean = (probs * all_log).sum(-1)
    # Around its mean, not as a difference of squares, which loses the digits that batches of other sizes must agree on.
    variance = (probs * all_log.sub_(mean.unsqueeze(-1)).square_()).sum(-1)
    return TokenStats(torch.where(mask, log_probs, 0.0), mean, variance.clamp(min=1e-6).sqrt(), hit & mask, mask)
