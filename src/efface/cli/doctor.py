"""efface doctor: what is installed, what is missing, and where things are."""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from efface.cli.options import Json
from efface.cli.output import emit, table
from efface.core import registry
from efface.core.errors import EffaceError
from efface.report.text import memory

PACKAGES = (
    "efface", "torch", "transformers", "diffusers", "peft", "accelerate", "numpy", "scipy", "scikit-learn", "safetensors", "pydantic", "typer", "rich",
    "jinja2", "matplotlib", "rouge-score",
)  # fmt: skip


def doctor(as_json: Json = False) -> None:
    """Show versions, optional parts, devices, broken plug-ins and caches."""
    found = {
        "versions": _versions(), "optional parts": _extras(), "devices": _devices(), "systems": _systems(),
        "plug-ins": registry.broken_plugins() or {"broken": "none"}, "places": _places(),
    }  # fmt: skip
    if as_json:
        emit(found)
    else:
        rows = [[title if at == 0 else "", *pair] for title, facts in found.items() for at, pair in enumerate(facts.items())]
        table(["WHAT", "", ""], rows)


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version(), "system": f"{platform.system()} {platform.release()} {platform.machine()}"}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "missing"
    return found


def _extras() -> dict[str, str]:
    found = {}
    for extra, modules in registry.EXTRAS.items():
        missing = [module for module in modules if importlib.util.find_spec(module) is None]
        found[extra] = f'{", ".join(missing)} missing; run: pip install "efface[{extra}]"' if missing else "installed"
    return found


def _devices() -> dict[str, str]:
    found = {"cpu": f"{os.cpu_count()} cores"}
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        found["memory"] = memory(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**20)
    try:
        import torch
    except (ImportError, OSError) as error:
        return found | {"torch": f"does not load: {error}"}
    for at in range(torch.cuda.device_count()):
        found[f"cuda:{at}"] = f"{torch.cuda.get_device_name(at)}, {memory(torch.cuda.get_device_properties(at).total_memory / 2**20)}"
    if torch.backends.mps.is_available():
        found["mps"] = "available"
    return found | {"threads": str(torch.get_num_threads())}


def _systems() -> dict[str, str]:
    """How many systems of each kind there are, and those whose card cannot be read."""
    found: dict[str, str] = {}
    for kind in registry.kinds():
        names, broken = registry.names(kind), []
        for name in names:
            try:
                registry.card(kind, name)
            except (EffaceError, SyntaxError) as error:
                broken.append(f"{name}: {error}")
        if names:
            found[kind] = str(len(names)) + (f"; broken: {'; '.join(broken)}" if broken else "")
    return found


def _places() -> dict[str, str]:
    try:
        from efface.families import checkpoint
    except (ImportError, OSError) as error:
        return {"cache": f"cannot be told: {error}"}
    cache = checkpoint.cache()
    folder = cache / f"{checkpoint.EMBEDDED}-{checkpoint.GGUF_SHA256[:12]}"
    ready = (folder / "manifest.json").exists() and (folder / "model.safetensors").exists()
    there = next(place for place in (cache, *cache.parents) if place.exists())
    state = f"converted, in {folder}" if ready else "not converted yet; done on first use (about 20 s)"
    return {
        "cache": f"{cache} ({memory(_size(cache))} used, {memory(shutil.disk_usage(there).free / 2**20)} free)",
        "embedded model": f"{checkpoint.EMBEDDED}: {state}",
    }


def _size(folder: Path) -> float:
    """Megabytes of all files in a folder."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) / 2**20 if folder.is_dir() else 0.0
