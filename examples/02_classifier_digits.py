"""A classifier of handwritten digits forgets one digit: three ways, each judged against a network retrained without it.

    python examples/02_classifier_digits.py

Everything runs in memory on scikit-learn's digits; the network has two hidden layers.
"""

import efface
from efface.testing.tiny import digits, retrained_classifier, trained_classifier

METHODS = {
    "gradient_ascent": {"fit.lr": 1e-3, "fit.steps": 40},
    "grad_diff": {"fit.lr": 1e-3, "fit.steps": 40},
    "finetune": {"fit.lr": 1e-3, "fit.steps": 200, "fit.batch": 64},
}


def main() -> None:
    """Forget with each method and print one line for each."""
    rows = digits("class")
    request = efface.request(forget=rows.forget, keep=rows.keep, unseen=rows.unseen)
    original, reference = trained_classifier(), retrained_classifier()
    print(f"{'':16} forgotten digit  other digits  verdict")
    for name, model in (("original", original), ("reference", reference)):
        print(f"{name:16} {right(model, rows.forget):15.0%} {right(model, rows.keep):13.0%}")
    for method, settings in METHODS.items():
        candidate = efface.forget(original, request, method, settings)
        verdict = efface.prove(candidate, request, original, reference, suite=["metric/accuracy"]).verdict
        print(f"{method:16} {right(candidate, rows.forget):15.0%} {right(candidate, rows.keep):13.0%}  {verdict.word}")


def right(model, rows) -> float:
    """Share of rows whose digit the model names."""
    said = model.predict(rows).argmax(1)
    return sum(int(a) == row["y"] for a, row in zip(said, rows, strict=True)) / len(rows)


if __name__ == "__main__":
    main()
