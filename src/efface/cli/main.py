"""The command `efface`. Exit codes: 0 done, 1 a bug of ours (with traceback), 2 wrong use (one line), 3 a gate failed, 130 stopped."""

from __future__ import annotations

import errno
import sys
import traceback
import warnings
from collections.abc import Callable, Sequence
from typing import Annotated

import typer

from efface.cli import (
    attack,
    audit,
    certify,
    compare,
    delete,
    demo,
    doctor,
    fetch,
    folds,
    forget,
    guard,
    list_,
    new,
    prove,
    report,
    show,
    train,
)
from efface.cli.output import say
from efface.core.errors import EffaceError

DONE, BUG, WRONG, GATE, STOPPED = 0, 1, 2, 3, 130
# typer carries its own copy of click, so the base of its usage errors is reached through the one that it exports.
UsageError: type[Exception] = next(base for base in typer.BadParameter.__mro__ if base.__name__ == "ClickException")
NO_PLACE = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM}
VERBS: dict[str, Callable[..., None]] = {
    "list": list_.list_systems, "show": show.show, "train": train.train, "forget": forget.forget, "guard": guard.guard, "prove": prove.prove,
    "report": report.report, "compare": compare.compare, "folds": folds.folds, "attack": attack.attack, "audit": audit.audit, "demo": demo.demo, "fetch": fetch.fetch, "doctor": doctor.doctor,
    "new": new.new, "certify": certify.certify, "delete": delete.delete,
}  # fmt: skip

app = typer.Typer(
    name="efface", help="Makes a trained model forget, and tells the truth about how well it forgot.",
    no_args_is_help=True, add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False,
)  # fmt: skip
for name, verb in VERBS.items():
    app.command(name)(verb)


def _version(asked: bool) -> None:
    if asked:
        from efface import __version__

        typer.echo(f"efface {__version__}")
        raise typer.Exit(DONE)


Version = Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and leave.")]


@app.callback()
def main(version: Version = False) -> None:
    """Makes a trained model forget, and tells the truth about how well it forgot."""


def run(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments) or ["--help"]
    if not sys.warnoptions:  # what libraries announce to programmers is noise to who runs a command
        warnings.simplefilter("ignore", FutureWarning)
    try:
        code = typer.main.get_command(app).main(given, prog_name="efface", standalone_mode=False)
        code = code if isinstance(code, int) else DONE
    except EffaceError as error:
        say(str(error))
        return WRONG
    except UsageError as error:
        say(error.format_message())  # type: ignore[attr-defined]
        return WRONG
    except (KeyboardInterrupt, typer.Abort):
        code = STOPPED
    except Exception as error:  # noqa: BLE001  the last resort: whatever is left is a bug, or a machine that is full
        return _unforeseen(error)
    if code == STOPPED:
        say("stopped")
    return code


def _unforeseen(error: Exception) -> int:
    if isinstance(error, OSError) and error.errno in NO_PLACE:
        say(f"{error.strerror}{f': {error.filename}' if error.filename else ''}; free space or choose another place")
        return WRONG
    if type(error).__name__ in ("OutOfMemoryError", "MemoryError"):
        say(f"out of memory; try --set fit.accumulate=8 (the same result) or --set fit.rank=16 (adapters). {str(error)[:200]}")
        return WRONG
    traceback.print_exception(error)
    say("the lines above are a bug in efface; please report them")
    return BUG


if __name__ == "__main__":
    sys.exit(run())
