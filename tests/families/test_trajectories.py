"""Trajectories against the pipelines' own sampling."""

import pytest
import torch

from efface.families import trajectories
from efface.testing import tiny, tiny_pipelines

PROMPTS = ["a cat in plain style", "a red dog"]


@pytest.fixture(scope="module", params=list(tiny_pipelines.KINDS))
def subject(request):
    return tiny_pipelines.subject(request.param)


def own(subject, prompts, seeds, steps, guidance):
    """The latents that the pipeline itself ends with."""
    made = subject.pipe(
        prompt=prompts, num_inference_steps=steps, guidance_scale=guidance, height=16, width=16, output_type="latent",
        generator=[torch.Generator().manual_seed(seed) for seed in seeds], **({"num_frames": 5} if subject.layout.frames else {}),
    )
    found = made.images if hasattr(made, "images") else made.frames
    if subject.layout.name != "flux":
        return found
    return subject.pipe._unpack_latents(found, 16, 16, subject.pipe.vae_scale_factor)


@pytest.mark.parametrize("guidance", [1.0, 4.0])
def test_trajectories_end_where_the_pipeline_ends(subject, guidance):
    path = trajectories.drawn(subject, PROMPTS, [3, 4], 5, guidance)
    assert path.latents.shape == (6, 2, *subject.latent_shape) and path.steps.shape == (5,)
    torch.testing.assert_close(path.latents[-1], own(subject, PROMPTS, [3, 4], 5, guidance), rtol=1e-4, atol=1e-4)


def test_trajectories_begin_with_the_seeds_noise(subject):
    path = trajectories.drawn(subject, PROMPTS, [3, 4], 1, 1.0)
    scale = getattr(subject.pipe.scheduler, "init_noise_sigma", 1.0)
    torch.testing.assert_close(path.latents[0], trajectories.starts(subject, [3, 4]) * scale)
    alone = torch.randn(1, *subject.latent_shape, generator=torch.Generator().manual_seed(4))
    assert torch.equal(trajectories.starts(subject, [3, 4])[1:], alone)


def test_each_state_leads_to_the_next(subject):
    """x_0 as the schedule reads it out of the denoiser's answer, mixed again with the noise that it implies: DDIM and Euler by hand."""
    path = trajectories.drawn(subject, PROMPTS, [3, 4], 4, 1.0)
    text, schedule = subject.embed_text(PROMPTS), subject.schedule
    for step in range(3):
        mixed, t = path.at(torch.tensor([step, step]), torch.tensor([0, 1]))
        after = path.steps[step + 1].expand(2)
        with torch.no_grad():
            said = subject.noise(mixed, t, text, 1.0)
        clean = schedule.clean(mixed, said, t)
        signal, sigma = schedule.factors(t, mixed)
        if schedule.kind == "flow" or bool((signal > 1e-3).all()):
            noise = (mixed - signal * clean) / sigma
            torch.testing.assert_close(schedule.mix(clean, noise, after), path.latents[step + 1], rtol=1e-3, atol=1e-3)


def test_states_may_be_given_in_place_of_prompts(subject):
    whole = trajectories.drawn(subject, PROMPTS, [3, 4], 2, 3.0)
    given = trajectories.drawn(subject, ["", ""], [3, 4], 2, 3.0, text=subject.embed_text(PROMPTS))
    assert torch.equal(whole.latents, given.latents)


def test_pieces_and_progress(monkeypatch):
    """Two pieces of one trajectory each are the trajectories of one piece of two."""
    subject = tiny_pipelines.subject("sd")
    whole = trajectories.drawn(subject, PROMPTS, [3, 4], 2, 3.0)
    monkeypatch.setattr(trajectories, "CHUNK", 1)
    seen = []

    def watch(items, label, total):
        seen.append((label, total))
        return iter(items)

    halves = trajectories.drawn(subject, PROMPTS, [3, 4], 2, 3.0, tiny.context(progress=watch))
    torch.testing.assert_close(halves.latents, whole.latents, rtol=1e-4, atol=1e-4)
    assert seen == [("drawing trajectories", 2)]


def test_the_pipeline_s_own_scheduler_is_left_alone():
    subject = tiny_pipelines.subject("flux")
    before = subject.pipe.scheduler.timesteps.clone()
    trajectories.drawn(subject, PROMPTS, [3, 4], 3, 1.0)
    assert torch.equal(subject.pipe.scheduler.timesteps, before)
