"""Where a run starts: a model and rows of the user's, one table with a class or rows to forget, or a benchmark."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from efface import api
from efface.core import files, registry
from efface.core.context import Context, silent
from efface.core.errors import BadRows, EffaceError
from efface.core.types import Case, Data, Request, Row, Step, Subject
from efface.families import checkpoint


class Source(BaseModel):
    """Where model and rows come from: files of the user's, or a benchmark."""

    model_config = ConfigDict(extra="forbid")

    model: str = ""
    arch: str = ""
    """Class of a bare weights file, as "module:Class"."""
    arch_args: dict[str, object] = {}
    task: Literal["classifier", "regressor"] = "classifier"
    """What a bare weights file is."""
    concept: tuple[str, ...] = ()
    """What a model that draws must forget, in words."""
    near: tuple[str, ...] = ()
    """Concepts beside it that must survive."""
    instead: str | None = None
    """What to draw in its place."""
    judges: dict[str, str] = {}
    """Folders of picture classifiers that say what pictures show, by the column that they read."""
    forget: Path | None = None
    keep: Path | None = None
    unseen: Path | None = None
    data: Path | None = None
    """One file of rows with labels y, of which some are to be forgotten."""
    test: Path | None = None
    """Rows of the same kind on which nobody trained."""
    forget_where: str = ""
    """Which rows of `data` must go: "y=3" (a class), "identity=P003" (a column), or "rows=ids.txt" (row numbers in a file)."""
    benchmark: str = ""
    split: str = ""
    """Split of the benchmark; "" for its default."""
    benchmark_settings: dict[str, object] = {}
    reason: str = ""
    seed: int = 0
    device: str = "auto"
    dtype: str = "auto"


def start(source: Source, kind: str, part: str = "", progress: Any = silent) -> Case:
    """Original, request and utility rows that a method or recipe begins with. Raises EffaceError, saying what is missing."""
    if source.benchmark:
        return _remake(source, part) if kind == "recipe" else benchmark(source, progress)
    if not source.model:
        raise EffaceError("no model was given; use --model FOLDER, --model smollm2, a hub name, or --benchmark NAME")
    if source.concept:
        return _concept(source)
    if source.data is not None:
        return _table(source, kind)
    if source.forget_where:
        raise EffaceError(f"which rows to forget was given ({source.forget_where}) and no table of rows; use --data FILE")
    if source.forget is None and source.keep is None:
        raise EffaceError("no rows were given; use --forget FILE (and --keep FILE), or --data FILE with --forget-class")
    if kind in ("method", "guard") and source.forget is None:
        raise EffaceError("no rows to forget were given; use --forget FILE")
    given = [path for path in (source.forget, source.keep, source.unseen) if path is not None]
    if source.forget is not None:
        request = api.request(source.forget, source.keep, source.unseen, source.reason)
    else:
        request = Request(keep=Data.file(given[0]), reason=source.reason)
    subject = model(source)
    for path, data in ((source.forget, request.forget), (source.keep, request.keep), (source.unseen, request.unseen)):
        if path is not None:  # without forget rows, unseen ones are no part of the request
            _check(subject, (data or Data.file(path)).read(), path)
    return Case(name=given[0].name, original=subject, request=request, utility=_utility(source))


def _remake(source: Source, part: str) -> Case:
    """What one of a benchmark's own models is trained from."""
    if not part:
        raise EffaceError(f"efface train --benchmark {source.benchmark} remakes one of its models; name it with --part")
    module = benchmark_module(source.benchmark)
    _, request, _, _ = module.training(part)
    base = module.start() if hasattr(module, "start") else api.load(checkpoint.EMBEDDED, source.device, source.dtype)
    return Case(name=f"{source.benchmark} {part}", original=base, request=request)


def again(source: Source, request: Request, original: str = "", progress: Any = silent) -> Case:
    """Original and rows of a run that was made before, to prove it with. `original` says where the model has moved to."""
    if source.benchmark:
        return benchmark(source, progress)
    if source.concept:
        case = _concept(source.model_copy(update={"model": original}) if original else source)
        if case.request.digest != request.digest:
            raise BadRows(f"the prompts of this run ({', '.join(str(path) for path in (source.forget, source.keep) if path) or 'made from templates'}) have changed since it was made")
        return case
    for data in (request.forget, request.keep, request.unseen):
        if data is not None:
            data.read()
    before = model(source.model_copy(update={"model": original}) if original else source)
    name = next((path.name for path in (source.data, source.forget) if path), "rows")
    return Case(name=name, original=before, request=request, baselines={"original": before}, utility=_utility(source))


def model(source: Source) -> Subject:
    """The model that the source names; one that a run made knows how."""
    if not source.arch or Path(source.model).is_dir():  # a folder says itself what it holds
        found = api.load(source.model, source.device, source.dtype)
        step = _made(Path(source.model))
        if step is not None:
            found.lineage = (step,)
        return found
    from efface.families import module_files

    return module_files.load_arch(Path(source.model), source.arch, source.arch_args, source.task, source.device)


def judges(source: Source) -> dict[str, Subject]:
    """{"judge/COLUMN": classifier} of the picture classifiers that the source names."""
    found = {f"judge/{name}": api.load(folder, source.device) for name, folder in source.judges.items()}
    for name, judge in found.items():
        if judge.family != "classifier":
            raise EffaceError(f"--{name.replace('/', ' ')}={source.judges[name.removeprefix('judge/')]} is a {judge.family}; a judge is a picture classifier")
    return found


def _concept(source: Source) -> Case:
    """A concept to forget, named in words, with rows of prompts where they were given."""
    if source.data is not None:
        raise EffaceError("--concept and --data were given; a concept is forgotten by a model that draws, rows of a table by a classifier")
    request = api.concept(source.concept, source.near, source.instead, source.forget, source.keep, source.reason)
    subject = model(source)
    if subject.family not in ("diffusion", "gan"):
        raise EffaceError(f"{source.model} is a {subject.family}; --concept is for models that draw, give it rows with --forget FILE")
    return Case(name=", ".join(source.concept), original=subject, request=request, baselines={"original": subject, **judges(source)})


def _made(place: Path) -> Step | None:
    """The step that made a model, as its run says; None for a model that is out of no run."""
    record = next((path for path in (place / "run.json", place.parent / "run.json") if path.is_file()), None)
    if record is None or (record.parent != place and place.name != "model"):
        return None
    try:
        return Step.model_validate(files.read_json(record)["step"])  # type: ignore[index]
    except (EffaceError, ValidationError, KeyError, TypeError):
        return None


def benchmark(source: Source, progress: Any = silent) -> Case:
    """The benchmark's case with the settings of the source."""
    settings = {**source.benchmark_settings, **({"split": source.split} if source.split else {})}
    system = registry.load("benchmark", source.benchmark).set(settings)
    case: Case = system.case(Context(seed=source.seed, device=source.device, progress=progress))
    return case


def benchmark_module(name: str) -> Any:
    """The module of a benchmark that can remake its models. Raises EffaceError when it ships none."""
    module = import_module(registry.load("benchmark", name).__module__)
    if not hasattr(module, "training"):
        raise EffaceError(f"the benchmark {name} ships no models to remake")
    return module


# -- one table, of which a part must go ---------------------------------------------------------------------------------------


def _table(source: Source, kind: str) -> Case:
    if source.data is None:
        raise EffaceError("no table was given; use --data FILE")
    if source.forget or source.keep:
        raise EffaceError("--data holds all rows, so --forget and --keep say it twice; give either")
    subject, whole = model(source), Data.file(source.data)
    _check(subject, whole.read(), source.data)
    if source.test is not None:
        _check(subject, Data.file(source.test).read(), source.test)
    where = source.forget_where
    if not where and kind == "method":
        raise EffaceError("what to forget was not said; use --forget-class NUMBER, --forget-rows FILE or --forget-where column=value")
    if not where:
        return Case(name=source.data.name, original=subject, request=Request(keep=whole, reason=source.reason), utility=_utility(source))
    column, _, value = where.partition("=")
    opposite = f"{column}!={value}"
    forget = Data.file(source.data, where)
    if len(forget) == len(whole):
        raise BadRows(f"{source.data}: {where} takes all {len(whole)} rows; a model that keeps nothing cannot be told from a new one")
    named: Mapping[str, Any] = {"kind": "class", "names": (value,)} if column == "y" else {}
    unseen = None
    if source.test is not None:
        unseen = Data.file(source.test, where) if column == "y" else Data.file(source.test)
    keep = Data.file(source.data, opposite)
    api.refuse_overlap("forget", forget.read(), "keep", keep.read())
    request = Request(forget=forget, keep=keep, unseen=unseen, reason=source.reason, **named)
    return Case(name=source.data.name, original=subject, request=request, utility=_utility(source))


def _utility(source: Source) -> dict[str, Data]:
    """The test rows that must still be known: all, or those of other classes when a class must go."""
    if source.test is None:
        return {}
    column, _, value = source.forget_where.partition("=")
    return {"test rows": Data.file(source.test, f"y!={value}" if column == "y" else "")}


def _check(subject: Any, rows: list[Row], path: Path) -> None:
    """Raise BadRows, with file and row, for rows that a classifier or regressor cannot read."""
    if subject.family not in ("classifier", "regressor"):
        return
    from efface.families import tables

    try:
        if hasattr(subject, "encode"):
            for at in range(0, len(rows), 4096):
                subject.encode(rows[at : at + 4096])
        else:
            tables.inputs(rows)
            tables.labels(rows, subject.classes) if subject.family == "classifier" else tables.values(rows)
    except BadRows as error:
        raise BadRows(f"{path}, {error}") from None
    try:
        subject.predict(rows[:1])
    except EffaceError:
        raise
    except Exception as error:  # noqa: BLE001  a model may raise anything on rows of another shape
        raise BadRows(f"{path}: the model does not take these rows: {str(error).strip().splitlines()[0][:200]}") from None
