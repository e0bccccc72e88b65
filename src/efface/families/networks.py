"""Small networks that benchmarks, examples and tests train from nothing; each gives logits (or values) for a batch.

ResNet-18 and ViT are transformers' own classes with settings for small pictures, so that they save as transformers folders.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn


class MLP(nn.Module):
    """A plain network of linear layers with ReLU between them."""

    def __init__(self, inputs: int = 64, hidden: Sequence[int] = (128, 64), outputs: int = 10) -> None:
        super().__init__()
        sizes = [inputs, *hidden, outputs]
        parts: list[nn.Module] = []
        for a, b in zip(sizes, sizes[1:], strict=False):
            parts += [nn.Linear(a, b), nn.ReLU()]
        self.stack = nn.Sequential(*parts[:-1])

    def forward(self, x: Tensor) -> Tensor:
        return self.stack(x.flatten(1))  # type: ignore[no-any-return]


class SmallCNN(nn.Module):
    """Convolutions with batch normalization, each halving the picture, then two linear layers.

    Takes (B, channels, side, side), or any shape with as many numbers a row.
    """

    def __init__(self, channels: int = 1, side: int = 28, outputs: int = 10, widths: Sequence[int] = (16, 32, 64), embedding: int = 128) -> None:
        super().__init__()
        self.shape = (channels, side, side)
        parts: list[nn.Module] = []
        for a, b in zip([channels, *widths], widths, strict=False):
            parts += [nn.Conv2d(a, b, 3, padding=1, bias=False), nn.BatchNorm2d(b), nn.ReLU(), nn.MaxPool2d(2, ceil_mode=True)]
            side = -(-side // 2)
        self.body = nn.Sequential(*parts, nn.Flatten(), nn.Linear(widths[-1] * side * side, embedding), nn.ReLU())
        self.head = nn.Linear(embedding, outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x.reshape(-1, *self.shape)))  # type: ignore[no-any-return]


def seeded(build: Any, seed: int, **arguments: Any) -> nn.Module:
    """`build(**arguments)` with weights that depend on `seed` alone; torch's global random state is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed % 2**62)
        model: nn.Module = build(**arguments)
    return model.requires_grad_(False)


def resnet18(channels: int = 3, outputs: int = 10) -> nn.Module:
    """ResNet-18 with random weights, as transformers' ResNetForImageClassification."""
    from transformers import ResNetConfig, ResNetForImageClassification

    shape: Any = {"num_channels": channels, "embedding_size": 64, "hidden_sizes": [64, 128, 256, 512], "depths": [2, 2, 2, 2], "layer_type": "basic"}
    shape["num_labels"] = outputs
    return ResNetForImageClassification(ResNetConfig(**shape))


def vit(side: int = 32, channels: int = 3, outputs: int = 10, hidden: int = 192, layers: int = 6, patch: int = 4) -> nn.Module:
    """A small vision transformer with random weights, as transformers' ViTForImageClassification."""
    from transformers import ViTConfig, ViTForImageClassification

    shape: Any = {"image_size": side, "patch_size": patch, "num_channels": channels, "hidden_size": hidden, "num_hidden_layers": layers}
    more: Any = {"num_attention_heads": max(1, hidden // 64), "intermediate_size": 4 * hidden, "num_labels": outputs}
    return ViTForImageClassification(ViTConfig(**shape, **more))
