import io
import sys

import pytest

from efface.cli import progress
from efface.cli.progress import Bars, bar


class Terminal(io.StringIO):
    """Standard error that says it is a terminal."""

    def isatty(self) -> bool:
        return True


class Clock:
    """A clock that moves by a fixed amount each time it is read."""

    def __init__(self, tick: float) -> None:
        self.now, self.tick = 0.0, tick

    def monotonic(self) -> float:
        self.now += self.tick
        return self.now


def test_items_come_through() -> None:
    assert list(bar(range(5), "counting", 5)) == list(range(5))


def test_silent_when_it_is_no_terminal_and_quick(capsys) -> None:
    assert len(list(bar(range(1000), "counting", 1000))) == 1000
    assert capsys.readouterr() == ("", "")


def test_a_plain_line_now_and_then_when_it_is_no_terminal(capsys, monkeypatch) -> None:
    """Each item takes 5 s: of ten items, every third is announced, with a rest of 5 s an item."""
    monkeypatch.setattr(progress, "time", Clock(5.0))
    list(bar(range(10), "training", 10))
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "efface: training: 2 of 10 after 15.0 s, about 1 min 0 s left"
    assert len(lines) == 3


def test_no_bar_for_what_is_done_at_once(monkeypatch) -> None:
    stream = Terminal()
    monkeypatch.setattr(sys, "stderr", stream)
    assert list(bar(range(20), "counting", 20)) == list(range(20))
    assert stream.getvalue() == ""


def test_a_bar_for_what_takes_longer_and_none_left_behind(monkeypatch) -> None:
    import time

    stream = Terminal()
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setattr(progress, "WAIT", 0.05)
    monkeypatch.setenv("TERM", "xterm")
    bars = Bars()
    for _ in bars(range(3), "outer", 3):
        for _ in bars(range(3), "[inner]", 3):
            time.sleep(0.05)
    shown = stream.getvalue()
    assert "outer" in shown and "[inner]" in shown and "left" in shown
    assert bars.depth == 0 and not bars.live.live.is_started


def test_a_loop_that_is_left_early_closes_its_bar(monkeypatch) -> None:
    monkeypatch.setattr(sys, "stderr", Terminal())
    bars = Bars()
    for item in bars(range(10), "counting", 10):
        if item == 3:
            break
    assert bars.depth == 0
    with pytest.raises(ValueError, match="stop"):
        for _ in bars(range(10), "counting", 10):
            raise ValueError("stop")
    assert bars.depth == 0 and not bars.live.live.is_started


def test_only_the_first_process_speaks(monkeypatch) -> None:
    monkeypatch.setenv("RANK", "1")
    stream = Terminal()
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setattr(progress, "WAIT", 0.0)
    assert list(bar(range(3), "counting", 3)) == [0, 1, 2]
    assert stream.getvalue() == ""
