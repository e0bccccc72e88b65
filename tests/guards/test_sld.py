"""SLD against its formula written out, on tiny pipelines; that it is guidance where it should be; and that it guards or raises."""

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler

from efface.core.errors import EffaceError, Unfit
from efface.core.types import Request
from efface.families.diffusion import Diffusion, Sampling
from efface.families.trajectories import _scheduler, starts
from efface.guards.sld import PRESETS, SLD, Strength
from efface.testing import emoji, tiny, tiny_pipelines

PROMPTS = ["a boat in plain style", "a cat"]
BROKEN = (RuntimeError, ValueError, TypeError, IndexError)
"""What denoisers raise at latents of no shape."""
REQUEST = Request(kind="concept", names=("a cat", "a dog"))
KINDS = [kind for kind in tiny_pipelines.KINDS if kind != "flux"]
CUSTOM = {"scale": 300.0, "threshold": 0.02, "warmup": 2, "momentum_scale": 0.5, "momentum": 0.4}


def guarded(subject, request=REQUEST, **settings):
    return SLD.set(settings).run(subject, request, tiny.context())


def velocity():
    """A U-Net that gives v."""
    pipe = tiny_pipelines.pipeline("sd")
    pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config, prediction_type="v_prediction")
    return Diffusion(pipe, Sampling(2, 3.0, 16))


@pytest.fixture(scope="module", params=[*KINDS, "v"])
def subject(request):
    return velocity() if request.param == "v" else tiny_pipelines.subject(request.param)


@torch.no_grad()
def by_hand(subject, prompts, strength, steps, guidance, concept="a cat, a dog"):
    """Latents at the end of SLD, written out step by step with the three answers asked for one by one."""
    prompt, free, unsafe = subject.embed_text(prompts), subject.free_text(len(prompts)), subject.embed_text([concept] * len(prompts))
    latents, scheduler, nu = starts(subject, range(len(prompts))), _scheduler(subject, steps), 0.0
    for step, t in enumerate(scheduler.timesteps):
        at = t.expand(len(latents))
        e_p, e_0, e_s = (subject.noise(latents, at, text) for text in (prompt, free, unsafe))
        in_noise = subject.schedule.factors(at, latents)[0] if subject.schedule.kind != "epsilon" else 1.0
        difference = in_noise * (e_p - e_s)
        mu = torch.minimum(difference.abs() * strength.scale, torch.ones_like(e_p))
        mu[difference >= strength.threshold] = 0
        gamma = mu * (e_s - e_0) + strength.momentum_scale * nu
        nu = strength.momentum * nu + (1 - strength.momentum) * gamma
        total = e_0 + guidance * (e_p - e_0 - (gamma if step >= strength.warmup else 0))
        latents = scheduler.step(total, t, latents).prev_sample
    return latents


@pytest.mark.parametrize("settings", [{"preset": "max"}, CUSTOM], ids=["max", "custom"])
def test_it_is_the_paper_s_sum(subject, settings):
    """Five steps, as written out; a few sizes stand at the threshold, where the last bit decides, so that most pixels must agree."""
    strength = PRESETS["max"] if "preset" in settings else Strength(**CUSTOM)
    expected = subject.pictures(by_hand(subject, PROMPTS, strength, 5, 3.0))
    made = guarded(subject, **settings).generate(PROMPTS, num_inference_steps=5)
    plain = subject.generate(PROMPTS, num_inference_steps=5)
    gap = np.abs(made.astype(int) - expected.astype(int))
    assert np.quantile(gap, 0.99) <= 1 and gap.mean() < 0.25 * max(np.abs(plain.astype(int) - expected.astype(int)).mean(), 0.02)
    assert not np.array_equal(made, plain)


def test_scale_zero_is_plain_guidance_bit_for_bit(subject):
    for preset in PRESETS:
        assert np.array_equal(guarded(subject, preset=preset, scale=0.0).generate(PROMPTS, num_inference_steps=4), subject.generate(PROMPTS, num_inference_steps=4))


def test_warm_up_counts_steps(subject):
    """Until step `warmup` the latents are those of plain guidance; from there on others. Training steps (hundreds) are not counted."""
    plain = subject.generate(PROMPTS, num_inference_steps=3)
    assert np.array_equal(guarded(subject, preset="max", warmup=3).generate(PROMPTS, num_inference_steps=3), plain)
    assert not np.array_equal(guarded(subject, preset="max", warmup=2).generate(PROMPTS, num_inference_steps=3), plain)
    assert np.array_equal(guarded(subject, preset="weak").generate(PROMPTS, num_inference_steps=3), plain), "weak warms up for 15 steps"


def test_latents_step_by_step():
    sd, seen = tiny_pipelines.subject("sd"), {}

    def keep(name):
        def callback(pipe, step, t, given):
            seen.setdefault(name, []).append(given["latents"].clone())
            return given
        return callback

    sd.generate(PROMPTS, num_inference_steps=4, callback_on_step_end=keep("plain"))
    guarded(sd, preset="max", warmup=2).generate(PROMPTS, num_inference_steps=4, callback_on_step_end=keep("sld"))
    assert [torch.equal(one, other) for one, other in zip(seen["plain"], seen["sld"], strict=True)] == [True, True, False, False]


def test_a_prompt_that_is_the_concept_is_left_as_it_is(subject):
    """e_p = e_S: mu is 0 wherever the answers are equal, and the picture stays (the answers come out of calls of other sizes)."""
    settings = {"preset": "max", "momentum_scale": 0.0}
    made = guarded(subject, Request(kind="concept", names=("a cat",)), **settings).generate(["a cat"], num_inference_steps=3)
    assert np.abs(made.astype(int) - subject.generate(["a cat"], num_inference_steps=3).astype(int)).max() <= 1


def test_presets_are_the_paper_s():
    assert PRESETS == {"weak": (200, 0, 15, 0, 0), "medium": (1000, 0.01, 10, 0.3, 0.4), "strong": (2000, 0.025, 7, 0.5, 0.7), "max": (5000, 1, 0, 0.5, 0.7)}
    shield = guarded(tiny_pipelines.subject("sd"), preset="strong", warmup=0).shields[0]
    assert shield.strength == (2000, 0.025, 0, 0.5, 0.7) and shield.concept == "a cat, a dog"
    assert guarded(tiny_pipelines.subject("sd"), concept="violence").shields[0].concept == "violence"


def test_weights_and_hooks_are_left_alone(subject):
    digest, heard = subject.digest, []
    mine = subject.denoiser.register_forward_hook(lambda *given: heard.append(1))
    before = dict(subject.denoiser._forward_hooks)
    try:
        after = guarded(subject, preset="max")
        after.generate(PROMPTS)
        assert dict(subject.denoiser._forward_hooks) == before and len(heard) == 2, "two steps, one call of the pipeline each"
        with pytest.raises(BROKEN):
            after.generate(PROMPTS, latents=torch.zeros(1))
        assert dict(subject.denoiser._forward_hooks) == before
    finally:
        mine.remove()
    assert after.unguarded().digest == subject.digest == digest
    assert np.array_equal(after.unguarded().generate(PROMPTS), subject.generate(PROMPTS))


def test_pictures_do_not_depend_on_the_batch():
    """Momentum and step are those of one generation: a second one begins anew."""
    after = guarded(tiny_pipelines.subject("sd"), preset="max")
    whole = after.generate(PROMPTS, [3, 4])
    assert np.abs(after.generate(PROMPTS[1:], [4]).astype(int) - whole[1:].astype(int)).max() <= 1
    assert np.array_equal(after.generate(PROMPTS, [3, 4]), whole)


def test_it_raises_where_it_cannot_guard(monkeypatch):
    sd = tiny_pipelines.subject("sd")
    with pytest.raises(Unfit, match="FluxPipeline has its guidance built in; use negative_prompt or safree"):
        guarded(tiny_pipelines.subject("flux"))
    with pytest.raises(Unfit, match="sld works through guidance, which is off"):
        guarded(sd).generate(PROMPTS, guidance_scale=1.0)
    with pytest.raises(Unfit, match="clip_skip = 1"):
        guarded(sd).generate(PROMPTS, clip_skip=1)
    with pytest.raises(Unfit, match="no concept was named"):
        guarded(sd, Request(kind="concept"))
    after = guarded(sd)
    with after.shields[0].steer(after), pytest.raises(EffaceError, match="not told of; draw through generate"):
        sd.pipe(prompt=PROMPTS, num_inference_steps=1)
    monkeypatch.setattr(type(sd.pipe), "do_classifier_free_guidance", property(lambda pipe: False))
    with pytest.raises(EffaceError, match="sld did not steer this picture"):
        after.generate(PROMPTS)


def test_it_moves_a_real_model_away():
    """The strongest preset: of prompts for cats hardly a cat is left."""
    prompts = [f"a cat in {style} style" for style in ("noto", "twemoji", "fluent")]
    model = emoji.original()
    after = SLD.set({"preset": "max"}).run(model, emoji.request("cat"), emoji.context("cat"))
    assert emoji.seen(after, prompts, "object", "cat") <= 0.5 * emoji.seen(model, prompts, "object", "cat")
