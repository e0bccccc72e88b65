"""Score forgetting distillation: which prompts are asked for, what may change, and that one ordinary diffusers step is the generator's."""

import dataclasses
import functools
import types

import numpy as np
import pytest
import torch

from efface.core.errors import BadConfig, BadRows, BudgetSpent, Diverged, Unfit
from efface.core.types import Data, Request
from efface.families import diffusion_files, small_pipelines
from efface.families.denoisers import Text
from efface.families.diffusion import Diffusion, Sampling
from efface.families.trajectories import starts
from efface.methods.sfd import SFD, SFDConfig, cast, ending_at, replaced
from efface.ops.score_distillation import one_step
from efface.testing.tiny import context

WORDS = "a an cat dog owl image in noto twemoji style of kitten".split()
QUICK = {"fit.steps": 2, "fit.batch": 2, "fit.lr": 1e-4, "fake_lr": 1e-4, "fake_guidance": 1.0}
SHAPE = small_pipelines.Shape(unet=(16, 32), vae=(8, 16, 32), width=32)


def subject(prediction="epsilon"):
    return made(prediction)


@functools.cache
def made(prediction):
    """A small random pipeline."""
    pipe = small_pipelines.pipeline(WORDS, 0, SHAPE)
    pipe.scheduler = type(pipe.scheduler).from_config(pipe.scheduler.config, prediction_type=prediction)
    return Diffusion(pipe, Sampling(4, 3.0))


def request(**changes):
    given = {
        "kind": "concept", "names": ("a cat",), "near": ("a dog", "an owl"),
        "forget": Data.inline([{"prompt": "a cat in noto style"}, {"prompt": "noto style cat"}, {"prompt": "a kitten"}]),
        "keep": Data.inline([{"prompt": "a dog in noto style"}, {"prompt": "an owl"}]), **changes,
    }
    return Request(**given)


def run(prediction="epsilon"):
    return finished(prediction)


@functools.cache
def finished(prediction):
    """(one-step generator, context) of a short run."""
    ctx = context()
    return SFD.set(QUICK).run(subject(prediction), request(), ctx), ctx


# -- prompts ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("prompt", "concepts", "safe", "expected"),
    [
        ("a cat in noto style", ("a cat",), "a dog", "a dog in noto style"),
        ("A Cat and a cat", ("a cat",), "an owl", "an owl and an owl"),
        ("noto style cat", ("a cat",), "a dog", "noto style dog"),
        ("a catalog of cats", ("a cat",), "a dog", "a dog"),
        ("a kitten in noto style", ("a cat",), "a dog", "a dog"),
        ("a dog in noto style", ("noto style",), "twemoji style", "a dog in twemoji style"),
        ("a photo of Brad Pitt, smiling", ("brad pitt",), "a middle aged man", "a photo of a middle aged man, smiling"),
        (r"a (c\1at)", (r"(c\1at)",), r"\g<0>", r"a \g<0>"),
        ("a puppy", ("a cat", "a puppy"), "an owl", "an owl"),
        ("anything", (), "an owl", "an owl"),
    ],
)
def test_the_safe_prompt(prompt, concepts, safe, expected):
    assert replaced(prompt, concepts, safe) == expected


def asked(**changes):
    """{(who, name): set of (own, safe)} of prompts that two steps embed."""
    seen = []
    stub = subject().fork()
    plain = stub.embed_text
    stub.embed_text = lambda prompts: seen.append(tuple(prompts)) or plain(prompts)
    SFD.set({**QUICK, "fit.batch": 6, **changes}).run(stub, request(), context())
    return seen


def test_teacher_is_asked_for_the_safe_prompt_and_nobody_else():
    """Each step embeds: psi's keep and forget prompts, G's keep and forget prompts, and the teacher's safe ones; keep prompts are the teacher's own."""
    blank, *calls = asked()
    assert blank == ("",) and len(calls) == 10
    keep, forget = {"a dog in noto style", "an owl"}, {"a cat in noto style", "noto style cat", "a kitten"}
    for remain, gone, remain_g, gone_g, safe in (calls[:5], calls[5:]):
        assert set(remain) == set(remain_g) == keep and set(gone) == set(gone_g) == forget
        paired = {"a cat in noto style": "a dog in noto style", "noto style cat": "noto style owl", "a kitten": "a dog"}
        assert list(safe) == [paired[prompt] for prompt in gone_g]


def test_guidance_of_the_fake_score_empties_its_prompts_alone():
    """Half of psi's prompts are emptied; the generator's never are. The first stage distills on all prompts."""
    _, *calls = asked(**{"fake_guidance": 2.0, "empty": 0.5, "fit.batch": 8})
    assert all("" in prompts for prompts in (calls[0], calls[1])) and not any("" in prompts for prompts in calls[2:5])
    _, *calls = asked(**{"distil": 1, "fit.steps": 1, "fit.batch": 5})
    assert set(calls[0]) == set(calls[1]) == {"a dog in noto style", "an owl", "a cat in noto style", "noto style cat", "a kitten"}
    assert len(calls) == 2 + 5  # then one step with forgetting


def test_no_picture_is_read(monkeypatch):
    """Rows name pictures that are not there; the autoencoder neither encodes nor decodes."""
    fresh = subject().fork()
    for name in ("encode", "decode"):
        monkeypatch.setattr(fresh.pipe.vae, name, lambda *given: pytest.fail("a picture was read"))
    rows = Data.inline([{"prompt": "a cat", "image": "nowhere.png"}])
    SFD.set({**QUICK, "fit.steps": 1}).run(fresh, request(forget=rows), context())


# -- what changes -----------------------------------------------------------------------------------------------------------


def test_only_the_denoiser_changes_and_the_original_stays():
    before = subject().digest
    after, ctx = run()
    old, new = dict(subject().model.named_parameters()), dict(after.model.named_parameters())
    moved = {name.split(".")[0] for name in old if not torch.equal(old[name], new[name])}
    assert moved == {"unet"} and subject().digest == before and subject().schedule.steps == 1000 and subject().sampling == Sampling(4, 3.0)
    assert all(new[name] is parameter for name, parameter in old.items() if not name.startswith("unet"))
    assert type(subject().pipe.scheduler).__name__ == "DDIMScheduler"
    assert ctx.spent["steps"] == 2 and ctx.notes["samples_not_finite"] == 0
    assert set(ctx.curve[0]) == {
        "step", "fake_remain", "fake_forget", "fake_gradient", "generator_remain", "generator_forget", "generator_gradient",
    }


def test_no_step_changes_no_weight():
    assert SFD.set({**QUICK, "fit.steps": 0}).run(subject(), request(), context()).digest == subject().digest


def test_it_repeats():
    assert SFD.set(QUICK).run(subject(), request(), context()).digest == run()[0].digest != subject().digest


def test_epochs_count_the_larger_pool_and_the_first_stage_comes_on_top():
    """3 forget and 2 keep prompts in batches of 2: an epoch is 2 steps; with 1 step of the first stage there are 3."""
    ctx = context()
    SFD.set({**QUICK, "fit.epochs": 1, "distil": 1}).run(subject(), request(), ctx)
    assert ["generator_forget" in line for line in ctx.curve] == [False, True, True]


# -- one step ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_a_diffusers_step_is_the_generators(prediction):
    """generate() decodes x_g = (s n - s e_G(s n, 625)) / a (or a s n - s v_G) of the original schedule, n the noise that any pipeline begins with."""
    after, _ = run(prediction)
    noise, text = starts(after, [3, 4]), after.embed_text(["a cat", "a dog"])
    with torch.no_grad():
        latents = one_step(subject(prediction).schedule, lambda x, t, c: after.noise(x, t, c), noise, 625, text)
    assert np.abs(after.pictures(latents).astype(int) - after.generate(["a cat", "a dog"], [3, 4])).max() <= 1
    assert after.sampling == Sampling(1, 1.0) and after.schedule.steps == 626 and after.schedule.kind == prediction


def test_the_scheduler_in_numbers():
    """One Euler step from t = 2 of betas .1, .2, .5 (abar .36): sigma = sqrt(.64 / .36) = 4 / 3; it feeds .8 n and gives 4 / 3 (n - e)."""
    from diffusers import DDIMScheduler

    short = ending_at(DDIMScheduler(num_train_timesteps=4, trained_betas=[0.1, 0.2, 0.5, 0.9]), 2)
    short.set_timesteps(1)
    assert short.timesteps.tolist() == [2.0] and float(short.init_noise_sigma) == pytest.approx(4 / 3)
    begun = torch.ones(1) * short.init_noise_sigma
    assert float(short.scale_model_input(begun, short.timesteps[0])) == pytest.approx(0.8)
    assert float(short.step(torch.tensor([0.25]), short.timesteps[0], begun).prev_sample) == pytest.approx(4 / 3 * 0.75)


def test_the_folder_works_in_plain_diffusers(tmp_path):
    from diffusers import StableDiffusionPipeline

    after, _ = run()
    after.save(tmp_path)
    loaded = diffusion_files.load(str(tmp_path))
    expected = after.generate(["a cat", "an owl"], [3, 4])
    assert loaded.sampling == Sampling(1, 1.0) and loaded.digest == after.digest and np.array_equal(loaded.generate(["a cat", "an owl"], [3, 4]), expected)
    plain = StableDiffusionPipeline.from_pretrained(tmp_path, safety_checker=None)
    plain.set_progress_bar_config(disable=True)
    noise = [torch.Generator().manual_seed(seed) for seed in (3, 4)]
    made = plain(["a cat", "an owl"], num_inference_steps=1, guidance_scale=1.0, generator=noise, output_type="np").images
    assert np.array_equal((made.clip(0, 1) * 255).round().astype(np.uint8), expected)


def test_guidance_mixes_in_the_empty_prompt():
    """The teacher with guidance 3 says e("") + 3 (e(c) - e("")); the generator has none."""
    one = subject()
    networks = cast(one, one, one, SFDConfig(guidance=3.0, fake_guidance=1.0))
    x, t = torch.randn(2, *one.latent_shape, generator=torch.Generator().manual_seed(0)), torch.tensor([100, 500])
    wanted, free = one.embed_text(["a cat", "a dog"]), one.embed_text(["", ""])
    with torch.no_grad():
        plain, blank = one.noise(x, t, wanted), one.noise(x, t, free)
        assert torch.allclose(networks.teacher(x, t, wanted), blank + 3 * (plain - blank), atol=1e-5)
        assert torch.equal(networks.fake(x, t, wanted), plain) and torch.equal(networks.generator(x, t, wanted), plain)


def flow_subject():
    """A small SD3 pipeline whose texts are random states, one a prompt."""
    from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel, StableDiffusion3Pipeline

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        transformer = SD3Transformer2DModel(
            sample_size=4, patch_size=1, in_channels=4, out_channels=4, num_layers=1, attention_head_dim=8, num_attention_heads=2, joint_attention_dim=16,
            caption_projection_dim=16, pooled_projection_dim=16, pos_embed_max_size=8,
        )
        torch.nn.init.normal_(transformer.proj_out.weight, std=0.1)
        vae = AutoencoderKL(block_out_channels=(8,), latent_channels=4, norm_num_groups=4, sample_size=4, mid_block_add_attention=False, shift_factor=0.0)
    pipe = StableDiffusion3Pipeline(
        transformer=transformer, scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0), vae=vae, text_encoder=None, tokenizer=small_pipelines.tokenizer(WORDS),
        text_encoder_2=None, tokenizer_2=None, text_encoder_3=None, tokenizer_3=None,
    )

    def encode_prompt(self, prompt, **given):
        drawn = [torch.Generator().manual_seed(sum(map(ord, text))) for text in prompt]
        states, pooled = (torch.stack([torch.randn(*shape, generator=source) for source in drawn]) for shape in ((5, 16), (16,)))
        return states, states * 0, pooled, pooled * 0

    pipe.encode_prompt = types.MethodType(encode_prompt, pipe)
    return Diffusion(pipe, Sampling(2, 3.0))


def test_a_flow_model_draws_from_pure_noise():
    """x_g = n - v_G(n, T): what the pipeline's own one step gives, without another scheduler."""
    before = flow_subject()
    after = SFD.set(QUICK).run(before, request(), context())
    assert after.digest != before.digest and type(after.pipe.scheduler).__name__ == "FlowMatchEulerDiscreteScheduler"
    noise = starts(after, [1, 2])
    with torch.no_grad():
        latents = noise - after.noise(noise, torch.full((2,), 1000.0), after.embed_text(["a cat", "a dog"]))
    made = after.generate(["a cat", "a dog"], [1, 2], height=4, width=4)
    assert np.abs(after.pictures(latents).astype(int) - made).max() <= 1


# -- refusals ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "changes", "error", "says"),
    [
        ({"fit.rank": 4}, {}, BadConfig, "leave fit.rank at 0"),
        ({"low": 500, "high": 400}, {}, BadConfig, "low must be below high"),
        ({"high": 1001}, {}, BadConfig, "at most 1000"),
        ({"start": 1000}, {}, BadConfig, "must be below 1000"),
        ({}, {"near": ()}, Unfit, "give --instead or --near"),
        ({}, {"near": ("The cat",)}, Unfit, "'cat' is to be forgotten and to be drawn instead"),
        ({}, {"names": (" ",)}, Unfit, "is empty"),
        ({}, {"instead": "  "}, Unfit, "is empty"),
        ({}, {"forget": Data.inline([])}, BadRows, "no forget rows"),
        ({}, {"keep": Data.inline([])}, BadRows, "no remain rows"),
        ({}, {"keep": Data.inline([{"text": "x"}])}, BadRows, "needs prompt"),
    ],
)
def test_bad_input_says_so_in_one_line(settings, changes, error, says):
    with pytest.raises(error, match=says) as raised:
        SFD.set({**QUICK, **settings}).run(subject(), request(**changes), context())
    assert "\n" not in str(raised.value)


def test_a_pipeline_for_videos_is_refused():
    film = subject().fork()
    film.layout = dataclasses.replace(film.layout, frames="channels, frames")
    with pytest.raises(Unfit, match="draws videos"):
        SFD.set(QUICK).run(film, request(), context())


def test_a_network_that_breaks_stops_the_run():
    with pytest.raises(Diverged, match="lower fit.lr and fake_lr"):
        SFD.set({**QUICK, "fit.lr": 1e30, "fit.steps": 3, "fit.optimizer": "sgd", "fit.clip": 0}).run(subject(), request(), context())


def test_it_keeps_to_its_budget():
    with pytest.raises(BudgetSpent):
        SFD.set({**QUICK, "fit.steps": 5}).run(subject(), request(), context(budget={"steps": 1}))


def test_half_precision_is_trained_in_single():
    """bfloat16 weights: the result is of that type again, and has moved by more than its rounding lets steps of 1e-6 move it."""
    half = subject().fork()
    half.denoiser.to(torch.bfloat16)
    after = SFD.set({**QUICK, "fit.lr": 1e-3}).run(half, request(), context())
    assert next(after.denoiser.parameters()).dtype == torch.bfloat16 and after.digest != half.digest
    text = after.embed_text(["a cat"])
    assert after.noise(torch.zeros(1, *after.latent_shape, dtype=torch.bfloat16), torch.tensor([1]), Text(text.states.bfloat16())).isfinite().all()


# -- a real model -----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_emoji_model_draws_something_else_for_a_cat_in_one_step():
    """Calibration, 120 steps: cats seen in none of 12 pictures of cats (1.00 before), kept objects in .91 of 47 (.98 before, with 20 steps a
    picture); one step of the untrained generator shows .64 of them."""
    from efface.families import judges as judging
    from efface.testing import emoji

    settings = {"fit.steps": 120, "fit.batch": 12, "fit.lr": 3e-4, "fake_lr": 1e-3, "fit.warmup": 10, "guidance": 3.0, "fake_guidance": 1.0}
    asked, judge = emoji.request("cat"), emoji.judges()["judge/object"]
    before, untrained = emoji.original(), SFD.set({"fit.steps": 0}).run(emoji.original(), asked, context())
    after = SFD.set(settings).run(before, asked, context())
    cats = [str(row["prompt"]) for row in asked.rows("forget")]
    assert emoji.seen(before, cats, "object", "cat") >= 0.9 and emoji.seen(after, cats, "object", "cat") <= 0.1
    kept = asked.rows("keep")[::3]
    wanted = np.array([row["object"] for row in kept])

    def right(drawer):
        pictures = drawer.generate([str(row["prompt"]) for row in kept], list(range(len(kept))))
        return float((judging.chances(judge, pictures).argmax(1) == wanted).mean())

    assert right(after) >= 0.8 and right(after) > right(untrained) + 0.1
