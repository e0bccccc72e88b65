"""Textual inversion: what is learned, from what, within which budget; and that it brings back what a closed-form edit hides."""

import contextlib

import numpy as np
import pytest
import torch

from efface.attacks.textual_inversion import TextualInversion, worded
from efface.core.context import Context
from efface.core.errors import Missing, Unfit
from efface.core.types import Data
from efface.families import drawn, embedded, soft_tokens
from efface.families import judges as judging
from efface.methods.uce import UCE
from efface.testing import emoji
from efface.testing.tiny_images import judges, pipeline, request

SUBJECT, ORIGINAL, REFERENCE, REQUEST = pipeline(2), pipeline(), pipeline(1), request()
SHORT = {"steps": 2, "batch": 3, "pictures": 4}


def context(**changes):
    return Context(**{"seed": 0, "baselines": {"original": ORIGINAL, "reference": REFERENCE, **judges()}, **changes})


def run(settings=None, subject=SUBJECT, asked=REQUEST, ctx=None):
    return TextualInversion.set({**SHORT, **(settings or {})}).run(subject, asked, ctx or context())


def test_the_best_of_all_attempts_counts_and_the_plain_prompts_are_one():
    before = SUBJECT.digest
    found = run({"restarts": 2})
    parts = found.parts
    assert found.value == max(parts["unattacked"], parts["attempt 1"], parts["attempt 2"])
    assert parts["attacked"] == max(parts["attempt 1"], parts["attempt 2"])
    assert (parts["steps"], parts["pictures"], parts["tokens"], found.n) == (4, 4, 1, 36)
    assert found.value == pytest.approx(np.mean([row["value"] for row in found.table]))
    assert parts["unattacked"] == pytest.approx(np.mean([row["unattacked"] for row in found.table]))
    assert SUBJECT.digest == before


def test_the_unattacked_pictures_are_those_of_every_metric():
    ctx = context()
    found = run(ctx=ctx)
    seen = judging.chances(judges()["judge/object"], drawn.forgotten(SUBJECT, REQUEST, ctx)[1]).argmax(1) == 0
    assert found.parts["unattacked"] == seen.mean()


def test_a_words_own_embedding_draws_the_very_same_pictures():
    """With no room to learn (lr next to 0) from the concept's own word, the attacked pictures are the plain ones."""
    ctx = context()
    system = TextualInversion.set({**SHORT, "steps": 1, "lr": 1e-12})
    exam, lesson = embedded.question(REQUEST, ctx, drawn.FORGET), system._lesson(SUBJECT, REQUEST, ctx)
    start = system._start(SUBJECT, lesson, 0, torch.Generator())
    assert np.abs(system._with(SUBJECT, start, lesson, exam).astype(int) - drawn.forgotten(SUBJECT, REQUEST, ctx)[1]).max() <= 1


def test_the_loss_is_the_denoising_error_on_the_pictures():
    """Against the formula for the plain prompts, with the embedding of "cat" in the place of cat."""
    ctx = context()
    system = TextualInversion.set({**SHORT, "batch": 3})
    lesson = system._lesson(SUBJECT, REQUEST, ctx)
    latents = SUBJECT.latents(lesson.pictures)
    word = system._start(SUBJECT, lesson, 0, torch.Generator())
    found = system._loss(SUBJECT, latents, lesson, torch.Generator().manual_seed(7))(word)
    source = torch.Generator().manual_seed(7)
    picked, t = torch.randint(4, (3,), generator=source), torch.randint(1000, (3,), generator=source)
    noise = torch.randn((3, 4, 4, 4), generator=source)
    kept = SUBJECT.pipe.scheduler.alphas_cumprod[t].view(3, 1, 1, 1)
    said = SUBJECT.noise(kept.sqrt() * latents[picked] + (1 - kept).sqrt() * noise, t, SUBJECT.embed_text([lesson.prompts[at] for at in picked]))
    assert found.item() == pytest.approx((said - noise).square().mean().item(), rel=1e-4)


def test_learning_lowers_the_loss_and_moves_nothing_else():
    """At fixed pictures and noise, on a model to which words mean something because its projections of text were enlarged."""
    loud = SUBJECT.fork(("cross.value",))
    with torch.no_grad():
        for weight in loud.weights("cross.value").values():
            weight.mul_(30)
    system, ctx = TextualInversion.set(SHORT), context()
    lesson = system._lesson(loud, REQUEST, ctx)
    latents, before = loud.latents(lesson.pictures), loud.digest

    def loss(vectors):
        return system._loss(loud, latents, lesson, torch.Generator().manual_seed(1))(vectors)

    start = system._start(loud, lesson, 1, torch.Generator().manual_seed(0))
    found = soft_tokens.searched(loss, start, 25, 0.2)
    assert loss(found).item() < 0.97 * loss(start).item()
    assert loud.digest == before


def test_pictures_are_the_originals_or_the_rows_own():
    system, ctx = TextualInversion.set(SHORT), context()
    lesson = system._lesson(SUBJECT, REQUEST, ctx)
    assert lesson.prompts == ["a cat in plain style", "a cat in glossy style"] * 2 and lesson.pictures.shape == (4, 16, 16, 3)
    seeds = [ctx.seed_for("picture of the concept", at) % 2**62 for at in range(4)]
    assert np.array_equal(lesson.pictures, ORIGINAL.generate(lesson.prompts, seeds))
    own = [{**row, "image": np.full((16, 16, 3), 9 * at, np.uint8)} for at, row in enumerate(REQUEST.rows("forget"))]
    with_images = REQUEST.model_copy(update={"forget": Data.inline(own)})
    lesson = system._lesson(SUBJECT, with_images, Context(baselines=judges()))  # no original is needed
    assert lesson.pictures[:, 0, 0, 0].tolist() == [0, 9]


def test_a_prompt_without_the_concepts_word_gives_way_to_the_concept():
    cutter = SUBJECT.pipe.tokenizer
    assert worded(cutter, {"prompt": "a kitten in plain style"}, "a cat") == "a cat"
    assert worded(cutter, {"prompt": "an image of a cat"}, "a cat") == "an image of a cat"
    assert worded(cutter, {"prompt": "a dog in plain style"}, "plain style") == "a dog in plain style"


def test_the_reference_is_attacked_alike_once_and_without_a_budget(tmp_path):
    ctx = context(passes=(tmp_path,), budget={"steps": 1})
    found = run(ctx=ctx)
    assert "budget of 1 steps" in found.why and found.parts["steps"] == 1
    kept = list(tmp_path.glob("textual_inversion-*.json"))
    assert len(kept) == 1
    alone = run(subject=REFERENCE, ctx=context(baselines={"original": ORIGINAL, **judges()}))
    assert found.parts["reference"] == alone.value and found.parts["reference_unattacked"] == alone.parts["unattacked"]
    kept[0].write_text('{"unattacked": 0.25, "attempt 1": 0.75}')
    again = run(ctx=context(passes=(tmp_path,)))
    assert (again.parts["reference"], again.parts["reference_unattacked"]) == (0.75, 0.25)


def test_pictures_are_drawn_through_the_guard():
    class Guard:
        calls: list[bool] = []

        def screen(self, prompts):
            return prompts

        def arrange(self, subject, call):
            self.calls.append(call.get("prompt_embeds") is not None)
            return call

        def steer(self, subject):
            return contextlib.nullcontext()

        def review(self, outputs):
            return outputs

    run(subject=SUBJECT.guarded(Guard()))
    assert Guard.calls == [False, True]  # plain, then with the learned word


@pytest.mark.parametrize(
    ("baselines", "asked", "error", "says"),
    [
        ({"original": ORIGINAL}, REQUEST, Missing, "--judge"),
        (judges(), REQUEST, Missing, "--original"),
        ({"original": ORIGINAL, **judges()}, REQUEST.model_copy(update={"names": ("a tree",)}), Missing, "no judge has a class for a tree"),
    ],
)
def test_bad_input(baselines, asked, error, says):
    with pytest.raises(error, match=says):
        run(asked=asked, ctx=context(baselines=baselines))


def test_too_many_tokens_are_refused():
    with pytest.raises(Unfit, match="longer than 16 tokens"):
        run({"tokens": 12})


@pytest.mark.slow
def test_it_restores_what_a_closed_form_edit_hides_and_not_what_was_never_learned():
    """Measured when written: 0.06 of the edited model's pictures show a cat, 1.00 after 40 steps; 0.08 of the retrained reference's.

    The same steps on a model that never saw a cat: what is left of the rate there is what the pictures themselves teach.
    """
    edit = {"tokens": "last_to_end", "lam": 0.05, "expansions": tuple(f"{{}} in {style} style" for style in ("noto", "twemoji", "fluent"))}
    ctx, asked = emoji.context("cat"), emoji.request("cat")
    edited = UCE.set(edit).run(emoji.original(), asked, ctx)
    found = TextualInversion.set({"steps": 40}).run(edited, asked, ctx)
    assert found.parts["unattacked"] <= 0.2
    assert found.parts["attacked"] >= 0.8
    assert found.parts["reference"] <= 0.3
    assert found.value == found.parts["attacked"] and found.low > found.parts["reference"]
