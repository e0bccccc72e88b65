"""Files and folders are there whole or not at all, whatever goes wrong on the way."""

import errno
import os
import resource
import signal

import numpy as np
import pytest
from safetensors.numpy import save_file

from efface.core import files
from efface.core.errors import EffaceError, Missing


def refuse(*given, **named):
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.fixture
def small_files():
    """No file may grow beyond 4 kB, as on a disk that is full."""
    before, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    signal.signal(signal.SIGXFSZ, handler)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_json_goes_round(tmp_path):
    files.write_json(tmp_path / "deep" / "a.json", {"é": [1, None]})
    assert files.read_json(tmp_path / "deep" / "a.json") == {"é": [1, None]} and names(tmp_path / "deep") == ["a.json"]


def test_a_failed_rename_leaves_the_old_text(tmp_path, monkeypatch):
    files.write_text(tmp_path / "a", "old")
    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(EffaceError, match="cannot write .*a: No space left on device; free space"):
        files.write_text(tmp_path / "a", "new")
    assert names(tmp_path) == ["a"] and (tmp_path / "a").read_text() == "old"


def test_a_full_disk_leaves_the_old_text(tmp_path, small_files):
    files.write_text(tmp_path / "a", "old")
    with pytest.raises(EffaceError, match="cannot write"):
        files.write_text(tmp_path / "a", "x" * 100_000)
    assert names(tmp_path) == ["a"] and (tmp_path / "a").read_text() == "old"


def test_reading_what_is_not_there_or_not_json(tmp_path):
    with pytest.raises(Missing, match="no file"):
        files.read_json(tmp_path / "a")
    (tmp_path / "a").write_text("{")
    with pytest.raises(EffaceError, match="is not valid JSON"):
        files.read_json(tmp_path / "a")
    (tmp_path / "a").write_bytes(b"\xff")
    with pytest.raises(EffaceError, match="is not valid JSON"):
        files.read_json(tmp_path / "a")


def test_a_folder_appears_at_the_end(tmp_path):
    with files.whole_folder(tmp_path / "out") as folder:
        (folder / "a").write_text("1")
        assert not (tmp_path / "out").exists()
    assert names(tmp_path) == ["out"] and names(tmp_path / "out") == ["a"]
    assert (tmp_path / "out").stat().st_mode & 0o777 == 0o755


def test_a_folder_replaces_the_old_one_whole(tmp_path):
    for name in "ab":
        with files.whole_folder(tmp_path / "out") as folder:
            (folder / name).write_text(name)
    assert names(tmp_path) == ["out"] and names(tmp_path / "out") == ["b"]


@pytest.mark.parametrize("error", [ValueError("no"), KeyboardInterrupt(), EffaceError("no"), SystemExit()])
def test_a_block_that_raises_leaves_nothing(tmp_path, error):
    with files.whole_folder(tmp_path / "out") as folder:
        (folder / "a").write_text("old")
    with pytest.raises(type(error)), files.whole_folder(tmp_path / "out") as folder:
        (folder / "a").write_text("new")
        raise error
    assert names(tmp_path) == ["out"] and (tmp_path / "out" / "a").read_text() == "old"


def test_a_full_disk_leaves_no_folder(tmp_path, small_files):
    """safetensors reports a full disk with an error of its own, which is no OSError."""
    with pytest.raises(EffaceError, match="cannot write .*out: .*free space"), files.whole_folder(tmp_path / "out") as folder:
        save_file({"a": np.zeros(100_000)}, folder / "weights.safetensors")
    with pytest.raises(EffaceError, match="cannot write .*out: File too large; free space"), files.whole_folder(tmp_path / "out") as folder:
        (folder / "a").write_text("x" * 100_000)
    assert names(tmp_path) == []


def test_a_failed_last_rename_brings_the_old_folder_back(tmp_path, monkeypatch):
    with files.whole_folder(tmp_path / "out") as folder:
        (folder / "a").write_text("old")
    rename = type(tmp_path).rename

    def once(self, target):
        return refuse() if self.name.startswith(".out.") and "old-" not in self.name else rename(self, target)

    monkeypatch.setattr(type(tmp_path), "rename", once)
    with pytest.raises(EffaceError, match="No space left"), files.whole_folder(tmp_path / "out") as folder:
        (folder / "a").write_text("new")
    assert names(tmp_path) == ["out"] and (tmp_path / "out" / "a").read_text() == "old"


def test_a_place_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(EffaceError, match="cannot write"):
        files.write_text(tmp_path / "file" / "a", "x")
    with pytest.raises(EffaceError, match="cannot write"), files.whole_folder(tmp_path / "file" / "out"):
        pass
