"""The tree of errors, and what an unknown name is told."""

from efface.core import errors
from efface.core.errors import EffaceError, UnknownName


def test_the_drawing_is_the_tree():
    """The docstring draws each error once, and each is an EffaceError."""
    classes = {name for name, found in vars(errors).items() if isinstance(found, type) and issubclass(found, EffaceError)}
    drawn = {line.split("+--")[1].split()[0] for line in errors.__doc__.splitlines() if "+--" in line}
    assert drawn | {"EffaceError"} == classes
    assert all(vars(errors)[name].__doc__ for name in classes)


def test_near_names_are_offered():
    assert str(UnknownName.among("method", "npoo", ["npo", "simnpo", "rmu"])) == "no method named 'npoo'; did you mean npo or simnpo?"


def test_far_names_get_the_list():
    assert str(UnknownName.among("method", "zebra", ["npo", "kl"])) == "no method named 'zebra'; there are: kl, npo"
    assert str(UnknownName.among("method", "zebra", [])) == "no method named 'zebra'; there are: none"
