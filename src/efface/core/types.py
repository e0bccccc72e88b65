"""The core types: data, requests, subjects, systems, measurements, reports. No torch here."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Generic, Literal, Protocol, Self, TypeVar, get_args, runtime_checkable

from pydantic import BaseModel, ConfigDict, PrivateAttr

from efface.core import digest, rows
from efface.core.card import Card, Kind
from efface.core.config import Config, build
from efface.core.errors import BadRows, Unfit
from efface.core.rows import Row

if TYPE_CHECKING:
    from efface.core.context import Context

__all__ = ["Attack", "Benchmark", "Data", "Finding", "Guard", "Intent", "Measurement", "Method", "Metric", "Recipe", "Report", "Request", "Row", "Shield", "Step", "Subject", "System", "Verdict"]

C = TypeVar("C", bound=Config)


class Data(BaseModel):
    """A reference to rows, small enough to travel through YAML and HTTP."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    source: str
    """"file:forget.jsonl" or "inline:"."""
    columns: tuple[str, ...] = ()
    part: str = ""
    digest: str = ""
    """SHA-256 of the rows."""
    _rows: list[Row] | None = PrivateAttr(default=None)

    @classmethod
    def inline(cls, given: Sequence[Row], part: str = "") -> Data:
        """Data that holds the rows themselves."""
        held = list(given)
        columns = tuple(map(str, held[0])) if held else ()
        data = cls(source="inline:", columns=columns, part=part, digest=digest.of_value([dict(row) for row in held]))
        data._rows = held
        return data

    @classmethod
    def file(cls, path: Path | str, part: str = "") -> Data:
        """Data in a file, read and checked now. Raises Missing or BadRows.

        `part` takes some of its rows: "y=3", "y!=3", or "rows=ids.txt" and "rows!=ids.txt" with row numbers (from 1), one a line.
        """
        held = rows.select(rows.read(Path(path)), part, str(path))
        data = cls(source=f"file:{path}", columns=tuple(map(str, held[0])), part=part, digest=digest.of_value(held))
        data._rows = list(held)
        return data

    def read(self) -> list[Row]:
        """The rows; a file is read again only in a fresh process, and must then still have the same digest."""
        if self._rows is None:
            scheme, _, name = self.source.partition(":")
            if scheme != "file":
                raise BadRows(f"data from {self.source!r} cannot be read again; keep its rows in a file")
            held = rows.select(rows.read(Path(name)), self.part, name)
            if self.digest and digest.of_value(held) != self.digest:
                raise BadRows(f"{name} has changed since the run was made; give the original file")
            self._rows = list(held)
        return self._rows

    def __len__(self) -> int:
        return len(self.read())


class Request(BaseModel):
    """What must go and what must stay."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["examples", "class", "concept", "feature", "knowledge"] = "examples"
    forget: Data | None = None
    names: tuple[str, ...] = ()
    """Labels, concepts or columns to forget, where there are names."""
    keep: Data | None = None
    unseen: Data | None = None
    """Rows like the forget rows on which nobody trained: the null of every membership attack."""
    near: tuple[str, ...] = ()
    """Neighbors that must survive."""
    instead: str | None = None
    """What to answer or draw in its place."""
    reason: str = ""

    @property
    def digest(self) -> str:
        """Names the request: equal content, equal digest."""
        return digest.of_value(self.model_dump(exclude={"forget": {"source"}, "keep": {"source"}, "unseen": {"source"}}))

    def rows(self, field: Literal["forget", "keep", "unseen"]) -> list[Row]:
        """The rows of one field; Unfit when the request has none."""
        data: Data | None = getattr(self, field)
        if data is None:
            raise Unfit(f"the request has no {field!r} rows; give them with --{field} FILE")
        return data.read()

    def sample(self, field: Literal["forget", "keep", "unseen"], count: int = 40) -> list[Row]:
        """At most `count` rows of one field, evenly spaced: the same ones in every metric, so that one pass serves them all."""
        return rows.evenly(self.rows(field), count)


class Step(BaseModel):
    """One entry of a subject's lineage."""

    model_config = ConfigDict(frozen=True)

    kind: str
    system: str
    settings: dict[str, object] = {}
    request: str = ""
    """Digest of the request."""
    seed: int = 0
    seconds: float = 0.0
    notes: dict[str, float | str] = {}
    """What the run said of itself: steps done, why it stopped, peak memory."""


@runtime_checkable
class Shield(Protocol):
    """What a guarded subject carries: it changes what goes in and comes out, never the weights."""

    def screen(self, prompts: Sequence[str]) -> Sequence[str]: ...
    def steer(self, subject: Subject) -> AbstractContextManager[None]: ...
    def review(self, outputs: Sequence[str]) -> Sequence[str]: ...


class Subject(ABC):
    """A model under study. One subclass per family; systems speak to it through capabilities."""

    family: ClassVar[str]
    lineage: tuple[Step, ...] = ()
    shields: tuple[Shield, ...] = ()
    origin: str = ""
    """Names where the weights came from when that says it all (files and their digests); "" when it does not."""

    @abstractmethod
    def fork(self, roles: tuple[str, ...] = ()) -> Self:
        """Own copy of the weights in `roles` (all, if none); everything else is shared and must not be written to."""

    @abstractmethod
    def save(self, folder: Path) -> None:
        """Write the subject into an existing empty folder: safetensors and JSON, never a pickle."""

    @property
    @abstractmethod
    def digest(self) -> str:
        """SHA-256 over names, types, shapes and bytes of the weights."""

    def guarded(self, shield: Shield) -> Self:
        """The same weights behind one more shield."""
        other = copy.copy(self)
        other.shields = (*self.shields, shield)
        return other

    def unguarded(self) -> Self:
        """The same weights without any shield."""
        other = copy.copy(self)
        other.shields = ()
        return other

    def after(self, step: Step) -> Self:
        """The same subject with one more step in its lineage."""
        other = copy.copy(self)
        other.lineage = (*self.lineage, step)
        other.origin = ""
        return other


class Measurement(BaseModel):
    """One number, honestly: with its interval, its n, and what it means when it is not there."""

    system: str
    subject: str
    value: float | None = None
    low: float | None = None
    high: float | None = None
    n: int = 0
    better: Literal["higher", "lower", "as-reference"] = "as-reference"
    status: Literal["ok", "skipped", "failed"] = "ok"
    why: str = ""
    rows: str = ""
    """Path of the per-row table, relative to the run folder."""
    parts: dict[str, float | None] = {}
    """Named parts of the number: the nine of model utility, the points of a curve."""
    seconds: float = 0.0
    spent: dict[str, float] = {}
    """What an adversary spent: steps, queries."""
    table: list[dict[str, object]] = []
    """The per-row table itself, while in memory; written to `rows` and left out of reports."""

    @classmethod
    def skipped(cls, system: str, subject: str, why: str) -> Measurement:
        """A measurement that could not be made, with the reason; it has no value."""
        return cls(system=system, subject=subject, status="skipped", why=why)


class Verdict(BaseModel):
    """What the evidence says of the candidate, against the retrained reference."""

    word: Literal["forgotten", "not forgotten", "over-forgotten", "damaged", "can't say"]
    line: str
    """One sentence in plain words, for the first line of a report."""
    reasons: tuple[str, ...] = ()
    axes: dict[str, dict[str, float | str | None]] = {}
    """Per axis (forgetting, privacy, utility): distance, its interval, margin, and what it says."""


class Finding(BaseModel):
    """One line of evidence on whether knowledge left the weights: how far the candidate is from the reference on it."""

    model_config = ConfigDict(frozen=True)

    evidence: Literal["behavior", "deeper statistics", "membership", "relearning", "rounding", "trace", "prompts", "other changes of the weights"]
    name: str
    distance: float | None = None
    """0 as the reference, above 0 known better; in shares of what the original knows beyond the reference, or in AUC."""
    low: float | None = None
    high: float | None = None
    margin: float = 0.0
    says: Literal["as the reference", "still there", "over-forgotten", "can't say"]


class Intent(BaseModel):
    """What the evidence says was done to the knowledge, whatever a method claims (after SoK, arXiv:2506.09227)."""

    model_config = ConfigDict(frozen=True)

    measured: Literal["removal", "suppression", "not forgotten", "damaged", "can't say"]
    line: str
    """One sentence in plain words."""
    findings: tuple[Finding, ...] = ()
    missing: tuple[str, ...] = ()
    """Kinds of evidence that "removal" needs and that were not measured, with the reason."""


class Report(BaseModel):
    """All that is known of one run; every view (HTML, Markdown, table) is made from it alone."""

    schema_version: int = 1
    title: str = ""
    verdict: Verdict
    intent: Intent | None = None
    """Removal or suppression, where the evidence of attacks was gathered."""
    request: Request
    excluded: tuple[int, ...] = ()
    """Numbers of the forget rows that the original never knew and that an audit left out."""
    reference: str = ""
    """What stands for the retrained model, in words; "" when there is none."""
    steps: tuple[Step, ...] = ()
    measurements: tuple[Measurement, ...] = ()
    samples: tuple[dict[str, str], ...] = ()
    """Prompt, gold answer, and what original, candidate and reference say."""
    curve: tuple[dict[str, float], ...] = ()
    """The training log: step and every logged number."""
    weights: dict[str, str] = {}
    """What names the weights of each model that was measured: a digest, or the files that they are out of."""
    environment: dict[str, str] = {}
    seconds: dict[str, float] = {}


class System(ABC, Generic[C]):
    """One verb on a subject. Subclasses are small: a card, a Config, a run."""

    kind: ClassVar[Kind]
    card: ClassVar[Card]
    Config: ClassVar[type[Config]] = Config

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        for base in getattr(cls, "__orig_bases__", ()):
            for arg in get_args(base):
                if isinstance(arg, type) and issubclass(arg, Config):
                    cls.Config = arg

    def __init__(self, config: C | None = None) -> None:
        self.config: C = config if config is not None else build(self.Config)  # type: ignore[assignment]

    @classmethod
    def set(cls, settings: Mapping[str, object] | None = None) -> Self:
        """The system with these settings; dotted names reach nested groups."""
        return cls(build(cls.Config, settings))  # type: ignore[arg-type]


class Recipe(System[C]):
    """How a model comes to be: trains the subject on the rows of the request."""

    kind = "recipe"

    @abstractmethod
    def run(self, subject: Subject, request: Request, ctx: Context) -> Subject: ...


class Method(System[C]):
    """Weights change: returns a new subject that should no longer hold `request.forget`."""

    kind = "method"

    @abstractmethod
    def run(self, subject: Subject, request: Request, ctx: Context) -> Subject: ...


class Guard(System[C]):
    """Weights stay: returns the subject behind a shield."""

    kind = "guard"

    @abstractmethod
    def run(self, subject: Subject, request: Request, ctx: Context) -> Subject: ...


class Metric(System[C]):
    """A question without an adversary."""

    kind = "metric"

    @abstractmethod
    def run(self, subject: Subject, request: Request, ctx: Context) -> Measurement: ...


class Attack(System[C]):
    """An adversary with a budget, who tries to bring back what should be gone."""

    kind = "attack"

    @abstractmethod
    def run(self, subject: Subject, request: Request, ctx: Context) -> Measurement: ...


class Benchmark(System[C]):
    """Subject, request, reference and suite, ready to run."""

    kind = "benchmark"

    @abstractmethod
    def case(self, ctx: Context) -> Case: ...


class Case(BaseModel):
    """One problem of a benchmark: whom to make forget what, and what to compare with."""

    model_config = ConfigDict(arbitrary_types_allowed=True)

    name: str
    original: Subject
    request: Request
    baselines: dict[str, Subject] = {}
    reference: str = ""
    """What the reference is, in words."""
    utility: dict[str, Data] = {}
    """Further row sets on which utility is measured, by name."""
    sets: dict[str, Data] = {}
    """Further rows that metrics and attacks read by name and that say nothing of utility: verbatim passages, ready-made probes."""
    suite: tuple[str, ...] = ()
    """Metrics and attacks to run, as "metric/rouge_recall"."""
    shipped: dict[str, object] = {}
    """Scores of fixed subjects that were recorded before, by key."""


