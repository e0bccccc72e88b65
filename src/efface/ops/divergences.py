"""Divergences between next-token distributions."""

from __future__ import annotations

from torch import Tensor

from efface.ops.logprobs import IGNORE


def kl_rows(before: Tensor, after: Tensor, labels: Tensor) -> Tensor:
    """KL(before || after) of each row (B,), in nats, averaged over its labeled positions.

    `before` and `after` are logits (B, T, V); both are normalized here. Prompt and padding count for nothing.
    """
    mask = labels != IGNORE
    log_p, log_q = before.float().log_softmax(-1), after.float().log_softmax(-1)
    per_token = (log_p.exp() * (log_p - log_q)).sum(-1)  # (B, T)
    return (per_token * mask).sum(-1) / mask.sum(-1).clamp(min=1)
