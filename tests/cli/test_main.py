import errno
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from efface.cli import main
from efface.core.errors import BadRows, EffaceError


def raising(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    """Make `efface doctor` raise."""

    def fail() -> dict[str, str]:
        raise error

    monkeypatch.setattr("efface.cli.doctor._versions", fail)


def test_0_when_done(efface) -> None:
    import efface as package

    done = efface("--version")
    assert (done.code, done.out, done.err) == (main.DONE, f"efface {package.__version__}\n", "")


def test_help_names_every_verb(efface) -> None:
    for arguments in ((), ("--help",)):
        done = efface(*arguments)
        assert done.code == main.DONE
        for verb in ("list", "show", "train", "forget", "prove", "report", "compare", "attack", "demo", "doctor", "new"):
            assert f"\n  {verb} " in done.out


def test_every_verb_has_json_and_help() -> None:
    runner = CliRunner()
    for verb in main.VERBS:
        shown = runner.invoke(main.app, [verb, "--help"])
        assert shown.exit_code == 0 and "--json" in shown.output, verb


def test_1_and_a_traceback_for_a_bug(efface, monkeypatch) -> None:
    raising(monkeypatch, ZeroDivisionError("surprise"))
    done = efface("doctor")
    assert done.code == main.BUG
    assert "Traceback" in done.err and "ZeroDivisionError: surprise" in done.err and "bug in efface" in done.err.splitlines()[-1]


@pytest.mark.parametrize("error", [EffaceError("what was asked\nand what to do"), BadRows("forget.jsonl:3: not a row")])
def test_2_and_one_line_for_wrong_use(efface, monkeypatch, error) -> None:
    raising(monkeypatch, error)
    done = efface("doctor")
    assert done.code == main.WRONG and done.line == " ".join(str(error).split()) and "Traceback" not in done.err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("forgot",), "forgot"),
        (("show",), "NAME"),
        (("list", "--knd", "method"), "--knd"),
        (("forget", "--out", "x", "--seed", "one"), "--seed"),
    ],
)
def test_2_and_one_line_for_usage(efface, arguments, says) -> None:
    done = efface(*arguments)
    assert done.code == main.WRONG and says in done.line


def test_2_for_a_full_disk_and_for_full_memory(efface, monkeypatch) -> None:
    raising(monkeypatch, OSError(errno.ENOSPC, "No space left on device", "run1/model"))
    done = efface("doctor")
    assert done.code == main.WRONG and "No space left on device: run1/model" in done.line
    raising(monkeypatch, MemoryError())
    done = efface("doctor")
    assert done.code == main.WRONG and "out of memory" in done.line


def test_1_for_any_other_trouble_with_a_file(efface, monkeypatch) -> None:
    raising(monkeypatch, OSError(errno.EIO, "Input/output error"))
    assert efface("doctor").code == main.BUG


def test_130_when_stopped(efface, monkeypatch) -> None:
    raising(monkeypatch, KeyboardInterrupt())
    done = efface("doctor")
    assert (done.code, done.line) == (main.STOPPED, "stopped")


def test_as_a_process() -> None:
    """The module runs as a program: exit code, standard output and standard error are those of the function."""
    done = subprocess.run(
        [sys.executable, "-m", "efface.cli.main", "show", "npoo"], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == main.WRONG and done.stdout == ""
    assert done.stderr.count("\n") == 1 and "did you mean npo" in done.stderr
