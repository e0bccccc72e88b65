"""What membership attacks share: direction, PrivLeak, what is None and what is left out."""

import copy
import random

import numpy as np
import pytest

from efface import evaluate
from efface.core import registry
from efface.core.card import Card
from efface.core.errors import Missing
from efface.core.types import Data, Request
from efface.families.causal_lm import CausalLM
from efface.families.membership import Scored, answer, below, changed, few, measure, privleak
from efface.ops import stats
from efface.report import build, html, markdown
from efface.testing.tiny import context, facts, retrained_lm, trained_lm

CARD = Card(name="some", title="", paper="", families=("causal-lm",))
TABLE = ("loss", "zlib", "lower_case", "reference", "min_k", "min_k_plus_plus", "neighborhood", "recall", "dc_pdd", "grad_norm")
"""The membership attacks on language models."""


def attack(name, settings=None):
    return registry.load("attack", name).set(settings or {})


def test_members_above_give_one_and_below_zero():
    high, low = [2.0, 3.0], [0.0, 1.0, -1.0]
    assert measure(CARD, Scored(high, low), None).value == 1.0
    assert measure(CARD, Scored(low, high), None).value == 0.0
    assert measure(CARD, Scored([1.0, 1.0], [1.0]), None).value == 0.5


def test_privleak_has_its_sign_from_muse():
    """MUSE's AUC calls unseen rows positive: A = 1 - ours. Reference against itself 0; all forget rows recognized -100;
    ours .3 against .6 is A = .7 against .4, 100 * .3 / .4 = 75 (over-forgotten)."""
    assert privleak(0.6, 0.6) == 0.0
    assert privleak(1.0, 0.6) == pytest.approx(-100.0)
    assert privleak(0.3, 0.6) == pytest.approx(75.0)
    assert privleak(0.3, None) is None
    assert privleak(0.3, 1.0) is None


def test_privleak_is_that_of_loss_like_scores_with_unseen_rows_positive():
    rng = np.random.default_rng(0)
    forget, unseen = rng.normal(1.0, 1, 50), rng.normal(2.0, 1, 60)  # losses of the candidate
    base_forget, base_unseen = rng.normal(1.9, 1, 50), rng.normal(2.0, 1, 60)
    muse, base = 1 - stats.auc(unseen, forget), 1 - stats.auc(base_unseen, base_forget)  # P(-loss of unseen > -loss of forget)
    found = measure(CARD, Scored(list(-forget), list(-unseen)), Scored(list(-base_forget), list(-base_unseen)))
    assert found.parts["privleak"] == pytest.approx(100 * (muse - base) / base, abs=1e-9)
    assert found.parts["reference_auc"] == pytest.approx(1 - base, abs=1e-12)


def test_without_a_reference_nothing_stands_in_for_it():
    parts = measure(CARD, Scored([1.0, 0.2], [0.5]), None).parts
    assert parts["reference_auc"] is None and parts["privleak"] is None


def test_rows_without_tokens_are_left_out_and_counted():
    found = measure(CARD, Scored([1.0, None, 3.0], [None, 0.0]), None)
    assert found.value == 1.0 and found.n == 3
    assert found.parts["rows_without_tokens"] == 2.0
    assert [row["value"] for row in found.table] == [1.0, None, 3.0, None, 0.0]
    with pytest.raises(Missing, match="unseen rows with tokens"):
        measure(CARD, Scored([1.0], [None]), None)


def test_true_positive_rate_needs_enough_unseen_rows():
    rng = np.random.default_rng(0)
    few = measure(CARD, Scored(list(rng.normal(3, 1, 50)), list(rng.normal(0, 1, 99))), None).parts
    enough = measure(CARD, Scored(list(rng.normal(3, 1, 50)), list(rng.normal(0, 1, 100))), None).parts
    assert few["tpr_at_1%_fpr"] is None
    assert enough["tpr_at_1%_fpr"] > 0.3 and enough["tpr_at_0.1%_fpr"] is None


def test_false_positive_rate_at_95_percent():
    """20 members 1..20: 95 % of them are at 2 or more; of the others 0, 1, 2, 3 the last two are."""
    found = measure(CARD, Scored([float(i) for i in range(1, 21)], [0.0, 1.0, 2.0, 3.0]), None)
    assert found.parts["fpr_at_95%_tpr"] == 0.5


def test_two_random_halves_of_one_set_give_a_half():
    """Over 200 splits of 200 rows the mean AUC is .5 to .01, and they scatter as they should: sqrt(201 / (12 * 100 * 100)) = .041."""
    rng = np.random.default_rng(0)
    scores = rng.normal(size=200)
    mixed = [rng.permutation(scores) for _ in range(200)]
    found = [stats.auc(split[:100], split[100:]) for split in mixed]
    assert np.mean(found) == pytest.approx(0.5, abs=0.01)
    assert np.std(found) == pytest.approx(0.041, abs=0.008)


def test_two_random_halves_of_what_a_model_knows_give_a_half():
    """The same for scores of a trained model: the 48 keep rows in halves, by their loss and by their least likely tokens."""
    rows, source = facts().keep, random.Random(0)
    request = Request(forget=Data.inline(rows[:24]), keep=Data.inline(rows), unseen=Data.inline(rows[24:]))
    for name in ("loss", "min_k_plus_plus", "dc_pdd"):
        scores = [row["value"] for row in attack(name).run(trained_lm(), request, context()).table]
        found = [stats.auc(mixed[:24], mixed[24:]) for mixed in (source.sample(scores, 48) for _ in range(200))]
        assert np.mean(found) == pytest.approx(0.5, abs=0.01), name


def test_far_below_a_half_is_called_a_leak_unless_the_reference_is_there_too():
    """Interval wholly below .5: a leak, or a difference of the rows where the reference is as low; otherwise nothing is said."""
    low, high = [float(at) for at in range(20)], [float(at) + 30 for at in range(20)]
    assert measure(CARD, Scored(low, high), None).why.startswith("a leak")
    assert measure(CARD, Scored(low, high), Scored(low, low)).why.startswith("a leak")
    assert "no sign of a leak" in measure(CARD, Scored(low, high), Scored(low, high)).why
    assert measure(CARD, Scored(high, low), None).why == measure(CARD, Scored(low, low), None).why == ""
    assert below(stats.Interval(0.3, 0.1, 0.5), 0.5) == ""


@pytest.mark.parametrize("layout", ["llama", "pad = end"])
def test_a_batch_of_one_and_of_sixteen_give_the_same(layout):
    """Every attack, on rows of many lengths, with a pad token of its own and with the end token as pad: equal to 1e-5."""
    rows, more, model = facts(), " amber birch copper dusty early frosty".split(), trained_lm()
    tokenizer = copy.deepcopy(model.tokenizer)
    if layout == "pad = end":
        tokenizer.pad_token = tokenizer.eos_token
    long = [[{**row, "answer": f"{row['answer']} {' '.join(more[: at % 6])}"} for at, row in enumerate(part)] for part in (rows.forget, rows.unseen)]
    request = rows.request.model_copy(update={"forget": Data.inline(long[0]), "unseen": Data.inline(long[1])})

    class Sized(CausalLM):
        size = 1

        def score(self, rows, size=0):
            return super().score(rows, self.size)

    class Many(Sized):
        size = 16

    ctx = context(baselines={"reference": retrained_lm()})
    for name in TABLE:
        one, many = (attack(name).run(kind(model.model, tokenizer), request, ctx).table for kind in (Sized, Many))
        assert [row["value"] for row in one] == pytest.approx([row["value"] for row in many], rel=1e-5, abs=1e-5), name


def test_one_pass_over_the_rows_serves_the_whole_table():
    """Both sides as they stand are read once by all; lower case, neighbors and the prefix read their own rows, once each."""
    read = []

    class Counting(CausalLM):
        def score(self, rows, size=32):
            read.append(len(rows))
            return super().score(rows, size)

    ctx, subject = context(), Counting(trained_lm().model, trained_lm().tokenizer)
    for name in ("loss", "zlib", "min_k", "min_k_plus_plus", "dc_pdd"):
        attack(name).run(subject, facts().request, ctx)
    assert read == [16, 16]
    for name, sizes in (("lower_case", [16, 16]), ("neighborhood", [80, 80]), ("recall", [16, 12])):
        read.clear()
        attack(name).run(subject, facts().request, ctx)
        assert read == sizes, name


@pytest.mark.slow
def test_the_table_on_five_seeds():
    """Every attack finds the members in each of five models that know them by heart, and in no reference beyond two standard errors.

    For n = 16 against m rows the standard error under no difference is sqrt((n + m + 1) / (12 n m)), .104 for m = 16, and too small here: the
    rows are four facts each on four people. Of 45 readings of references (the attack by the reference's own loss gives .5 by its nature)
    one in fifteen may be farther out, none as far as four.
    """
    far = []
    for seed in range(5):
        ctx = context(seed, baselines={"reference": retrained_lm(seed)})
        for name in TABLE:
            found = attack(name).run(trained_lm(seed), facts().request, ctx)
            assert found.value > 0.9, (name, seed)
            m = found.parts["non_members"]
            far.append(abs(found.parts["reference_auc"] - 0.5) / np.sqrt((16 + m + 1) / (12 * 16 * m)))
    assert sum(z > 2 for z in far) <= 3 and max(far) < 4


def test_the_report_shows_that_a_low_area_is_a_leak():
    """In the note of its line, in every view."""
    low, high = [float(at) for at in range(20)], [float(at) + 30 for at in range(20)]
    report = evaluate.prove(retrained_lm(), facts().request, context(baselines={"original": trained_lm(), "reference": retrained_lm()}), ["metric/probability"])
    found = measure(CARD, Scored(low, high), Scored(low, low)).model_copy(update={"system": "attack/loss", "subject": "candidate"})
    report = report.model_copy(update={"measurements": (*report.measurements, found)})
    (line,) = build.view(report).attacks
    assert line.note.startswith("a leak") and line.note in markdown.render(report) and line.note in html.render(report)


def test_a_few_rows_are_drawn_so_that_no_pattern_is_left_out():
    """Of 80 rows of ten kinds in turn, every other one has five kinds; a drawn half has all. The same ones for every attack, in order."""
    rows = [{"text": str(at)} for at in range(80)]
    found = few(rows, 40, context())
    assert len(found) == 40 and found == sorted(found, key=rows.index) and len({rows.index(row) % 10 for row in found}) == 10
    assert found == few(rows, 40, context()) != few(rows, 40, context(1)) and few(rows, 90, context()) == rows


def test_parts_of_a_row_are_rewritten_in_every_layout():
    talk = {"messages": [{"role": "user", "content": "Ask"}, {"role": "assistant", "content": "Tell"}]}
    assert changed(talk, str.upper)["messages"] == [{"role": "user", "content": "Ask"}, {"role": "assistant", "content": "TELL"}]
    assert changed(talk, str.upper, prompt=True)["messages"][0]["content"] == "ASK" and talk["messages"][0]["content"] == "Ask"
    assert changed({"question": "Ask", "answer": "Tell", "id": "Me"}, str.upper) == {"question": "Ask", "answer": "TELL", "id": "Me"}
    assert changed({"question": "Ask", "answer": "Tell"}, str.upper, prompt=True) == {"question": "ASK", "answer": "TELL"}
    assert changed({"text": "Tell"}, str.upper) == {"text": "TELL"}
    assert [answer(row) for row in (talk, {"question": "Ask", "answer": " Tell "}, {"text": "Tell"})] == ["Tell"] * 3


@pytest.mark.slow
def test_the_table_on_the_embedded_model(tmp_path):
    """Four invented authors against eight that nobody saw, from the shipped passes; what needs other passes on two or three of each.

    Every attack tells them in the model that was trained on them, the surest above .95, and the reference is no farther than .15 from .5
    on all 120 rows.
    """
    from efface.benchmarks.authors import FOLDER, Authors

    case = Authors().case(context())
    ctx = context(baselines={"reference": case.baselines["reference"]}, passes=(tmp_path, FOLDER / "passes"))
    found = {name: attack(name).run(case.original, case.request, ctx) for name in ("loss", "zlib", "reference", "min_k", "min_k_plus_plus", "dc_pdd")}
    assert not list(tmp_path.glob("*.safetensors"))
    assert all(abs(m.parts["reference_auc"] - 0.5) < 0.15 for m in found.values())
    few_rows = {side: Data.inline(case.request.rows(side)[:10]) for side in ("forget", "unseen")}
    request, costly = case.request.model_copy(update=few_rows), {"lower_case": {}, "recall": {"shots": 1}, "grad_norm": {"rows": 4}}
    found |= {name: attack(name, settings).run(case.original, request, ctx) for name, settings in costly.items()}
    assert all(m.value > (0.75 if name == "dc_pdd" else 0.95) for name, m in found.items()), {name: m.value for name, m in found.items()}
    near = attack("neighborhood", {"neighbors": 2, "rows": 15}).run(case.original, case.request, ctx)
    assert near.value > 0.6 and near.value > near.parts["reference_auc"] + 0.05
