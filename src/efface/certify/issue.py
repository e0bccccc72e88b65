"""Certificates issued and verified.

    certificate = issue(Path("run1"))                       raises Unsound, naming the assumption that fails
    verification = verify(Path("run1/certificate.json"))    what has changed, and what could be checked again
"""

from __future__ import annotations

import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from efface.certify import audited, guarded, private, removal, retrained
from efface.certify.certificate import NAME, Certificate, Found, made, read, write
from efface.certify.records import read_run
from efface.certify.seals import changes, seal_all
from efface.core.context import silent
from efface.core.errors import EffaceError, Unsound

Progress = Callable[..., Any]
BOUNDED: dict[str, Callable[..., Found]] = {"certified_removal": removal.look, private.PRIVATE: private.look, private.AFTER: private.look}
"""Method or recipe -> what looks at a run of it; each has a theorem of its own."""


class Verification(BaseModel):
    """What looking at a certificate gave."""

    certificate: Certificate
    problems: tuple[str, ...] = ()
    """What has changed since, or no longer holds."""
    checked: tuple[str, ...] = ()
    """What was found to be as it was."""
    unchecked: tuple[str, ...] = ()
    """What could not be looked at, with the reason."""

    @property
    def good(self) -> bool:
        """Whether nothing speaks against the certificate."""
        return not self.problems


def issue(folder: Path, out: Path | None = None, recompute: int = 0, progress: Progress = silent) -> Certificate:
    """The certificate of a run, written to `out` (certificate.json in the run folder). Raises Unsound, naming the assumption that fails."""
    place = out or folder / NAME
    found = _look(folder, recompute, progress)
    certificate = made(found, folder, place, seal_all(folder, found.covers), _environment())
    write(certificate, place)
    return certificate


def verify(place: Path, run: Path | None = None, recompute: int = 0, progress: Progress = silent) -> Verification:
    """What has changed since a certificate was issued, and whether what it says still follows from the run.

    `run` is the run folder, where it has moved. `recompute` trains that many pieces again.
    """
    certificate = read(place)
    folder = run or place.resolve().parent / certificate.run
    problems, checked, unchecked = [], [], []
    if certificate.seal != certificate.expected_seal():
        problems.append("the certificate itself has been altered: its seal does not fit its text")
    changed = changes(folder, certificate.files, certificate.covers)
    problems += changed
    if not changed:
        checked.append(f"{len(certificate.files)} files are byte for byte as they were")
    if not problems:
        try:
            checked += _follows(certificate, _look(folder, recompute, progress))
        except Unsound as error:
            problems.append(str(error))
        except EffaceError as error:
            unchecked.append(f"the assumptions were not checked again: {error}")
    declared = [f"{item.name}: {item.text}" for item in certificate.assumptions if item.basis == "declared"]
    return Verification(certificate=certificate, problems=tuple(problems), checked=tuple(checked), unchecked=(*unchecked, *declared))


def _follows(certificate: Certificate, found: Found) -> list[str]:
    """One line for each assumption that was checked again. Raises Unsound when the run now tells another story."""
    told = ("claim", "statement", "system", "before", "after", "request", "bound")
    other = [name for name in told if getattr(certificate, name) != getattr(found, name)]
    if other:
        raise Unsound(f"the run gives another {', '.join(other)} than the certificate says")
    return [f"{item.name}: {item.found}" for item in found.assumptions if item.basis == "checked"]


def _look(folder: Path, recompute: int, progress: Progress) -> Found:
    """What the run allows to claim. Raises Unsound where no claim fits it."""
    if (folder / "lineage.json").exists():
        return retrained.look(folder, recompute, progress)
    record = read_run(folder)
    if record.step.system in BOUNDED:
        return BOUNDED[record.step.system](folder, record)
    if (folder / "report.json").exists():
        return guarded.look(folder, record) if record.kind == "guard" else audited.look(folder, record)
    kinds = f"retrained (recipes sisa and s3t), or bounded ({', '.join(sorted(BOUNDED))}); with a report also audited, or guarded"
    raise Unsound(f"no certificate for {folder}: {record.step.system} promises nothing that can be proven; a certificate says {kinds}. For what can be measured: efface prove {folder}")


def _environment() -> dict[str, str]:
    import torch

    import efface

    return {"efface": efface.__version__, "python": platform.python_version(), "torch": torch.__version__, "machine": platform.machine()}
