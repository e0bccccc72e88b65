"""Prompts made from a concept's name."""

import pytest

from efface.core.errors import BadRows, Unfit
from efface.families import asking


def test_objects_and_styles_are_asked_for_in_their_own_ways():
    assert "a photo of a cat" in asking.asked("a cat")
    assert "a house in noto style" in asking.asked("noto style") and "a photo of noto style" not in asking.asked("noto style")
    assert len(asking.forget_rows(["a cat", "a dog"])) == 2 * len(asking.TEMPLATES)


def test_kept_prompts_are_the_neighbors_and_everyday_captions():
    rows = asking.keep_rows(["a dog"])
    assert {"prompt": "a photo of a dog"} in rows and len(rows) == len(asking.TEMPLATES) + 40
    assert not any(str(row["prompt"]).startswith("#") for row in asking.keep_rows([], 200))


@pytest.mark.parametrize(
    ("names", "near", "instead", "says"),
    [
        ([], [], None, "no concept was named"), (["  "], [], None, "empty"), (["a cat"], [""], None, "empty"),
        (["a cat"], ["The Cat"], None, "to be kept"), (["a cat"], [], "cat", "its own place"),
    ],
)
def test_contradictions_are_refused(names, near, instead, says):
    with pytest.raises(Unfit, match=says):
        asking.check(names, near, instead)


def test_rows_without_a_prompt_are_named():
    with pytest.raises(BadRows, match="forget, row 2: found columns text"):
        asking.check_rows([{"prompt": "a cat"}, {"text": "a cat"}], "forget")
    with pytest.raises(BadRows, match="no rows"):
        asking.check_rows([], "keep")
