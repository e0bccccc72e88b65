"""The four scenarios part any rows; what cannot be parted is refused by name."""

import pytest

from efface.core.errors import BadConfig, BadRows
from efface.families import scenarios
from efface.families.scenarios import Rules

TRAIN = [{"x": [at], "y": at % 4} for at in range(40)]
TEST = [{"x": [100 + at], "y": at % 4} for at in range(20)]
RULES = Rules(label=2, count=6, groups=[0, 0, 1, 1])


def ids(rows):
    return [row["x"][0] for row in rows]


def test_class_and_subclass():
    """Class 2 is every fourth row; in the subclass scenario it is labeled 1, as class 3 is, which stays."""
    parts = scenarios.part(TRAIN, TEST, "class", RULES)
    assert ids(parts.forget) == list(range(2, 40, 4)) and ids(parts.unseen) == [102, 106, 110, 114, 118]
    assert len(parts.keep) == 30 and len(parts.test) == 15 and {row["y"] for row in (*parts.keep, *parts.test)} == {0, 1, 3}
    fine = scenarios.part(TRAIN, TEST, "subclass", RULES)
    assert ids(fine.forget) == ids(parts.forget) and {(row["y"], row["fine"]) for row in fine.forget} == {(1, 2)}
    assert {(row["y"], row["fine"]) for row in fine.keep} == {(0, 0), (0, 1), (1, 3)}
    asked = scenarios.request(parts, "class", 2)
    assert asked.kind == "class" and asked.names == ("2",) and scenarios.request(fine, "subclass", 2).names == ()


def test_random_and_noisy():
    parts, noisy = (scenarios.part(TRAIN, TEST, name, RULES) for name in ("random", "noisy"))
    assert ids(parts.forget) == list(range(6)) and ids(parts.unseen) == list(range(100, 106))
    assert all(row["y"] != row["clean"] and 0 <= row["y"] < 4 for row in (*noisy.forget, *noisy.unseen))
    assert [row["clean"] for row in noisy.forget] == [row["y"] for row in parts.forget]
    assert noisy.keep == parts.keep and noisy.test == parts.test
    again, other = (scenarios.part(TRAIN, TEST, "noisy", Rules(2, 6, RULES.groups, seed)) for seed in (0, 1))
    assert again == noisy != other


def test_what_cannot_be_parted():
    with pytest.raises(BadConfig, match="no class 7; the classes are 0 to 3"):
        scenarios.part(TRAIN, TEST, "class", Rules(7, 6, RULES.groups))
    with pytest.raises(BadRows, match="leaves no keep and no test rows"):
        scenarios.part(TRAIN, TEST, "random", Rules(2, 40, RULES.groups))
    with pytest.raises(BadRows, match="no unseen rows"):
        scenarios.part(TRAIN, TEST[:2], "class", RULES)
