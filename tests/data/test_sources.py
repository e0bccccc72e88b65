"""The list of what can be fetched: names differ, each is pinned and checked, and each says its license."""

import re

import pytest

from efface.core.errors import UnknownName
from efface.data.sources import SOURCES, find


def test_names_differ_and_are_found():
    assert len({source.name for source in SOURCES}) == len(SOURCES) >= 7
    assert {"fashion-mnist", "efficientnet-lite0", "openpeople", "mnist-5k"} <= {source.name for source in SOURCES}
    assert all(find(source.name) is source for source in SOURCES)
    with pytest.raises(UnknownName, match="did you mean openpeople"):
        find("open-people")


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.name)
def test_each_is_pinned_checked_and_licensed(source):
    assert re.fullmatch(r"[0-9a-f]{64}", source.digest) and source.version in source.pinned and source.license and source.megabytes > 0
    assert any("LICEN" in pattern or "copyright" in pattern for pattern, _ in source.take) or "card" in source.license
    assert all(pattern and not cut.startswith("/") for pattern, cut in source.take)
