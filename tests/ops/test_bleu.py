"""Golden values of sentence BLEU with smoothing 3, worked out by hand.

"the cat sat on the mat" against "the cat is on the mat": n-grams shared 5 of 6, 3 of 5 (the cat, on the, the mat), 1 of 4 (on the
mat), 0 of 3; the first zero becomes 1 / (2 * 3). Equal length, so BLEU = (5/6 * 3/5 * 1/4 * 1/6) ** (1/4).

"a b" against "a b c d": 2 of 2, 1 of 1, then no 3-gram and no 4-gram: 1 / 2 and 1 / 4. Brevity exp(1 - 4/2).

"a x a x" against "a a b": of two "a" both count, 2 of 4; no 2-, 3- or 4-gram: 1 / (2 * 3), 1 / (4 * 2), 1 / (8 * 1). Longer: no brevity.
"""

import math
import random

import pytest

from efface.ops.bleu import bleu


@pytest.mark.parametrize(
    ("answer", "reference", "value"),
    [
        ("the cat sat on the mat", "the cat is on the mat", (5 / 6 * 3 / 5 * 1 / 4 * 1 / 6) ** 0.25),
        ("a b", "a b c d", math.exp(1 - 4 / 2) * (1 * 1 * 1 / 2 * 1 / 4) ** 0.25),
        ("a x a x", "a a b", (2 / 4 * 1 / 6 * 1 / 8 * 1 / 8) ** 0.25),
        ("one two three four", "one two three four", 1.0),
        ("one", "one", (1 / 2 * 1 / 4 * 1 / 8) ** 0.25),
        ("The cat", "the dog", 0.0),
        ("", "the dog", 0.0),
        ("the dog", "", 0.0),
    ],
)
def test_by_hand(answer, reference, value):
    assert bleu(answer, reference) == pytest.approx(value, abs=1e-12)


def test_it_is_the_number_of_nltk():
    translate = pytest.importorskip("nltk.translate.bleu_score")
    source, words = random.Random(0), "a b c d e f".split()
    for _ in range(300):
        answer, reference = (" ".join(source.choice(words) for _ in range(source.randint(1, 12))) for _ in range(2))
        theirs = translate.sentence_bleu([reference.split()], answer.split(), smoothing_function=translate.SmoothingFunction().method3)
        assert bleu(answer, reference) == pytest.approx(theirs, abs=1e-12)
