"""The models of a benchmark: an original trained on all rows, and the same network trained anew without the forget rows, three times.

`reference` starts from the original's weights before training and draws rows by the same seed; `reference/1` and
`reference/2` have starts and orders of their own, so that what two retrainings differ by is known. With a name for the cache
every model is trained once on a machine: its folder is named by the digest of all that it depends on, one that is damaged is
made again, and a training that was stopped goes on from its last checkpoint.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from efface.core import digest, files, registry
from efface.core.config import Fit
from efface.core.context import Context
from efface.core.errors import EffaceError
from efface.core.types import Request, Step
from efface.families import checkpoint, module_files

OTHERS = (1, 2)
"""Names of the references besides the first."""
CHECKPOINT_EVERY = 100
"""Steps between two checkpoints of a training into the cache, unless fit.checkpoint says otherwise."""
FORM = 1
"""Raised when the way models are trained changes, so that old ones are not taken for new."""
Start = Callable[[int], Any]
"""An untrained subject (or a pretrained one) whose random weights depend on the seed alone."""
log = logging.getLogger("efface")


def trained(start: Start, request: Request, fit: Fit, ctx: Context, cached: str = "") -> dict[str, Any]:
    """{"original": model, "reference": model, "reference/1": ..., "reference/2": ...}, from the cache where they are there.

    `cached` names the benchmark's folder in the cache; "" trains in memory and leaves nothing on disk.
    """
    plans = {"original": ("finetune", ctx.seed), "reference": ("retrain", ctx.seed)}
    plans |= {f"reference/{number}": ("retrain", ctx.seed_for("reference", number)) for number in OTHERS}
    found = {}
    for name, (recipe, seed) in ctx.progress(plans.items(), "original and references", len(plans)):
        own = ctx.alone(seed=seed, folder=None, budget={}, curve=[], notes={})
        blank = start(own.seed_for("network"))
        if hasattr(blank, "model"):
            blank.model.to(checkpoint.pick_device(ctx.device))
        made = _kept(recipe, blank, request, fit, own, cached) if cached else _run(recipe, blank, request, fit, own)
        found[name] = made.after(Step(kind="recipe", system=recipe, settings={"fit": fit.model_dump()}, request=request.digest, seed=seed))
    return found


def _run(recipe: str, blank: Any, request: Request, fit: Fit, ctx: Context) -> Any:
    settings: Mapping[str, object] = {f"fit.{name}": value for name, value in fit.model_dump().items()}
    return registry.load("recipe", recipe).set(settings).run(blank, request, ctx)


def _kept(recipe: str, blank: Any, request: Request, fit: Fit, ctx: Context, cached: str) -> Any:
    """The model out of the cache, trained into it first where it is not there."""
    # A reference depends on the keep rows alone, so requests that share them share it.
    rows = {name: data.digest for name, data in (("forget", request.forget), ("keep", request.keep)) if data and (name == "keep" or recipe == "finetune")}
    facts = {"form": FORM, "recipe": recipe, "start": _start_of(blank), "rows": rows, "settings": fit.model_dump(exclude={"checkpoint"}), "seed": ctx.seed}
    keeping = fit.model_copy(update={"checkpoint": fit.checkpoint or CHECKPOINT_EVERY})

    def make(partial: Path, purpose: str) -> Any:
        return _run(recipe, blank, request, keeping, ctx.alone(folder=partial, curve=[], notes={}, purpose=purpose))

    return kept(make, facts, cached, ctx.device)


def _start_of(blank: Any) -> str:
    """Digest of the weights, and of the words and length of a text model's tokenizer."""
    words = getattr(blank, "tokenizer", None)
    return str(blank.digest) if words is None else digest.of_value([blank.digest, words.get_vocab(), words.model_max_length])


def kept(make: Callable[[Path, str], Any], facts: Mapping[str, object], cached: str, device: str) -> Any:
    """The model that depends on `facts` and nothing else: out of the cache folder of a benchmark, or made into it.

    `make` is given a folder for checkpoints, which is removed once the model is there, and the digest of the facts.
    """
    purpose = digest.of_value(dict(facts))
    folder = files.cache() / cached / purpose[:16]
    if (held := _held(folder, device)) is not None:
        return held
    partial = folder.with_name(folder.name + ".partial")
    after = make(partial, purpose)
    whole = after.merged() if getattr(after, "adapted", False) else after
    with files.whole_folder(folder) as fresh:
        whole.save(fresh)
        files.write_json(fresh / "trained.json", {**facts, "weights": whole.digest})
    shutil.rmtree(partial, ignore_errors=True)
    return whole


def _held(folder: Path, device: str) -> Any:
    """The model in the folder when its weights are those that were written there; None otherwise."""
    if not (folder / "trained.json").exists():
        return None
    try:
        facts: Any = files.read_json(folder / "trained.json")
        found: Any = module_files.load(folder, device)
        if found.digest == facts["weights"]:
            return found
    except (EffaceError, KeyError, TypeError):
        pass
    log.warning("%s is damaged; training again", folder)
    return None
