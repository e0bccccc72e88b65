"""What a run says of itself: its record, where it began, and its rows."""

from __future__ import annotations

from pathlib import Path

from pydantic import ValidationError

from efface import sources
from efface.core import files
from efface.core.errors import EffaceError, Missing
from efface.core.types import Request, Row
from efface.runs import RunRecord


def read_run(folder: Path) -> RunRecord:
    """The record of a run. Raises Missing where there is none, EffaceError where it is of another version."""
    path = folder / "run.json"
    if not path.exists():
        raise Missing(f"{folder} holds no run.json; it is not a run of efface" if folder.is_dir() else f"no run folder {folder}")
    try:
        return RunRecord.model_validate(files.read_json(path))
    except ValidationError as error:
        raise EffaceError(f"{path} is not a run of this version: {error.errors()[0]['msg']}") from None


def parent(record: RunRecord) -> Path | None:
    """The folder of the run whose model this run began with; None when that is no run, or is no longer there."""
    return run_of(record.source.model)


def run_of(model: str) -> Path | None:
    """The folder of the run that a model is out of: the folder itself, or the one that holds it; None when it is of none."""
    place = Path(model)
    return next((path for path in (place, place.parent) if model and (path / "run.json").exists()), None)


def rows_again(folder: Path, record: RunRecord) -> tuple[list[Row], list[Row]]:
    """The forget and keep rows of a run, read again. Raises Missing where they are not to be had."""
    try:
        request: Request = sources.benchmark(record.source).request if record.source.benchmark else record.request
        return request.rows("forget"), request.rows("keep")
    except EffaceError as error:
        raise Missing(f"{folder}: the rows of this run are needed again, and cannot be read: {error}") from None
