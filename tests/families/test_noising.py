"""Noise schedules against diffusers' own schedulers, item by item."""

import pytest
import torch
from diffusers import CogVideoXDDIMScheduler, DDIMScheduler, DDPMScheduler, FlowMatchEulerDiscreteScheduler

from efface.core.errors import Unfit
from efface.families.noising import schedule_of

BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "clip_sample": False}
STEPS = torch.tensor([0, 250, 700, 999])


def draws(*shape, count=3):
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(len(STEPS), *shape, generator=generator, dtype=torch.float64) for _ in range(count)]


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
def test_clean_is_what_the_scheduler_predicts(kind):
    """x_0 equals DDPMScheduler.step(...).pred_original_sample at every step."""
    scheduler = DDPMScheduler(prediction_type=kind, **BETAS)
    schedule = schedule_of(scheduler)
    mixed, said, _ = draws(4, 3, 3)
    found = schedule.clean(mixed, said, STEPS)
    for row, t in enumerate(STEPS):
        theirs = scheduler.step(said[row], int(t), mixed[row], generator=torch.Generator()).pred_original_sample
        torch.testing.assert_close(found[row], theirs, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
def test_mix_and_target_are_the_scheduler_s(kind):
    scheduler = DDPMScheduler(prediction_type=kind, **BETAS)
    schedule = schedule_of(scheduler)
    clean, noise, _ = draws(4, 3, 3)
    torch.testing.assert_close(schedule.mix(clean, noise, STEPS), scheduler.add_noise(clean, noise, STEPS), rtol=1e-6, atol=1e-6)
    theirs = noise if kind == "epsilon" else scheduler.get_velocity(clean, noise, STEPS)
    torch.testing.assert_close(schedule.target(clean, noise, STEPS), theirs, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    "scheduler",
    [
        DDPMScheduler(**BETAS), DDIMScheduler(prediction_type="v_prediction", **BETAS), FlowMatchEulerDiscreteScheduler(shift=3.0),
        CogVideoXDDIMScheduler(prediction_type="v_prediction", clip_sample=False),
    ],
    ids=["epsilon", "v", "flow", "cogvideox"],
)
@pytest.mark.parametrize("shape", [(2,), (4, 3, 3), (2, 4, 3, 3)], ids=["vectors", "pictures", "videos"])
def test_round_trip(scheduler, shape):
    """Mix clean and noise, answer perfectly, and the clean latents come back."""
    schedule = schedule_of(scheduler)
    clean, noise, _ = draws(*shape)
    mixed = schedule.mix(clean, noise, STEPS)
    torch.testing.assert_close(schedule.clean(mixed, schedule.target(clean, noise, STEPS), STEPS), clean, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_flow_steps_stand_for_their_noise(shift):
    """t is what the network is told; its noise is t / T whatever the scheduler's shift, between two whole steps as well."""
    scheduler = FlowMatchEulerDiscreteScheduler(shift=shift)
    scheduler.set_timesteps(7)
    schedule = schedule_of(scheduler)
    clean, noise = (torch.randn(7, 4, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1))
    torch.testing.assert_close(schedule.mix(clean, noise, scheduler.timesteps), scheduler.scale_noise(clean, scheduler.timesteps, noise))


def test_flow_by_hand():
    """A quarter of the way (t = 250 of 1000): x = .75 * 2 + .25 * 10 = 4; v = 10 - 2 = 8; x_0 = 4 - .25 * 8 = 2."""
    schedule = schedule_of(FlowMatchEulerDiscreteScheduler())
    clean, noise, t = torch.tensor([[2.0]]), torch.tensor([[10.0]]), torch.tensor([250])
    assert schedule.mix(clean, noise, t).item() == 4 and schedule.target(clean, noise, t).item() == 8
    assert schedule.clean(torch.tensor([[4.0]]), torch.tensor([[8.0]]), t).item() == 2


def test_v_by_hand():
    """abar = .64: a = .8, s = .6. x = .8 * 2 + .6 * 10 = 7.6; v = .8 * 10 - .6 * 2 = 6.8; x_0 = .8 * 7.6 - .6 * 6.8 = 2."""
    schedule = schedule_of(DDPMScheduler(trained_betas=[0.36, 0.5], prediction_type="v_prediction", num_train_timesteps=2))
    clean, noise, t = (torch.tensor([[value]], dtype=torch.float64) for value in (2.0, 10.0, 0.0))
    t = t[0].long()
    assert schedule.mix(clean, noise, t).item() == pytest.approx(7.6, abs=1e-6)
    assert schedule.target(clean, noise, t).item() == pytest.approx(6.8, abs=1e-6)
    assert schedule.clean(schedule.mix(clean, noise, t), torch.tensor([[6.8]], dtype=torch.float64), t).item() == pytest.approx(2, abs=1e-6)


def test_what_is_unknown_is_refused():
    with pytest.raises(Unfit, match="predicts 'sample'"):
        schedule_of(DDPMScheduler(prediction_type="sample"))
    with pytest.raises(Unfit, match="neither alphas_cumprod nor a flow"):
        schedule_of(type("Odd", (), {"config": {}})())
