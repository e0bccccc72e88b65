"""Every error that efface raises on purpose.

    EffaceError                 base; the command line prints it in one line and exits with 2
    +-- UnknownName             a system, column, role or setting that does not exist
    +-- BadConfig               a setting with an impossible value
    +-- BadRows                 a row file that cannot be read, with its line
    +-- Unfit                   a system and a subject that do not go together
    +-- Missing                 an extra, a reference, a file or a piece of data that is not there
    +-- BudgetSpent             the seconds or queries allowed to an attack are used up
    +-- Diverged                training met a number that is not finite
    +-- Unsound                 a claim one of whose assumptions fails

A message says what was asked, what was found, and what to do.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class EffaceError(Exception):
    """Base of all errors raised on purpose."""


class UnknownName(EffaceError):
    """A name that does not exist; the message lists what is near and what there is."""

    @classmethod
    def among(cls, what: str, asked: str, known: Iterable[str]) -> UnknownName:
        """Return the error for `asked`, with near matches out of `known`."""
        names = sorted(known)
        near = difflib.get_close_matches(asked, names, n=3, cutoff=0.5)
        hint = f"did you mean {' or '.join(near)}?" if near else f"there are: {', '.join(names) or 'none'}"
        return cls(f"no {what} named {asked!r}; {hint}")


class BadConfig(EffaceError):
    """A setting with an impossible value."""


class BadRows(EffaceError):
    """A row file that cannot be read; the message names file and line."""


class Unfit(EffaceError):
    """A system and a subject that do not go together."""


class Missing(EffaceError):
    """An extra, a reference, a file or a piece of data that is not there."""


class BudgetSpent(EffaceError):
    """The seconds or queries allowed are used up."""


class Diverged(EffaceError):
    """Training met a number that is not finite."""


class Unsound(EffaceError):
    """A claim one of whose assumptions fails."""
