"""The claim `bounded` of a convex head: everything that the theorem of certified removal rests on, looked at again.

The random term of training follows from a seed, and the seed stands in the run that trained the head. With it, and with the kept
rows, the gradient that the removals really left behind is computed and held against the bound that was counted.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from efface import api
from efface.certify.certificate import Found, Ledger
from efface.certify.records import parent, read_run, rows_again
from efface.core.context import Context
from efface.core.errors import Unsound
from efface.core.types import Row
from efface.families.convex_head import ConvexHead, Terms, fingerprint, head_of, random_term, row_words, rows_of
from efface.ops import convex
from efface.runs import RunRecord

SECRET = 2**48
"""Smallest seed that cannot be found by trying them all."""
ROUNDING = 1e-9


def look(folder: Path, record: RunRecord) -> Found:
    """What a run of certified removal allows to claim. Raises Unsound, naming the assumption that fails."""
    ledger = Ledger(folder)
    subject: Any = api.load(str(folder / "model"), "cpu")
    head = head_of(subject)
    if head is None:
        raise Unsound(f"no certificate for {folder}: the assumption 'convex head' fails. Its model has no convex head")
    origin = _origin(folder, record)
    forget, keep = rows_again(folder, record)
    _check_terms(head, origin, ledger)
    _check_rows(subject, head, forget, keep, ledger)
    spent, real = _check_bound(subject, head, keep, origin, ledger)
    terms, count = head.terms, len(forget)
    first = int(float(origin.step.notes.get("rows", count + len(keep))))
    return Found(
        claim="bounded", system=record.step.system, after=subject.digest, request=record.request.digest, assumptions=tuple(ledger.held),
        bound={"epsilon": terms.epsilon, "delta": terms.delta, "budget": terms.budget, "spent": spent, "gradient left": real},
        statement=f"Whatever is done with this head, its chance differs from that with a head retrained without the {count} removed rows by a factor of at "
        f"most e^{terms.epsilon:g}, up to an added {terms.delta:g}, for whoever does not know the random term of training.",
        evidence={"removed in this run": count, "removed in all": first - len(keep), "kept": len(keep)},
        covers=("model",),  # run.json holds the seed, and who gets the model must not get that
    )


def _origin(folder: Path, record: RunRecord) -> RunRecord:
    """The record of the run that trained the head. Raises Unsound when it is not there."""
    place, seen = folder, 0
    while record.step.system != "convex_head" and not str(record.step.notes.get("random_term", "")).endswith("this run"):
        found, seen = parent(record), seen + 1
        if found is None or seen > 1000:
            raise Unsound(
                f"no certificate for {folder}: the assumption 'the run that trained the head' fails. {place} began with {record.source.model or 'no folder'}, "
                "and there is no run.json; keep that run where it was"
            )
        place, record = found, read_run(found)
    return record


def _check_terms(head: ConvexHead, origin: RunRecord, ledger: Ledger) -> None:
    """The terms are those of training, the constant fits them, and the random term cannot be guessed."""
    terms = head.terms
    given = Terms(**origin.step.settings.get("terms", {}))  # type: ignore[arg-type]
    changed = [name for name, value in given.model_dump().items() if getattr(terms, name) != value]
    ledger.check("terms", "the head's terms are those that it was trained on", not changed, f"other {', '.join(changed)}" if changed else "the same")
    real = convex.gaussian_delta(terms.budget / terms.sigma, terms.epsilon)
    text = "at the budget, the Gaussian random term gives the delta that is claimed"
    cure = "train with a smaller epsilon, for which the theorem's constant holds"
    ledger.check("gaussian constant", text, real <= terms.delta, f"delta {real:.3g} at the budget, claimed {terms.delta:g}", cure)
    cure = 'train with --seed and a large random number, as python -c "import secrets; print(secrets.randbits(62))" gives'
    ledger.check("secret seed", f"the seed of the random term cannot be guessed: it is at least {SECRET}", origin.step.seed >= SECRET, "a large seed" if origin.step.seed >= SECRET else f"the seed {origin.step.seed}", cure)
    ledger.declare("kept secret", "who gets the model gets neither the seed nor run.json", "declared by whoever hands the model out")
    if terms.features == "body":
        text = "the network below the head was never trained on the removed rows"
        if not terms.independent:
            ledger.check("independent features", text, False, "nobody said so", "train with terms.independent=true where it is true, or with terms.features=input")
        ledger.declare("independent features", text, "declared when the head was trained (terms.independent)")
    else:
        ledger.check("independent features", "what the head reads does not depend on other rows", True, "it reads the rows themselves")


def _check_rows(subject: Any, head: ConvexHead, forget: list[Row], keep: list[Row], ledger: Ledger) -> None:
    """The kept rows are the ones that the head holds, and no removed row is among them."""
    same = fingerprint(keep).tolist() == head.rows.cpu().tolist()
    found = f"{len(keep)} kept rows" if same else f"{len(keep)} kept rows, of which the head's fingerprint ({int(head.rows[0])} rows) is not"
    ledger.check("kept rows", "the kept rows are those that the head still holds", same, found)
    kept = {words.tobytes() for words in row_words(keep)}
    twice = [number for number, words in enumerate(row_words(forget), start=1) if words.tobytes() in kept]
    copies = f"forget row {twice[0]} has a copy among the kept rows ({len(twice)} such rows)" if twice else f"none of {len(forget)}"
    ledger.check("no copies", "no removed row has a copy among the kept rows", not twice, copies, "remove the copies too")
    norms = rows_of(subject, [*forget, *keep]).x.norm(dim=1)
    largest = float(norms.max())
    ledger.check("norms", "every row has a norm of at most 1 where the head reads it", largest <= 1 + convex.SLACK, f"largest norm {largest:.9f}")


def _check_bound(subject: Any, head: ConvexHead, keep: list[Row], origin: RunRecord, ledger: Ledger) -> tuple[float, float]:
    """What was spent is within the budget, and no less than what was really left; both, over all classes together."""
    terms, spent = head.terms, head.spent_together
    ledger.check("strong convexity", "the regularization is above 0", terms.lam > 0, f"lam {terms.lam:g}")
    ledger.check("budget", f"the bounds of training and of all removals are together at most {terms.budget:.6g}", spent <= terms.budget, f"{spent:.6g} spent", "train the head anew without the removed rows")
    b = random_term(head, Context(seed=origin.step.seed).seed_for("random term"))
    left = convex.gradient(head.solution, rows_of(subject, keep), terms.lam, b).norm(dim=1)
    over = left > head.spent * (1 + ROUNDING) + ROUNDING
    worst = int((left - head.spent).argmax())
    found = f"{float(left.norm()):.3g} left, {spent:.3g} counted" if not bool(over.any()) else f"class {worst} has {float(left[worst]):.3g} left and {float(head.spent[worst]):.3g} counted"
    text = "the gradient that is left on the kept rows is within what was counted, in every class"
    ledger.check("gradient", text, not bool(over.any()), found, "these weights are not what the removals made")
    return spent, float(left.norm())
