"""Options that several verbs share."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from efface.cli.settings import parse
from efface.core.errors import BadConfig

Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]
Model = Annotated[str, typer.Option("--model", metavar="MODEL", help="Transformers folder, peft adapter folder, hub name, smollm2, a folder saved by efface, or weights (.safetensors) with --arch.")]
Arch = Annotated[str, typer.Option("--arch", metavar="MODULE:CLASS", help="Torch class that the weights of --model belong to.")]
ArchArgs = Annotated[str, typer.Option("--arch-args", metavar="JSON", help='What builds that class, such as {"outputs": 10}.')]
Task = Annotated[str, typer.Option("--task", metavar="NAME", help="What the class is: classifier or regressor.")]
Table = Annotated[Path | None, typer.Option("--data", metavar="FILE", help="All training rows of a classifier or regressor (.safetensors with x and y, .csv or .jsonl).")]
Test = Annotated[Path | None, typer.Option("--test", metavar="FILE", help="Rows of the same kind that no model was trained on.")]
ForgetClass = Annotated[int | None, typer.Option("--forget-class", metavar="NUMBER", help="Forget all rows of this class.")]
ForgetRows = Annotated[Path | None, typer.Option("--forget-rows", metavar="FILE", help="Forget the rows with these numbers (from 1, one a line).")]
ForgetWhere = Annotated[str, typer.Option("--forget-where", metavar="COLUMN=VALUE", help="Forget the rows with this value in a column, such as identity=P003.")]
CaseSet = Annotated[list[str] | None, typer.Option("--case", metavar="NAME=VALUE", help="A setting of the benchmark, such as scenario=noisy; repeatable.")]
Concept = Annotated[list[str] | None, typer.Option("--concept", metavar="TEXT", help='What a model that draws must forget, in words: "a cat"; repeatable.')]
Near = Annotated[list[str] | None, typer.Option("--near", metavar="TEXT", help='A concept beside it that must survive: "a dog"; repeatable.')]
Instead = Annotated[str, typer.Option("--instead", metavar="TEXT", help="What to draw in its place.")]
Judge = Annotated[list[str] | None, typer.Option("--judge", metavar="COLUMN=FOLDER", help="A picture classifier that says what pictures show; rows name the right class in that column. Repeatable.")]
Forget = Annotated[Path | None, typer.Option("--forget", metavar="FILE", help="Rows that must go (.jsonl, .json or .csv).")]
Keep = Annotated[Path | None, typer.Option("--keep", metavar="FILE", help="Rows that must stay.")]
Unseen = Annotated[Path | None, typer.Option("--unseen", metavar="FILE", help="Rows like the forget rows that no model was trained on.")]
Benchmark = Annotated[str, typer.Option("--benchmark", metavar="NAME", help="Take model, rows and reference from a benchmark.")]
Split = Annotated[str, typer.Option("--split", metavar="NAME", help="Split of the benchmark, such as 10; its own default if not given.")]
Reason = Annotated[str, typer.Option("--reason", metavar="TEXT", help="Why; printed in the report.")]
Set = Annotated[list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="A setting; repeatable. `efface show NAME` lists them.")]
Out = Annotated[Path, typer.Option("--out", metavar="FOLDER", help="Folder to make.")]
Seed = Annotated[int, typer.Option("--seed", help="Seed of all randomness.")]
Device = Annotated[str, typer.Option("--device", help="auto, cpu, cuda, cuda:1 or mps.")]
Dtype = Annotated[str, typer.Option("--dtype", help="auto, float32, bfloat16 or float16.")]
Reference = Annotated[str, typer.Option("--reference", metavar="MODEL", help="The model retrained without the forget rows.")]
Run = Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a run.", show_default=False)]
FailIf = Annotated[list[str] | None, typer.Option("--fail-if", metavar="GATE", help='Exit with 3 if, say, "attack.worst>0.1"; repeatable.')]


def source(
    where: str, forget_class: int | None, forget_rows: Path | None, arch_args: str, case: list[str] | None
) -> dict[str, object]:
    """What several options say together, as fields of a Source. Raises BadConfig when they contradict each other."""
    given = [text for text in (where, "" if forget_class is None else f"y={forget_class}", f"rows={forget_rows}" if forget_rows else "") if text]
    if len(given) > 1:
        raise BadConfig(f"what to forget is said more than once ({', '.join(given)}); give one of --forget-class, --forget-rows, --forget-where")
    try:
        arguments = json.loads(arch_args or "{}")
    except json.JSONDecodeError as error:
        raise BadConfig(f"--arch-args {arch_args[:60]}: not JSON ({error})") from None
    if not isinstance(arguments, dict):
        raise BadConfig(f'--arch-args {arch_args[:60]}: give an object such as {{"outputs": 10}}')
    return {"forget_where": "".join(given), "arch_args": arguments, "benchmark_settings": parse(case)}


def concept(
    names: list[str] | None, near: list[str] | None, instead: str, judges: list[str] | None
) -> dict[str, object]:
    """What is said of a concept, as fields of a Source. Raises BadConfig for what is said without one, and for a judge without a folder."""
    if not names and (near or instead):
        raise BadConfig("--near and --instead say what is beside a concept, and none was given; use --concept TEXT")
    found: dict[str, str] = {}
    for given in judges or ():
        column, equals, folder = given.partition("=")
        if not equals or not column or not folder:
            raise BadConfig(f"--judge {given}: give the column and the classifier's folder, such as object=judges/object")
        found[column] = folder
    return {"concept": tuple(names or ()), "near": tuple(near or ()), "instead": instead or None, "judges": found}


def task(name: str) -> str:
    """The name, when it is classifier or regressor; BadConfig otherwise."""
    if name not in ("classifier", "regressor"):
        raise BadConfig(f"--task {name}: it must be classifier or regressor")
    return name
