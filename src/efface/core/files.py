"""Writing files so that nobody ever sees half of one."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from efface.core.errors import EffaceError, Missing


def cache() -> Path:
    """Where models, scores and data sets are kept: $EFFACE_CACHE, or efface/ in the user's cache folder."""
    home = os.environ.get("EFFACE_CACHE")
    return Path(home) if home else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "efface"


def write_text(path: Path, text: str) -> None:
    """Write `text` aside, then rename onto `path`."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes) -> None:
    """Write `content` aside, then rename onto `path`."""
    with _said(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(content)
            Path(name).chmod(0o644)  # a temporary file is the owner's alone, and the finished one should not be
            os.replace(name, path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise


def write_json(path: Path, value: object) -> None:
    """Write `value` as indented JSON, whole or not at all."""
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False, default=str) + "\n")


def read_json(path: Path) -> object:
    """The JSON value in `path`; Missing when there is no such file, EffaceError when it is not JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise Missing(f"no file {path}") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise EffaceError(f"{path} is not valid JSON: {error}") from None


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """A fresh folder to fill, renamed to `path` when the block ends well and removed when it does not."""
    with _said(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        aside = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}."))
        try:
            yield aside
            aside.chmod(0o755)
            old = None
            if path.exists():
                old = path.with_name(f".{path.name}.old-{os.getpid()}")
                path.rename(old)
            try:
                aside.rename(path)
            except BaseException:
                if old is not None:
                    old.rename(path)
                raise
            if old is not None:
                shutil.rmtree(old)
        except BaseException:
            shutil.rmtree(aside, ignore_errors=True)
            raise


@contextmanager
def _said(path: Path) -> Iterator[None]:
    """Turn the operating system's refusals into one clear line."""
    try:
        yield
    except OSError as error:
        raise EffaceError(f"cannot write {path}: {error.strerror or error}; free space or choose another place") from error
    except Exception as error:
        if type(error).__name__ != "SafetensorError":  # its name alone, because core imports no safetensors
            raise
        raise EffaceError(f"cannot write {path}: {error}; free space or choose another place") from error
