"""The quick audit against its parts one by one, and against a second run over the same checkpoint; prints both ratios.

    python perf/audit.py RUN                 the model of a run on the benchmark authors, 20 rows of each kind
    python perf/audit.py --tiny              small trained models, in a minute or two: says whether it runs, not how fast

One by one: for every system of the preset its own `efface prove`, which reads what it needs, and gathers the verdict's evidence, as
whoever runs the parts by hand gets it; models are loaded once on both sides. Values must agree. Use OMP_NUM_THREADS=1 on a busy machine.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any


def main() -> None:
    """Measure the audit, the audit again, and the parts, and print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", nargs="?", default="", help="folder of a run on the benchmark authors")
    parser.add_argument("--tiny", action="store_true", help="small models, trained here")
    parser.add_argument("--skip-parts", action="store_true", help="only the audit and the audit again")
    options = parser.parse_args()
    if bool(options.run) == options.tiny:
        parser.error("give the folder of a run, or --tiny")
    with tempfile.TemporaryDirectory() as folder:
        _measure(options, Path(folder))


def _measure(options: argparse.Namespace, folder: Path) -> None:
    from efface import audit

    asked = _tiny(folder) if options.tiny else audit.AuditOptions(model=options.run, benchmark="authors", out=folder / "audit")
    began = time.monotonic()
    plan = audit.plan(asked)
    first = audit.run(plan)
    whole = time.monotonic() - began
    print(plan.line)
    print(f"audit              {whole:8.1f} s, estimated {plan.seconds:.0f} s")
    began = time.monotonic()
    again = audit.run(audit.plan(asked))
    second = time.monotonic() - began
    print(f"the same again     {second:8.1f} s, models loaded and compared anew")
    print(f"ratio {whole / second:.1f} for a second run; values equal: {_values(first) == _values(again)}")
    if options.skip_parts:
        return
    parts, alone = 0.0, {}
    for name in plan.names:
        began = time.monotonic()
        found = _alone(plan, name)
        took = time.monotonic() - began
        parts += took
        alone |= {m.system: m.value for m in found.measurements if m.subject == "candidate" and m.status == "ok"}
        print(f"  {name:32} {took:8.1f} s", flush=True)
    print(f"one by one         {parts:8.1f} s")
    apart = max(abs(float(value) - float(alone[m.system])) for m in first.measurements if m.subject == "candidate" and (value := m.value) is not None and m.system in alone)
    print(f"ratio {parts / whole:.2f} for the parts one by one; largest difference between values {apart:.1e}")


def _alone(plan: Any, name: str) -> Any:
    """The report of one system, in a context that knows nothing of the others."""
    from efface import evaluate
    from efface.core.context import Context

    ctx = Context(seed=plan.ctx.seed, baselines=plan.ctx.baselines, utility=plan.ctx.utility, sets=plan.ctx.sets)
    return evaluate.prove(plan.candidate, plan.case.request, ctx, [name], settings=plan.settings)


def _values(report: Any) -> list[Any]:
    return [(m.system, m.subject, m.value) for m in report.measurements]


def _tiny(folder: Path) -> Any:
    import json

    from efface import audit
    from efface.testing import tiny, truth

    facts = tiny.facts()
    for name, subject in (("model", truth.candidate("refusal", 0)), ("original", tiny.trained_lm()), ("reference", tiny.retrained_lm())):
        (folder / name).mkdir()
        subject.save(folder / name)
    for name, rows in (("forget", facts.forget), ("keep", facts.keep), ("unseen", facts.unseen)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    given = {name: folder / f"{name}.jsonl" for name in ("forget", "keep", "unseen")}
    return audit.AuditOptions(model=str(folder / "model"), against=str(folder / "original"), reference=str(folder / "reference"), out=folder / "audit", **given)


if __name__ == "__main__":
    main()
