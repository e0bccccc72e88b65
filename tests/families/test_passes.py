"""The shared passes: made once, kept in memory and on disk, and never taken for those of another subject."""

import numpy as np
import pytest

from efface.core.errors import Missing
from efface.families import passes
from efface.families.causal_lm import CausalLM
from efface.testing import tiny

FACTS = tiny.facts()
ROWS = FACTS.keep[:6]


@pytest.fixture
def calls(monkeypatch):
    """Names of the passes that were really made."""
    made = []
    score, generate = CausalLM.score, CausalLM.generate_each
    monkeypatch.setattr(CausalLM, "score", lambda self, rows, *more: made.append("score") or score(self, rows, *more))
    monkeypatch.setattr(CausalLM, "generate_each", lambda self, rows, *more: made.append("generate") or generate(self, rows, *more))
    return made


def same(one, other):
    return all(
        a.text == b.text and a.ends == b.ends and all(np.array_equal(getattr(a, field), getattr(b, field)) for field in ("log_probs", "mean", "deviation", "hit"))
        for a, b in zip(one, other, strict=True)
    )


def test_scores_come_in_the_order_of_the_rows():
    subject = tiny.tiny_lm()
    rows = [ROWS[0], {**ROWS[1], "answer": "The " * 30}, ROWS[2]]
    for row, score in zip(rows, passes.scores(subject, rows, tiny.context()), strict=True):
        assert score.loss == pytest.approx(subject.losses(subject.encode([row])).item(), abs=1e-5)


def test_a_pass_is_made_once_a_context(calls):
    subject, ctx = tiny.tiny_lm(), tiny.context()
    first = passes.scores(subject, ROWS, ctx)
    assert passes.scores(subject, [dict(row) for row in ROWS], ctx) is first and calls == ["score"]
    passes.scores(subject, ROWS[:3], ctx)
    passes.scores(tiny.tiny_lm(1), ROWS, ctx)
    passes.scores(subject, ROWS, tiny.context())
    assert calls == ["score"] * 4


def test_a_pass_is_made_once_a_disk(calls, tmp_path):
    first = passes.scores(tiny.tiny_lm(), ROWS, tiny.context(passes=(tmp_path,)))
    said = passes.answers(tiny.tiny_lm(), ROWS, tiny.context(passes=(tmp_path,)), 6)
    assert calls == ["score", "generate"]
    again = passes.scores(tiny.tiny_lm(), ROWS, tiny.context(passes=(tmp_path / "empty", tmp_path)))
    assert same(first, again) and passes.answers(tiny.tiny_lm(), ROWS, tiny.context(passes=(tmp_path,)), 6) == said
    assert calls == ["score", "generate"]
    passes.answers(tiny.tiny_lm(), ROWS, tiny.context(passes=(tmp_path,)), 7)
    passes.scores(tiny.tiny_lm(1), ROWS, tiny.context(passes=(tmp_path,)))
    assert calls == ["score", "generate", "generate", "score"]
    assert not [path for path in tmp_path.iterdir() if path.suffix not in (".json", ".safetensors")]


def test_stored_passes_belong_to_the_weights(calls, tmp_path):
    """Another subject of the same name does not exist: without an origin, the digest of the weights names a pass."""
    import torch

    subject = tiny.tiny_lm()
    before = passes.scores(subject, ROWS, tiny.context(passes=(tmp_path,)))
    edited = subject.fork()
    with torch.no_grad():
        next(edited.model.parameters()).add_(0.1)
    after = passes.scores(edited, ROWS, tiny.context(passes=(tmp_path,)))
    assert calls == ["score", "score"] and not same(before, after)


def test_choices_hold_gold_paraphrase_and_wrong_answers(calls):
    subject, ctx = tiny.tiny_lm(), tiny.context()
    found = passes.choices(subject, ROWS, ctx)
    for row, choice in zip(ROWS, found, strict=True):
        texts = [row["answer"], row["paraphrased_answer"], *row["perturbed_answer"]]
        scores = [choice.gold, choice.paraphrased, *choice.wrong]
        assert [score.text for score in scores] == texts
        expected = subject.losses(subject.encode([{"question": row["question"], "answer": text} for text in texts]))
        assert [score.loss for score in scores] == pytest.approx(expected.tolist(), abs=1e-5)
    assert calls == ["score"]
    gold = passes.scores(subject, ROWS, ctx)
    assert gold == [choice.gold for choice in found] and calls == ["score"]


def test_choices_without_a_paraphrase_or_with_a_single_text():
    rows = [{"question": "What?", "answer": "The home.", "perturbed_answer": "The pet."}]
    (choice,) = passes.choices(tiny.tiny_lm(), rows, tiny.context())
    assert choice.paraphrased is None and [score.text for score in choice.wrong] == ["The pet."]


def test_choices_need_wrong_answers():
    bare = {"question": "What?", "answer": "The home."}
    with pytest.raises(Missing, match=r"row 2 has no 'perturbed_answer' .*; 2 of 3 rows lack it"):
        passes.choices(tiny.tiny_lm(), [ROWS[0], bare, bare], tiny.context())


def test_shields_are_part_of_the_name(calls):
    class Loud:
        def screen(self, prompts):
            return prompts

        def review(self, outputs):
            return [output.upper() for output in outputs]

    subject, ctx = tiny.trained_lm(), tiny.context()
    bare = passes.answers(subject, ROWS, ctx, 30)
    guarded = passes.answers(subject.guarded(Loud()), ROWS, ctx, 30)
    assert bare == [row["answer"] for row in ROWS] and guarded == [text.upper() for text in bare] and len(calls) == 2


def test_progress_is_told():
    told = []

    def progress(items, label, total):
        told.append((label, total))
        return iter(items)

    ctx = tiny.context(progress=progress)
    passes.scores(tiny.tiny_lm(), ROWS, ctx)
    passes.answers(tiny.tiny_lm(), ROWS, ctx, 2)
    assert told == [("reading rows", 6), ("generating answers", 6)]
