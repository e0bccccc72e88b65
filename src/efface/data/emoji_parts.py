"""Train the autoencoder and the two judges of the emoji benchmark again: `python -m efface.data.emoji_parts --pictures FOLDER --out FOLDER`.

FOLDER is what `python -m efface.data.emoji_pictures` wrote. The autoencoder sees the emoji outside of the grid alone, so that it is the same for
every reference. The judges see the grid's real pictures, and what the autoencoder makes of them, shifted, turned, scaled, blurred and
noisy; emoji outside of the grid, noise and pictures upside down are "other" to the object judge. Minutes on two cores.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from efface.core import files
from efface.data import emoji_rows as grid

AUTOENCODER_STEPS, JUDGE_STEPS = 2430, {"object": 1500, "style": 1000}


def autoencoder(rest: Tensor, seed: int = 0) -> Any:
    """The autoencoder: L1 on pixels and on their differences, a little KL; weights averaged over steps."""
    from diffusers import AutoencoderKL

    torch.manual_seed(seed)
    vae: Any = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 3, up_block_types=("UpDecoderBlock2D",) * 3, block_out_channels=(24, 48, 64), layers_per_block=1,
        latent_channels=8, norm_num_groups=8, sample_size=32, mid_block_add_attention=False,
    )
    pixels = rest.flatten(0, 1) * 2 - 1
    optimizer = torch.optim.AdamW(vae.parameters(), lr=2e-3, betas=(0.9, 0.99), weight_decay=1e-4)
    mean = {name: value.clone() for name, value in vae.state_dict().items()}
    generator = torch.Generator().manual_seed(seed + 1)
    for step in range(AUTOENCODER_STEPS):
        share = step / AUTOENCODER_STEPS
        optimizer.param_groups[0]["lr"] = 2e-3 * min(1, step / 100 + 0.01) * max(0.02, 0.5 * (1 + math.cos(math.pi * share)))
        x = _shifted(pixels[torch.randint(0, len(pixels), (32,), generator=generator)], generator)
        found = vae.encode(x).latent_dist
        y = vae.decode(found.mean + found.std * torch.randn(found.mean.shape, generator=generator)).sample
        edges = sum((torch.diff(y, dim=dim) - torch.diff(x, dim=dim)).abs().mean() for dim in (-1, -2))
        loss = (y - x).abs().mean() + 0.5 * edges + 2e-5 * found.kl().mean() / 8
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        optimizer.step()
        kept = min(0.995, (step + 1) / (step + 51))
        for name, value in vae.state_dict().items():
            mean[name].mul_(kept).add_(value, alpha=1 - kept)
    vae.load_state_dict(mean)
    return vae.eval()


def judge(kind: str, real: Tensor, rest: Tensor, vae: Any, seed: int = 0) -> nn.Module:
    """The object judge (48 objects and "other") or the style judge (three styles)."""
    from efface.families.judges import PictureJudge

    torch.manual_seed(seed)
    own, others = torch.stack([real, _through(vae, real)]), torch.stack([rest, _through(vae, rest)])
    net = PictureJudge([*grid.OBJECTS, "other"] if kind == "object" else grid.STYLES)
    optimizer = torch.optim.AdamW(net.parameters(), lr=2e-3, weight_decay=1e-2)
    steps = JUDGE_STEPS[kind]
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = 2e-3 * min(1, (step + 1) / 50) * (1 - step / steps)
        objects, styles, views = torch.randint(48, (64,)), torch.randint(3, (64,)), torch.randint(2, (64,))
        more, more_styles, more_views = torch.randint(len(rest), (24,)), torch.randint(3, (24,)), torch.randint(2, (24,))
        strange = others[more_views, more, more_styles]
        if kind == "object":
            strange[:8] = torch.where((torch.rand(8) < 0.5)[:, None, None, None], torch.rand(8, 3, 1, 1) * 0.5 + 0.5 * torch.rand(8, 3, 32, 32), strange[:8].flip(-2))
        labels = torch.cat([objects, torch.full((24,), 48)]) if kind == "object" else torch.cat([styles, more_styles])
        said = net(changed(torch.cat([own[views, objects, styles], strange])))
        optimizer.zero_grad()
        nn.functional.cross_entropy(said, labels, label_smoothing=0.05).backward()
        optimizer.step()
    return net.eval()


def changed(x: Tensor) -> Tensor:
    """Pictures (N, 3, H, W) moved, turned, scaled, brightened, some blurred, all with a little noise; white moves in."""
    count = len(x)
    scale, angle = 1 + 0.15 * (torch.rand(count) * 2 - 1), (torch.rand(count) * 2 - 1) * 0.12
    places = torch.zeros(count, 2, 3)
    places[:, 0, 0], places[:, 0, 1], places[:, 1, 0], places[:, 1, 1] = scale * angle.cos(), -scale * angle.sin(), scale * angle.sin(), scale * angle.cos()
    places[:, :, 2] = (torch.rand(count, 2) * 2 - 1) * 0.15
    y = 1 - nn.functional.grid_sample(1 - x, nn.functional.affine_grid(places, list(x.shape), align_corners=False), align_corners=False)
    y = (y - 0.5) * (1 + 0.2 * (torch.rand(count, 1, 1, 1) * 2 - 1)) + 0.5 + 0.08 * (torch.rand(count, 1, 1, 1) * 2 - 1)
    soft = nn.functional.avg_pool2d(nn.functional.pad(y, (1, 1, 1, 1), mode="replicate"), 3, 1)
    y = torch.where((torch.rand(count) < 0.3)[:, None, None, None], soft, y)
    return (y + torch.randn(y.shape) * 0.04 * torch.rand(count, 1, 1, 1)).clamp(0, 1)


def accuracy(net: nn.Module, pictures: Tensor, labels: Tensor) -> float:
    """Share of pictures (N, 3, H, W) that the judge calls by their label."""
    with torch.no_grad():
        return float((net(pictures).argmax(1) == labels).float().mean())


def _shifted(x: Tensor, generator: torch.Generator) -> Tensor:
    left, top = torch.randint(0, 5, (2,), generator=generator).tolist()
    wide = nn.functional.pad(x, (2, 2, 2, 2), value=1.0)[:, :, left : left + 32, top : top + 32]
    return wide.flip(-1) if torch.rand((), generator=generator) < 0.5 else wide


@torch.no_grad()
def _through(vae: Any, pictures: Tensor) -> Tensor:
    """What the autoencoder makes of pictures (..., 3, H, W) between 0 and 1."""
    pieces = [((vae.decode(vae.encode(part * 2 - 1).latent_dist.mean).sample + 1) / 2).clamp(0, 1) for part in pictures.flatten(0, 1).split(64)]
    return torch.cat(pieces).view(pictures.shape)


def main() -> None:
    """Train all three and write them, with the judges' accuracies."""
    from PIL import Image
    from safetensors.numpy import load_file

    from efface.families.classifier import Classifier

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pictures", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    with Image.open(given.pictures / "grid.png") as opened:
        sheet = np.asarray(opened.convert("RGB"))
    real = torch.from_numpy(sheet.reshape(3, 32, 48, 32, 3).transpose(2, 0, 4, 1, 3).copy()).float() / 255
    rest = torch.from_numpy(load_file(given.pictures / "rest.safetensors")["rest"].transpose(0, 1, 4, 2, 3).copy()).float() / 255
    vae = autoencoder(rest)
    with torch.no_grad():
        latents = vae.encode(real.flatten(0, 1) * 2 - 1).latent_dist.mean
    vae.register_to_config(scaling_factor=float(1 / latents.std()))
    vae.save_pretrained(given.out / "vae")
    said = {}
    for kind in ("object", "style"):
        net = judge(kind, real, rest, vae)
        labels = (torch.arange(48)[:, None].expand(48, 3) if kind == "object" else torch.arange(3)[None].expand(48, 3)).flatten()
        said[kind] = {"real": accuracy(net, real.flatten(0, 1), labels), "through the autoencoder": accuracy(net, _through(vae, real).flatten(0, 1), labels)}
        place = given.out / "judges" / kind
        place.mkdir(parents=True, exist_ok=True)
        arguments: dict[str, Any] = {"labels": [*grid.OBJECTS, "other"] if kind == "object" else list(grid.STYLES), "side": 32}
        Classifier(net, arguments).save(place)
    files.write_json(given.out / "judges.json", said)


if __name__ == "__main__":
    main()
