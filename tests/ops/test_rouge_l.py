"""ROUGE-L of the package `rouge`; the numbers below came out of version 1.0.1 of it, and those on words alone can be counted by hand."""

import pytest

from efface.ops.rouge_l import rouge_l


@pytest.mark.parametrize(
    ("said", "gold", "recall", "precision"),
    [
        ("richard bachman", "Richard Bachman", 0.0, 0.0),  # case is kept
        ("a b a b", "b a b a b", 1.0, 1.0),  # two different words, both in common
        ("It was Carrie", "Carrie", 1.0, 1 / 3),
        ("Paris, France", "Paris", 0.0, 0.0),  # the comma belongs to the word
        ("Paris. France", "Paris", 1.0, 0.5),  # a full stop does not
        ("b a", "a b", 0.5, 0.5),  # order counts
        ("H.P. Lovecraft wrote it", "H.P. Lovecraft", 1.0, 0.6),  # H, P and Lovecraft, of H, P, Lovecraft, wrote, it
        ("NOANSWER", "Richard Bachman", 0.0, 0.0),
    ],
)
def test_words_are_counted_as_the_package_does(said, gold, recall, precision):
    found = rouge_l(said, gold)
    assert found.recall == pytest.approx(recall) and found.precision == pytest.approx(precision)
    assert found.f == pytest.approx(2 * recall * precision / (recall + precision + 1e-8))


@pytest.mark.parametrize(("said", "gold"), [("", "Carrie"), ("...", "Carrie"), ("Carrie", "")])
def test_where_the_package_raises_nothing_is_in_common(said, gold):
    assert rouge_l(said, gold) == (0.0, 0.0, 0.0)


def test_of_several_longest_subsequences_that_of_the_package_is_taken():
    """"a c b" and "a b c" share "a b" or "a c"; going back from the end the package finds "a b".

    A second sentence "b" adds nothing to that, and a second sentence "c" makes the union whole.
    """
    assert rouge_l("a b c. b", "a c b").recall == pytest.approx(2 / 3)
    assert rouge_l("a b c. c", "a c b").recall == pytest.approx(1.0)
