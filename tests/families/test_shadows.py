import numpy as np
import pytest
import torch

from efface import api
from efface.core.config import Fit
from efface.core.errors import EffaceError, Unfit
from efface.core.types import Data, Request, Step
from efface.families import shadows
from efface.ops import side_by_side
from efface.testing.tiny import context, digits, sklearn_classifier, tiny_classifier

PARTS = digits("random")
ASK = Request(forget=Data.inline(PARTS.forget[:20]), keep=Data.inline(PARTS.keep[:60]), unseen=Data.inline(PARTS.unseen[:10]))
FIT = Fit(lr=1e-2, steps=4, batch=16, precision="no")


@pytest.fixture
def counted(monkeypatch):
    """Numbers of models that were really trained, call by call."""
    seen, plain = [], side_by_side.train

    def train(starts, *more):
        seen.append(len(starts))
        return plain(starts, *more)

    monkeypatch.setattr(side_by_side, "train", train)
    return seen


def test_halves():
    """Every row is in half of the models; a pair of models has all rows between them, none twice; the seed decides."""
    inside = shadows.halves(31, 8, context())
    assert (inside.sum(0) == 4).all() and (inside[::2] ^ inside[1::2]).all()
    assert set(inside.sum(1)) <= {15, 16}
    assert (inside == shadows.halves(31, 8, context())).all()
    assert (inside != shadows.halves(31, 8, context(1))).any()


def test_the_pool_is_forget_rows_and_then_unseen_rows():
    rows, forget = shadows.pool(ASK)
    assert forget == 20 and rows == [*PARTS.forget[:20], *PARTS.unseen[:10]]
    assert shadows.pool(ASK.model_copy(update={"unseen": None}))[0] == list(PARTS.forget[:20])


def test_a_shadow_model_forgets_what_it_saw():
    inside = np.arange(30) % 2 == 0
    own = shadows.own_request(ASK, inside)
    rows, _ = shadows.pool(ASK)
    assert own.rows("forget") == rows[::2] and own.rows("unseen") == rows[1::2] and own.keep is ASK.keep
    assert shadows.own_request(ASK.model_copy(update={"unseen": None}), inside[:20]).unseen is None


def test_models_of_a_set_differ_and_come_again(counted):
    one = shadows.without(tiny_classifier(), ASK, 3, FIT, context())
    again = shadows.without(tiny_classifier(5), ASK, 3, FIT, context())
    assert [model.digest for model in one] == [model.digest for model in again], "the subject's weights count for nothing, its kind does"
    assert len({model.digest for model in one}) == 3 and counted == [3, 3]
    ctx = context()
    for _ in range(2):
        shadows.without(tiny_classifier(), ASK, 3, FIT, ctx)
    assert counted[2:] == [3], "a run trains them once"


@pytest.mark.parametrize("place", ["passes", "folder"])
def test_a_killed_run_goes_on_with_those_that_are_missing(place, tmp_path, counted, monkeypatch):
    """Two at a time are trained and kept. After a kill with four done, and one file damaged, three of six are trained."""
    monkeypatch.setattr(shadows, "TOGETHER", 2)
    there = {"passes": {"passes": (tmp_path,)}, "folder": {"folder": tmp_path}}[place]
    rows = [*ASK.rows("keep"), *ASK.rows("forget")]

    def train(**changes):
        return shadows.trained(tiny_classifier(), rows, [range(70)] * 6, "trial", FIT, context(**changes))

    with pytest.raises(Exception, match="budget"):
        train(**there, budget={"steps": 18})  # two pairs take sixteen steps
    files = sorted(tmp_path.rglob("*.safetensors"))
    assert len(files) == 4
    files[0].write_bytes(b"damaged")
    del counted[:]
    found = train(**there)
    assert counted == [2, 1]
    assert [model.digest for model in found] == [model.digest for model in train()]
    del counted[:]
    assert [model.digest for model in train(**there)] == [model.digest for model in found] and counted == []
    assert not any(parameter.requires_grad for model in found for parameter in model.model.parameters())


def test_other_rows_settings_or_seeds_are_other_models(tmp_path, counted):
    ctx = lambda **changes: context(passes=(tmp_path,), **changes)  # noqa: E731
    shadows.without(tiny_classifier(), ASK, 2, FIT, ctx())
    shadows.without(tiny_classifier(), ASK, 2, FIT.model_copy(update={"lr": 2e-2}), ctx())
    shadows.without(tiny_classifier(), ASK, 2, FIT, ctx(seed=1))
    shadows.without(tiny_classifier(), ASK.model_copy(update={"keep": Data.inline(PARTS.keep[:50])}), 2, FIT, ctx())
    assert counted == [2] * 4


def test_the_lineage_says_how_to_train_and_what_to_repeat():
    step = Step(kind="recipe", system="finetune", settings={"fit": FIT.model_dump()})
    subject = tiny_classifier().after(step).after(Step(kind="method", system="finetune", seconds=2.0))
    assert shadows.fit_of(subject, shadows.DEFAULT) == FIT
    assert shadows.fit_of(tiny_classifier(), shadows.DEFAULT) == shadows.DEFAULT
    assert [step.kind for step in shadows.methods_of(subject)] == ["method"]
    shadows.refuse_costly("trial", subject, 16, 60)
    with pytest.raises(Unfit, match="16 times, about 32 s; its setting most_seconds = 30"):
        shadows.refuse_costly("trial", subject, 16, 30)


def test_the_same_method_with_the_same_settings():
    """A shadow model goes through what the candidate went through, on its own rows."""
    settings = {"fit.lr": 1e-2, "fit.steps": 3, "fit.batch": 8, "fit.precision": "no", "stop.at": "steps"}
    candidate = api.forget(tiny_classifier(), ASK, "grad_diff", settings, context())
    shadow = shadows.without(tiny_classifier(), ASK, 1, FIT, context())[0]
    own = shadows.own_request(ASK, np.arange(30) < 7)
    after = shadows.unlearned(shadow, own, shadows.methods_of(candidate), 9, context())
    assert after.digest == api.forget(shadow, own, "grad_diff", settings, context(9)).digest != shadow.digest
    assert shadows.unlearned(shadow, own, [], 9, context()) is shadow


def test_scikit_learn_models_are_refitted():
    found = shadows.without(sklearn_classifier(kind="linear"), ASK, 2, FIT, context())
    assert [type(model.estimator).__name__ for model in found] == ["LogisticRegression"] * 2


def test_adapters_do_not_change_the_kind():
    adapted = tiny_classifier().trainable(2, 0)
    one, other = (shadows.without(subject, ASK, 1, FIT, context())[0] for subject in (tiny_classifier(), adapted))
    assert one.digest == other.digest and torch.is_tensor(next(one.model.parameters()))


def test_a_place_that_cannot_be_written(tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(EffaceError, match="cannot keep shadow models in .*file"):
        shadows.without(tiny_classifier(), ASK, 1, FIT, context(passes=(blocked,)))
