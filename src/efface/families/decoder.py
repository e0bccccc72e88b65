"""What a language model's rows become, and where its parts stand in each layout."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor, nn

ROLES: dict[str, tuple[str, ...]] = {
    "mlp.out": ("mlp.down_proj", "mlp.c_proj", "mlp.dense_4h_to_h", "mlp.fc2"),
    "mlp.in": ("mlp.up_proj", "mlp.c_fc", "mlp.dense_h_to_4h", "mlp.fc1"),
    "mlp.gate": ("mlp.gate_proj",),
    "attn.query": ("self_attn.q_proj",),
    "attn.key": ("self_attn.k_proj",),
    "attn.value": ("self_attn.v_proj",),
    "attn.out": ("self_attn.o_proj", "attn.c_proj", "attention.dense"),
}
"""Module of each role inside one layer, over the layouts of Llama, Qwen, OLMo, GPT-2 and NeoX."""
LAYERS = ("model.layers", "transformer.h", "gpt_neox.layers", "model.decoder.layers")
"""Where the list of layers stands."""
NORMS = ("model.norm", "transformer.ln_f", "gpt_neox.final_layer_norm", "model.decoder.final_layer_norm")
"""Where the norm between the last layer and the head stands."""


@dataclass(frozen=True)
class Batch:
    """Encoded rows, padded on the right. `labels` are aligned with `input_ids` (not yet shifted), -100 on prompt and padding."""

    input_ids: Tensor  # (B, L)
    attention_mask: Tensor  # (B, L)
    labels: Tensor  # (B, L)
    index: Tensor  # (B,) position of each row in its pool


@dataclass(frozen=True)
class Encoded:
    """Token ids of one row: what is given, what is to be predicted, and whether the last of it is an end token."""

    prompt: tuple[int, ...]
    answer: tuple[int, ...]
    ends: bool


@dataclass(frozen=True)
class RowScore:
    """What one pass without gradients tells of one row; arrays run over its labeled tokens, end token included."""

    log_probs: np.ndarray
    mean: np.ndarray
    deviation: np.ndarray
    hit: np.ndarray
    ends: bool
    text: str

    @property
    def loss(self) -> float:
        """Mean loss per labeled token, in nats; NaN for a row with nothing to predict."""
        return float(-self.log_probs.mean()) if len(self.log_probs) else float("nan")

    @property
    def words(self) -> slice:
        """The tokens of the answer itself, without the end token."""
        return slice(0, len(self.log_probs) - int(self.ends))


def same_prompt(encoded: Sequence[Encoded], size: int) -> list[list[int]]:
    """Positions of rows with equal prompts, in groups of at most `size`; rows without a prompt stay alone."""
    groups: dict[tuple[int, ...] | int, list[list[int]]] = {}
    for place, row in enumerate(encoded):
        found = groups.setdefault(row.prompt if len(row.prompt) > 1 else place, [[]])
        if len(found[-1]) == size:
            found.append([])
        found[-1].append(place)
    return [group for found in groups.values() for group in found]


def holds(module: nn.Module, path: str) -> bool:
    """Whether the module has a part at `path`."""
    try:
        module.get_submodule(path)
    except AttributeError:
        return False
    return True
