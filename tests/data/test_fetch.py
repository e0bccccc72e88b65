"""Fetching, from small packages made here in the real forms: what comes out is checked, whole or not at all, and nothing is run."""

import hashlib
import io
import json
import subprocess
import tarfile
import zipfile
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from efface.core.errors import EffaceError, Missing, UnknownName
from efface.data import fetch, sources
from efface.data.sources import Source

FILES = {"pkg/data/a.txt": b"first", "pkg/data/deep/b.txt": b"second", "pkg/run.py": b"raise SystemExit", "pkg-1.info/LICENSE": b"free"}
def digest_of(named):
    """SHA-256 over lines "path SHA-256-of-content", sorted by path."""
    lines = "".join(f"{name} {hashlib.sha256(content).hexdigest()}\n" for name, content in sorted(named.items()))
    return hashlib.sha256(lines.encode()).hexdigest()


TAKEN = {"LICENSE": b"free", "a.txt": b"first", "deep/b.txt": b"second"}
SOURCE = Source(
    "tiny", "two texts", "pip", "pkg", "1.0", 1, "MIT", (("pkg/data/*.txt", "pkg/data/"), ("*.info/LICENSE", "pkg-1.info/")), digest_of(TAKEN),
)  # fmt: skip


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("EFFACE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(sources, "SOURCES", (SOURCE, replace(SOURCE, name="apt-tiny", tool="apt"), replace(SOURCE, name="npm-tiny", tool="npm")))
    return tmp_path / "cache" / "data"


def tar(named, mode="w:gz", prefix=""):
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode=mode) as archive:
        for name, content in named.items():
            entry = tarfile.TarInfo(prefix + name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return raw.getvalue()


def packages(folder, named=FILES):
    """The same files as a wheel, an npm package and a Debian package."""
    with zipfile.ZipFile(folder / "pkg.whl", "w") as archive:
        for name, content in named.items():
            archive.writestr(name, content)
    (folder / "pkg.tgz").write_bytes(tar(named))
    members = {"debian-binary": b"2.0\n", "control.tar.xz": tar({"control": b"odd"}, "w:xz"), "data.tar.xz": tar(named, "w:xz", "./")}
    deb = b"!<arch>\n"
    for name, content in members.items():
        deb += f"{name:<16}{0:<12}{0:<6}{0:<6}{'100644':<8}{len(content):<10}`\n".encode() + content + b"\n" * (len(content) % 2)
    (folder / "pkg.deb").write_bytes(deb)
    return [folder / name for name in ("pkg.whl", "pkg.tgz", "pkg.deb")]


def held(place):
    return {path.relative_to(place).as_posix(): path.read_bytes() for path in place.rglob("*") if path.is_file() and path.name != "fetched.json"}


@pytest.mark.parametrize("form", [0, 1, 2], ids=["wheel", "npm", "deb"])
def test_what_is_taken(tmp_path, form, cache):
    place = fetch.fetch("tiny", packages(tmp_path)[form])
    assert place == cache / "tiny" == fetch.folder("tiny") and held(place) == TAKEN
    facts = json.loads((place / "fetched.json").read_text())
    assert (facts["license"], facts["package"], facts["taken"]) == ("MIT", "pkg==1.0", SOURCE.digest)
    assert [path.name for path in cache.iterdir()] == ["tiny"], "nothing half is left"


def test_what_was_not_fetched_says_how(cache):
    with pytest.raises(Missing, match="run: efface fetch tiny"):
        fetch.folder("tiny")
    with pytest.raises(UnknownName, match="did you mean tiny"):
        fetch.folder("tinny")
    with pytest.raises(UnknownName):
        fetch.fetch("nothing")


def test_a_changed_package_is_refused_and_what_was_there_stays(tmp_path, cache):
    good, *_ = packages(tmp_path)
    (tmp_path / "other").mkdir()
    bad, *_ = packages(tmp_path / "other", {**FILES, "pkg/data/a.txt": b"First"})
    with pytest.raises(EffaceError, match="does not hold what pkg==1.0 held"):
        fetch.fetch("tiny", bad)
    assert not list(cache.glob("*"))
    place = fetch.fetch("tiny", good)
    (place / "a.txt").write_bytes(b"damaged since")
    with pytest.raises(EffaceError, match="does not hold"):
        fetch.fetch("tiny", bad)
    assert held(place)["a.txt"] == b"damaged since"
    fetch.fetch("tiny", good)
    assert held(place) == TAKEN, "and is put right by a good one"


def test_a_whole_one_is_not_fetched_again(tmp_path, monkeypatch):
    place = fetch.fetch("tiny", packages(tmp_path)[0])
    monkeypatch.setattr(fetch, "_download", None)  # whoever downloads fails
    assert fetch.fetch("tiny") == place
    (place / "fetched.json").write_text("{")
    assert not fetch.is_there(SOURCE)
    monkeypatch.setattr(sources, "SOURCES", (replace(SOURCE, digest="another"),))
    with pytest.raises(Missing, match="efface fetch"):
        fetch.folder("tiny")


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [("a.whl", b"no zip", "not a readable package"), ("a.deb", b"no ar", "no Debian package"), ("a.deb", b"!<arch>\n", "no data.tar"), ("a.tgz", b"no tar", "not a readable"), ("a.tgz", tar({"other": b""}), "none of the files"), ("a.tgz", tar(FILES)[:90], "not a readable")],
    ids=["no zip", "no ar", "no data", "no tar", "other files", "cut off"],  # packed bytes hold the time, and names of tests must not
)
def test_bad_packages(tmp_path, cache, name, content, says):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(EffaceError, match=says):
        fetch.fetch("tiny", tmp_path / name)
    assert not list(cache.glob("*"))


def test_no_such_package(tmp_path):
    with pytest.raises(Missing, match="no file"):
        fetch.fetch("tiny", tmp_path / "nowhere.whl")


def test_a_path_that_leads_out_is_refused(tmp_path, cache):
    (tmp_path / "a.tgz").write_bytes(tar({"pkg/data/../../../../evil.txt": b"out"}))
    with pytest.raises(EffaceError, match="leads out of the package"):
        fetch.fetch("tiny", tmp_path / "a.tgz")
    assert not list(tmp_path.rglob("evil.txt"))


@pytest.mark.parametrize("name", ["tiny", "apt-tiny", "npm-tiny"])
def test_the_tool_downloads_the_pinned_version(tmp_path, monkeypatch, name):
    """Every tool is asked for exactly one package, without its dependencies, into a folder of its own."""
    asked = []
    wheel, npm, deb = packages(tmp_path)
    made = {"tiny": wheel, "apt-tiny": deb, "npm-tiny": npm}[name]

    def run(command, cwd, **named):
        asked.append(command)
        (cwd / made.name).write_bytes(made.read_bytes())
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setattr(fetch.shutil, "which", lambda tool: f"/bin/{tool}")
    assert held(fetch.fetch(name)) == TAKEN
    (command,) = asked
    assert command[-1] == {"tiny": "pkg==1.0", "apt-tiny": "pkg=1.0", "npm-tiny": "pkg@1.0"}[name]
    assert {"tiny": "--no-deps", "apt-tiny": "download", "npm-tiny": "pack"}[name] in command and "install" not in command


def test_missing_tools_are_named(monkeypatch):
    monkeypatch.setattr(fetch.shutil, "which", lambda tool: None)
    for name, says in (("apt-tiny", "apt-get, which is there on Debian"), ("npm-tiny", "npm, which comes with Node.js")):
        with pytest.raises(Missing, match=f"{says}.*--from FILE"):
            fetch.fetch(name)
    monkeypatch.setattr(fetch.importlib.util, "find_spec", lambda module: None)
    with pytest.raises(Missing, match="ensurepip.*--from FILE"):
        fetch.fetch("tiny")


def test_a_failed_download_says_why(monkeypatch):
    def run(command, **named):
        return subprocess.CompletedProcess(command, 1, "", "WARNING: old\nERROR: No route to host\n\n")

    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setattr(fetch.shutil, "which", lambda tool: f"/bin/{tool}")
    with pytest.raises(Missing, match=r"No route to host\); check the network.*--from FILE"):
        fetch.fetch("tiny")
    with pytest.raises(Missing, match="apt-get update"):
        fetch.fetch("apt-tiny")

    def hang(command, timeout, **named):
        raise subprocess.TimeoutExpired(command, timeout)

    monkeypatch.setattr(subprocess, "run", hang)
    with pytest.raises(Missing, match="after 30 minutes"):
        fetch.fetch("tiny")


def test_torch_weights_are_kept_as_safetensors(tmp_path, monkeypatch, cache):
    tensors = {"a": torch.arange(6.0).reshape(2, 3).t(), "b": torch.tensor(3)}
    raw = io.BytesIO()
    torch.save(tensors, raw)
    wanted = replace(SOURCE, convert="net.pth", take=(("net.pth", ""),), digest=digest_of({"net.pth": raw.getvalue()}))
    monkeypatch.setattr(sources, "SOURCES", (wanted,))
    place = fetch.fetch("tiny", packages(tmp_path, {"net.pth": raw.getvalue()})[0])
    assert list(held(place)) == ["model.safetensors"]
    found = load_file(place / "model.safetensors")
    assert found.keys() == tensors.keys() and all(torch.equal(found[name], tensors[name]) for name in tensors)
    assert fetch.fetch("tiny") == place


class Evil:
    """Unpickling this would run a command."""

    def __reduce__(self):
        return (print, ("run",))


@pytest.mark.parametrize("content", [{"a": Evil()}, [torch.zeros(1)], {"a": 3}, {}])
def test_weights_that_are_more_than_tensors_are_refused(tmp_path, monkeypatch, cache, content, capsys):
    raw = io.BytesIO()
    torch.save(content, raw)
    monkeypatch.setattr(sources, "SOURCES", (replace(SOURCE, convert="net.pth", take=(("net.pth", ""),), digest=digest_of({"net.pth": raw.getvalue()})),))
    with pytest.raises(EffaceError, match=r"net\.pth"):
        fetch.fetch("tiny", packages(tmp_path, {"net.pth": raw.getvalue()})[0])
    assert not list(cache.glob("*")) and capsys.readouterr().out == ""
