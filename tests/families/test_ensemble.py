"""Several classifiers as one: the three ways to combine, ties, no members, copies, and the way to disk and back."""

import json

import numpy as np
import pytest
from sklearn.naive_bayes import GaussianNB

from efface import api
from efface.core.capabilities import has
from efface.core.errors import Missing, Unfit, UnknownName
from efface.families import stages
from efface.families.classifier import Classifier, SklearnClassifier
from efface.families.ensemble import Ensemble
from efface.families.networks import MLP, seeded
from efface.testing import tiny

ROWS = tiny.digits().test[:20]
SHAPE = {"inputs": 64, "hidden": [12, 12, 12], "outputs": 10}


class Fixed:
    """A member with given probabilities for any row."""

    def __init__(self, *chances: float) -> None:
        self.chances, self.classes, self.digest = chances, len(chances), str(chances)

    def predict(self, rows):
        return np.tile(self.chances, (len(rows), 1))


def network(seed: int) -> Classifier:
    return Classifier(seeded(MLP, seed, **SHAPE), SHAPE)


def adapted() -> Ensemble:
    """Two members with different adapters on one base."""
    base = network(0)
    shape = {"rank": 2, "alpha": 1.0, "dropout": 0.0}
    members = []
    for seed, modules in ((1, ["stack.4"]), (2, ["stack.4", "stack.2"])):
        member = stages.attach(base, modules, shape, seed)
        other = stages.adapter_of(member, modules)
        members.append(stages.put(member, {name: tensor + 0.1 for name, tensor in other.items()}, {"stack.6.bias": seed + member.model.get_parameter("base_model.model.stack.6.bias").detach()}))
    return Ensemble(members, base=base)


@pytest.mark.parametrize(
    ("combine", "counts", "expected"),
    [
        # Means of (.8, .2), (.5, .5) and (.2, .8) are (.5, .5); weighted 2, 1, 1: (1.6 + .5 + .2) / 4.
        ("probabilities", None, [0.5, 0.5]),
        ("probabilities", [2, 1, 1], [0.575, 0.425]),
        # Logits are logarithms here: the product of the odds 4 * 1 * 1/4 is 1; weighted 2, 1, 1, the fourth root of 4 is the odds.
        ("logits", None, [0.5, 0.5]),
        ("logits", [2, 1, 1], [2**0.5 / (1 + 2**0.5), 1 / (1 + 2**0.5)]),
        # Two votes for 0 (a draw inside of a member goes to the smaller number) and one for 1, with the mean on top, over 4.
        ("votes", None, [2.5 / 4, 1.5 / 4]),
        ("votes", [1, 1, 5], [(2 + 2.3 / 7) / 8, (5 + 4.7 / 7) / 8]),
    ],
)
def test_combining_by_hand(combine, counts, expected):
    found = Ensemble([Fixed(0.8, 0.2), Fixed(0.5, 0.5), Fixed(0.2, 0.8)], combine, counts).predict(ROWS[:2])
    assert np.allclose(found, [expected, expected]) and np.allclose(found.sum(1), 1)


def test_a_tie_of_votes_goes_to_the_surer_side():
    """One vote each: class 1 has the larger mean; a majority is never overruled, however sure the others are."""
    assert Ensemble([Fixed(0.51, 0.49), Fixed(0.1, 0.9)], "votes").predict(ROWS[:1]).argmax() == 1
    assert Ensemble([Fixed(0.51, 0.49), Fixed(0.51, 0.49), Fixed(0.0, 1.0)], "votes").predict(ROWS[:1]).argmax() == 0


def test_a_certain_member_leaves_numbers_finite():
    assert np.isfinite(Ensemble([Fixed(1.0, 0.0), Fixed(0.2, 0.8)]).predict(ROWS[:1])).all()


def test_logits_of_networks_are_averaged_before_the_softmax():
    members = [network(1), network(2)]
    logits = sum(member.logits(member.encode(ROWS)) for member in members) / 2
    assert np.allclose(Ensemble(members).predict(ROWS), logits.softmax(-1).detach().numpy(), atol=1e-6)


def test_members_that_know_fewer_classes():
    """A class that a member was never told of gets nothing from it."""
    assert np.allclose(Ensemble([Fixed(0.5, 0.5), Fixed(0.2, 0.2, 0.6)], "probabilities").predict(ROWS[:1]), [[0.35, 0.35, 0.3]])


def test_nobody_left():
    with pytest.raises(Unfit, match="every shard of this model has been deleted and nothing is left to answer; train it again"):
        Ensemble([]).predict(ROWS)


def test_it_predicts_and_does_nothing_else():
    subject = adapted()
    assert subject.classes == 10 and has(subject, "predict") and not has(subject, "losses") and subject.predict([]).shape == (0, 10)
    with pytest.raises(UnknownName, match="no role named 'head'"):
        subject.fork(("head",))


def test_a_copy_is_its_own():
    subject = adapted()
    other, before = subject.fork(), subject.digest
    assert other.digest == before
    other.members[0].model.get_parameter("base_model.model.stack.0.weight").data.add_(1)
    assert subject.digest == before != other.digest
    shared = {p.data_ptr() for p in other.base.model.parameters()} & {p.data_ptr() for p in subject.base.model.parameters()}
    assert not shared


def test_the_digest_names_members_weights_and_rule():
    members = [network(1), network(2)]
    names = {Ensemble(m, c, w).digest for m, c, w in ((members, "votes", [1, 1]), (members[::-1], "votes", [1, 1]), (members, "logits", [1, 1]), (members, "votes", [1, 2]))}
    assert len(names) == 4 and Ensemble(members, "votes").digest in names


@pytest.mark.parametrize(
    "make",
    [
        adapted,
        lambda: Ensemble([network(1), network(2)], "votes", [3, 4]),
        lambda: Ensemble([SklearnClassifier(GaussianNB(), 10).refit(tiny.digits().keep[at : at + 200], 0) for at in (0, 200)], "probabilities"),
        lambda: Ensemble([]),
    ],
    ids=["adapters", "networks", "estimators", "nobody"],
)
def test_to_disk_and_back(tmp_path, make):
    subject = make()
    subject.save(tmp_path)
    found = api.load(str(tmp_path))
    assert isinstance(found, Ensemble) and (found.digest, found.combine, found.counts) == (subject.digest, subject.combine, subject.counts)
    if subject.members:
        assert np.array_equal(found.predict(ROWS), subject.predict(ROWS))
    assert {path.suffix for path in tmp_path.rglob("*") if path.is_file()} <= {".safetensors", ".json"}


def test_peft_reads_an_adapter_of_it(tmp_path):
    from peft import PeftModel
    from safetensors.torch import load_file

    subject = adapted()
    subject.save(tmp_path)
    place = tmp_path / "member-2"
    assert json.loads((place / "adapter_config.json").read_text())["target_modules"] == r"stack\.2|stack\.4"
    loaded = PeftModel.from_pretrained(network(0).model, str(place))
    loaded.base_model.model.load_state_dict(load_file(place / "head.safetensors"), strict=False)
    member = subject.members[1]
    batch = member.encode(ROWS)
    assert np.allclose(loaded(batch.x).detach(), member.logits(batch).detach(), atol=1e-6)


def test_a_lost_member_is_missed(tmp_path):
    adapted().save(tmp_path)
    (tmp_path / "member-2").rename(tmp_path / "member-3")
    with pytest.raises(Missing, match="an ensemble of 2 and lacks member-2"):
        api.load(str(tmp_path))
