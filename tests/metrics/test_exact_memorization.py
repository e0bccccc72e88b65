import pytest
import torch

from efface.metrics.exact_memorization import ExactMemorization
from efface.testing.tiny import context, facts, retrained_lm, tiny_lm, trained_lm


def test_formula():
    """Share of answer tokens, without the end token, that are the argmax of the model's logits at the place before."""
    subject, rows = trained_lm(), facts()
    found = ExactMemorization.set({"on": "unseen"}).run(subject, rows.request, context())
    for row, got in zip(rows.unseen, found.table, strict=True):
        encoded = subject.encode_row(row)
        ids = torch.tensor([encoded.prompt + encoded.answer])
        guessed = subject.model(input_ids=ids).logits[0, len(encoded.prompt) - 1 : -1].argmax(-1).tolist()
        words = list(zip(guessed, encoded.answer, strict=True))[:-1]
        assert got["value"] == pytest.approx(sum(a == b for a, b in words) / len(words))
    assert 0.2 < found.value < 1.0


def test_tells_who_saw_the_rows():
    known, unknown, random = (ExactMemorization().run(m(), facts().request, context()).value for m in (trained_lm, retrained_lm, tiny_lm))
    assert known > 0.99 > unknown > random
