"""A tiny language model forgets what it knows of four invented people, and the result is judged against a retrained one.

    python examples/01_forget_facts.py

The model has two layers and is trained here, in memory, on 64 facts such as "The home of Mirel is jolly heath."
With a model of your own the calls are the same: efface.load("folder"), and row files in place of the lists.
"""

import efface
from efface.testing.tiny import facts, retrained_lm, trained_lm


def main() -> None:
    """Train, forget, prove, and print what the three models say."""
    rows = facts()
    request = efface.request(forget=rows.forget, keep=rows.keep, unseen=rows.unseen, reason="example")
    original, reference = trained_lm(), retrained_lm()

    candidate = efface.forget(original, request, "npo", {"fit.lr": 3e-4, "keep_weight": 5, "stop.every": 1})
    step = candidate.lineage[-1]
    print(f"npo: {step.notes['steps']} steps in {step.seconds:.1f} s ({step.notes['stopped']})\n")

    models = {"before": original, "after": candidate, "reference": reference}
    for part, row in (("forget", rows.forget[0]), ("keep", rows.keep[0])):
        print(f"{part}: {row['question']}")
        for name, model in models.items():
            print(f"  {name:10} {model.generate([row], max_new=16)[0]}")

    report = efface.prove(candidate, request, original, reference, suite=["metric/probability", "metric/truth_ratio", "attack/min_k"])
    print(f"\n{report.verdict.line}")
    for reason in report.verdict.reasons:
        print(f"  {reason}")


if __name__ == "__main__":
    main()
