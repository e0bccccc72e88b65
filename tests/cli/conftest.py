from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from efface.cli.main import run
from efface.core.types import Report

EXAMPLE = Path(__file__).parent.parent / "report" / "example.json"


class Done(NamedTuple):
    """What a command left behind."""

    code: int
    out: str
    err: str

    @property
    def line(self) -> str:
        """The one line on standard error, without its prefix."""
        assert self.err.count("\n") == 1 and self.err.startswith("efface: "), self.err
        return self.err.removeprefix("efface: ").strip()


Command = Callable[..., Done]


@pytest.fixture
def efface(capsys: pytest.CaptureFixture[str]) -> Command:
    """Runs the command in this process."""

    def call(*arguments: object) -> Done:
        capsys.readouterr()
        code = run([str(argument) for argument in arguments])
        return Done(code, *capsys.readouterr())

    return call


@pytest.fixture
def report() -> Report:
    return Report.model_validate_json(EXAMPLE.read_text(encoding="utf-8"))


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    """A folder with forget.jsonl and keep.jsonl."""
    for name in ("forget", "keep"):
        (tmp_path / f"{name}.jsonl").write_text(f'{{"question": "Who is {name}?", "answer": "Nobody."}}\n' * 3, encoding="utf-8")
    return tmp_path
