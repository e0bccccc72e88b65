"""Concept ablation: both losses by hand, no step where concept and anchor agree, the sets bit for bit, and what training comes to."""

import types

import pytest
import torch
from torch import nn

from efface.core.errors import BadConfig, Unfit
from efface.core.types import Data, Request
from efface.families import diffusion_files
from efface.families.denoisers import Text
from efface.methods import concept_ablation
from efface.methods.concept_ablation import ConceptAblation, _begin_detached, anchors, chosen, pairs, replaced
from efface.testing import emoji, tiny_images, tiny_pipelines
from efface.testing.tiny import context

CAT = Request(kind="concept", names=("a cat",), near=("a dog",))
SHORT = {"fit.steps": 3, "fit.batch": 2, "fit.lr": 1e-3}
STATE = {"a cat": [1.0, 0.0], "a dog": [0.5, 0.5]}


class Plain:
    """A subject whose prediction is x + (mean over tokens of states) . w, with w = (3, 5) to train; noise is never mixed in and the target is 2."""

    layout = types.SimpleNamespace(part="transformer")
    origin = ""
    schedule = types.SimpleNamespace(steps=10, noised=lambda clean: (clean, torch.zeros(len(clean), dtype=torch.long), torch.zeros_like(clean)), target=lambda clean, noise, t: clean * 0 + 2)

    def __init__(self, w=(3.0, 5.0)):
        self.model = nn.ModuleDict({"unet": nn.Linear(2, 1, bias=False)})
        with torch.no_grad():
            self.model["unet"].weight.copy_(torch.tensor([list(w)]))

    def trainable(self, names):
        return Plain(self.model["unet"].weight[0].tolist())

    def encode(self, rows, index=None):
        return types.SimpleNamespace(rows=rows, index=torch.tensor(index), texts=[row["prompt"] for row in rows])

    def embed_text(self, prompts):
        return Text(torch.tensor([[STATE[prompt]] for prompt in prompts]))

    def noise(self, latents, t, text):
        return latents + self.model["unet"](text.states.mean(1))[:, :, None, None]


@pytest.fixture
def plain(monkeypatch):
    """The subject above, with pictures of the anchor that are x = 1."""
    monkeypatch.setattr(concept_ablation, "anchors", lambda subject, rows, ctx: torch.ones(len(rows), 1, 1, 1))
    monkeypatch.setattr(concept_ablation, "chosen", lambda subject, which: ["unet.weight"])
    return Plain()


SGD = {"fit.optimizer": "sgd", "fit.weight_decay": 0.0, "fit.clip": 0.0, "fit.lr": 0.25, "fit.batch": 1}


@pytest.mark.parametrize(("settings", "first", "second"), [
    # e(c) = 1 + 3 = 4, e'(a) = 1 + 4 = 5: loss 1. The step takes w1 to 3 + .25 x 2 = 3.5, so e(c) = 4.5 and the loss .25
    ({}, 1.0, 0.25),
    # the model in training now says 1 + (3.5 + 5) / 2 = 5.25 for the anchor: (4.5 - 5.25)^2
    ({"anchor": "self"}, 1.0, 0.5625),
    # the noise is 2: (4 - 2)^2; the step takes w1 to 3 - .25 x 4 = 2, so e(c) = 3 and the loss 1
    ({"target": "noise"}, 4.0, 1.0),
])
def test_loss(plain, settings, first, second):
    """The losses of two steps in numbers, as the comments work them out."""
    ctx = context()
    ConceptAblation.set({**SGD, **settings, "fit.steps": 2}).run(plain, CAT, ctx)
    assert [line["ablate"] for line in ctx.curve] == pytest.approx([first, second])


def test_prior(plain):
    """The prior is .5 x (e(a) - noise)^2 = .5 x (5 - 2)^2 = 4.5, beside a first term that stays 1."""
    ctx = context()
    ConceptAblation.set({**SGD, "prior_weight": 0.5, "fit.steps": 1}).run(plain, CAT, ctx)
    assert (ctx.curve[0]["ablate"], ctx.curve[0]["prior"]) == pytest.approx((1.0, 4.5))


@pytest.mark.parametrize("anchor", ["frozen", "self"])
@pytest.mark.parametrize("which", ["cross", "embedding"])
def test_nothing_to_learn(anchor, which, monkeypatch):
    """Where the concept's prompt is the anchor's, loss and gradient are exactly zero, and without weight decay no weight moves."""
    monkeypatch.setattr(concept_ablation, "pairs", lambda names, anchor, request: [("a dog", "a dog")])
    subject, ctx = tiny_images.pipeline(), context()
    after = ConceptAblation.set({**SHORT, "anchor": anchor, "train": which, "fit.weight_decay": 0.0}).run(subject, CAT, ctx)
    assert [(line["ablate"], line["gradient_norm"]) for line in ctx.curve] == [(0.0, 0.0)] * 3
    assert after.digest == subject.digest


@pytest.mark.parametrize("which", ["cross", "attention", "full"])
def test_sets(which):
    """Exactly the named set changes; every other tensor is the very same one. Cross is keys and values that read text."""
    subject = tiny_images.pipeline()
    after = ConceptAblation.set({**SHORT, "train": which}).run(subject, CAT, context())
    old, names = dict(subject.model.named_parameters()), set(chosen(subject, which))
    for name, new in after.model.named_parameters():
        assert (new is old[name]) == (name not in names), name
        assert torch.equal(new, old[name]) == (name not in names), name
    expected = {
        "cross": lambda name: "attn2.to_k" in name or "attn2.to_v" in name, "attention": lambda name: "attn1." in name or "attn2." in name,
        "full": lambda name: name.startswith("unet."),
    }[which]
    assert names == {name for name in old if expected(name)}


def test_embedding():
    """Of the whole model only the vector of "cat" changes, though the article stands in every prompt and AdamW decays."""
    subject, ctx = tiny_images.pipeline(), context()
    after = ConceptAblation.set({**SHORT, "train": "embedding"}).run(subject, CAT, ctx)
    moved = [name for name, new in after.model.named_parameters() if not torch.equal(new, subject.model.get_parameter(name))]
    assert len(moved) == 1 and moved[0].endswith("token_embedding.weight")
    rows = (after.model.get_parameter(moved[0]) != subject.model.get_parameter(moved[0])).any(1).nonzero().flatten().tolist()
    assert rows == [subject.pipe.tokenizer("cat").input_ids[1]]
    assert all(line["gradient_norm"] > 0 for line in ctx.curve)


def far(one, other, prompts, latents, t):
    """Mean squared distance of one subject's predictions for a prompt and another's for a second one."""
    with torch.no_grad():
        said = [subject.noise(latents, t, subject.embed_text([prompt]).repeat(len(t))) for subject, prompt in zip((one, other), prompts, strict=True)]
    return float((said[0] - said[1]).square().mean())


def held_out(subject, prompt, count):
    """New noise on new pictures that the subject draws for a prompt."""
    clean = anchors(subject, [{"anchor": prompt, "seed": 10**6 + at} for at in range(count)], context())
    noise, t = torch.randn(clean.shape, generator=torch.Generator().manual_seed(5)), torch.linspace(10, 970, count).long()
    return subject.schedule.mix(clean, noise, t), t


def test_the_concept_becomes_the_anchor():
    """On new pictures and noise, e(cat) comes to e*(dog): less than 30 % of the start is left. Here both words stand among the same others.

    Values are read ten times as loud as random weights would have it, so that the prompt has a say.
    """
    subject = tiny_images.pipeline().fork(("cross.value",))
    with torch.no_grad():
        for parameter in subject.weights("cross.value").values():
            parameter.mul_(10)
    after = ConceptAblation.set({"fit.steps": 60, "fit.batch": 8, "fit.lr": 2e-3, "fit.schedule": "linear"}).run(subject, CAT, context())
    points = held_out(subject, "a dog", 32)
    assert far(after, subject, ("a cat", "a dog"), *points) < 0.3 * far(subject, subject, ("a cat", "a dog"), *points)


@pytest.mark.slow
def test_emoji():
    """On the real model, besides, e(dog) drifts by less than what is left of e(cat)'s way; cats become dogs, and others stay what they are."""
    subject = emoji.original()
    after = ConceptAblation.set({"fit.lr": 1e-3, "fit.steps": 40}).run(subject, emoji.request("cat"), context())
    points = held_out(subject, "a dog in noto style", 16)
    cat, dog = "a cat in noto style", "a dog in noto style"
    left = far(after, subject, (cat, dog), *points) / far(subject, subject, (cat, dog), *points)
    drift = far(after, subject, (dog, dog), *points) / far(subject, subject, (cat, dog), *points)
    assert drift < left < 0.3
    assert emoji.seen(after, [cat, "a cat in fluent style"], "object", "cat") <= 0.1
    assert emoji.seen(after, [cat, "a cat in fluent style"], "object", "dog") >= 0.8
    assert emoji.seen(after, ["a tiger in noto style", "a tiger in fluent style"], "object", "tiger") >= 0.8


def test_begin_token_gives_no_gradient():
    """A text of its begin token alone gives keys and values no gradient; outside of the block it does, and the prediction is the same."""
    subject = tiny_images.pipeline()
    after = subject.trainable(chosen(subject, "cross"))
    text, latents, t = after.embed_text(["a cat"]), torch.ones(1, *subject.latent_shape), torch.tensor([500])
    only = Text(text.states[:, :1])

    def gradients(given):
        after.model.zero_grad()
        said = after.noise(latents, t, given)
        said.square().sum().backward()
        return said, sum(float(parameter.grad.abs().sum()) for parameter in after.model.parameters() if parameter.grad is not None)

    with _begin_detached(after):
        inside, none = gradients(only)
        assert none == 0.0 and gradients(text)[1] > 0
    outside, some = gradients(only)
    assert some > 0 and torch.equal(inside, outside)


def test_prompts():
    """Whole words, with the concept's article or without; rows that do not speak of the concept teach nothing; without any, the bare pair."""
    assert replaced("an image of a Cat in noto style", "a cat", "an owl") == "an image of an owl in noto style"
    assert replaced("noto style cat", "a cat", "an owl") == "noto style owl"
    assert replaced("a caterpillar", "a cat", "a dog") == "a caterpillar"
    rows = Data.inline([{"prompt": prompt} for prompt in ("a cat in noto style", "a kitten", "a cat in noto style")])
    assert pairs(("a cat",), "a dog", Request(names=("a cat",), forget=rows)) == [("a cat in noto style", "a dog in noto style")]
    assert pairs(("a cat", "a cow"), "a dog", Request()) == [("a cat", "a dog"), ("a cow", "a dog")]


def test_pictures_are_no_more_than_are_used_and_the_anchor_is_said():
    ctx = context()
    ConceptAblation.set(SHORT).run(tiny_images.pipeline(), CAT.model_copy(update={"instead": "a boat"}), ctx)
    assert (ctx.notes["pictures"], ctx.notes["anchor"]) == (6.0, "a boat")


@pytest.mark.parametrize("kind", ["sdxl", "sd3", "flux", "video-unet"])
def test_other_pipelines(kind):
    """Keys and values that read text, and they alone, move in two steps; flow models predict velocity, and the formula is the same."""
    subject, ctx = tiny_pipelines.subject(kind), context()
    after = ConceptAblation.set({**SHORT, "fit.steps": 2}).run(subject, Request(names=("cat",), near=("dog",)), ctx)
    moved = {name for name, new in after.model.named_parameters() if not torch.equal(new, subject.model.get_parameter(name))}
    assert moved and all(".to_k." in name or ".to_v." in name or "add_k_proj" in name or "add_v_proj" in name for name in moved)
    assert ctx.curve[0]["gradient_norm"] > 0


def test_text_and_picture_in_one_sequence():
    """CogVideoX has no keys for text alone; that is said in one line."""
    with pytest.raises(Unfit, match="no keys and values for text alone"):
        chosen(tiny_pipelines.subject("cogvideox"), "cross")


def test_files(tmp_path):
    """A saved pipeline draws the same pictures again."""
    subject = tiny_images.pipeline()
    after = ConceptAblation.set({**SHORT, "fit.lr": 0.05}).run(subject, CAT, context())
    own = after.generate(["a cat", "a dog"])
    assert not (own == subject.generate(["a cat", "a dog"])).all()
    after.save(tmp_path)
    again = diffusion_files.load(str(tmp_path))
    assert again.digest == after.digest and (again.generate(["a cat", "a dog"]) == own).all()


def test_bad_input():
    subject = tiny_images.pipeline()
    for request, says in (
        (Request(near=("a dog",)), "no concept"), (Request(names=("a cat",)), "--instead"), (Request(names=("a cat",), near=("A  cat",)), "own anchor"),
    ):
        with pytest.raises(Unfit, match=says):
            ConceptAblation.set(SHORT).run(subject, request, context())
    with pytest.raises(BadConfig, match="fit.rank = 2"):
        ConceptAblation.set({"fit.rank": 2}).run(subject, CAT, context())
