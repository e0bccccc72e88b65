"""The one place where a file of torch weights is read: of a known package, after its SHA-256 was checked, to be kept as safetensors.

`weights_only` lets torch build tensors and nothing else. Everywhere else such files are refused.
"""

from __future__ import annotations

from pathlib import Path

from efface.core.errors import EffaceError


def convert(source: Path, target: Path) -> None:
    """Write the tensors of a torch state dict, bare or as the only entry of a checkpoint, as safetensors.

    Raises EffaceError when the file holds anything else.
    """
    import torch
    from safetensors.torch import save_file

    try:
        found = torch.load(source, map_location="cpu", weights_only=True)
    except Exception as error:  # noqa: BLE001  a foreign file may raise anything
        raise EffaceError(f"{source.name} does not load as plain tensors: {str(error).splitlines()[0][:200]}") from None
    if isinstance(found, dict) and len(found) == 1 and isinstance(inner := next(iter(found.values())), dict):
        found = inner
    if not isinstance(found, dict) or not found or not all(isinstance(tensor, torch.Tensor) for tensor in found.values()):
        raise EffaceError(f"{source.name} holds more than tensors by name; it is not kept")
    save_file({str(name): tensor.clone().contiguous() for name, tensor in found.items()}, target)
