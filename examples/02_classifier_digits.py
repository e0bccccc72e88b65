"""A classifier of handwritten digits forgets one digit, by several methods and numbers of steps, each judged against a network retrained without it.

    python examples/02_classifier_digits.py

Everything runs in memory on scikit-learn's digits; the network has two hidden layers.
"""

import efface
from efface.testing.tiny import digits, retrained_classifier, trained_classifier

RUNS = (("gradient_ascent", 10), ("gradient_ascent", 20), ("gradient_ascent", 40), ("grad_diff", 20), ("finetune", 200))
"""Methods and steps. No stop rule: an unseen image of the digit is recognized as well as a seen one, so it marks no end."""


def main() -> None:
    """Forget in each way and print one line for each."""
    rows = digits("class")
    request = efface.request(forget=rows.forget, keep=rows.keep, unseen=rows.unseen)
    original, reference = trained_classifier(), retrained_classifier()
    print(f"{'':20} forgotten digit  other digits  verdict")
    for name, model in (("original", original), ("reference", reference)):
        print(f"{name:20} {right(model, rows.forget):15.0%} {right(model, rows.keep):13.0%}")
    for method, steps in RUNS:
        candidate = efface.forget(original, request, method, {"fit.lr": 1e-3, "fit.steps": steps, "stop.at": "steps"})
        verdict = efface.prove(candidate, request, original, reference, suite=["metric/accuracy"]).verdict
        print(f"{method:15} {steps:4} {right(candidate, rows.forget):15.0%} {right(candidate, rows.keep):13.0%}  {verdict.word}")


def right(model, rows) -> float:
    """Share of rows whose digit the model names."""
    said = model.predict(rows).argmax(1)
    return sum(int(a) == row["y"] for a, row in zip(said, rows, strict=True)) / len(rows)


if __name__ == "__main__":
    main()
