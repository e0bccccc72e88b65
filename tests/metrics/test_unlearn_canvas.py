"""UA, IRA and CRA on stand-ins whose numbers are known."""


import pytest

from efface.core.context import Context
from efface.core.errors import Missing
from efface.metrics.unlearn_canvas import UnlearnCanvas
from efface.testing import tiny_images
from efface.testing.stand_ins import Painter, context


@pytest.mark.parametrize(
    ("lies", "ua", "ira", "cra"),
    [
        (lambda thing, style: (thing, style), 0, 1, 1),  # a perfect judge on the truth
        (lambda thing, style: (1 if thing == 0 else thing, style), 1, 1, 1),  # another object for the erased one only
        (lambda thing, style: (2, 1), 1, 1 / 2, 1 / 2),  # one picture for everything: of the kept, half are boats, half are glossy
    ],
)
def test_unlearn_canvas_on_stand_ins(lies, ua, ira, cra):
    found = UnlearnCanvas().run(Painter(lies), tiny_images.request(), context())
    assert (found.value, found.parts["IRA"], found.parts["CRA"]) == pytest.approx((ua, ira, cra))
    assert found.parts["CRA where erased"] == pytest.approx(1 if lies(0, 0)[1] == 0 else 0.5)


def test_without_a_judge_nothing_is_measured():
    with pytest.raises(Missing, match="--judge"):
        UnlearnCanvas().run(Painter(), tiny_images.request(), Context())
    with pytest.raises(Missing, match="no judge has a class"):
        UnlearnCanvas().run(Painter(), tiny_images.request().model_copy(update={"names": ("a zebra",)}), context())
