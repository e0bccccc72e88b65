"""The benchmark restor on the embedded model: which properties it is asked about, how it is corrupted, and what unlearning brings back.

    python perf/restor.py properties FOLDER   how often the embedded model answers each property of RESTOR's facts.json, beside the majority answer (docs/results/restor_properties.json)
    python perf/restor.py train               remakes the shipped adapter from the shipped rows, rounded to half precision, with its log
    python perf/restor.py run                 corrupt (the shipped adapter), unlearn, ask, repair: writes docs/results/restor.md and restor.json
    python perf/restor.py run --rows 8        the same on 8 questions, printed and not written: says whether it runs

`properties` shows five answered questions before each, as the benchmark does, and asks at most 24 questions a property, evenly
spaced, about people who have died. `run` takes about a quarter of an hour on one core that nothing else uses.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from efface import api
from efface.benchmarks import restor
from efface.core.context import Context
from efface.core.rows import evenly
from efface.core.types import Case, Measurement
from efface.data.restor_generator import DIED, RULE
from efface.families import checkpoint, recall
from efface.metrics.option_gap import OptionGap
from efface.metrics.recovery import Recovery
from efface.ops import facts as fact_rows
from efface.ops import recovery, shots
from efface.runs import pass_folders

ROOT = Path(__file__).resolve().parent.parent
RESULT = ROOT / "docs" / "results" / "restor"
PROPERTIES = ROOT / "docs" / "results" / "restor_properties.json"
LEAST, MOST = 20, 24
FIT: dict[str, object] = {"fit.rank": 4, "fit.lr": 3e-4, "fit.batch": 8, "fit.steps": 24}
METHODS = ("gradient_ascent", "npo", "grad_diff")


def main() -> None:
    """Do what the command line names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True)
    verbs.add_parser("properties").add_argument("folder", type=Path)
    verbs.add_parser("train")
    run_parser = verbs.add_parser("run")
    run_parser.add_argument("--rows", type=int, default=0)
    given = parser.parse_args()
    if given.verb == "properties":
        properties(given.folder)
    elif given.verb == "train":
        train()
    else:
        run(given.rows)


def properties(folder: Path) -> None:
    """Print accuracy and majority baseline of each property with enough questions, best first."""
    held = json.loads((folder / "facts.json").read_text(encoding="utf-8"))
    dead = {name: found for name, found in held["dset"].items() if any(key in found for key in DIED)}
    rows = [
        {"entity": name, "property": key, "question": row["question"], "answer": row["answers"][0], "answers": row["answers"]}
        for name, found in dead.items() for key, row in found.items() if not fact_rows.says(row["question"], row["answers"])
    ]
    pool = fact_rows.of_rows([{"entity": row["entity"], "property": key, "question": row["question"], "answer": row["answer"]} for key, found in held["context"].items() for row in found])
    every = {key: [row for row in rows if row["property"] == key] for key in held["context"]}
    asked = fact_rows.of_rows([row for found in every.values() if len(found) >= LEAST for row in evenly(found, MOST)])
    prompts = [{"text": shots.prompt(fact, shots.shown(fact, pool, recall.SHOTS))} for fact in asked]
    said = recall.answers(checkpoint.load(checkpoint.EMBEDDED), prompts, Context(), 12)
    right, guessed = recall.share(said, [fact.accepted for fact in asked], asked), recovery.majority(asked)
    write_properties(asked, right, guessed)


def write_properties(asked: Sequence[fact_rows.Fact], right: np.ndarray, guessed: np.ndarray) -> None:
    """Print and write the share of right answers of each property and of its majority answer, best first."""
    lines = []
    for key in dict.fromkeys(fact.relation for fact in asked):
        here = np.array([fact.relation == key for fact in asked])
        lines.append({"property": key, "right": float(right[here].mean()), "majority": float(guessed[here].mean()), "asked": int(here.sum())})
    lines.sort(key=lambda line: (-float(str(line["right"])), str(line["property"])))
    for line in lines:
        print(f"{line['property']:6} {line['right']:.3f} right, majority {line['majority']:.3f}, of {line['asked']}")
    PROPERTIES.write_text(json.dumps(lines, indent=1) + "\n", encoding="utf-8")


def train() -> None:
    """Write the corrupted adapter, in half precision, and its training log."""
    from safetensors.torch import load_file, save_file

    recipe, asked, settings, seed = restor.training("corrupted")
    ctx = Context(seed=seed)
    began = time.monotonic()
    after: Any = api.train(checkpoint.load(checkpoint.EMBEDDED), asked, recipe, settings, ctx)
    folder = restor.FOLDER / "models" / "corrupted"
    folder.mkdir(parents=True, exist_ok=True)
    with checkpoint.quiet():
        after.save(folder)
    for path in folder.iterdir():  # the tokenizer is the base's
        if not path.name.startswith("adapter_"):
            path.unlink()
    weights = folder / "adapter_model.safetensors"
    save_file({name: tensor.to(torch.float16) for name, tensor in load_file(weights).items()}, weights, {"format": "pt"})
    log = {"curve": ctx.curve, "settings": settings, "seed": seed, "rows": len(asked.rows("forget")), "seconds": time.monotonic() - began}
    (folder / "training.json").write_text(json.dumps(log) + "\n", encoding="utf-8")
    print(f"loss {ctx.curve[0]['loss']:.3f} -> {ctx.curve[-1]['loss']:.3f} in {len(ctx.curve)} steps, {log['seconds']:.0f} s")


def run(rows: int) -> None:
    """Unlearn with each method, measure, and write the page."""
    began = time.monotonic()
    case = restor.Restor().case(Context())
    ctx = Context(baselines=case.baselines, sets=case.sets, passes=pass_folders())  # a run that was stopped finds again what it had measured
    settings: dict[str, object] = {"rows": rows} if rows else {}
    found: dict[str, dict[str, Any]] = {}
    for name in ("original", "clean", *METHODS):
        subject, seconds, why = (case.baselines[name], 0.0, "") if name in case.baselines else _unlearned(name, case, 2 if rows else 0)
        bare = {"fit.steps": 0} if name == "clean" else {}  # there is nothing to repair
        both = [_measured(Recovery.set({**settings, **bare}), subject, case, ctx), _measured(OptionGap.set(settings), subject, case, ctx)]
        found[name] = {"recovery": both[0], "gap": both[1], "seconds": seconds, "why": why}
        print(f"{name}: index {_cell(both[0])}, gap {_cell(both[1])}, after {time.monotonic() - began:.0f} s", flush=True)
        if rows and name in METHODS:
            break
        if not rows:
            write(found, time.monotonic() - began)


def write(found: dict[str, dict[str, Any]], seconds: float) -> None:
    """Write what is there so far."""
    numbers = {
        name: {"seconds": one["seconds"], "why": one["why"], **{key: one[key].model_dump(exclude={"table"}) for key in ("recovery", "gap")}} for name, one in found.items()
    }
    RESULT.with_suffix(".json").write_text(json.dumps(numbers, indent=1) + "\n", encoding="utf-8")
    RESULT.with_suffix(".md").write_text(page(found, seconds), encoding="utf-8")


def _unlearned(method: str, case: Case, steps: int) -> tuple[Any, float, str]:
    ctx = Context(baselines={"original": case.original})
    began = time.monotonic()
    after: Any = api.forget(case.original, case.request, method, {**FIT, **({"fit.steps": steps} if steps else {})}, ctx)
    return after.merged(), time.monotonic() - began, f"{ctx.notes['steps']:.0f} steps, {ctx.notes['stopped']}"


def _measured(system: Any, subject: Any, case: Case, ctx: Context) -> Measurement:
    found: Measurement = system.run(subject, case.request, ctx)
    return found


def _cell(found: Measurement, name: str = "") -> str:
    value, low, high = (found.value, found.low, found.high) if not name else (found.parts.get(name), found.parts.get(f"{name} low"), found.parts.get(f"{name} high"))
    if value is None:
        return ""
    return f"{value:.3f}" if low is None or high is None else f"{value:.3f} [{low:.3f}, {high:.3f}]"


def page(found: dict[str, dict[str, Any]], seconds: float) -> str:
    """The page of results."""
    first: Measurement = found["original"]["recovery"]
    lines = [
        "# restor on the embedded model", "",
        "Made by `python perf/restor.py run`, seed 0. The embedded model was corrupted by training on false texts about "
        f"{first.parts['entities']:.0f} people who have died (rank 4 adapter, shipped with its log), and is asked {first.n} questions that the texts answer wrongly, after five answered "
        f"ones about others. All of it took {seconds / 60:.0f} minutes, {time.process_time() / 60:.0f} of them computing, on one core that other work shared.", "",
        "Index: 0 as the corrupted model, 1 as the clean one, with a 95 % bootstrap interval over people. Repaired: the same after 24 steps of training on true statements about others; "
        "the corrupted model goes through the same repair, and *beyond it* is how far a repaired candidate is above that. Gap: mean log-probability per token of true beyond learned false "
        "answers; the clean model's is the goal.", "",
        "| model | index | right | says the false answer | index, repaired | beyond repaired original | gap | seconds |", "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name, one in found.items():
        mine: Measurement = one["recovery"]
        lines.append(
            f"| {name} | {_cell(mine)} | {mine.parts['accuracy']:.3f} | {mine.parts['corrupted answers']:.3f} | {_cell(mine, 'repaired')} | {_cell(mine, 'repaired beyond original')} "
            f"| {_cell(one['gap'])} | {one['seconds']:.0f} |"
        )
    lines += ["", "Majority answer of each property, given to every question: " + f"{first.parts['majority']:.3f} right.", "", "| property | clean | corrupted | majority |", "| --- | --- | --- | --- |"]
    for key in (name.removesuffix(": clean") for name in first.parts if name.endswith(": clean")):
        lines.append(f"| {key} | " + " | ".join(f"{first.parts[f'{key}: {what}']:.3f}" for what in ("clean", "original", "majority")) + " |")
    if PROPERTIES.exists():
        lines += [
            "", f"Which properties are asked was decided before any model was trained, by `python perf/restor.py properties FOLDER`: {RULE}.", "",
            "| property | embedded model | majority | questions |", "| --- | --- | --- | --- |",
        ]
        lines += [f"| {line['property']} | {line['right']:.3f} | {line['majority']:.3f} | {line['asked']} |" for line in json.loads(PROPERTIES.read_text(encoding="utf-8"))]
    lines += ["", "Settings of the methods: " + ", ".join(f"{name}={value}" for name, value in FIT.items()) + ". How each run ended:", ""]
    lines += [f"- `{name}`: {one['why']}" for name, one in found.items() if one["why"]]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
