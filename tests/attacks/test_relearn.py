import json
import random

import numpy as np
import pytest

from efface import api
from efface.attacks.relearn import Curve, Relearn, first, gains, ratio, split
from efface.core.errors import BadConfig, EffaceError, Missing, UnknownName
from efface.core.rows import key
from efface.core.types import Data, Request
from efface.testing.tiny import context, facts, retrained_lm, tiny_lm, trained_lm

STRONG = {"lrs": [2e-3], "rank": 0, "steps": 12, "every": 2, "batch": 8}
"""An adversary strong enough for a model of two layers."""


def run(subject, settings=None, reference=None, **changes):
    baselines = {"original": trained_lm(), **({"reference": reference} if reference else {})}
    return Relearn.set({**STRONG, **(settings or {})}).run(subject, facts().request, context(baselines=baselines, **changes))


def points(found):
    return [value for name, value in found.parts.items() if name.startswith("step ")]


def test_formula():
    """Two rows at three steps; area = mean over steps, gain = area beyond the reference's over the same steps."""
    mine = Curve((0, 2), np.array([[0.2, 0.4], [0.6, 0.8]]), "spent")
    base = Curve((0, 2, 4), np.array([[0.1, 0.1], [0.1, 0.3], [0.9, 0.9]]), "")
    assert gains(mine, None).tolist() == pytest.approx([0.4, 0.6])
    assert gains(mine, base).tolist() == pytest.approx([0.3, 0.4])
    assert (first(mine, 0.3), first(mine, 0.5), first(mine, 0.75), first(mine, None)) == (0.0, 2.0, None, None)
    assert (ratio(4.0, 8.0), ratio(0.0, 8.0), ratio(None, 8.0), ratio(4.0, None), ratio(0.0, 0.0)) == (0.5, 0.0, None, None, None)


def test_what_is_asked_was_never_taught():
    rows = [{"author": str(at // 5), "question": str(at)} for at in range(20)]
    taught, asked = split(rows, 20, random.Random(0))
    assert {row["author"] for row in taught}.isdisjoint(row["author"] for row in asked)
    assert len(taught) == len(asked) == 10
    bare = [{"question": str(at)} for at in range(9)]
    taught, asked = split(bare, 3, random.Random(0))
    assert len(taught) == len(asked) == 3
    assert {row["question"] for row in taught}.isdisjoint(row["question"] for row in asked)
    one = [{"author": "1", "question": str(at)} for at in range(4)]
    assert [len(side) for side in split(one, 20, random.Random(0))] == [2, 2]
    with pytest.raises(Missing, match="two forget rows"):
        split(bare[:1], 3, random.Random(0))


def test_the_reference_gains_nothing_over_itself_nor_does_a_reference_of_another_seed():
    same = run(retrained_lm(), reference=retrained_lm())
    assert (same.parts["gain"], same.parts["gain_low"], same.parts["gain_high"]) == (0.0, 0.0, 0.0)
    other = run(retrained_lm(1), reference=retrained_lm())
    assert abs(other.parts["gain"]) < 0.1


def test_what_was_only_hidden_comes_back_and_what_was_never_there_does_not(hidden):
    """In half the steps the hidden facts are back at three quarters of what they were; the reference learns none of them."""
    found = run(hidden, reference=retrained_lm())
    assert found.parts["step 0"] < 0.3
    assert found.parts["step 6"] > 0.75 * 0.95
    assert found.parts["reference step 12"] < 0.3
    assert found.parts["gain_low"] > 0.2
    assert found.parts["s_star"] <= 6 and found.parts["reference_s_star"] is None


def test_same_seed_same_curve_and_the_subject_is_untouched():
    before = retrained_lm().digest
    once, again, other = run(retrained_lm(), {"steps": 4}), run(retrained_lm(), {"steps": 4}), run(retrained_lm(), {"steps": 4}, seed=1)
    assert points(once) == points(again) != points(other)
    assert retrained_lm().digest == before


def test_a_spent_budget_ends_the_curve_and_keeps_it():
    found = run(trained_lm(), reference=retrained_lm(), budget={"steps": 3})
    assert found.status == "ok" and "3 steps" in found.why
    assert len(points(found)) == 2 and found.value is not None
    assert found.parts["reference step 2"] is not None and "reference step 4" not in found.parts
    ctx = context(budget={"steps": 3})
    Relearn.set({**STRONG, "lrs": [1e-3, 2e-3]}).run(tiny_lm(), facts().request, ctx)
    assert ctx.spent["steps"] == 4  # the step that breaks the budget is the last, over all learning rates


def test_the_worst_learning_rate_counts(hidden):
    both = run(hidden, {"lrs": [1e-6, 2e-3], "steps": 6}, reference=retrained_lm())
    assert both.parts["lr"] == 2e-3
    assert both.parts["gain"] == run(hidden, {"steps": 6}, reference=retrained_lm()).parts["gain"]
    for bad in ([], [1.0, 2.0, 3.0, 4.0], [-1.0]):
        with pytest.raises(BadConfig, match="lrs"):
            Relearn.set({"lrs": bad})


def test_an_adapter_is_folded_in_first():
    """An adapted model and the same model with the adapter folded in go through the same curve."""
    adapted = trained_lm().trainable(2, 0)
    for name, weight in adapted.model.named_parameters():
        if "lora_B" in name:
            weight.data.fill_(0.05)
    small = {"rank": 2, "steps": 4}
    assert points(run(adapted, small)) == pytest.approx(points(run(adapted.merged(), small)), abs=1e-5)


def test_the_reference_curve_is_kept_beside_the_passes(tmp_path):
    settings = {"steps": 2}
    made = run(trained_lm(), settings, reference=retrained_lm(), passes=(tmp_path,))
    (stored,) = tmp_path.glob("relearn-*.json")
    stored.write_text(json.dumps({**json.loads(stored.read_text()), "steps": [0, 3]}))
    read = run(trained_lm(), settings, reference=retrained_lm(), passes=(tmp_path,))
    assert made.parts["gain"] == read.parts["gain"] and "reference step 3" in read.parts


def test_without_baselines_there_is_a_curve_and_no_gain():
    found = Relearn.set({**STRONG, "steps": 2}).run(tiny_lm(), facts().request, context())
    assert found.parts["gain"] is None and found.parts["s_star"] is None and "reference_area" not in found.parts
    with pytest.raises(Missing):
        Relearn().run(tiny_lm(), Request(forget=Data.inline(facts().forget[:1])), context())


class Silent:
    """A shield that lets nothing out."""

    def screen(self, prompts):
        return prompts

    def review(self, outputs):
        return ["I do not know." for _ in outputs]


def test_a_filter_before_the_original_is_taken_away_first():
    """The weights still hold everything, so half of the original is there at step 0."""
    guarded = trained_lm().guarded(Silent())
    assert guarded.generate(facts().forget[:1]) == ["I do not know."]
    found = run(guarded, {"steps": 4}, reference=retrained_lm())
    assert found.parts["s_star"] == 0.0 and found.parts["unattacked"] > 0.9
    assert found.parts["reference_s_star"] is None and found.parts["gain_low"] > 0.4


NPO = {"fit.lr": 3e-4, "fit.batch": 8, "fit.precision": "no", "stop.every": 2}


def unlearned(seed):
    """The model of this seed after NPO, up to the level of rows never seen."""
    return api.forget(trained_lm(seed), facts().request, "npo", NPO, context(seed))


def relearned(subject, seed, settings=None):
    baselines = {"original": trained_lm(seed), "reference": retrained_lm(seed)}
    return Relearn.set({**STRONG, "steps": 16, **(settings or {})}).run(subject, facts().request, context(seed, baselines=baselines))


def test_npo_comes_back_in_half_the_steps_and_retraining_does_not_in_all():
    """Of this seed four fifths of what the original knew of F_b are back after 8 of 16 steps; the reference is at a third then, and later."""
    found = relearned(unlearned(0), 0)
    assert found.parts["unattacked"] < 0.2
    assert max(found.parts[f"step {step}"] for step in (2, 4, 6, 8)) > 0.8 * 0.96
    assert max(found.parts[f"reference step {step}"] for step in range(0, 17, 2)) < 0.33
    assert found.parts["s_star"] <= 8 and found.parts["reference_s_star"] is None and found.parts["collapsed"] == 0.0


@pytest.mark.slow
def test_npo_comes_back_of_five_seeds():
    """Each reaches half of the original by step 8 of 16, most more than three fifths; no reference comes to three tenths in 16.

    Four fifths are reached by one seed in five alone: so small a model forgets some facts for good, and unlearns others while it is taught.
    """
    best = []
    for seed in range(5):
        found = relearned(unlearned(seed), seed)
        best.append(max(found.parts[f"step {step}"] for step in range(0, 17, 2)))
        assert found.parts["s_star"] <= 8 and found.parts["reference_s_star"] is None and found.parts["gain_low"] > 0.15
        assert max(found.parts[f"reference step {step}"] for step in range(0, 17, 2)) < 0.3
    assert min(best) > 0.48 and sum(p > 0.6 for p in best) >= 4 and max(best) > 0.76


@pytest.mark.slow
def test_of_retrained_models_the_gain_is_around_nothing():
    """Five references against that of seed 0: on average nothing is gained, and by none more than a tenth."""
    gains_of = [run(retrained_lm(seed), reference=retrained_lm()).parts for seed in range(1, 6)]
    assert abs(np.mean([parts["gain"] for parts in gains_of])) < 0.06
    assert max(abs(parts["gain"]) for parts in gains_of) < 0.1
    assert sum(parts["gain_low"] <= 0.0 <= parts["gain_high"] for parts in gains_of) >= 3


def test_the_worst_of_three_sets_counts_and_all_are_in_the_table(hidden):
    found = run(hidden, {"sets": ["unrelated", "related", "forget"], "steps": 6}, reference=retrained_lm())
    alone = run(hidden, {"steps": 6}, reference=retrained_lm())
    assert "forget rows" in found.why and found.parts["gain"] == alone.parts["gain"] == found.parts["gain of forget"]
    assert points(found) == points(alone) and found.value == alone.value
    assert found.parts["gain of forget"] > max(found.parts["gain of related"], found.parts["gain of unrelated"])
    assert {(row["taught"], row["step"]) for row in found.table} == {(name, step) for name in ("forget", "related", "unrelated") for step in (0, 2, 4, 6)}
    assert found.table[0]["taught"] == "forget"


def test_what_is_related_is_taught_from_the_keep_rows_and_never_what_is_asked():
    request, ctx = facts().request, context()
    taught, asked = split(request.rows("forget"), 20, ctx.random("relearn"))
    ctx.sets = {"leak": Data.inline([asked[0], facts().keep[0]]), "talk": Data.inline([{"text": "amber"}])}
    system = Relearn.set({"sets": ["forget", "related", "unrelated", "leak"]})
    sets, lacking = system._sets(taught, asked, request, ctx)
    known, secret = {key(row) for row in facts().keep}, {key(row) for row in asked}
    assert not lacking and sets["forget"] == taught
    assert {key(row) for row in sets["related"]} <= known and {key(row) for row in sets["unrelated"]} <= known
    assert {key(row) for row in sets["related"]}.isdisjoint(key(row) for row in sets["unrelated"])
    assert all({key(row) for row in rows}.isdisjoint(secret) for rows in sets.values())
    assert sets["leak"] == [facts().keep[0]]


def test_a_set_without_rows_is_said_and_an_unknown_one_refused():
    bare = Request(forget=Data.inline(facts().forget))
    found = Relearn.set({**STRONG, "steps": 2, "sets": ["forget", "related"]}).run(tiny_lm(), bare, context())
    assert "no related rows" in found.why and found.parts["collapsed"] is None
    with pytest.raises(Missing, match="no unrelated rows"):
        Relearn.set({"sets": ["unrelated"]}).run(tiny_lm(), bare, context())
    with pytest.raises(UnknownName, match="nothing"):
        Relearn.set({"sets": ["nothing"]}).run(tiny_lm(), bare, context())
    with pytest.raises(BadConfig, match="sets"):
        Relearn.set({"sets": []})


def test_a_collapsed_candidate_is_called_so_and_one_that_works_is_not():
    found = run(tiny_lm(), {"steps": 2}, reference=retrained_lm())
    assert found.status == "ok" and found.parts["collapsed"] == 1.0 and "no sign of removal" in found.why
    assert found.parts["keep_probability"] < 0.1 < 0.9 < found.parts["reference_keep_probability"]
    sound = run(retrained_lm(1), {"steps": 2}, reference=retrained_lm())
    assert sound.parts["collapsed"] == 0.0 and not sound.why
    spent = run(tiny_lm(), {"steps": 4}, reference=retrained_lm(), budget={"steps": 1})
    assert "budget" in spent.why and "collapsed" in spent.why


@pytest.mark.slow
def test_the_shipped_curve_of_the_reference_is_found(monkeypatch):
    """A change of the default settings, of the split or of the key would make every user wait for the reference."""
    from efface.benchmarks.authors import FOLDER, Authors

    case = Authors().case(context())
    ctx = context(baselines=case.baselines, passes=(FOLDER / "passes",))
    taught, asked = split(case.request.rows("forget"), 20, ctx.random("relearn"))

    def nobody(*args):
        raise EffaceError("the reference is measured anew")

    system = Relearn()
    monkeypatch.setattr(system, "_curve", nobody)
    assert system._stored(case.baselines["reference"], taught, asked, 1e-3, ctx).steps == (0, 4, 8)
