"""The Python interface: load a model, say what must go, make it forget, have it proven.

    import efface

    model = efface.load("my-model")
    request = efface.request(forget="forget.jsonl", keep="keep.jsonl")
    candidate = efface.forget(model, request, "npo", {"beta": 0.2})
    report = efface.prove(candidate, request, original=model, reference=efface.load("retrained"))
    print(report.verdict.line)
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from efface.core import digest, registry
from efface.core import rows as row_files
from efface.core.capabilities import check
from efface.core.context import Context
from efface.core.errors import BadConfig, BadRows, Unfit
from efface.core.types import Data, Report, Request, Row, Step, Subject

Given = str | Path | Sequence[Row] | Data


def load(name: str, device: str = "auto", dtype: str = "auto", arch: str = "", arguments: Mapping[str, object] | None = None) -> Subject:
    """The model `name`: a transformers folder, a peft adapter folder, "smollm2", a hub name, or a folder saved by efface.

    A folder with model_index.json, or "diffusers:NAME" on the hub, is a text-to-image or text-to-video pipeline.

    With `arch` = "module:Class" it is a safetensors file with the weights of a classifier of that class, which `arguments`
    build. Raises Missing, Unfit or EffaceError, each in one line.
    """
    if arch:
        from efface.families import module_files

        return module_files.load_arch(Path(name), arch, arguments or {}, device=device)
    from efface.families import diffusion_files

    folder = Path(name)
    if diffusion_files.is_pipeline(name) or diffusion_files.is_pipeline(str(folder / "model")):
        return diffusion_files.load(name if diffusion_files.is_pipeline(name) else str(folder / "model"), device, dtype)
    if (folder / "model" / "config.json").exists() or (folder / "model" / "adapter_config.json").exists():
        folder = folder / "model"
    from efface.families.checkpoint import load as load_lm

    if _is_module(folder):
        from efface.families import module_files

        return module_files.load(folder, device)
    return load_lm(str(folder) if folder.is_dir() else name, device, dtype)


def wrap(model: Any, arguments: Mapping[str, object] | None = None, tokenizer: Any = None, task: str = "classifier") -> Subject:
    """The subject of a torch module or a fitted scikit-learn estimator that is in memory: a classifier, or a regressor as `task` says.

    `arguments` build the module's class again (needed to save it); `tokenizer` makes a text classifier. A scikit-learn
    estimator says itself what it is. Raises Unfit for anything else.
    """
    from torch import nn

    from efface.families.classifier import Classifier, SklearnClassifier
    from efface.families.regressor import Regressor, SklearnRegressor

    if isinstance(model, nn.Module):
        if task not in ("classifier", "regressor"):
            raise BadConfig(f"task {task!r}: it must be classifier or regressor")
        return Classifier(model, arguments, tokenizer) if task == "classifier" else Regressor(model, arguments)
    if hasattr(model, "predict") and hasattr(model, "fit"):
        from sklearn.base import is_classifier, is_regressor

        if is_classifier(model):
            return SklearnClassifier(model)
        if is_regressor(model):
            return SklearnRegressor(model)
    raise Unfit(f"a torch module or a scikit-learn classifier or regressor is needed; found {type(model).__name__}")


def request(forget: Given, keep: Given | None = None, unseen: Given | None = None, reason: str = "") -> Request:
    """The request to forget some rows and keep others; each is a file, a sequence of rows, or Data.

    Raises BadRows when a row has no known layout, or when rows stand in two sets at once (it names them).
    """
    sets = {name: _data(given) for name, given in (("forget", forget), ("keep", keep), ("unseen", unseen)) if given is not None}
    for name, data in sets.items():
        rows = data.read()
        if not rows:
            raise BadRows(f"{name}: no rows; give at least one")
        if "y" not in rows[0]:
            row_files.layout(rows, data.source.removeprefix("file:") if data.source != "inline:" else name)
    for one, other in (("forget", "keep"), ("forget", "unseen"), ("keep", "unseen")):
        if one in sets and other in sets:
            refuse_overlap(one, sets[one].read(), other, sets[other].read())
    return Request(**sets, reason=reason)  # type: ignore[arg-type]


def concept(
    names: Sequence[str], near: Sequence[str] = (), instead: str | None = None, forget: Given | None = None, keep: Given | None = None, reason: str = "",
) -> Request:
    """The request to forget concepts, named in words ("a cat"), from a model that draws; `near` must survive, `instead` may take their place.

    Rows {"prompt": ...} say with which prompts that is done and measured; without them they are made from templates, and the
    kept ones from `near` and everyday captions. Raises BadRows or Unfit, each in one line.
    """
    from efface.families import asking

    asking.check(names, near, instead)
    rows = {name: None if given is None else _prompts(given) for name, given in (("forget", forget), ("keep", keep))}
    for name, data in rows.items():
        if data is not None:
            asking.check_rows(data.read(), name)
    if rows["forget"] is not None and rows["keep"] is not None:
        refuse_overlap("forget", rows["forget"].read(), "keep", rows["keep"].read())
    return Request(
        kind="concept", names=tuple(names), near=tuple(near), instead=instead, reason=reason,
        forget=rows["forget"] or Data.inline(asking.forget_rows(names)), keep=rows["keep"] or Data.inline(asking.keep_rows(near)),
    )


def guard(subject: Subject, request: Request, guard: str, settings: Mapping[str, object] | None = None, ctx: Context | None = None) -> Subject:
    """The same weights behind a guard; what it draws or says is filtered, and the model has not forgotten anything."""
    return _run("guard", guard, subject, request, settings, ctx)


def forget(subject: Subject, request: Request, method: str, settings: Mapping[str, object] | None = None, ctx: Context | None = None) -> Subject:
    """A new subject that went through `method`; the one handed in is not touched, and the lineage says what was done."""
    return _run("method", method, subject, request, settings, ctx)


def train(subject: Subject, request: Request, recipe: str, settings: Mapping[str, object] | None = None, ctx: Context | None = None) -> Subject:
    """A new subject trained by `recipe` on the rows of the request: "finetune" on all, "retrain" on the kept ones alone."""
    return _run("recipe", recipe, subject, request, settings, ctx)


def prove(
    candidate: Subject, request: Request, original: Subject | None = None, reference: Subject | None = None,
    suite: Sequence[str] | None = None, ctx: Context | None = None,
) -> Report:
    """The report on `candidate`: every metric and attack that fits, and a verdict against the retrained `reference`.

    Without a reference the verdict is "can't say". `suite` is a list such as ["metric/rouge_recall", "attack/min_k"].
    """
    from efface import evaluate

    ctx = ctx or Context()
    given = {name: s for name, s in (("original", original), ("reference", reference)) if s is not None}
    return evaluate.prove(candidate, request, ctx.alone(baselines={**ctx.baselines, **given}, curve=ctx.curve), suite)


def _run(kind: str, name: str, subject: Subject, request: Request, settings: Mapping[str, object] | None, ctx: Context | None) -> Subject:
    ctx = ctx or Context()
    system: Any = registry.load(kind, name).set(settings)
    check(system, subject, request)
    ctx.purpose = digest.of_value([kind, name, system.config.model_dump(), request.digest, subject.origin or getattr(subject, "base", "")])
    began = time.monotonic()
    after: Subject = system.run(subject, request, ctx)
    step = Step(
        kind=kind, system=name, settings=system.config.model_dump(), request=request.digest, seed=ctx.seed,
        seconds=time.monotonic() - began, notes=dict(ctx.notes),
    )
    return after.after(step)


def _prompts(given: Given) -> Data:
    """Rows of prompts; of a file in any of the layouts of published prompt sets."""
    from efface.families import prompt_files

    return Data.inline(prompt_files.read(Path(given))) if isinstance(given, str | Path) else _data(given)


def _data(given: Given) -> Data:
    if isinstance(given, Data):
        return given
    return Data.file(given) if isinstance(given, str | Path) else Data.inline(given)


def refuse_overlap(one: str, rows: Sequence[Row], other: str, others: Sequence[Row]) -> None:
    """Raise BadRows, naming pairs, when a row stands in both sets."""
    seen = {_key(row): number for number, row in enumerate(others, start=1)}
    twice = [(number, seen[key]) for number, row in enumerate(rows, start=1) if (key := _key(row)) in seen]
    if twice:
        named = ", ".join(f"{one} row {a} = {other} row {b}" for a, b in twice[:5])
        raise BadRows(f"{len(twice)} {'row stands' if len(twice) == 1 else 'rows stand'} in both {one} and {other}: {named}{' ...' if len(twice) > 5 else ''}; remove them from one side")


def _key(row: Row) -> str:
    """Equal for rows that say the same: text with folded case, the prompt of a picture, or the input of a classifier, whatever its label."""
    if "prompt" in row and "answer" not in row and "y" not in row:
        return " ".join(str(row["prompt"]).lower().split()) + f"|{row.get('seed', '')}"
    if "y" not in row or "text" in row:
        return row_files.key(row)
    return digest.of_value(row["x"] if "x" in row else {name: value for name, value in row.items() if name not in row_files.NAMES})


def _is_module(folder: Path) -> bool:
    """Whether a folder holds a classifier or regressor rather than a language model."""
    from efface.core import files

    if not (folder / "config.json").exists():
        return False
    found = files.read_json(folder / "config.json")
    names = found.get("architectures") if isinstance(found, dict) else None
    return isinstance(found, dict) and ("arch" in found or any(str(name).endswith("Classification") for name in names or ()))
