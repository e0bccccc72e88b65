"""The examples run as a reader would run them, and print what their docstrings promise."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = sorted((Path(__file__).resolve().parent.parent / "examples").glob("[0-9]*.py"))
PROMISED = {"01_forget_facts.py": ["npo:", "before", "after", "reference", "orgotten"], "02_classifier_digits.py": ["original", "reference", "gradient_ascent"]}


def test_there_are_examples() -> None:
    assert [path.name for path in EXAMPLES] == sorted(PROMISED)


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_it_runs_in_under_a_minute(path: Path, tmp_path: Path) -> None:
    before = os.times()
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "EFFACE_CACHE": str(tmp_path)}
    done = subprocess.run([sys.executable, str(path)], capture_output=True, text=True, timeout=300, cwd=tmp_path, env=environment, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    for word in PROMISED[path.name]:
        assert word in done.stdout
    after = os.times()
    used = after.children_user + after.children_system - before.children_user - before.children_system
    assert used < 60, "an example may take a minute of processor time, however busy the machine is"
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_it_is_short(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) < 60
