"""The logit lens: what each layer of a decoder would say if it were the last.

A layer's output goes through the final norm and the head, as the last layer's does.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from efface.core import rows as row_files
from efface.core.errors import UnknownName
from efface.core.types import Row
from efface.families.decoder import NORMS, holds
from efface.ops.logprobs import IGNORE


class Seen(NamedTuple):
    """Of each layer and row (layers, N): probability of the answer, and whether its first token is the likeliest."""

    chances: np.ndarray
    hits: np.ndarray


def final_norm(subject: Any) -> nn.Module:
    """The norm between the last layer and the head; UnknownName for a layout that is not known."""
    bare = subject.model.get_base_model() if subject.adapted else subject.model
    path = next((path for path in NORMS if holds(bare, path)), None)
    if path is None:
        raise UnknownName(f"the final norm of {type(bare).__name__} is at none of {', '.join(NORMS)}")
    found: nn.Module = bare.get_submodule(path)
    return found


@torch.no_grad()
def read(subject: Any, rows: Sequence[Row], size: int = 16) -> Seen:
    """exp(mean log-probability per token) of each row's answer by each layer, without the end token, and the first token's hits."""
    norm, head = final_norm(subject), subject.model.get_output_embeddings()
    ends = subject.tokenizer.eos_token_id is not None and "text" not in row_files.layout(rows)
    chances, hits = [], []
    for at in range(0, len(rows), size):
        batch = subject.encode(rows[at : at + size])
        labels = batch.labels[:, 1:].clone()
        if ends:
            last = (labels != IGNORE).int().cumsum(1).argmax(1)
            labels[torch.arange(len(labels)), last] = IGNORE
        with ExitStack() as stack:
            taps = [stack.enter_context(subject.tap("layer", layer)) for layer in range(len(subject.layers()))]
            subject.model(input_ids=batch.input_ids, attention_mask=batch.attention_mask, logits_to_keep=1, use_cache=False)
        found = [_of_layer(head(norm(caught[0][:, :-1][labels != IGNORE])).float(), labels) for caught in taps]
        chances.append(np.stack([one for one, _ in found]))
        hits.append(np.stack([other for _, other in found]))
    return Seen(np.concatenate(chances, 1), np.concatenate(hits, 1))


def _of_layer(logits: Tensor, labels: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Probability and hit of each row from the logits (M, V) of all labeled places, rows in order."""
    mask = labels != IGNORE
    wanted = labels[mask]
    log_probs = logits.log_softmax(-1).gather(-1, wanted.unsqueeze(-1)).squeeze(-1)
    right = logits.argmax(-1) == wanted
    lengths = mask.sum(1).tolist()
    means = torch.stack([part.mean() for part in log_probs.split(lengths)])
    first = torch.stack([part[0] for part in right.split(lengths)])
    return means.exp().cpu().numpy(), first.float().cpu().numpy()
