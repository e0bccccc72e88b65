"""Generators with random weights: a small one in two stages for 16 x 16 pictures and up, and the DCGAN generator (arXiv:1511.06434).

The DCGAN's published weights are those of the package gan-face-generate: faces of 64 x 64 pixels, trained on the rendered faces
of DigiFace-1M, so none of them belongs to anybody.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from efface.core.errors import EffaceError, Missing


class StyleGenerator(nn.Module):
    """Latents (N, latent) -> styles (N, width) -> pictures (N, 3, side, side) in -1..1; `side` is even.

    Linear layers draw at half the side, and one convolution makes four pixels of each: on a CPU that is many times faster than a
    ladder of transposed convolutions, and enough for toy pictures.
    """

    def __init__(self, latent: int = 8, width: int = 32, side: int = 16, channels: int = 8, hidden: int = 128) -> None:
        super().__init__()
        self.mapping = nn.Sequential(nn.Linear(latent, width), nn.LeakyReLU(0.2), nn.Linear(width, width), nn.LeakyReLU(0.2), nn.Linear(width, width))
        half = side // 2
        self.synthesis = nn.Sequential(
            nn.LeakyReLU(0.2), nn.Linear(width, hidden), nn.LeakyReLU(0.2), nn.Linear(hidden, channels * half * half), nn.Unflatten(1, (channels, half, half)),
            nn.LeakyReLU(0.2), nn.Conv2d(channels, 12, 3, padding=1), nn.PixelShuffle(2), nn.Tanh(),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.synthesis(self.mapping(x))  # type: ignore[no-any-return]


class Critic(nn.Module):
    """Pictures (N, 3, side, side) in -1..1 -> how real each `pack` of them looks (N / pack,), without a bound."""

    def __init__(self, side: int = 16, channels: int = 24, pack: int = 1) -> None:
        super().__init__()
        self.pack = pack
        wide = [3 * pack, *(channels << at for at in range((side // 4).bit_length() - 1))]
        parts: list[nn.Module] = []
        for a, b in zip(wide, wide[1:], strict=False):
            parts += [nn.Conv2d(a, b, 4, 2, 1), nn.LeakyReLU(0.2)]
        self.body = nn.Sequential(*parts, nn.Flatten(), nn.Linear(wide[-1] * 16, 64), nn.LeakyReLU(0.2), nn.Linear(64, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x.reshape(len(x) // self.pack, 3 * self.pack, *x.shape[2:])).squeeze(1)  # type: ignore[no-any-return]


class DCGenerator(nn.Module):
    """Latents (N, noise, 1, 1) -> pictures (N, 3, 64, 64) in -1..1, by five transposed convolutions."""

    def __init__(self, noise: int = 100, channels: int = 64, colors: int = 3) -> None:
        super().__init__()
        wide = [channels * 8, channels * 4, channels * 2, channels]
        parts: list[nn.Module] = [nn.ConvTranspose2d(noise, wide[0], 4, 1, 0, bias=False), nn.BatchNorm2d(wide[0]), nn.ReLU()]
        for a, b in zip(wide, wide[1:], strict=False):
            parts += [nn.ConvTranspose2d(a, b, 4, 2, 1, bias=False), nn.BatchNorm2d(b), nn.ReLU()]
        self.main = nn.Sequential(*parts, nn.ConvTranspose2d(wide[-1], colors, 4, 2, 1, bias=False), nn.Tanh())

    def forward(self, x: Tensor) -> Tensor:
        return self.main(x)  # type: ignore[no-any-return]


def faces(weights: Path) -> DCGenerator:
    """The generator with the published weights, out of a safetensors file. Raises Missing without it, EffaceError for other tensors."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if not weights.is_file():
        raise Missing(f"no file {weights}; run: efface fetch gan-faces")
    try:
        found = load_file(weights)
    except SafetensorError as error:
        raise EffaceError(f"{weights} does not load: {error}") from None
    with torch.random.fork_rng(devices=[]):
        network = DCGenerator()
    held = {name: tensor.shape for name, tensor in network.state_dict().items()}
    if {name: tensor.shape for name, tensor in found.items()} != held:
        wrong = sorted(held.keys() ^ found.keys()) or [name for name in held if held[name] != found[name].shape]
        raise EffaceError(f"{weights} holds other tensors than the generator has, {wrong[0]} for one; fetch it again")
    network.load_state_dict(found)
    return network.eval().requires_grad_(False)
