"""Options that several verbs share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]
Model = Annotated[str, typer.Option("--model", metavar="MODEL", help="Transformers folder, peft adapter folder, hub name, or smollm2.")]
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
