"""Classifiers and regressors on disk: safetensors with a config.json, or a transformers folder. Pickles are refused."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from efface.core import files
from efface.core.errors import BadConfig, EffaceError, Missing, Unfit
from efface.core.types import Subject
from efface.families import estimators
from efface.families.checkpoint import PICKLES, pick_device, quiet

FAMILIES = ("classifier", "regressor")
"""What a bare weights file can be loaded as."""
SAVED = (*FAMILIES, "gan", "image-text")
"""What a folder can hold."""
TASKS = {"ForImageClassification": "AutoModelForImageClassification", "ForSequenceClassification": "AutoModelForSequenceClassification"}
"""Ending of a transformers architecture -> the class that loads it."""


def save(subject: Any, folder: Path, more: Mapping[str, object] | None = None) -> None:
    """Write a module subject; Unfit when the module could not be built again."""
    from safetensors.torch import save_model

    whole = subject.merged() if subject.adapted else subject
    if _is_transformers(whole.model):
        with quiet():
            whole.model.save_pretrained(folder)
        if getattr(whole, "tokenizer", None) is not None:
            whole.tokenizer.save_pretrained(folder)
        return
    arch = f"{type(whole.model).__module__}:{type(whole.model).__qualname__}"
    if whole.arguments is None:
        raise Unfit(f"to save this {whole.family}, efface must know how to build {arch}: give {type(whole).__name__}(model, arguments={{...}})")
    if module_class(arch) is not type(whole.model):
        raise Unfit(f"{arch} cannot be imported, so the saved model could not be loaded; move the class into a module")
    if not estimators.is_plain(whole.arguments):
        raise Unfit(f"the arguments of {arch} must be numbers, texts, lists or mappings to be saved; found {whole.arguments!r}")
    save_model(whole.model, str(folder / "model.safetensors"))
    if getattr(whole, "tokenizer", None) is not None:
        whole.tokenizer.save_pretrained(folder)
    files.write_json(folder / "config.json", {"family": whole.family, "arch": arch, "arguments": whole.arguments, **(more or {})})


def save_estimator(subject: Any, folder: Path, more: Mapping[str, object]) -> None:
    """Write a scikit-learn subject; Unfit for estimators whose fitted state is more than arrays and numbers."""
    from safetensors.numpy import save_file

    tensors: dict[str, Any] = {}
    tree = estimators.pack(subject.estimator, tensors)
    save_file(tensors, folder / "model.safetensors")
    kind = type(subject.estimator)
    files.write_json(
        folder / "config.json", {"family": subject.family, "arch": f"{kind.__module__}:{kind.__qualname__}", "estimator": tree, **more}
    )


def load(name: str | Path, device: str = "auto") -> Subject:
    """The classifier or regressor in a folder that `save` wrote, or in a transformers folder of a classifier."""
    folder = Path(name)
    refuse_pickle(folder)
    if not folder.is_dir():
        raise Missing(f"no folder {name}; give the folder that holds config.json and model.safetensors")
    config: Any = files.read_json(folder / "config.json")
    if not isinstance(config, dict):
        raise Unfit(f"{folder / 'config.json'} does not describe a model")
    if task_of(config):
        return _transformers(folder, config, device)
    if config.get("family") not in SAVED:
        raise Unfit(f"{folder / 'config.json'} does not describe a classifier or regressor")
    if "counts" in config:
        from efface.families import ensemble

        return ensemble.load(folder, config, device)
    if not (folder / "model.safetensors").exists():
        raise Missing(f"{folder} holds no model.safetensors")
    if "estimator" in config:
        return _estimator(folder, config)
    kind = module_class(str(config.get("arch")))
    if kind is None:
        raise Missing(f"{folder}: no torch module {config.get('arch')!r} can be imported; install the package that defines it")
    subject: Any = _module(folder / "model.safetensors", kind, config.get("arguments"), config, device)
    if (folder / "tokenizer_config.json").exists():
        from transformers import AutoTokenizer

        subject.tokenizer = AutoTokenizer.from_pretrained(folder)
    return subject  # type: ignore[no-any-return]


def load_arch(path: Path, arch: str, arguments: Mapping[str, object], family: str = "classifier", device: str = "auto") -> Subject:
    """A bare weights file with the class that it belongs to, as "module:Class"; the working folder's modules count."""
    refuse_pickle(path)
    if not path.is_file():
        raise Missing(f"no file {path}; give a .safetensors file of weights")
    if path.suffix != ".safetensors":
        raise Unfit(f"{path}: weights come as .safetensors; found {path.suffix or 'no ending'}")
    if family not in FAMILIES:
        raise BadConfig(f"family {family!r}: it must be {' or '.join(FAMILIES)}")
    kind = module_class(arch)
    if kind is None:
        raise Missing(f"--arch {arch}: no such torch module; give module:Class of an importable class, such as mynets:Net")
    return _module(path, kind, dict(arguments), {"family": family}, device)


def task_of(config: Mapping[str, Any]) -> str:
    """The transformers class that loads a folder with this configuration as a classifier; "" when it is none."""
    names = config.get("architectures") or [""]
    return next((auto for ending, auto in TASKS.items() if str(names[0]).endswith(ending)), "")


def refuse_pickle(path: Path) -> None:
    """Raise EffaceError for a file whose format runs code when it is read."""
    if path.suffix in (*PICKLES, ".joblib", ".pickle"):
        way = "load it where you trust it and save it again: safetensors.torch.save_model(model, 'model.safetensors')"
        raise EffaceError(f"{path} is a pickle, which can run code when read; {way}")


def rebuilt(subject: Any) -> nn.Module:
    """The subject's architecture with weights drawn anew from torch's random state; Unfit when it cannot be."""
    import copy

    model: nn.Module = subject.merged().model if subject.adapted else subject.model
    kind: Any = type(model)
    if _is_transformers(model):
        return kind(copy.deepcopy(model.config))  # type: ignore[no-any-return]
    if subject.arguments is not None:
        return kind(**subject.arguments)  # type: ignore[no-any-return]
    fresh = copy.deepcopy(model)
    for name, part in fresh.named_modules():
        reset: Any = getattr(part, "reset_parameters", None)
        if reset is not None:
            reset()
        elif list(part.parameters(recurse=False)):
            raise Unfit(f"{name or type(part).__name__} cannot draw its weights anew; give {type(subject).__name__}(model, arguments={{...}})")
    return fresh


def module_class(arch: str) -> type[nn.Module] | None:
    """The torch module class named "module:Class"; None when there is none. Nothing else is ever called."""
    place, _, name = arch.partition(":")
    try:
        found: Any = importlib.import_module(place)
        for part in name.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError, ValueError):
        return None
    return found if isinstance(found, type) and issubclass(found, nn.Module) else None


def _module(weights: Path, kind: Any, arguments: Any, config: Mapping[str, Any], device: str) -> Subject:
    from safetensors.torch import load_model

    try:
        model = kind(**arguments) if isinstance(arguments, dict) else kind()
        load_model(model, weights)
    except Exception as error:  # noqa: BLE001  a damaged file or a foreign class may raise anything
        raise EffaceError(f"{weights} does not load into {kind.__name__}: {_first_line(error)}") from None
    model.requires_grad_(False)
    return _subject(model.to(pick_device(device)), arguments, config)


def _subject(model: nn.Module, arguments: Any, config: Mapping[str, Any]) -> Subject:
    from efface.families.classifier import Classifier
    from efface.families.regressor import Regressor

    if config["family"] == "gan":
        from efface.families.gan import Gan

        return Gan(model, config["latent"], arguments, tuple(config["values"]))
    if config["family"] == "image-text":
        from efface.families.two_towers import ImageText

        return ImageText.of_towers(model)  # type: ignore[arg-type]
    if config["family"] == "regressor":
        return Regressor(model, arguments, config.get("measure", "mse"))
    return Classifier(model, arguments)


def _estimator(folder: Path, config: Mapping[str, Any]) -> Subject:
    from safetensors.numpy import load_file

    from efface.families.classifier import SklearnClassifier
    from efface.families.regressor import SklearnRegressor

    try:
        found = estimators.unpack(config["estimator"], load_file(folder / "model.safetensors"))
    except EffaceError:
        raise
    except Exception as error:  # noqa: BLE001  a damaged file may raise anything
        raise EffaceError(f"{folder} does not load: {_first_line(error)}") from None
    return SklearnClassifier(found, config.get("classes")) if config["family"] == "classifier" else SklearnRegressor(found)


def _transformers(folder: Path, config: Mapping[str, Any], device: str) -> Subject:
    import transformers

    from efface.families.classifier import Classifier

    task = task_of(config)
    try:
        with quiet():
            model = getattr(transformers, task).from_pretrained(folder, use_safetensors=True)
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder) if "Sequence" in task else None
    except Exception as error:  # noqa: BLE001  a damaged folder may raise anything
        raise EffaceError(f"{folder} does not load: {_first_line(error)}") from None
    model.requires_grad_(False)
    return Classifier(model.to(pick_device(device)), tokenizer=tokenizer)


def _is_transformers(model: Any) -> bool:
    return hasattr(model, "config") and hasattr(model, "save_pretrained")


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).strip().splitlines() if line.strip()]
    return " ".join(lines[:2]) if lines else type(error).__name__
