"""The claim `bounded` of private training: epsilon and delta of DP-SGD, counted again from what the run says it did.

A run of the recipe `dp` says in the notes of its step (run.json):

    epsilon, delta                         what it claims, for one row
    noise_multiplier, sample_rate, dp_steps    what it did; clip, the norm that each row's gradient was cut to
    accountant, sampling                   "rdp" or "prv"; "poisson"
    rows                                   how many rows it was trained on

A run of `dp2unlearn` begins with the model of such a run (or names it, as its setting `base`) and trains on kept rows alone, so what
it knows of the forgotten rows came through the private training. The rows of one person count together: k of them have k times the epsilon.
"""

from __future__ import annotations

import math
from pathlib import Path

from efface import api
from efface.certify.certificate import Found, Ledger
from efface.certify.records import parent, read_run, rows_again, run_of
from efface.core import digest
from efface.core.errors import Unsound
from efface.core.types import Row
from efface.ops.private import count_epsilon
from efface.runs import RunRecord

NEEDED = ("epsilon", "delta", "noise_multiplier", "sample_rate", "dp_steps", "clip", "rows")
PRIVATE, AFTER = "dp", "dp2unlearn"
AGREES = 1e-3
"""How far below the counted epsilon the claimed one may stay, relative to it: an accountant rounds."""


def look(folder: Path, record: RunRecord) -> Found:
    """What a run of private training, or of unlearning after it, allows to claim. Raises Unsound, naming the assumption that fails."""
    ledger = Ledger(folder)
    base = _base(folder, record, ledger)
    epsilon, delta = _check_training(base, ledger)
    count = 1
    if record is not base:
        forget, keep = rows_again(folder, record)
        kept = {_content(row) for row in keep}
        twice = [number for number, row in enumerate(forget, start=1) if _content(row) in kept]
        found = f"forget row {twice[0]} has a copy among the kept rows ({len(twice)} such rows)" if twice else f"none of {len(forget)}"
        ledger.check("no copies", "no forgotten row has a copy among the kept rows", not twice, found, "remove the copies too")
        ledger.declare("settings", "nothing about the second training was chosen by looking at the forgotten rows", "declared by whoever chose the settings")
        count = len(forget)
    ledger.declare("clean start", "the model that private training began with never saw these rows", "declared by whoever chose it")
    ledger.declare("as said", "private training did what its run says: cut each row's gradient, added this noise, drew rows by chance", "the run's own word")
    whole = group_delta(epsilon, delta, count)
    vague = " (which says nothing)" if whole >= 1 else ""
    together = f" All {count} forgotten rows together: e^{count * epsilon:.4g}, up to an added {min(whole, 1):.3g}{vague}." if count > 1 else ""
    return Found(
        claim="bounded", system=record.step.system, after=api.load(str(folder / "model"), "cpu").digest, request=record.request.digest,
        assumptions=tuple(ledger.held), bound={"epsilon": epsilon, "delta": delta, "rows": float(count), "epsilon of all rows": count * epsilon, "delta of all rows": min(whole, 1.0)},
        statement=f"For any single {'forgotten' if record is not base else 'training'} row: whatever is done with this model, its chance differs from that with a model "
        f"trained without the row by a factor of at most e^{epsilon:.4g}, up to an added {delta:g}.{together}",
        evidence={"accountant": str(base.step.notes.get("accountant", "rdp"))}, covers=("model",),
    )


def group_delta(epsilon: float, delta: float, count: int) -> float:
    """Delta of `count` rows together, (e^(count epsilon) - 1) / (e^epsilon - 1) delta; infinite where it is too large to write down."""
    try:
        return delta * math.expm1(count * epsilon) / math.expm1(epsilon) if epsilon > 0 else count * delta
    except OverflowError:
        return math.inf


def _base(folder: Path, record: RunRecord, ledger: Ledger) -> RunRecord:
    """The record of the private training: of this run, or of the one that it began with."""
    if record.step.system == PRIVATE:
        return record
    named = str(record.step.settings.get("base") or "")
    place = run_of(named) if named else parent(record)
    base = read_run(place) if place is not None else None
    found = base.step.system if base is not None else f"no run at {named or record.source.model or 'all'}"
    text = f"the model that {AFTER} began with came out of private training, and of nothing after it"
    ledger.check("private base", text, base is not None and base.step.system == PRIVATE, found, f"begin with the model of a run of {PRIVATE}, kept where it was")
    if base is None:
        raise Unsound(f"no certificate for {folder}: the assumption 'private base' fails")
    return base


def _check_training(base: RunRecord, ledger: Ledger) -> tuple[float, float]:
    """Claimed epsilon and delta, after counting them again."""
    notes = base.step.notes
    lacking = [name for name in NEEDED if not isinstance(notes.get(name), int | float)]
    ledger.check("a whole record", f"the run says {', '.join(NEEDED)}", not lacking, f"nothing about {', '.join(lacking)}" if lacking else "all said")
    said = {name: float(notes[name]) for name in NEEDED}
    sampling = str(notes.get("sampling", "nothing said"))
    ledger.check("sampling", "rows were drawn for each step independently of each other (Poisson)", sampling == "poisson", sampling)
    ledger.check("clipping", "every row's gradient was cut to a finite norm", 0 < said["clip"] < math.inf, f"norm {said['clip']:g}")
    ledger.check("delta", "delta is below one in the number of rows", 0 < said["delta"] < 1 / said["rows"], f"delta {said['delta']:g} for {said['rows']:g} rows")
    counted = count_epsilon(said["noise_multiplier"], said["sample_rate"], int(said["dp_steps"]), said["delta"], str(notes.get("accountant", "rdp")))
    text = "the claimed epsilon is not below what the accountant gives for the noise, sampling rate and steps of the run"
    ledger.check("epsilon", text, counted <= said["epsilon"] * (1 + AGREES), f"counted {counted:.4f}, claimed {said['epsilon']:.4f}", "claim what was counted")
    return said["epsilon"], said["delta"]


def _content(row: Row) -> str:
    """Equal for rows that say the same, numbers and remarks of their own left aside."""
    return digest.of_value({str(name): value for name, value in row.items() if name not in ("id", "index")})
