"""Progress on standard error: bars on a terminal, a plain line now and then elsewhere, nothing for what is done at once."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

import typer

from efface.report.text import duration

T = TypeVar("T")
WAIT = 0.5
"""Seconds before a bar is shown."""
EVERY = 15.0
"""Seconds between two plain lines."""


def bar(items: Iterable[T], label: str, total: int) -> Iterator[T]:
    """The items, with progress shown while they are taken."""
    return Bars()(items, label, total)


class Bars:
    """Shows the progress of loops, also of loops within loops. One for each command."""

    def __init__(self) -> None:
        self.depth = 0
        self.live: Any = None
        self.timer: threading.Timer | None = None
        # Only the first of several processes speaks.
        self.mute = os.environ.get("RANK", "0") != "0"

    def __call__(self, items: Iterable[T], label: str, total: int) -> Iterator[T]:
        """The items, with progress shown while they are taken."""
        if self.mute:
            return iter(items)
        return self._drawn(items, label, total) if sys.stderr.isatty() else self._spoken(items, label, total)

    def _drawn(self, items: Iterable[T], label: str, total: int) -> Iterator[T]:
        self._open()
        task = self.live.add_task(label, total=total if total > 0 else None)
        try:
            for item in items:
                yield item
                self.live.advance(task)
        finally:
            self.live.remove_task(task)
            self._close()

    def _open(self) -> None:
        self.depth += 1
        if self.depth > 1:
            return
        from rich import progress
        from rich.console import Console

        columns = (
            progress.TextColumn("{task.description}", markup=False), progress.BarColumn(), progress.MofNCompleteColumn(),
            progress.TimeElapsedColumn(), progress.TextColumn("elapsed,"), progress.TimeRemainingColumn(), progress.TextColumn("left"),
        )  # fmt: skip
        self.live = progress.Progress(*columns, console=Console(stderr=True), transient=True)
        self.timer = threading.Timer(WAIT, self.live.start)
        self.timer.daemon = True
        self.timer.start()

    def _close(self) -> None:
        self.depth -= 1
        if self.depth or self.timer is None:
            return
        self.timer.cancel()
        self.timer.join()
        self.live.stop()

    def _spoken(self, items: Iterable[T], label: str, total: int) -> Iterator[T]:
        began = said = time.monotonic()
        for done, item in enumerate(items):
            now = time.monotonic()
            if done and now - said >= EVERY:
                said = now
                left = f", about {duration((now - began) / done * (total - done))} left" if total > done else ""
                typer.echo(f"efface: {label}: {done} of {total or '?'} after {duration(now - began)}{left}", err=True)
            yield item
