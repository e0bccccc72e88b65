"""Few-shot unlearning: the loss by hand, its sign, the sets bit for bit, who is looked at how often, and the guard of what is kept."""

import types

import numpy as np
import pytest
import torch
from torch import nn

from efface.core.errors import BadConfig, Unfit
from efface.core.types import Data, Request
from efface.families import diffusion_files
from efface.families.denoisers import Text
from efface.methods import few_shot
from efface.methods.few_shot import OBJECT, STYLE, FewShot, chosen, denoising, drift_of, examples, filled, fitting, latents_of, worded
from efface.ops.loop import descend
from efface.testing import emoji, tiny_images, tiny_pipelines
from efface.testing.tiny import context

CAT = tiny_images.request()
PICTURES = [np.full((16, 16, 3), 40 * number, np.uint8) for number in range(1, 5)]
SHOWN = Request(
    kind="concept", names=("a cat",), near=("a dog",), forget=Data.inline([{"prompt": "a cat", "image": picture} for picture in PICTURES]),
    keep=CAT.keep,
)
PLAIN = {"templates": "none", "most_drift": 0.0}
FAST = {"templates": "none", "fit.lr": 3e-3, "fit.epochs": 3}


def test_loss():
    """x = 1, no noise mixed in, e = x + w . h with w = (3, 5): for h = (1, 0) e = 4, for h = (0, 1) e = 6, target 2: ((4 - 2)^2 + (6 - 2)^2) / 2 = 10."""
    state = {"a": [1.0, 0.0], "b": [0.0, 1.0]}
    w = torch.tensor([3.0, 5.0])
    subject = types.SimpleNamespace(
        schedule=types.SimpleNamespace(steps=10, noised=lambda clean: (clean, torch.zeros(len(clean), dtype=torch.long), torch.zeros_like(clean)), target=lambda clean, noise, t: clean * 0 + 2),
        embed_text=lambda prompts: Text(torch.tensor([[state[prompt]] for prompt in prompts])),
        noise=lambda latents, t, text: latents + (text.states[:, 0] @ w)[:, None, None, None],
    )
    assert float(denoising(subject, torch.ones(2, 1, 1, 1), ["a", "b"])) == pytest.approx(10.0)


def test_training_goes_up():
    """The logged term is minus that loss, for the picture, noise and prompt of the step."""
    subject, ctx = tiny_images.pipeline(), context()
    one = SHOWN.model_copy(update={"forget": Data.inline([{"prompt": "a cat", "image": PICTURES[0]}])})
    FewShot.set({**PLAIN, "flip": False, "fit.steps": 1, "fit.batch": 1}).run(subject, one, ctx)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(ctx.seed_for("dropout", 0, 0) % 2**62)
        expected = float(denoising(subject, subject.latents(np.stack(PICTURES[:1])), ["a cat"]))
    assert ctx.curve[0]["ascent"] == pytest.approx(-expected, rel=1e-5)


def sets(subject):
    """What each set holds, by the reference's words."""
    names = [name for name, _ in subject.model.named_parameters() if name.startswith("text_encoder.")]
    mlp, attention = [name for name in names if ".mlp.fc" in name], [name for name in names if ".self_attn." in name]
    return {
        "mlp": mlp, "attn": attention, "mlp-attn": mlp + attention, "all": names,
        "mlp-final-attn": mlp + [name for name in attention if ".layers.1." in name],  # of two layers the last is number 1
    }


@pytest.mark.parametrize("which", ["mlp-final-attn", "mlp", "attn", "mlp-attn", "all"])
def test_sets(which):
    """Exactly the named set is trained; denoiser, autoencoder and all other weights are the very same tensors."""
    subject = tiny_images.pipeline()
    after = FewShot.set({**PLAIN, "train": which}).run(subject, SHOWN, context())
    old, names = dict(subject.model.named_parameters()), set(sets(subject)[which])
    assert set(chosen(subject, which)) == names
    for name, new in after.model.named_parameters():
        assert (new is old[name]) == (name not in names), name
        if name not in names:
            assert torch.equal(new, old[name])
    # Softmax does not see a bias of the keys, so that its gradient is rounding; everything else moves.
    moved = {name for name in names if not torch.equal(after.model.get_parameter(name), old[name])}
    still = {name for name in names - moved if "k_proj.bias" not in name and "embedding" not in name}
    assert not still and moved


def test_the_sign_and_the_graph():
    """Ascent raises the loss on fixed noise, and descent on the very same data lowers it: the graph runs through the frozen denoiser.

    Values are read ten times as loud as random weights would have it, so that the prompt has a say.
    """
    subject = tiny_images.pipeline().fork(("cross.value",))
    with torch.no_grad():
        for parameter in subject.weights("cross.value").values():
            parameter.mul_(10)
    clean = subject.latents(np.stack(PICTURES))
    levels = {}
    for sign in (1.0, -1.0):
        after = subject.trainable(chosen(subject, "mlp-final-attn"))
        fit = few_shot.FewShotConfig().fit.model_copy(update={"lr": 1e-3, "epochs": 0.0, "steps": 15, "batch": 4})
        descend(after, {"forget": SHOWN.rows("forget")}, lambda batches, after=after, sign=sign: {
            "loss": sign * denoising(after, clean[batches["forget"].index], batches["forget"].texts)}, fit, context())
        levels[sign] = few_shot._level(after, clean, SHOWN.rows("forget"), context())
    start = few_shot._level(subject, clean, SHOWN.rows("forget"), context())
    assert levels[1.0] < start < levels[-1.0]


def test_four_pictures_ten_steps(monkeypatch):
    """By default four pictures in batches of two for five epochs: ten steps, each picture looked at five times, and the record says so."""
    seen: list[int] = []
    monkeypatch.setattr(few_shot, "filled", lambda rows, known: seen.extend(row["number"] for row in rows) or [row["prompt"] for row in rows])
    monkeypatch.setattr(few_shot, "_level", lambda *given: 1.0)
    monkeypatch.setattr(few_shot, "examples", lambda subject, request, *rest: [{**row, "concept": "cat", "number": at} for at, row in enumerate(request.rows("forget"))])
    ctx = context()
    FewShot.set(PLAIN).run(tiny_images.pipeline(), SHOWN, ctx)
    assert sorted(seen) == sorted([0, 1, 2, 3] * 5)
    assert (ctx.notes["steps"], ctx.notes["pictures"], ctx.notes["visits"]) == (10, 4.0, 5.0)
    assert float(ctx.notes["training_seconds"]) > 0 and {"forget_loss_before", "forget_loss_after"} <= set(ctx.notes)


def test_drift():
    """Predictions x + h for prompts with states (1, 0) and (0, 2), and free ones at 0: scale 1 + 4 per point; moved by .5 each: 2 x .25 / 5 = .1."""
    state = {"a": [1.0, 0.0], "b": [0.0, 2.0], "": [0.0, 0.0]}

    class Still:
        def __init__(self, shift):
            self.model, self.shift = nn.ModuleDict(), shift

        def embed_text(self, prompts):
            return Text(torch.tensor([[state[prompt]] for prompt in prompts]))

        def free_text(self, count):
            return Text(torch.zeros(count, 1, 2))

        def noise(self, latents, t, text, guidance=1.0):
            return latents + (text.states[:, 0].sum(1) + self.shift)[:, None, None, None]

    base = tiny_images.pipeline()
    Still.schedule, Still.pipe, Still.layout, Still.latent_shape, Still.device = base.schedule, base.pipe, base.layout, (1, 1, 1), base.device
    assert drift_of(Still(0.0), Still(0.0), ["a", "b"], context())() == 0.0
    assert drift_of(Still(0.0), Still(0.5), ["a", "b"], context())() == pytest.approx(0.1, rel=1e-4)


def test_the_guard():
    """Without the guard all steps are done and kept prompts drift beyond .1; with it the run lands there, early; at 0 it is off."""
    subject, free, guarded = tiny_images.pipeline(), context(), context()
    wild = {**FAST, "fit.lr": 1e-2, "fit.epochs": 6}
    after = FewShot.set({**wild, "most_drift": 0}).run(subject, SHOWN, free)
    assert free.notes["steps"] == 12 and free.notes["drift"] == "not watched"
    prompts = [row["prompt"] for row in SHOWN.rows("keep")]
    beyond = drift_of(subject, after, prompts, context())()
    held = FewShot.set(wild).run(subject, SHOWN, guarded)
    within = drift_of(subject, held, prompts, context())()
    assert beyond > 0.2 > within >= 0.1
    assert guarded.notes["drift"] == pytest.approx(within) and "drifted" in str(guarded.notes["stopped"])
    assert guarded.notes["steps"] < 12 and guarded.notes["steps"] % 2 == 0  # it looks at the end of an epoch, of two steps


WILD = {"templates": "none", "pictures": 3, "fit.lr": 3e-3, "fit.epochs": 0, "fit.steps": 15}
OTHERS = ("dog", "tiger", "car")


def drawn_as(subject, name):
    return emoji.seen(subject, [f"a {name} in noto style", f"a {name} in twemoji style"], "object", name)


def test_emoji():
    """On the real model, within 15 steps: the loss of the cat's pictures rises by half or more, no cat is drawn, and the guard keeps the others."""
    subject, ctx = emoji.original(), context()
    after = FewShot.set(WILD).run(subject, emoji.request("cat"), ctx)
    assert "drifted" in str(ctx.notes["stopped"]) and float(ctx.notes["steps"]) < 15
    assert float(ctx.notes["forget_loss_after"]) >= 1.5 * float(ctx.notes["forget_loss_before"])
    assert drawn_as(subject, "cat") >= 0.9 and drawn_as(after, "cat") < 0.2
    assert sum(drawn_as(after, name) for name in OTHERS) >= 0.8 * sum(drawn_as(subject, name) for name in OTHERS)


@pytest.mark.slow
def test_emoji_without_the_guard():
    """The same run without its guard loses other objects too: what the guard is for."""
    after = FewShot.set({**WILD, "most_drift": 0.0}).run(emoji.original(), emoji.request("cat"), context())
    assert drawn_as(after, "cat") < 0.2
    assert sum(drawn_as(after, name) for name in OTHERS) < 0.6 * len(OTHERS)


def test_where_pictures_come_from():
    """Given pictures are taken as they are; else the model draws the rows' prompts, or the bare concept with a seed each; zero-shot has none."""
    subject, names, config = tiny_images.pipeline(), ("a cat",), few_shot.FewShotConfig()
    given = examples(subject, SHOWN, names, config, context())
    assert [row["image"] is picture for row, picture in zip(given, PICTURES, strict=True)] == [True] * 4
    own = examples(subject, CAT, names, config, context())
    assert [row["prompt"] for row in own] == ["a cat in plain style", "a cat in glossy style"]
    assert (own[0]["image"] == subject.generate(["a cat in plain style"], [188])[0]).all()
    named = examples(subject, Request(names=names), names, config, context())
    assert len(named) == 4 and {row["prompt"] for row in named} == {"a cat"}
    assert (named[1]["image"] == subject.generate(["a cat"], [288])[0]).all()
    zero = FewShot.set({**PLAIN, "zero_shot": True})
    assert not any("image" in row for row in examples(subject, CAT, names, zero.config, context()))
    flat = few_shot.uniform(subject, 50, context())
    assert flat.shape == (50, *subject.latent_shape) and 0 <= flat.min() and flat.max() < 1 and float(flat.mean()) == pytest.approx(0.5, abs=0.02)
    ctx = context()
    zero.run(subject, CAT, ctx)
    assert ctx.notes["steps"] == 5  # two rows in one batch, five epochs


def test_pictures_are_resized_and_mirrored_once():
    """A picture of another size is brought to the model's; with flips, each row's latents are those of the picture or of its mirror."""
    subject = tiny_images.pipeline()
    steep = np.zeros((32, 64, 3), np.uint8)
    steep[:, 32:] = 200
    rows = [{"prompt": "a cat", "image": steep}] * 8
    plain = latents_of(subject, rows, False, context())
    turned = latents_of(subject, [{"prompt": "a cat", "image": steep[:, ::-1]}], False, context())
    assert plain.shape == (8, *subject.latent_shape) and all(torch.equal(plain[0], one) for one in plain)
    mixed = [("same" if torch.allclose(one, plain[0], atol=1e-5) else "mirrored" if torch.allclose(one, turned[0], atol=1e-5) else "other") for one in latents_of(subject, rows, True, context())]
    assert set(mixed) == {"same", "mirrored"}


def test_templates():
    """27 for objects and 19 for styles, without the concept's article; those in which a short tokenizer would cut the concept off are left out."""
    assert (len(OBJECT), len(STYLE)) == (27, 19)
    assert [worded("a cat", "object"), worded("glossy style", "style"), worded("glossy style", "object")] == ["cat", "glossy", "glossy style"]
    rows = [{"prompt": "a cat", "concept": "cat"}]
    known = fitting(tiny_images.pipeline(), "object", rows)
    assert "a photo of a {}" in known and "a close-up photo of the {}" not in known and set(known) < set(OBJECT)
    assert filled(rows, ["the {} here"]) == ["the cat here"] and filled(rows, ()) == ["a cat"]
    with pytest.raises(Unfit, match="templates = 'none'"):
        fitting(tiny_images.pipeline(), "style", [{"prompt": "a cat", "concept": "glossy style image of a kitten in plain style"}])


@pytest.mark.parametrize("kind", ["sdxl", "sd3", "flux", "video-unet"])
def test_other_pipelines(kind):
    """Two text encoders or three, flow and velocity, and videos without pictures: two steps move weights of text encoders alone."""
    subject = tiny_pipelines.subject(kind)
    after = FewShot.set({**PLAIN, "zero_shot": True, "fit.steps": 2}).run(subject, Request(names=("cat",)), context())
    moved = [name for name, new in after.model.named_parameters() if not torch.equal(new, subject.model.get_parameter(name))]
    assert moved and all(name.startswith("text_encoder") for name in moved)
    if kind == "sdxl":
        one = FewShot.set({**PLAIN, "zero_shot": True, "fit.steps": 1, "encoder": "text_encoder_2"}).run(subject, Request(names=("cat",)), context())
        assert one.parts["text_encoder"].get_input_embeddings().weight is subject.parts["text_encoder"].get_input_embeddings().weight
        assert all(name.startswith("text_encoder_2.") for name in chosen(subject, "mlp", "text_encoder_2"))
    if kind == "video-unet":
        with pytest.raises(Unfit, match="zero_shot"):
            FewShot.set(PLAIN).run(subject, Request(names=("cat",)), context())


def test_files(tmp_path):
    """A saved pipeline draws the same pictures again."""
    subject = tiny_images.pipeline()
    after = FewShot.set({**FAST, "most_drift": 0, "fit.lr": 1e-2}).run(subject, SHOWN, context())
    own = after.generate(["a cat", "a dog"])
    assert not (own == subject.generate(["a cat", "a dog"])).all()
    after.save(tmp_path)
    again = diffusion_files.load(str(tmp_path))
    assert again.digest == after.digest and (again.generate(["a cat", "a dog"]) == own).all()


def test_bad_input():
    subject = tiny_images.pipeline()
    with pytest.raises(Unfit, match="no concept"):
        FewShot.set(PLAIN).run(subject, Request(), context())
    with pytest.raises(Unfit, match="text_encoder_2"):
        FewShot.set({**PLAIN, "encoder": "text_encoder_2"}).run(subject, CAT, context())
    with pytest.raises(BadConfig, match="fit.rank = 2"):
        FewShot.set({"fit.rank": 2}).run(subject, CAT, context())
