from typing import Annotated, Literal

import pytest
from pydantic import Field

from efface.cli.settings import by_method, describe, names, parse
from efface.core.config import Config, Fit, build
from efface.core.errors import BadConfig, UnknownName


class Example(Config):
    """Settings of every shape."""

    beta: float = Field(0.1, gt=0)
    """Inverse temperature."""
    on: bool = True
    """Whether."""
    kind: Literal["a", "b"] = "a"
    """Which."""
    bits: tuple[Annotated[int, Field(ge=2)], ...] = (8, 4)
    """How many."""
    word: str | None = None
    """What."""
    fit: Fit = Fit(lr=3e-4)
    """Optimizer settings."""


def test_values_get_their_type_from_the_config() -> None:
    given = parse(["beta=0.2", "on=false", "kind=b", "bits=[3, 2]", "word=a=b", "fit.lr=1e-5", "fit.batch = 4"])
    config = build(Example, given)
    assert (config.beta, config.on, config.kind, config.bits, config.word) == (0.2, False, "b", (3, 2), "a=b")
    assert (config.fit.lr, config.fit.batch, config.fit.steps) == (1e-5, 4, Fit().steps)


@pytest.mark.parametrize("text", ["beta", "=1", " =1", "", "bits=[1,", 'bits={"a"'])
def test_malformed_settings_are_named(text: str) -> None:
    with pytest.raises(BadConfig, match="--set"):
        parse([text])


def test_twice_is_an_error() -> None:
    with pytest.raises(BadConfig, match="beta is given twice"):
        parse(["beta=1", "beta=2"])


def test_wrong_values_and_names_are_found_by_the_config() -> None:
    with pytest.raises(BadConfig, match="beta"):
        build(Example, parse(["beta=-1"]))
    with pytest.raises(BadConfig, match="fit.lr"):
        build(Example, parse(["fit.lr=quick"]))
    with pytest.raises(UnknownName, match="did you mean beta"):
        build(Example, parse(["betta=1"]))


def test_settings_by_method() -> None:
    assert by_method(["npo:fit.lr=1e-4", "fit.steps=3", "npo:beta=0.2", "word=a:b"]) == {
        "npo": {"fit.lr": "1e-4", "beta": "0.2"},
        "all": {"fit.steps": "3", "word": "a:b"},
    }
    with pytest.raises(BadConfig, match="no method"):
        by_method([":beta=1"])


def test_names() -> None:
    assert names("a, b,,c ") == ("a", "b", "c") and names("") == ()


def test_description_has_types_defaults_and_help() -> None:
    """A nested group shows this system's default (3e-4), not the group's own (1e-5)."""
    found = {row["name"]: row for row in describe(Example)}
    assert found["beta"] == {"name": "beta", "type": "float > 0", "default": 0.1, "help": "Inverse temperature."}
    assert found["kind"]["type"] == "a|b" and found["bits"]["type"] == "list of int" and found["word"]["type"] == "str or none"
    assert found["fit.lr"]["default"] == 3e-4 and found["fit.lr"]["type"] == "float > 0"
    assert "fit" not in found
