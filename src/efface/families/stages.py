"""A model that is trained in stages: groups of layers counted from the top, a LoRA adapter on each, and the head.

Modules are named in full and matched in full: "layers.1" is not "layers.11". The base is shared by all that hang an adapter on it
and never written to; adapter and head are files that peft and safetensors read.
"""

from __future__ import annotations

import copy
import json
import re
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from efface.core.errors import EffaceError, Unfit
from efface.families.module import LAYERS

Which = Literal["query-value", "all"]
QUERY_VALUE = {"query", "value", "q_proj", "v_proj", "q_lin", "v_lin", "c_attn", "query_key_value", "qkv_proj", "Wqkv"}
"""Last part of the name of a module that makes queries or values, over the layouts of transformers."""
ADAPTER, HEAD, CONFIG = "adapter_model.safetensors", "head.safetensors", "adapter_config.json"
PREFIX = "base_model.model."
"""What peft puts before the name of every module."""
Weights = Mapping[str, Tensor]


def layers(subject: Any) -> list[tuple[str, ...]]:
    """Names of the modules in each layer that can carry an adapter, lowest layer first.

    The layers of a transformers model are its longest list of modules; in any other module each linear or convolutional one but
    the head is a layer of its own.
    """
    model: nn.Module = subject.model
    if subject.family == "causal-lm":
        stack: nn.Module | None = subject.layers()
    elif body := _body(model):
        lists = [part for part in model.get_submodule(body).modules() if isinstance(part, nn.ModuleList)]
        stack = max(lists, key=len, default=None)
    else:
        top = id(subject.modules_of("head")[-1])
        return [(name,) for name, part in model.named_modules() if isinstance(part, LAYERS) and id(part) != top]
    if stack is None:
        raise Unfit(f"{type(model).__name__} holds no list of layers to put adapters on")
    path = next(name for name, part in model.named_modules() if part is stack)
    return [tuple(f"{path}.{at}.{name}" for name, part in layer.named_modules() if _adaptable(part)) for at, layer in enumerate(stack.children())]


def groups(subject: Any, count: int, which: Which) -> list[tuple[str, ...]]:
    """Names of the modules of each group: floor(N / count) layers in a row, the topmost group first. Unfit when there are too few layers.

    Layers that are left over stand lowest and get no adapter.
    """
    stack = layers(subject)
    each = len(stack) // count
    if not each:
        raise Unfit(f"{count} slices need as many layers, and {type(subject.model).__name__} has {len(stack)} that can carry an adapter; set slices to at most {len(stack)}")
    stack.reverse()
    return [tuple(name for layer in stack[at * each : (at + 1) * each] for name in _chosen(layer, which)) for at in range(count)]


def head(subject: Any) -> tuple[str, ...]:
    """Names of the parameters of the head, which every stage trains: none in a language model, what stands outside of the body in a
    transformers classifier, the last linear module elsewhere."""
    model: nn.Module = subject.model
    names = [name for name, _ in model.named_parameters()]
    if subject.family == "causal-lm":
        return ()
    if body := _body(model):
        return tuple(name for name in names if not name.startswith(f"{body}."))
    top = subject.modules_of("head")[-1]
    own = {id(parameter) for parameter in top.parameters()}
    return tuple(name for name, parameter in model.named_parameters() if id(parameter) in own)


def _body(model: Any) -> str:
    """Name of the module under the head of a transformers model; "" for any other."""
    name = getattr(model, "base_model_prefix", "")
    return name if name and isinstance(getattr(model, name, None), nn.Module) else ""


def _adaptable(part: nn.Module) -> bool:
    return isinstance(part, LAYERS) or type(part).__name__ == "Conv1D"  # GPT-2's linear module


def _chosen(layer: Sequence[str], which: Which) -> Sequence[str]:
    named = [name for name in layer if name.rpartition(".")[2] in QUERY_VALUE]
    return named if named and which == "query-value" else layer


# -- adapters -----------------------------------------------------------------------------------------------------------------


def attach(subject: Any, modules: Sequence[str], shape: Mapping[str, float], seed: int) -> Any:
    """The subject with a fresh adapter on exactly these modules and a head of its own; everything else is shared and frozen.

    `shape` gives rank, alpha (of it) and dropout.
    """
    from peft import get_peft_model

    own = set(head(subject))
    tensors = {**dict(subject.model.named_parameters()), **dict(subject.model.named_buffers())}
    # A view of the same memory: what is done to it, such as to forbid gradients, is not done to the original.
    memo: dict[int, Any] = {id(tensor): _view(tensor) for name, tensor in tensors.items() if name not in own}
    other = copy.copy(subject)
    skeleton: Any = copy.deepcopy(subject.model, memo)
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():  # peft draws from global random state, and turns GPT-2's modules around by itself
        warnings.filterwarnings("ignore", message="fan_in_fan_out")
        torch.manual_seed(seed % 2**62)
        try:
            other.model = get_peft_model(skeleton, _lora(modules, shape))
        except ValueError as error:
            raise EffaceError(f"the adapter does not go onto {type(subject.model).__name__}: {str(error).splitlines()[0][:200]}") from None
    other.model.peft_config["default"].base_model_name_or_path = getattr(subject, "base", "") or "base"
    other.model.requires_grad_(False).eval()
    if (found := carriers(other)) != set(modules):
        raise EffaceError(f"the adapter went onto {len(found)} modules where {len(set(modules))} were named: {sorted(found ^ set(modules))[:3]}")
    return other


def trained(subject: Any, modules: Sequence[str], heads: Sequence[str]) -> dict[str, nn.Parameter]:
    """{name in a file: parameter} of the adapters on these modules and of the head."""
    return {**_adapter(subject, modules), **{name: _head(subject, name) for name in heads}}


def adapter_of(subject: Any, modules: Sequence[str]) -> dict[str, Tensor]:
    """A copy of the adapters on these modules, by the names that peft gives them in a file."""
    return {name: tensor.detach().cpu().clone().contiguous() for name, tensor in _adapter(subject, modules).items()}


def head_of(subject: Any, names: Sequence[str]) -> dict[str, Tensor]:
    """A copy of the head, by the names of the model without an adapter."""
    return {name: _head(subject, name).detach().cpu().clone().contiguous() for name in names}


@torch.no_grad()
def put(subject: Any, adapter: Weights, top: Weights) -> Any:
    """Write adapter and head into a subject that `attach` made, and return it. EffaceError when the files belong to another model."""
    try:
        for name, tensor in adapter.items():
            module, _, kind = name.removeprefix(PREFIX).removesuffix(".weight").rpartition(".")
            _part(subject, module, kind).copy_(tensor)
        for name, tensor in top.items():
            _head(subject, name).copy_(tensor)
    except (AttributeError, KeyError, RuntimeError) as error:
        raise EffaceError(f"a piece does not fit the model that it should sit on: {str(error).splitlines()[0][:200]}") from None
    return subject


def write(folder: Path, adapter: Weights, top: Weights, shape: Mapping[str, float], base: str = "base") -> None:
    """Write adapter, its configuration and the head, so that peft loads the adapter."""
    from safetensors.torch import save_file

    save_file(dict(adapter), folder / ADAPTER, metadata={"format": "pt"})
    if top:
        save_file(dict(top), folder / HEAD)
    config: Any = _lora(sorted(modules_in(adapter)), shape)
    config.base_model_name_or_path, config.inference_mode = base, True
    config.save_pretrained(str(folder))


def join(folder: Path, chain: Sequence[Path], base: str = "base") -> None:
    """Write the adapters of several stages as one, with the head of the last: what answers when these stages are all that is left."""
    from safetensors.torch import save_file

    parts = [read(place) for place in chain]
    adapter = {name: tensor for part, _ in parts for name, tensor in part.items()}
    save_file(adapter, folder / ADAPTER, metadata={"format": "pt"})
    if parts[-1][1]:
        save_file(parts[-1][1], folder / HEAD)
    config = json.loads((chain[-1] / CONFIG).read_text(encoding="utf-8"))
    config.update(target_modules=exactly(sorted(modules_in(adapter))), base_model_name_or_path=base)
    (folder / CONFIG).write_text(json.dumps(config, indent=2, sort_keys=True), encoding="utf-8")


def silence(source: Path, folder: Path) -> None:
    """Write the adapter of one folder into another with every number 0, so that the base alone speaks."""
    from safetensors.torch import load_file, save_file

    save_file({name: torch.zeros_like(tensor) for name, tensor in load_file(source / ADAPTER).items()}, folder / ADAPTER, metadata={"format": "pt"})
    (folder / CONFIG).write_bytes((source / CONFIG).read_bytes())


def read(folder: Path) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Adapter and head in a folder that `write` filled."""
    from safetensors.torch import load_file

    return load_file(folder / ADAPTER), load_file(folder / HEAD) if (folder / HEAD).exists() else {}


def restore(base: Any, folder: Path) -> Any:
    """The base with the adapter and head of a folder on it."""
    adapter, top = read(folder)
    found = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    shape = {"rank": found["r"], "alpha": found["lora_alpha"] / found["r"], "dropout": found["lora_dropout"]}
    return put(attach(base, modules_in(adapter), shape, 0), adapter, top)


def modules_in(adapter: Weights) -> list[str]:
    """Names of the modules that an adapter sits on, in order."""
    return list(dict.fromkeys(name.removeprefix(PREFIX).partition(".lora_")[0] for name in adapter))


def exactly(modules: Sequence[str]) -> str:
    """An expression that matches these names and no others."""
    return "|".join(re.escape(name) for name in modules)


def _lora(modules: Sequence[str], shape: Mapping[str, float]) -> Any:
    from peft import LoraConfig

    rank = int(shape["rank"])
    return LoraConfig(
        r=rank, lora_alpha=shape["alpha"] * rank, lora_dropout=shape["dropout"], use_rslora=True, target_modules=exactly(modules),  # type: ignore[arg-type]
    )


def _view(tensor: Tensor) -> Tensor:
    return nn.Parameter(tensor.detach(), requires_grad=False) if isinstance(tensor, nn.Parameter) else tensor.detach()


def carriers(subject: Any) -> set[str]:
    """Names of the modules that carry an adapter."""
    return {name.removeprefix(PREFIX) for name, part in subject.model.named_modules() if hasattr(part, "lora_A") and hasattr(part, "base_layer")}


def _adapter(subject: Any, modules: Sequence[str]) -> dict[str, nn.Parameter]:
    return {f"{PREFIX}{name}.{kind}.weight": _part(subject, name, kind) for name in modules for kind in ("lora_A", "lora_B")}


def _part(subject: Any, module: str, kind: str) -> nn.Parameter:
    return getattr(subject.model.get_submodule(PREFIX + module), kind)["default"].weight  # type: ignore[no-any-return]


def _head(subject: Any, name: str) -> nn.Parameter:
    return subject.model.get_parameter(PREFIX + name)  # type: ignore[no-any-return]
