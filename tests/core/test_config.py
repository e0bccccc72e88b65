"""Settings: dotted names, defaults of nested groups, and what is refused."""

import pytest
from pydantic import Field, ValidationError

from efface.core.config import Config, Fit, Stop, build, field_names
from efface.core.errors import BadConfig, UnknownName


class Own(Config):
    """A system with defaults of its own in a group."""

    beta: float = Field(0.1, gt=0)
    """Strength."""
    bits: tuple[int, ...] = (8, 4)
    """Bits."""
    fit: Fit = Fit(lr=1e-3, steps=7, batch=4)
    """Optimizer settings."""
    stop: Stop = Stop()
    """When to stop."""


def test_defaults():
    assert build(Own) == build(Own, {}) == build(Own, None) == Own()


def test_dotted_names_keep_the_group_of_the_system():
    """fit.lr alone changes: steps and batch stay at the system's 7 and 4, not at Fit's own 100 and 8."""
    found = build(Own, {"fit.lr": 0.5, "beta": 2})
    assert (found.fit.lr, found.fit.steps, found.fit.batch, found.beta) == (0.5, 7, 4, 2.0)


def test_a_group_given_as_a_mapping_keeps_the_rest_too():
    assert build(Own, {"fit": {"steps": 3}}).fit == Fit(lr=1e-3, steps=3, batch=4)


@pytest.mark.parametrize("order", [("fit", "fit.lr"), ("fit.lr", "fit")])
def test_a_group_and_its_part_add_up(order):
    """Whatever comes first, and without writing into what the caller gave."""
    given = {"fit": {"steps": 3}, "fit.lr": 0.5}
    found = build(Own, {name: given[name] for name in order})
    assert (found.fit.steps, found.fit.lr, found.fit.batch) == (3, 0.5, 4)
    assert given == {"fit": {"steps": 3}, "fit.lr": 0.5}


@pytest.mark.parametrize("settings", [{"fit": 3, "fit.lr": 0.5}, {"fit.lr": 0.5, "fit": 3}, {"fit": Fit(), "fit.lr": 0.5}])
def test_a_group_given_twice_is_refused(settings):
    with pytest.raises(BadConfig, match="fit"):
        build(Own, settings)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("betta", "no setting named 'betta'; did you mean beta"),
        ("fit.lrr", "no setting named 'fit.lrr'; did you mean fit.lr"),
        ("fit.lr.x", "no setting named 'fit.lr.x'"),
        ("beta.x", "no setting named 'beta.x'"),
        ("nothing.at.all", "no setting named 'nothing.at.all'"),
        ("", "no setting named ''"),
    ],
)
def test_unknown_names(name, says):
    with pytest.raises(UnknownName, match=says):
        build(Own, {name: 1})


def test_unknown_names_in_a_mapping():
    with pytest.raises(UnknownName, match="no setting named 'fit.lrr'; did you mean fit.lr"):
        build(Own, {"fit": {"lrr": 1}})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("beta", 0), ("beta", "much"), ("beta", float("nan")), ("beta", float("inf")), ("fit.lr", -1), ("fit.steps", 1.5), ("fit.batch", 0),
        ("fit.schedule", "cosine"), ("stop.at", "never"), ("bits", 8), ("fit", "fast"), ("fit", None), ("beta", object()),
    ],
)  # fmt: skip
def test_impossible_values_name_the_field(name, value):
    with pytest.raises(BadConfig, match=f"setting {name}"):
        build(Own, {name: value})


def test_text_becomes_what_the_field_is():
    """The command line gives text."""
    found = build(Own, {"beta": "0.5", "fit.steps": "12"})
    assert (found.beta, found.fit.steps) == (0.5, 12)


def test_settings_never_change():
    with pytest.raises(ValidationError):
        build(Own).beta = 3


def test_field_names_are_dotted():
    names = field_names(Own)
    assert names[:3] == ["beta", "bits", "fit.lr"] and "stop.at" in names and "fit" not in names


def test_steps_that_are_given_outrank_default_epochs():
    class Long(Config):
        fit: Fit = Fit(epochs=5, lr=0.1)
        """Optimizer settings."""

    assert build(Long, {"fit.steps": 3}).fit.epochs == 0 and build(Long, {"fit.steps": 3}).fit.lr == 0.1
    assert build(Long, {"fit.lr": 0.2}).fit.epochs == 5
    assert build(Long, {"fit.steps": 3, "fit.epochs": 2}).fit.epochs == 2
