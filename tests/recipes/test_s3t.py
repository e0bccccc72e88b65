"""S3T: what answers by hand, bit-exact deletion, isolation of stages, and what is refused."""

import json
import shutil

import numpy as np
import pytest
import torch

from efface.core.context import Context
from efface.core.errors import BadConfig, BadRows, Unfit
from efface.core.types import Data, Request
from efface.families import lineage, stages
from efface.families.classifier import Classifier
from efface.families.networks import MLP, SmallCNN, seeded, vit
from efface.ops.sequences import capacity
from efface.recipes import s3t
from efface.recipes.finetune import Finetune
from efface.recipes.s3t import S3T
from efface.testing import tiny

DIGITS = tiny.digits("random")
ROWS = [*DIGITS.forget, *DIGITS.keep]
COUNT = 52
"""Rows of a quick run: not a multiple of 2 x 3, so that there are remainders."""
QUICK = {"shards": 2, "slices": 3, "sequences": 2, "fit.epochs": 1, "fit.batch": 16, "fit.lr": 1e-2, "fit.rank": 2, "fit.precision": "no"}


def deep(layers: int = 4, width: int = 12, seed: int = 0) -> Classifier:
    shape = {"inputs": 64, "hidden": [width] * layers, "outputs": 10}
    return Classifier(seeded(MLP, seed, **shape), shape)


def picture(layers: int) -> Classifier:
    return Classifier(seeded(vit, 0, side=8, channels=1, outputs=10, hidden=16, layers=layers, patch=4))


def pictures(rows) -> list:
    """The same rows as pictures of one channel."""
    return [{"x": np.reshape(row["x"], (1, 8, 8)).tolist(), "y": row["y"]} for row in rows]


def built(rows, deleted=(), folder=None, start=None, **settings):
    """What answers, lineage and training log."""
    ctx = Context(seed=3, device="cpu", folder=folder)
    found = lineage.training(Request(keep=Data.inline(rows)))
    return *S3T.set({**QUICK, **settings}).build(start or deep(), found, deleted, ctx), ctx.curve


def moved(rows, number: int) -> list:
    """The same rows, one of them moved by a huge constant and told to be something else."""
    row = rows[number - 1]
    return [*rows[: number - 1], {"x": [value + 1e4 for value in row["x"]], "y": (row["y"] + 1) % 10}, *rows[number:]]


def stage_of(record, number: int, sequence: int) -> int:
    """The first stage of a sequence that saw a row, from 1."""
    return min(int(piece.name[-1]) for piece in record.pieces if f"sequence{sequence}-" in piece.name and number in piece.rows)


def test_formula(tmp_path):
    """By hand from the files: a layer gives W x + b + alpha * r / sqrt(r) * B A x (rank 2, alpha 1: sqrt(2)), ReLU between layers,

    the head on top; logits are averaged over the two shards.
    """
    start = deep()
    after, record, _ = built(ROWS[:COUNT], folder=tmp_path, start=start)
    weights = dict(start.model.state_dict())
    logits = []
    for shard in (1, 2):
        places = [tmp_path / next(iter(p.files)) for p in record.pieces if p.name.startswith(f"shard{shard}-sequence1-")]
        parts = [stages.read(place.parent) for place in places]
        adapter = {name: tensor for part, _ in parts for name, tensor in part.items()}
        assert stages.modules_in(parts[0][0]) == ["stack.6"] and stages.modules_in(parts[2][0]) == ["stack.2"]  # from the top; stack.0 is left over
        x = torch.tensor([row["x"] for row in ROWS[:5]])
        for layer in (0, 2, 4, 6):
            low = {kind: adapter.get(f"base_model.model.stack.{layer}.lora_{kind}.weight") for kind in "AB"}
            delta = 0 if low["A"] is None else 2**0.5 * low["B"] @ low["A"]
            x = torch.relu(x @ (weights[f"stack.{layer}.weight"] + delta).T + weights[f"stack.{layer}.bias"])
        top = parts[2][1]
        logits.append((x @ top["stack.8.weight"].T + top["stack.8.bias"]).numpy())
    powers = np.exp(sum(logits) / 2)
    assert np.allclose(after.predict(ROWS[:5]), powers / powers.sum(1, keepdims=True), atol=1e-5)


def test_no_op(tmp_path):
    """Adapters that were never trained change nothing; what stands in the folder is not trained again."""
    start, rows = deep(), ROWS[:COUNT]
    still, _, _ = built(rows, start=start, **{"fit.epochs": 0, "fit.steps": 0})
    assert np.allclose(still.predict(rows), start.predict(rows), atol=1e-6)
    first, record, curve = built(rows, folder=tmp_path, start=start)
    again, same, nothing = built(rows, folder=tmp_path, start=start)
    assert again.digest == first.digest and same == record and len(curve) == 2 * 2 * 3 and nothing == []
    assert start.digest == deep().digest and built(rows)[0].digest == first.digest


def test_what_was_interrupted_goes_on(tmp_path):
    """Stages that are there are taken, those that are missing are trained to the same bits."""
    rows = ROWS[:COUNT]
    whole, record, _ = built(rows, folder=tmp_path)
    for name in ("shard1-sequence2-stage2", "shard2-sequence1-stage3"):
        shutil.rmtree(next((tmp_path / "pieces").glob(f"{name}-*")))
    again, same, curve = built(rows, folder=tmp_path)
    assert again.digest == whole.digest and same == record and [(line["shard"], line["sequence"], line["stage"]) for line in curve] == [(1, 2, 2), (2, 1, 3)]


@pytest.mark.parametrize("number", [1, 7, 30])
def test_forgets(number):
    """What answers after a deletion is bit for bit what a run gives in which the row was something else, or its stages never were."""
    rows = ROWS[:COUNT]
    whole, record, _ = built(rows)
    after, left, _ = built(rows, {number})
    dirty, _, _ = built(moved(rows, number), {number})
    assert after.digest == dirty.digest != whole.digest
    assert all(number not in piece.rows for piece in left.pieces)
    kept = {piece.name: piece for piece in record.pieces if number not in piece.rows}
    assert [piece.name for piece in left.pieces] == list(kept) and all(kept[piece.name].seed == piece.seed for piece in left.pieces)
    shard = next(piece.name[:6] for piece in record.pieces if number in piece.rows)
    lengths = {sequence: stage_of(record, number, sequence) - 1 for sequence in (1, 2)}
    assert sorted(sum(piece.name.startswith(f"{shard}-sequence{sequence}") for piece in left.pieces) for sequence in (1, 2)) == sorted(lengths.values())


def test_keeps():
    """A base that was taught five of the digits learns all ten by adapters; a deletion costs a little."""
    known = [row for row in ROWS if row["y"] < 5]
    teach = {"fit.lr": 1e-2, "fit.steps": 150, "fit.batch": 64, "fit.precision": "no", "fit.schedule": "linear"}
    start = Finetune.set(teach).run(deep(width=64), Request(keep=Data.inline(known)), Context(device="cpu"))
    settings = {"sequences": 1, "slices": 2, "fit.lr": 0.03, "fit.epochs": 6, "fit.batch": 32, "fit.rank": 8, "dropout": 0.0, "start": start}
    after, record, _ = built(ROWS, **settings)
    second = next(row for row in range(1, len(ROWS)) if stage_of(record, row, 1) == 2)
    less, _, _ = built(ROWS, {second}, **settings)
    before, whole, left = (float((s.predict(DIGITS.test).argmax(1) == [row["y"] for row in DIGITS.test]).mean()) for s in (start, after, less))
    assert before < 0.55 and whole > 0.9 and left > 0.8


def watched(monkeypatch) -> list[tuple[set[str], set[str]]]:
    """For every stage: names of the parameters and buffers that changed, and of all of them."""
    seen: list[tuple[set[str], set[str]]] = []
    descend = s3t.descend

    def spy(after, *arguments):
        before = {name: tensor.clone() for name, tensor in after.model.state_dict().items()}
        descend(after, *arguments)
        seen.append(({name for name, tensor in after.model.state_dict().items() if not torch.equal(tensor, before[name])}, set(before)))
        return after

    monkeypatch.setattr(s3t, "descend", spy)
    return seen


@pytest.mark.parametrize(("start", "layer"), [(lambda: deep(12), "stack.{}"), (lambda: picture(12), "vit.layers.{}.attention")], ids=["mlp", "vit"])
def test_a_stage_changes_its_own_group_and_the_head_alone(monkeypatch, start, layer):
    """Bit for bit, in twelve layers: layers.1 is neither layers.10 nor layers.11, and stack.2 is not stack.20."""
    seen = watched(monkeypatch)
    subject = start()
    before = subject.digest
    after, _, _ = built(pictures(ROWS[:24]), start=subject, shards=1, slices=12, sequences=1)
    assert len(seen) == 12
    modules = ["q_proj", "v_proj"] if "vit" in layer else [""]
    numbers = range(11, -1, -1) if "vit" in layer else range(22, -1, -2)
    top = {f"base_model.model.{name}" for name in stages.head(subject)}
    own = [
        {f"base_model.model.{layer.format(at)}{'.' * bool(m)}{m}.lora_{kind}.default.weight" for m in modules for kind in "AB"} for at in numbers
    ]
    for stage, (changed, there) in enumerate(seen):
        # The first step moves B alone, as A's gradient is B's value, which is zero.
        assert changed <= own[stage] | top and changed & own[stage] and changed & top
        assert {name for name in there if "lora" in name} == set().union(*own[: stage + 1])
    assert subject.digest == before
    base = dict(subject.model.named_parameters())
    for name, parameter in after.members[0].model.named_parameters():
        bare = name.removeprefix("base_model.model.").replace(".base_layer", "")
        if bare in base and bare not in stages.head(subject):
            assert parameter.data_ptr() == base[bare].data_ptr()


def test_batch_normalization_keeps_the_statistics_of_the_base(monkeypatch):
    """Otherwise they would carry what every row looks like into layers that no deletion reaches."""
    shape = {"channels": 1, "side": 8, "outputs": 10, "widths": [4, 4], "embedding": 8}
    start = Classifier(seeded(SmallCNN, 0, **shape), shape)
    before, seen = start.digest, watched(monkeypatch)
    built(ROWS[:COUNT], start=start)
    assert start.digest == before and not any("running" in name or "tracked" in name for changed, _ in seen for name in changed)


def test_seeds_are_of_shard_sequence_and_stage():
    """They differ everywhere, and no deletion and no other row moves them."""
    _, record, _ = built(ROWS[:COUNT])
    _, others, _ = built(ROWS[100 : 100 + COUNT], {3})
    seeds = {piece.name: piece.seed for piece in record.pieces}
    assert len(set(seeds.values())) == 12 and all(seeds[piece.name] == piece.seed for piece in others.pieces)


def test_every_row_is_in_a_slice():
    """52 rows, 2 shards x 3 slices: the last stage of each sequence knows all rows of its shard, remainders too."""
    _, record, _ = built(ROWS[:COUNT])
    last = [piece for piece in record.pieces if piece.name.endswith("stage3")]
    assert sorted(sum((piece.rows for piece in last if "sequence1" in piece.name), [])) == list(range(1, COUNT + 1))
    assert last[0].rows == last[1].rows and last[0].after == ["shard1-sequence1-stage1", "shard1-sequence1-stage2"]


def test_chances_order_the_slices(tmp_path):
    """With chances the orders are matched to them, and the file's order decides what stands in a slice: the last rows come first."""
    ctx = Context(seed=3, device="cpu", folder=tmp_path)
    settings = {**QUICK, "sequences": 1, "deal": "file", "chances": [0.2, 0.02, 0.0]}
    S3T.set(settings).run(deep(), Request(keep=Data.inline(ROWS[:12])), ctx)
    record = lineage.read(tmp_path)
    assert [piece.rows for piece in record.pieces[:3]] == [[9, 11], [5, 7, 9, 11], [1, 3, 5, 7, 9, 11]]
    assert ctx.notes["deletions_expected"] == pytest.approx(capacity(2, 3, 2))
    assert json.loads((tmp_path / "lineage.json").read_text())["settings"]["sequences"] == 1


def test_limits():
    """Pictures and language models; zeros stand for what fits."""
    after, record, _ = built(pictures(ROWS[:COUNT]), start=picture(2), slices=0, sequences=0)
    assert len(record.pieces) == 2 * 2 * 2 and after.predict(pictures(ROWS[:3])).shape == (3, 10)
    assert record.settings["slices"] == 2 and record.settings["sequences"] == 2
    facts = tiny.facts()
    found = lineage.training(Request(keep=Data.inline(facts.keep[:8])))
    ctx = Context(seed=3, device="cpu")
    settings = {**QUICK, "shards": 0, "slices": 2, "modules": "all"}
    whole, _ = S3T.set(settings).build(tiny.tiny_lm(), found, (), ctx)
    less, left = S3T.set(settings).build(tiny.tiny_lm(), found, {1}, ctx)
    nothing, none = S3T.set(settings).build(tiny.tiny_lm(), found, {1, *left.pieces[0].rows}, ctx)
    assert whole.family == "causal-lm" and whole.digest != less.digest and len(left.pieces) == 1
    assert nothing.digest == tiny.tiny_lm().digest and none.pieces == []


@pytest.mark.parametrize(
    ("settings", "error", "says"),
    [
        ({"fit.rank": 0}, BadConfig, "fit.rank = 0: s3t trains adapters"),
        ({"slices": 9}, Unfit, "9 slices need as many layers, and MLP has 4 that can carry an adapter"),
        ({"chances": [0.1, 0.1]}, BadConfig, "chances: 2 were given for 3 slices"),
        ({"chances": [0.9, 0.9, 0.9]}, BadConfig, "may not pass 1"),
        ({"sequences": 7}, BadConfig, "7 orders of 3 slices were asked, and there are 6"),
        ({"shards": 30}, BadRows, "52 rows cannot fill 30 x 3 slices"),
    ],
)
def test_what_cannot_be_is_refused(settings, error, says):
    with pytest.raises(error, match=says):
        built(ROWS[:COUNT], **settings)


def test_a_language_model_is_one_shard():
    with pytest.raises(Unfit, match="shards = 2: a language model is served as one model"):
        built(tiny.facts().keep, start=tiny.tiny_lm(), slices=2)
