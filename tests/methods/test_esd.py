"""ESD: its loss by hand, no step where nothing is asked, the sets bit for bit, and what training comes to."""

import math
import types

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from efface.core.errors import BadConfig, Unfit
from efface.core.types import Data, Request
from efface.families import diffusion_files
from efface.families.denoisers import Text
from efface.families.trajectories import Path
from efface.methods import esd
from efface.methods.esd import ESD, Points, chosen
from efface.testing import emoji, tiny_images, tiny_pipelines
from efface.testing.tiny import context

CAT = Request(kind="concept", names=("a cat",))
SHORT = {"sampling_steps": 4, "trajectories": 3, "fit.steps": 4, "fit.batch": 2, "fit.lr": 1e-3}
STATE = {"a cat": [1.0, 0.0, 0.0], "": [0.0, 0.0, 1.0], "wheels": [0.0, 1.0, 0.0], "a car": [0.0, 0.0, 0.5]}


class Plain:
    """A subject whose prediction is scale * x + (mean over tokens of states) . w + t / 10, with w = (3, 5, 1) to train."""

    layout = types.SimpleNamespace(part="unet")
    origin = ""

    def __init__(self, w=(3.0, 5.0, 1.0)):
        self.model = nn.ModuleDict({"unet": nn.Linear(3, 1, bias=False)})
        with torch.no_grad():
            self.model["unet"].weight.copy_(torch.tensor([list(w)]))
        self.calls = 0

    @property
    def denoiser(self):
        return self.model["unet"]

    def names_of(self, role):
        return ["unet.weight"]

    def trainable(self, names):
        return Plain(self.denoiser.weight[0].tolist())

    def encode(self, rows, index=None):
        return types.SimpleNamespace(rows=rows, index=torch.tensor(index), texts=[row["prompt"] for row in rows])

    def embed_text(self, prompts):
        return Text(torch.tensor([[STATE[prompt]] for prompt in prompts]))

    def free_text(self, count=1):
        return self.embed_text([""] * count)

    def noise(self, latents, t, text):
        self.calls += len(latents)
        return latents + (self.denoiser(text.states.mean(1)) + t[:, None] / 10)[:, :, None, None]


@pytest.fixture
def plain(monkeypatch):
    """The subject above, and one path of one point: x_t = 1 at t = 20."""
    monkeypatch.setattr(esd, "drawn", lambda subject, prompts, *rest: Path(torch.ones(2, len(prompts), 1, 1, 1), torch.tensor([20])))
    monkeypatch.setattr(esd, "chosen", lambda subject, which: ["unet.weight"])
    return Plain()


@pytest.mark.parametrize(("names", "start", "eta", "loss"), [
    # e*(x, c) = 1 + 3 + 2 = 6, e*(x, "") = 1 + 1 + 2 = 4: the target is 6 - eta 2, the trained one starts at 6
    (("a cat",), "", 1.0, 4.0),
    (("a cat",), "", 2.0, 16.0),
    # from a car: e* = 1 + .5 + 2 = 3.5; wheels add 8 - 4 = 4, so the target is 3.5 - .5 x 4 = 1.5 for a start at 3.5
    (("wheels",), "a car", 0.5, 4.0),
    # two concepts, one row of each in the batch: (2 x 2)^2 and (2 x 4)^2 on average
    (("a cat", "wheels"), "", 2.0, 40.0),
])
def test_loss(plain, names, start, eta, loss):
    """The first loss in numbers, as the comments work it out."""
    ctx = context()
    settings = {"eta": eta, "erase_from": start, "trajectories": 1, "fit.steps": 1, "fit.batch": len(names)}
    ESD.set(settings).run(plain, Request(kind="concept", names=names), ctx)
    assert ctx.curve[0]["erase"] == pytest.approx(loss)


def test_rows(plain):
    """Taken out of a forget row's prompt, wheels give the same number as taken out of a car by name: 4 for eta .5."""
    ctx, request = context(), Request(kind="concept", names=("wheels",), forget=Data.inline([{"prompt": "a car"}]))
    ESD.set({"eta": 0.5, "prompts": "rows", "trajectories": 1, "fit.steps": 1}).run(plain, request, ctx)
    assert ctx.curve[0]["erase"] == pytest.approx(4.0)


def test_rows_that_speak_of_the_concept():
    """Paths are drawn for those forget rows that name the concept, in turns; without forget rows that is refused."""
    config = ESD.set({"prompts": "rows", "trajectories": 4}).config
    rows = Data.inline([{"prompt": prompt} for prompt in ("a cat in plain style", "a kitten", "an image of a cat")])
    request = Request(names=("a cat",), forget=rows)
    assert [row["prompt"] for row in esd._rows(("a cat",), request, config, context())] == ["a cat in plain style", "an image of a cat"] * 2
    with pytest.raises(Unfit, match="forget"):
        ESD.set({**SHORT, "prompts": "rows"}).run(tiny_images.pipeline(), CAT, context())


def test_gradient(plain):
    """d/dw of (3 + e(c) - target)^2 for c = (1, 0, 0) is 2 (6 - 2) (1, 0, 0): only the concept's own coordinate gets a gradient, of norm 8."""
    ctx = context()
    after = ESD.set({"eta": 2.0, "trajectories": 1, "fit.steps": 1, "fit.optimizer": "sgd", "fit.lr": 0.125}).run(plain, CAT, ctx)
    assert ctx.curve[0]["gradient_norm"] == pytest.approx(8.0)
    assert after.denoiser.weight[0].tolist() == pytest.approx([2.0, 5.0, 1.0])  # 3 - .125 x 8


def test_each_point_is_computed_once(plain):
    """Three visits to one point: two frozen predictions for what the concept adds, and one a visit for the prompt's own."""
    rows = [{"prompt": "a cat", "concept": "a cat"}]
    points = Points(plain, Path(torch.ones(2, 1, 1, 1, 1), torch.tensor([20])), rows, lambda prompts: plain.embed_text(prompts))
    step, index = torch.tensor([0]), torch.tensor([0])
    first, second = points.push(step, index), points.push(step, index)
    assert first.item() == second.item() == 2.0
    assert plain.calls == 2


@pytest.mark.parametrize(("which", "size"), [("x", 2), ("x", 1), ("all", 3)])
def test_without_eta_nothing_moves(which, size):
    """With eta 0 the loss is exactly zero at every step, and no weight moves, though Adam would turn the least rounding into whole steps."""
    subject, ctx = tiny_images.pipeline(), context()
    after = ESD.set({**SHORT, "eta": 0.0, "train": which, "fit.batch": size}).run(subject, CAT, ctx)
    assert [line["erase"] for line in ctx.curve] == [0.0] * 4
    assert after.digest == subject.digest


@pytest.mark.parametrize("which", ["x", "x-strict", "u", "all"])
def test_sets(which):
    """Exactly the named set changes; every other tensor is the very same one, not a copy. Normalization never trains."""
    subject = tiny_images.pipeline()
    after = ESD.set({**SHORT, "train": which}).run(subject, CAT, context())
    old, names = dict(subject.model.named_parameters()), set(chosen(subject, which))
    for name, new in after.model.named_parameters():
        assert (new is old[name]) == (name not in names), name
        assert torch.equal(new, old[name]) == (name not in names), name
    assert not [name for name in names if "norm" in name or not name.startswith("unet.")]
    cross = [name for name, _ in subject.model.named_parameters() if "attn2" in name and "norm" not in name]
    expected = {"x": cross, "x-strict": [name for name in cross if "to_k" in name or "to_v" in name]}
    if which in expected:
        assert names == set(expected[which])
    elif which == "u":
        assert not names & set(cross) and names | set(cross) == set(chosen(subject, "all"))


def answers(subject, other, prompt, noise, t):
    """Predictions of two subjects for the same noise."""
    with torch.no_grad():
        return [one.noise(noise, t, one.embed_text([prompt]).repeat(len(noise))) for one in (subject, other)]


def test_it_turns_away():
    """After training, e(c) - e*("") points against e*(c) - e*(""): cosine with its negative above .8, for noise that training did not see.

    The start has cosine -1. The other object's prediction moves less than the concept's.
    """
    subject = tiny_images.pipeline()
    settings = {"eta": 2.0, "sampling_steps": 8, "trajectories": 8, "fit.steps": 80, "fit.batch": 8, "fit.lr": 1e-3}
    after = ESD.set(settings).run(subject, CAT, context())
    noise, t = torch.randn((32, *subject.latent_shape), generator=torch.Generator().manual_seed(5)), torch.arange(10, 970, 30)
    free, _ = answers(subject, after, "", noise, t)
    old, new = answers(subject, after, "a cat", noise, t)
    assert torch.nn.functional.cosine_similarity((new - free).flatten(), -(old - free).flatten(), 0) > 0.8
    dogs = answers(subject, after, "a boat", noise, t)
    assert (dogs[1] - dogs[0]).norm() < (new - old).norm()


@pytest.mark.slow
def test_emoji():
    """On the real model the cat is no longer drawn, and others stay what they are."""
    subject, settings = emoji.original(), {"sampling_steps": 20, "trajectories": 8, "fit.steps": 40, "fit.batch": 4, "fit.lr": 5e-4}
    after = ESD.set(settings).run(subject, emoji.request("cat"), context())
    prompts = {name: [f"a {name} in {style} style" for style in ("noto", "twemoji", "fluent")] for name in ("cat", "dog", "tiger")}
    assert emoji.seen(subject, prompts["cat"], "object", "cat") >= 0.9
    assert emoji.seen(after, prompts["cat"], "object", "cat") <= 0.1
    assert min(emoji.seen(after, prompts[name], "object", name) for name in ("dog", "tiger")) >= 0.8


@pytest.mark.parametrize("kind", ["sdxl", "sd3", "flux", "video-unet"])
def test_other_pipelines(kind):
    """Keys and values that read text, and they alone, move in two steps; flow models predict velocity, and the formula is the same."""
    subject, ctx = tiny_pipelines.subject(kind), context()
    after = ESD.set({**SHORT, "sampling_steps": 2, "trajectories": 2, "fit.steps": 2, "train": "x-strict"}).run(subject, Request(names=("cat",), near=("dog",)), ctx)
    moved = {name for name, new in after.model.named_parameters() if not torch.equal(new, subject.model.get_parameter(name))}
    assert moved and all(".to_k." in name or ".to_v." in name or "add_k_proj" in name or "add_v_proj" in name for name in moved)
    assert ctx.curve[0]["gradient_norm"] > 0


def test_text_and_picture_in_one_sequence():
    """CogVideoX has no keys for text alone; that is said in one line."""
    with pytest.raises(Unfit, match="no keys and values for text alone"):
        chosen(tiny_pipelines.subject("cogvideox"), "x-strict")


def test_files(tmp_path):
    """A saved pipeline, and a file of the trained weights alone loaded with strict=False into the original, both reproduce the pictures."""
    subject = tiny_images.pipeline()
    after = ESD.set({**SHORT, "fit.lr": 0.05}).run(subject, CAT, context())
    prompts, own = ["a cat", "a dog in plain style"], after.generate(["a cat", "a dog in plain style"])
    assert not (own == subject.generate(prompts)).all()
    (tmp_path / "whole").mkdir()
    after.save(tmp_path / "whole")
    whole = diffusion_files.load(str(tmp_path / "whole"))
    assert whole.digest == after.digest and (whole.generate(prompts) == own).all()
    names = chosen(after, "x")
    save_file({name.removeprefix("unet."): after.model.get_parameter(name).detach() for name in names}, tmp_path / "x.safetensors")
    other = subject.fork()
    found = other.denoiser.load_state_dict(load_file(tmp_path / "x.safetensors"), strict=False)
    assert not found.unexpected_keys
    assert other.digest == after.digest and (other.generate(prompts) == own).all()


def test_paths_are_no_more_than_are_used():
    ctx = context()
    ESD.set({**SHORT, "trajectories": 32, "fit.steps": 3}).run(tiny_images.pipeline(), Request(kind="concept", names=("a cat", "a boat")), ctx)
    assert ctx.notes["paths"] == 2 * math.ceil(3 * 2 / 2)


def test_bad_input():
    subject = tiny_images.pipeline()
    for names, says in (((), "no concept"), (("a cat", " "), "empty concept")):
        with pytest.raises(Unfit, match=says):
            ESD.set(SHORT).run(subject, Request(kind="concept", names=names), context())
    with pytest.raises(BadConfig, match="fit.rank = 4"):
        ESD.set({"fit.rank": 4}).run(subject, CAT, context())
    half = tiny_images.pipeline()
    half.denoiser.to(torch.bfloat16)
    with pytest.raises(Unfit, match=r"bfloat16.*--dtype float32"):
        ESD.set(SHORT).run(half, CAT, context())
