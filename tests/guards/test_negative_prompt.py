"""The negative prompt on tiny pipelines of every kind."""

import numpy as np
import pytest

from efface.core.errors import Unfit
from efface.core.types import Request
from efface.guards.negative_prompt import NegativePrompt
from efface.testing import tiny, tiny_pipelines

PROMPTS = ["a boat in plain style", "a red dog"]
REQUEST = Request(kind="concept", names=("a cat", "a dog"))


def guarded(subject, request=REQUEST, **settings):
    return NegativePrompt.set(settings).run(subject, request, tiny.context())


@pytest.fixture(scope="module", params=list(tiny_pipelines.KINDS))
def subject(request):
    return tiny_pipelines.subject(request.param)


def test_it_is_the_pipeline_s_own_negative_prompt(subject):
    """Bit for bit; FLUX compares by true_cfg_scale. The subject itself draws as before."""
    plain, digest = subject.generate(PROMPTS), subject.digest
    after = guarded(subject)
    more = {"true_cfg_scale": 4.0} if subject.layout.name == "flux" else {}
    assert np.array_equal(after.generate(PROMPTS), subject.generate(PROMPTS, negative_prompt=["a cat, a dog"] * 2, **more))
    assert not np.array_equal(after.generate(PROMPTS), plain)
    assert np.array_equal(subject.generate(PROMPTS), plain) and np.array_equal(after.unguarded().generate(PROMPTS), plain)
    assert after.digest == after.unguarded().digest == digest


def test_by_hand():
    """One step: e_n + s (e_p - e_n), with the scheduler's own step."""
    import torch

    sd = tiny_pipelines.subject("sd")
    latents = torch.randn(1, *sd.latent_shape, generator=torch.Generator().manual_seed(0))
    scheduler = sd.pipe.scheduler
    scheduler.set_timesteps(1)
    t = scheduler.timesteps
    with torch.no_grad():
        negative, prompt = (sd.noise(latents, t, sd.embed_text([text])) for text in ("a cat, a dog", "a boat"))
    expected = sd.pictures(scheduler.step(negative + 5 * (prompt - negative), t[0], latents).prev_sample)
    made = guarded(sd).generate(["a boat"], num_inference_steps=1, guidance_scale=5.0)
    assert np.abs(made.astype(int) - expected.astype(int)).max() <= 1


def test_settings():
    sd = tiny_pipelines.subject("sd")
    other = guarded(sd, prompt="a boat")
    assert np.array_equal(other.generate(PROMPTS), sd.generate(PROMPTS, negative_prompt=["a boat"] * 2))
    assert np.array_equal(other.generate(PROMPTS, negative_prompt=["red"] * 2), sd.generate(PROMPTS, negative_prompt=["red, a boat"] * 2))


def test_it_raises_where_it_would_do_nothing():
    sd = tiny_pipelines.subject("sd")
    with pytest.raises(Unfit, match="negative_prompt works through guidance, which is off"):
        guarded(sd).generate(PROMPTS, guidance_scale=1.0)
    with pytest.raises(Unfit, match="no concept was named"):
        guarded(sd, Request(kind="concept"))
    with pytest.raises(Unfit, match="empty"):
        guarded(sd, Request(kind="concept", names=(" ",)))
