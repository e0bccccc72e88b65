"""Certificates: a claim about a run, the assumptions it rests on with what was found of each, and digests of every file it speaks of.

    retrained   the model is what training without the rows gives: exact methods, by their lineage
    bounded     a theorem says how far the model can be from one trained without the rows: epsilon and delta
    audited     every attack of a suite was made, and none finds more than in a retrained model, up to a bound
    guarded     what comes out behind a guard tells no more than a retrained model; the weights still know

A certificate is JSON. Its seal is a SHA-256 over the rest of it: it tells a slip from a certificate, and is no signature.
"""

from __future__ import annotations

import datetime
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, JsonValue, ValidationError

from efface.certify.seals import Sealed
from efface.core import digest, files
from efface.core.errors import EffaceError, Unsound

Claim = Literal["retrained", "bounded", "audited", "guarded"]
NAME = "certificate.json"
VERSION = 1
"""Of the certificates that are written and read."""


class Assumption(BaseModel):
    """One thing that must hold for the claim, and how it is known to."""

    model_config = ConfigDict(frozen=True)

    name: str
    text: str
    basis: Literal["checked", "declared"]
    """Checked by recomputing it, or declared by whoever made the run: a reader must believe the latter."""
    found: str


class Certificate(BaseModel):
    """A claim about one run."""

    model_config = ConfigDict(frozen=True)

    schema_version: int = VERSION
    claim: Claim
    statement: str
    """The claim in plain words."""
    system: str
    """The method or recipe that made the model."""
    before: str = ""
    """Digest of the model before; "" where none is known."""
    after: str = ""
    """Digest of the model that the claim is about."""
    request: str = ""
    """Digest of what was asked to be forgotten."""
    bound: dict[str, float] = {}
    """The numbers of a bounded claim."""
    assumptions: tuple[Assumption, ...]
    evidence: dict[str, JsonValue] = {}
    """What was recomputed, and what it gave."""
    run: str = "."
    """The run folder, seen from the certificate."""
    files: tuple[Sealed, ...]
    covers: tuple[str, ...] = ()
    """Folders of the run in which nothing may be added."""
    environment: dict[str, str] = {}
    issued: str = ""
    seal: str = ""

    def sealed(self) -> Certificate:
        """The same certificate under its seal."""
        return self.model_copy(update={"seal": self.expected_seal()})

    def expected_seal(self) -> str:
        """SHA-256 over everything but the seal."""
        return digest.of_value(self.model_dump(mode="json", exclude={"seal"}))


class Found(BaseModel):
    """What looking at a run gave: all that a certificate says of it."""

    claim: Claim
    statement: str
    system: str
    before: str = ""
    after: str = ""
    request: str = ""
    bound: dict[str, float] = {}
    assumptions: tuple[Assumption, ...]
    evidence: dict[str, JsonValue] = {}
    covers: tuple[str, ...]
    """Files and folders of the run that the claim is about."""


class Ledger:
    """Collects the assumptions of one claim, and ends it at the first that fails."""

    def __init__(self, what: Path) -> None:
        self.what = what
        self.held: list[Assumption] = []

    def check(self, name: str, text: str, holds: bool, found: str, cure: str = "") -> None:
        """Note an assumption that was checked. Raises Unsound, naming it, when it does not hold."""
        if not holds:
            raise Unsound(f"no certificate for {self.what}: the assumption {name!r} fails. It says: {text}. Found: {found}{f'; {cure}' if cure else ''}")
        self.held.append(Assumption(name=name, text=text, basis="checked", found=found))

    def declare(self, name: str, text: str, found: str) -> None:
        """Note an assumption that cannot be checked from here."""
        self.held.append(Assumption(name=name, text=text, basis="declared", found=found))


def made(found: Found, root: Path, place: Path, sealed_files: tuple[Sealed, ...], environment: Mapping[str, str]) -> Certificate:
    """The certificate for what was found in the run folder `root`, to be kept at `place`."""
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    return Certificate(
        **found.model_dump(exclude={"assumptions", "covers"}), assumptions=found.assumptions, files=sealed_files,
        covers=tuple(name for name in found.covers if (root / name).is_dir()), environment=dict(environment), issued=now,
        run=Path(os.path.relpath(root.resolve(), place.resolve().parent)).as_posix(),
    ).sealed()


def write(certificate: Certificate, place: Path) -> None:
    """Write the certificate as JSON."""
    files.write_text(place, certificate.model_dump_json(indent=1) + "\n")


def read(place: Path) -> Certificate:
    """The certificate in a file. Raises Missing where there is none, EffaceError where it is none or of another version."""
    value = files.read_json(place)
    version = value.get("schema_version") if isinstance(value, dict) else None
    if version not in (None, VERSION):
        made_by = value.get("environment") if isinstance(value, dict) else None
        by = f" (it was issued by efface {made_by['efface']})" if isinstance(made_by, dict) and "efface" in made_by else ""
        raise EffaceError(f"{place} is a certificate of version {version}, and this efface reads version {VERSION}; verify it with the efface that issued it{by}")
    try:
        return Certificate.model_validate(value)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the whole"
        raise EffaceError(f"{place} is not a certificate of this version: {where}: {first['msg']}") from None
