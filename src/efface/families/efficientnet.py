"""EfficientNet-lite0 (Tan and Le, arXiv:1905.11946, in its "lite" form): 4.7 million parameters, 1000 ImageNet classes.

The lite form has no squeeze-and-excitation and clips activations at 6. Convolutions pad as TensorFlow does: as little as gives
ceil(size / stride) outputs, the odd pixel at the end. Pictures are (B, 3, 224, 224) in 0..1; the mean and spread of ImageNet's
pixels are taken off inside, so that rows stay plain pixels.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from efface.core.errors import EffaceError, Missing

STAGES = ((1, 16, 1, 1, 3), (6, 24, 2, 2, 3), (6, 40, 2, 2, 5), (6, 80, 3, 2, 3), (6, 112, 3, 1, 5), (6, 192, 4, 2, 5), (6, 320, 1, 1, 3))
"""Expansion, channels out, blocks, stride of the first block, kernel size."""
MEAN, SPREAD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
NAMES = {
    "_conv_stem": "stem.0", "_conv_head": "top.0", "_fc": "head", "_blocks": "blocks", "_expand_conv": "expand.0", "_depthwise_conv": "depthwise.0",
    "_project_conv": "project.0",
}
"""Names of the published weights and ours; normalizations are named by their place, see `_ours`."""


class EfficientNetLite0(nn.Module):
    """The network with random weights; `outputs` classes."""

    def __init__(self, outputs: int = 1000, dropout: float = 0.2) -> None:
        super().__init__()
        self.mean: Tensor
        self.spread: Tensor
        self.register_buffer("mean", torch.tensor(MEAN).view(3, 1, 1), persistent=False)
        self.register_buffer("spread", torch.tensor(SPREAD).view(3, 1, 1), persistent=False)
        self.stem = _convolution(3, 32, 3, 2)
        blocks: list[nn.Module] = []
        before = 32
        for expansion, channels, count, stride, kernel in STAGES:
            for at in range(count):
                blocks.append(_Block(before, channels, expansion, stride if at == 0 else 1, kernel))
                before = channels
        self.blocks = nn.ModuleList(blocks)
        self.top = _convolution(320, 1280, 1, 1)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(1280, outputs)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem((x - self.mean) / self.spread)
        for block in self.blocks:
            x = block(x)
        return self.head(self.dropout(self.top(x).mean((2, 3))))  # type: ignore[no-any-return]


class _Block(nn.Module):
    """Widen, filter each channel by itself, narrow; the input is added where shapes agree."""

    def __init__(self, before: int, after: int, expansion: int, stride: int, kernel: int) -> None:
        super().__init__()
        wide = before * expansion
        self.expand = _convolution(before, wide, 1, 1) if expansion > 1 else nn.Identity()
        self.depthwise = _convolution(wide, wide, kernel, stride, groups=wide)
        self.project = _convolution(wide, after, 1, 1, active=False)
        self.added = stride == 1 and before == after

    def forward(self, x: Tensor) -> Tensor:
        out = self.project(self.depthwise(self.expand(x)))
        return x + out if self.added else out  # type: ignore[no-any-return]


class _Same(nn.Conv2d):
    """A convolution that pads as TensorFlow does."""

    def forward(self, x: Tensor) -> Tensor:
        (kernel, _), (stride, _) = self.kernel_size, self.stride
        high, wide = (max((-(-size // stride) - 1) * stride + kernel - size, 0) for size in x.shape[-2:])
        return super().forward(nn.functional.pad(x, (wide // 2, wide - wide // 2, high // 2, high - high // 2)))


def _convolution(before: int, after: int, kernel: int, stride: int, groups: int = 1, active: bool = True) -> nn.Sequential:
    parts: list[nn.Module] = [_Same(before, after, kernel, stride, groups=groups, bias=False), nn.BatchNorm2d(after, eps=1e-3, momentum=0.01)]
    return nn.Sequential(*parts, *([nn.ReLU6()] if active else []))


def pretrained(weights: Path) -> EfficientNetLite0:
    """The network with the published ImageNet weights, out of a safetensors file with their published names.

    Raises Missing without the file and EffaceError when its tensors are not those of the network.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if not weights.is_file():
        raise Missing(f"no file {weights}; run: efface fetch efficientnet-lite0")
    try:
        found = _ours(load_file(weights))
    except SafetensorError as error:
        raise EffaceError(f"{weights} does not load: {error}") from None
    with torch.random.fork_rng(devices=[]):
        network = EfficientNetLite0()
    held = {name: tensor.shape for name, tensor in network.state_dict().items()}
    if {name: tensor.shape for name, tensor in found.items()} != held:
        wrong = sorted(held.keys() ^ found.keys()) or [name for name in held if held[name] != found[name].shape]
        raise EffaceError(f"{weights} holds other tensors than EfficientNet-lite0 has, {wrong[0]} for one; fetch it again")
    network.load_state_dict(found)
    return network.eval().requires_grad_(False)


def _ours(published: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors under the names that they have here."""
    found = {}
    for name, tensor in published.items():
        inside = name.startswith("_blocks")
        places = {"_bn0": "expand.1", "_bn1": "depthwise.1", "_bn2": "project.1"} if inside else {"_bn0": "stem.1", "_bn1": "top.1"}
        found[".".join({**NAMES, **places}.get(part, part) for part in name.split("."))] = tensor
    return found
