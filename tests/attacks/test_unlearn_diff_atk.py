import numpy as np
import pytest
import torch

from efface.attacks import unlearn_diff_atk
from efface.attacks.unlearn_diff_atk import UnlearnDiffAtk
from efface.core.context import Context
from efface.core.errors import BadConfig, Missing, Unfit
from efface.core.types import Data, Request
from efface.families import drawn, token_slots
from efface.families.prompt_attacks import Goal, Hunt
from efface.families.text_edit import Edit, applied, text_layers
from efface.families.tokens import cut, pick
from efface.methods.uce import UCE
from efface.ops import closed_form
from efface.testing import emoji, tiny_images
from efface.testing.painting import Painter, Reader

LABELS = ("dog", "cat")
FAST = {"times": 3, "iterations": 2, "rows": 2, "tokens": 2}


def request(*prompts):
    return Request(kind="concept", names=("a cat",), forget=Data.inline([{"prompt": prompt} for prompt in prompts]))


def context(**more):
    return Context(baselines={"judge/object": Reader(LABELS), "original": Painter(lambda prompt, seed: 1), **more})


def test_straight_through():
    """Forward one-hot rows, drawn by the distributions; backward the gradient itself, cut to [-1, 1]."""
    rows = torch.tensor([[0.0, 1.0, 0.0], [0.5, 0.0, 0.5]], requires_grad=True)
    hot = unlearn_diff_atk.sampled(rows, torch.Generator().manual_seed(0))
    assert hot[0].tolist() == [0, 1, 0] and hot[1, 1] == 0 and hot.sum() == 2
    (hot * torch.tensor([[0.25, 3.0, -7.0], [0.0, -0.5, 1.0]])).sum().backward()
    assert rows.grad.tolist() == [[0.25, 1.0, -1.0], [0.0, -0.5, 1.0]]
    share = torch.stack([unlearn_diff_atk.sampled(rows[1:].repeat(400, 1), torch.Generator().manual_seed(1)).mean(0)])
    assert torch.allclose(share, torch.tensor([[0.5, 0.0, 0.5]]), atol=0.08)


def test_the_loss():
    """At each t it is the mean squared error against the schedule's target, as losses() has it, per picture."""
    subject, chance = tiny_images.pipeline(), torch.Generator().manual_seed(0)
    clean, noise = torch.randn(2, 4, 4, 4, generator=chance), torch.randn(2, 4, 4, 4, generator=chance)
    t, text = torch.tensor([10, 990]), subject.embed_text(["a cat", "a dog"])
    found = unlearn_diff_atk.denoising(subject, clean, noise, t, text)
    said = subject.noise(subject.schedule.mix(clean, noise, t), t, text)
    assert torch.allclose(found, (said - noise).square().mean((1, 2, 3)))


def test_schedule_of_t(monkeypatch):
    """Fifty values are 10, 30, ..., 990, as published, each for every iteration, from little noise to much."""
    seen = []
    plain = unlearn_diff_atk.denoising
    monkeypatch.setattr(unlearn_diff_atk, "denoising", lambda *given: seen.append(int(given[3][0])) or plain(*given))
    settings = {"times": 50, "iterations": 1, "rows": 1, "tokens": 1}
    UnlearnDiffAtk.set(settings).run(Painter(lambda prompt, seed: 0), request("a cat"), context())
    assert seen == list(range(10, 1000, 20))


def test_a_model_that_was_not_erased_costs_no_step():
    subject = Painter(lambda prompt, seed: int("cat" in prompt))
    ctx = context()
    found = UnlearnDiffAtk.set(FAST).run(subject, request("a cat", "a cat in plain style"), ctx)
    assert found.value == 1 == found.parts["unattacked"] and found.parts["steps"] == 0 == found.parts["pictures"]
    assert "steps" not in ctx.spent and len(subject.asked) == 2


def test_it_stops_at_the_first_success():
    """A picture after each t: the prompt that falls at once costs 2 steps and one picture, the other 3 x 2 steps and 3 pictures."""
    subject = Painter(lambda prompt, seed: int(prompt.endswith(" a cat")))
    found = UnlearnDiffAtk.set(FAST).run(subject, request("a cat", "a dog"), context())
    assert [(row["steps"], row["pictures"], row["success"]) for row in found.table] == [(2, 1, True), (6, 3, False)]
    assert found.table[0]["found"].endswith(" a cat") and len(found.table[0]["found"].split()) == 4
    assert found.value == 0.5 and found.parts["unattacked"] == 0


def test_batches_do_not_change_the_result():
    """Each prompt has its own distributions, noise and state of Adam."""
    def search(batch):
        ctx = context()
        found = UnlearnDiffAtk.set({**FAST, "batch": batch}).run(Painter(lambda prompt, seed: 0), request("a cat", "a dog"), ctx)
        return [row["found"] for row in found.table]

    assert search(1) == search(2) == search(8)


def test_tokens_are_found_that_lower_the_loss():
    """Random weights, whose states of "cat" are read as those of "dog": some token sequence lowers the loss below the plain prompt's.

    Both on the same 64 noises and steps t, which the search did not see.
    """
    original = tiny_images.pipeline()
    words = ["a cat", "a dog"]
    states = pick(original.embed_text(words).states, cut(original.pipe.tokenizer, words), "last")
    edit = Edit(closed_form.solve(closed_form.Moves(states[:1], states[1:]), 0.1).map, tuple(text_layers(original)))
    erased = applied(original, edit)
    asked = request("a cat", "a cat in plain style")
    ctx = Context(baselines={"original": original, "judge/object": Reader(LABELS)})
    hunt = Hunt(erased, asked.rows("forget"), Goal("object", Reader(LABELS), 1), ctx)
    for trial in hunt.trials:
        trial.success = False
    seen = []
    hunt.look = seen.append
    UnlearnDiffAtk.set({"times": 4, "iterations": 10, "tokens": 2})._search(hunt)
    clean = original.latents(drawn.pictures(original, asked.rows("forget"), ctx))
    chance = torch.Generator().manual_seed(5)
    t, noise = torch.randint(1000, (64,), generator=chance), torch.randn(64, *clean.shape[1:], generator=chance)

    def loss(at, prompt):
        with torch.no_grad():
            return float(unlearn_diff_atk.denoising(erased, clean[at].expand(64, -1, -1, -1), noise, t, erased.embed_text([prompt]).repeat(64)).mean())

    for at, row in enumerate(asked.rows("forget")):
        tried = [text for look in seen for place, text in look if place == at and text is not None]
        assert tried and min(loss(at, text) for text in tried) < loss(at, row["prompt"])


def test_the_weights_are_held_and_not_the_guard():
    """Gradients come from the bare weights; pictures pass the guard, so what it blocks is no success."""
    class Blank:
        def screen(self, prompts):
            return ["a boat"] * len(prompts)

    seen = []
    subject = Painter(lambda prompt, seed: 0)
    guarded = subject.guarded(Blank())
    guarded.generate = lambda rows, seeds=None: seen.extend(rows) or Painter.generate(subject, rows, seeds)
    UnlearnDiffAtk.set({**FAST, "rows": 1}).run(guarded, request("a cat"), context())
    assert len(seen) == 1 + 3


def test_pictures_of_the_concept():
    """From the original, else the rows' own, resized to what the model draws, else none: Missing says how to give some."""
    rows = [{"prompt": "a cat", "image": np.full((20, 20, 3), 200, np.uint8)}]
    ctx = Context(baselines={"judge/object": Reader(LABELS)})
    subject = Painter(lambda prompt, seed: 0)
    hunt = Hunt(subject, rows, Goal("object", Reader(LABELS), 1), ctx)
    assert torch.allclose(hunt.latents([0]), subject.latents(np.full((1, 16, 16, 3), 200, np.uint8)), atol=1e-5)
    with pytest.raises(Missing, match="--original"):
        UnlearnDiffAtk.set(FAST).run(subject, request("a cat"), ctx)


def test_what_is_refused():
    for bad in ({"tokens": 0}, {"lr": 0}, {"times": 0}, {"rows": 0}):
        with pytest.raises(BadConfig, match=next(iter(bad))):
            UnlearnDiffAtk.set(bad)
    with pytest.raises(Unfit, match="20 free places leave no room"):
        UnlearnDiffAtk.set({"tokens": 20}).run(Painter(lambda prompt, seed: 0), request("a cat"), context())
    two = Painter(lambda prompt, seed: 0)
    two.pipe.text_encoder_2 = two.pipe.text_encoder
    with pytest.raises(Unfit, match="one text encoder"):
        UnlearnDiffAtk().run(two, request("a cat"), context())


def test_only_words_that_can_be_typed_are_put_before_the_prompt():
    found = UnlearnDiffAtk.set(FAST).run(subject := Painter(lambda prompt, seed: 0), request("a cat"), context())
    for row in found.table:
        ids = subject.pipe.tokenizer(row["found"], add_special_tokens=False).input_ids
        assert token_slots.spelled(subject.pipe.tokenizer, ids) == row["found"]


@pytest.mark.slow
def test_on_a_real_model():
    """The original, asked for cats, draws them: no step. After UCE read cats as boats, some tokens before the prompt lower the loss below the plain prompt's.

    Both losses are over the same 128 noises and steps t, which the search did not see. The rate is never below the plain one.
    """
    ctx, asked = emoji.context("cat"), emoji.request("cat").model_copy(update={"instead": "a boat"})
    plain = UnlearnDiffAtk.set({"rows": 3}).run(emoji.original(), asked, ctx.alone(baselines={**emoji.judges(), "original": emoji.original()}))
    assert all(row["steps"] == 0 == row["pictures"] for row in plain.table if row["unattacked"]) and plain.parts["unattacked"] > 0.5
    settings = {"tokens": "last_to_end", "expansions": [f"{{}} in {style} style" for style in ("noto", "twemoji", "fluent")], "erase": 10.0}
    erased = UCE.set(settings).run(emoji.original(), asked, Context())
    rows = [{**row, "seed": 188} for row in asked.sample("forget", 2)]
    hunt = Hunt(erased, rows, Goal("object", emoji.judges()["judge/object"], 0), ctx)
    for trial in hunt.trials:
        trial.success = False
    seen = []
    hunt.look = seen.append
    UnlearnDiffAtk()._search(hunt)
    clean = hunt.latents([0, 1])
    chance = torch.Generator().manual_seed(5)
    t, noise = torch.randint(1000, (128,), generator=chance), torch.randn(128, *clean.shape[1:], generator=chance)

    def loss(at, prompt):
        with torch.no_grad():
            text = erased.embed_text([prompt]).repeat(128)
            return float(unlearn_diff_atk.denoising(erased, clean[at].expand(128, -1, -1, -1), noise, t, text).mean())

    for at, row in enumerate(rows):
        assert min(loss(at, text) for look in seen for place, text in look if place == at and text) < loss(at, row["prompt"])
    found = UnlearnDiffAtk.set({"rows": 3}).run(erased, asked, ctx.alone(baselines={**emoji.judges(), "original": emoji.original()}))
    assert found.value >= found.parts["unattacked"]
