"""efface certify: a certificate for a run, or the check of one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from efface.cli import options as o
from efface.cli.output import emit, result, say
from efface.cli.progress import Bars
from efface.core.errors import BadConfig

if TYPE_CHECKING:
    from efface.certify.issue import Verification

FAILED = 3
Folder = Annotated[Path | None, typer.Argument(metavar="RUN", help="Folder of a run; with --verify, where it has moved to.", show_default=False)]


def certify(
    run: Folder = None,
    verify: Annotated[Path | None, typer.Option("--verify", metavar="FILE", help="Check this certificate instead of issuing one.")] = None,
    out: Annotated[Path | None, typer.Option("--out", metavar="FILE", help="Where to write it; RUN/certificate.json if not given.")] = None,
    recompute: Annotated[int, typer.Option("--recompute", min=0, metavar="N", help="Train N pieces again and compare them bit for bit.")] = 0,
    as_json: o.Json = False,
) -> None:
    """Issue a certificate for a run, or check one: retrained, bounded, audited by attacks, or guarded. Refused, with the assumption that fails, where it would be untrue."""
    if verify is None and run is None:
        raise BadConfig("neither a run nor a certificate was given; use efface certify RUN, or efface certify --verify FILE")
    if verify is not None and out is not None:
        raise BadConfig("--verify writes nothing; leave --out away")
    from efface.certify import issue

    if verify is not None:
        _show(issue.verify(verify, run, recompute, Bars()), as_json)
    elif run is not None:
        given = issue.issue(run, out, recompute, Bars())
        place = out or run / "certificate.json"
        if as_json:
            emit({"certificate": str(place), **given.model_dump(mode="json")})
            return
        result(f"{given.claim}: {given.statement}")
        for item in given.assumptions:
            result(f"  {item.basis}: {item.text} ({item.found})")
        result(f"{place} holds the certificate of {len(given.files)} files; check it: efface certify --verify {place}")


def _show(found: Verification, as_json: bool) -> None:
    """Print what the check gave; exit with 3 when something speaks against the certificate."""
    if as_json:
        emit({"good": found.good, **found.model_dump(mode="json")})
    else:
        result(f"{found.certificate.claim}: {found.certificate.statement}")
        for line in found.checked:
            result(f"  holds: {line}")
        for line in found.unchecked:
            result(f"  not checked: {line}")
    for line in found.problems:
        say(f"certificate failed: {line}")
    if not found.good:
        raise typer.Exit(FAILED)
