"""DP2Unlearning (arXiv:2504.13774): back to a base that was trained privately, and from there on the kept rows alone.

    base B       trained on all rows with (epsilon, delta)-privacy: recipe `dp`, once, before anybody asks
    deployed     B fine-tuned on all rows: what people use until then, thrown away here
    result       B fine-tuned on the keep rows:    minimize mean over keep rows of the row's loss

Nothing after B reads a forgotten row, so for each of them the result is as (epsilon, delta)-private as B: whatever is done with it,
its chance differs from that with a base that never saw the row by at most e^epsilon, up to delta. k forgotten rows together have
k epsilon. It holds if nothing of the second training (rate, epochs, tokenizer) was chosen by looking at forgotten rows.

    efface train  --recipe dp --out BASE ...                                    the base
    efface forget --model BASE --method dp2unlearn ...                          begins with it; or, from what was deployed,
    efface forget --model DEPLOYED --method dp2unlearn --set base=BASE ...

The cost is that of the second training: by default half of the steps that the recipe `retrain` takes. A base with a small epsilon has
learned little, so the same training is measured beside it from a model that never saw any of the rows: `pretrained`, or new random
weights. If that is as good, the base bought nothing.

Paper: 5 epochs (half of 10), lr 5e-5, weight decay .01.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from efface.core import files
from efface.core.capabilities import has
from efface.core.card import Card
from efface.core.config import Config, Fit
from efface.core.context import Context
from efface.core.errors import Missing, Unfit
from efface.core.types import Method, Request, Row
from efface.families import checkpoint, module_files
from efface.ops.loop import descend, mean_loss

PRIVATE = "dp"
"""Recipe that makes a base."""
MOST = 1000
"""Most rows of a set that the result is measured on."""


class DP2UnlearnConfig(Config):
    """Settings of unlearning from a private base."""

    base: str = ""
    """Folder of the private base: a run of the recipe dp, or its model; none where the model given is that base itself."""
    pretrained: str = ""
    """Model that the comparison begins with: one that never saw the rows; none takes new random weights, where the model can draw them."""
    fit: Fit = Fit(lr=2e-5, steps=250, batch=16, warmup=10, schedule="linear")
    """Optimizer settings: those of the recipe retrain with half of its steps."""


class DP2Unlearn(Method[DP2UnlearnConfig]):
    """Trains the private base on the keep rows; the deployed weights and the forget rows are not looked at."""

    card = Card(
        name="dp2unlearn", title="Private base, then the kept rows (DP2Unlearning)", paper="arXiv:2504.13774", families=("causal-lm", "classifier", "regressor"),
        needs=("losses",), uses=("keep",), made_by="dp",
        technique="retraining", intent="remove", touches=("weights", "adapter"), locality="all", data=("keep rows",), operator="weights",
        sequence="refits", reversible=False, guarantee="bounded",
        departs="the paper's tables lack the same training from the pretrained model, which is measured here",
    )

    def run(self, subject: Any, request: Request, ctx: Context) -> Any:
        """Return the private base trained on the keep rows. Raises Missing where there is no such base."""
        config, keep = self.config, request.rows("keep")
        base, made = self._base(subject)
        ctx.note(base=base.digest[:16], **{f"base_{name}": made[name] for name in ("epsilon", "delta") if name in made})
        start, says = self._start(subject, ctx)
        after = _trained(base, keep, config.fit, ctx)
        measured: dict[str, Sequence[Row]] = {"keep": keep, **{name: data.read() for name, data in ctx.utility.items()}}
        ctx.note(**_numbers(after, measured, ""), baseline=says)
        if start is not None:
            own = ctx.alone(folder=None, curve=[], notes={}, spent=ctx.spent, began=ctx.began)
            other = _trained(start, keep, config.fit, own)
            ctx.note(**_numbers(other, measured, "baseline_"), baseline_steps=own.notes["steps"], baseline_seconds=own.notes["training_seconds"])
        return after

    def _base(self, subject: Any) -> tuple[Any, dict[str, Any]]:
        """The private base and the notes of its training."""
        if self.config.base:
            return _load(self.config.base, subject), _private_notes(Path(self.config.base))
        made = subject.lineage[-1] if subject.lineage else None
        if made is None or made.system != PRIVATE:
            found = f"the last thing done to this model is {made.system}" if made else "nothing is known of how this model was made"
            raise Missing(f"dp2unlearn begins with a private base, and {found}; give the run of efface train --recipe dp as the model, or name it with --set base=RUN")
        return subject, dict(made.notes)

    def _start(self, subject: Any, ctx: Context) -> tuple[Any, str]:
        """The model that the comparison begins with (None: there is none), and what it is."""
        if self.config.pretrained:
            return _load(self.config.pretrained, subject), self.config.pretrained
        if has(subject, "fresh"):
            return subject.fresh(ctx.seed_for("baseline")), "new random weights"
        return None, "not measured: name a model that never saw the rows with --set pretrained=MODEL"


def _trained(start: Any, keep: Sequence[Row], fit: Fit, ctx: Context) -> Any:
    after = start.trainable(fit.rank, ctx.seed_for("adapter"))
    return descend(after, {"keep": keep}, lambda batch: {"keep": after.losses(batch["keep"]).mean()}, fit, ctx)


def _numbers(subject: Any, sets: dict[str, Sequence[Row]], prefix: str) -> dict[str, float]:
    """{prefix + set_loss, and of a classifier set_accuracy: value} over at most MOST rows of each set."""
    found = {}
    for name, whole in sets.items():
        rows, label = whole[:: -(-len(whole) // MOST)], prefix + name.replace(" ", "_")
        found[f"{label}_loss"] = mean_loss(subject, rows)
        if subject.family == "classifier":
            found[f"{label}_accuracy"] = float((subject.predict(rows).argmax(-1) == [row["y"] for row in rows]).mean())
    return found


def _load(name: str, subject: Any) -> Any:
    """The model of a run or folder, of the subject's family and on its device. Raises Unfit for another family."""
    folder = Path(name) / "model" if (Path(name) / "model").is_dir() else Path(name)
    load: Any = checkpoint.load if subject.family == "causal-lm" else module_files.load
    found = load(str(folder), str(subject.device))
    if found.family != subject.family:
        raise Unfit(f"{name} is a {found.family}, and the model to forget is a {subject.family}")
    return found


def _private_notes(place: Path) -> dict[str, Any]:
    """What a run of private training says of itself. Raises Missing when the folder is none, or the model of none."""
    record = next((path for path in (place / "run.json", place.parent / "run.json") if path.exists()), None)
    if record is None:
        raise Missing(f"{place} lies in no run of efface, so nothing says that it was trained privately; give the run of efface train --recipe dp")
    found: Any = files.read_json(record)
    try:
        system, notes = str(found["step"]["system"]), dict(found["step"]["notes"])
    except (KeyError, TypeError, ValueError):
        raise Missing(f"{record} is no record of a run: {json.dumps(found)[:80]}") from None
    if system != PRIVATE:
        raise Missing(f"{place} was made by {system}; dp2unlearn begins with the model of a run of efface train --recipe dp, and of nothing after it")
    return notes
