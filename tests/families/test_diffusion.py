"""The diffusion family on tiny pipelines of every kind: pictures by seed, copies that share, latents, rows, shields, bad input."""

import numpy as np
import pytest
import torch
from PIL import Image

from efface.core.errors import BadRows, EffaceError, Unfit, UnknownName
from efface.families.diffusion import Diffusion, Sampling, pictures_of
from efface.families.shields import Shield
from efface.testing import tiny_pipelines

KINDS = list(tiny_pipelines.KINDS)
PROMPTS = ["a cat in plain style", "a red dog", "a boat"]
CLOSE = 1
"""Pictures of 0 to 255 may differ by one where sums are taken in another order."""


@pytest.fixture(scope="module", params=KINDS)
def subject(request):
    return tiny_pipelines.subject(request.param)


@pytest.fixture(scope="module")
def sd():
    return tiny_pipelines.subject("sd")


def far(one, other):
    return int(np.abs(one.astype(int) - other.astype(int)).max())


def test_generate_gives_pictures_or_videos(subject):
    made = subject.generate(PROMPTS[:2])
    frames = {"": (), "channels, frames": (5,), "frames, channels": (8,)}[subject.layout.frames]
    assert made.shape == (2, *frames, 16, 16, 3) and made.dtype == np.uint8
    assert made.std() > 5


def test_a_seed_fixes_a_picture_whatever_else_is_drawn(subject):
    """Alone, in another order, or among others; and other seeds give other pictures."""
    whole = subject.generate(PROMPTS, [7, 8, 9])
    assert far(subject.generate(PROMPTS, [7, 8, 9]), whole) == 0
    assert far(subject.generate([PROMPTS[2]], [9])[0], whole[2]) <= CLOSE
    turned = subject.generate(PROMPTS[::-1], [9, 8, 7])
    assert far(turned[::-1], whole) <= CLOSE
    assert far(subject.generate(PROMPTS, [17, 18, 19]), whole) > 20


def test_global_randomness_is_neither_read_nor_moved(subject):
    torch.manual_seed(1)
    state = torch.get_rng_state()
    one = subject.generate(PROMPTS[:1])
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    assert far(subject.generate(PROMPTS[:1]), one) == 0


def test_latents_have_the_shape_that_generation_uses(subject):
    made = subject.pipe(
        prompt=PROMPTS[:1], num_inference_steps=1, height=16, width=16, output_type="latent", **({"num_frames": 5} if subject.layout.frames else {}),
    )
    found = made.images if hasattr(made, "images") else made.frames
    shape = subject.latent_shape
    if subject.layout.name == "flux":  # the pipeline packs pieces of 2 x 2 into one token
        shape = (shape[1] * shape[2] // 4, shape[0] * 4)
    assert tuple(found.shape[1:]) == shape


def test_latents_and_pictures_fit_each_other(subject):
    """Shapes go there and back; decoding undoes the scaling of encoding."""
    made = subject.generate(PROMPTS[:2])
    latents = subject.latents(made)
    assert latents.shape == (2, *subject.latent_shape) and latents.dtype == torch.float32
    back = subject.pictures(latents)
    assert back.shape == made.shape
    vae = subject.pipe.vae
    if not subject.layout.frames:
        pixels = torch.from_numpy(made).permute(0, 3, 1, 2) / 127.5 - 1
        with torch.no_grad():
            mean = vae.encode(pixels).latent_dist.mean
            theirs = vae.decode(mean).sample
        torch.testing.assert_close(latents, (mean - (vae.config.shift_factor or 0)) * vae.config.scaling_factor)
        assert far(back, ((theirs.clamp(-1, 1) + 1) * 127.5).round().permute(0, 2, 3, 1).numpy()) <= CLOSE


def test_losses_are_one_a_row_and_differentiable(subject):
    rows = [{"prompt": "a cat", "image": picture} for picture in subject.generate(PROMPTS[:2])]
    after = subject.trainable(subject.names_of("denoiser"))
    torch.manual_seed(0)
    losses = after.losses(after.encode(rows))
    assert losses.shape == (2,) and bool((losses > 0).all())
    losses.sum().backward()
    assert sum(float(p.grad.abs().sum()) for p in after.denoiser.parameters() if p.grad is not None) > 0


def test_a_fork_shares_what_it_does_not_name(subject):
    names = subject.names_of("cross")
    after = subject.trainable(names)
    before = dict(subject.model.named_parameters())
    assert set(dict(after.model.named_parameters())) == set(before)
    for name, parameter in after.model.named_parameters():
        assert (parameter is before[name]) == (name not in names), name
        assert parameter.requires_grad == (name in names)
    digest = subject.digest
    assert after.digest == digest
    with torch.no_grad():
        dict(after.model.named_parameters())[names[0]].add_(1)
    assert subject.digest == digest != after.digest
    assert not any(p.requires_grad for p in subject.model.parameters())


def test_whole_and_partial_forks(sd):
    whole = sd.fork()
    assert not {id(p) for p in whole.model.parameters()} & {id(p) for p in sd.model.parameters()}
    assert far(whole.generate(PROMPTS), sd.generate(PROMPTS)) == 0
    text = sd.fork(("text",))
    shared = {id(p) for p in text.model.parameters()} & {id(p) for p in sd.model.parameters()}
    assert len(shared) == len(sd.names_of("denoiser")) + len(sd.names_of("vae"))


def test_trainable_refuses_names_that_are_not_there(sd):
    with pytest.raises(UnknownName, match="no parameter named 'unet.nothing'"):
        sd.trainable(["unet.nothing", *sd.names_of("cross.key")])
    with pytest.raises(Unfit, match="no parameter to train"):
        sd.trainable([])


def test_rows_bring_their_seed_and_their_guidance(sd):
    rows = [{"prompt": "a cat", "seed": 5}, {"prompt": "a dog", "seed": 6, "guidance": 9.0}, {"prompt": "a boat", "seed": 7}]
    made = sd.generate(rows)
    assert far(made[:1], sd.generate(["a cat"], [5])) <= CLOSE
    assert far(made[1:2], sd.generate(["a dog"], [6], guidance_scale=9.0)) <= CLOSE
    assert far(made[1:2], sd.generate(["a dog"], [6])) > CLOSE
    assert far(sd.generate(rows, guidance_scale=3.0)[1:2], sd.generate(["a dog"], [6])) <= CLOSE, "what the call says wins"


def test_arguments_win_over_sampling():
    short, long = (Diffusion(tiny_pipelines.pipeline("sd"), Sampling(steps, 3.0)) for steps in (1, 4))
    assert far(short.generate(PROMPTS, num_inference_steps=4), long.generate(PROMPTS)) == 0
    assert far(short.generate(PROMPTS), long.generate(PROMPTS)) > 0
    assert Diffusion(tiny_pipelines.pipeline("sd"), Sampling(1, 3.0, pixels=32)).generate(PROMPTS[:1]).shape == (1, 32, 32, 3)
    assert Diffusion(tiny_pipelines.pipeline("sd"), Sampling(1, 3.0, pixels=32)).latent_shape == (4, 16, 16)


def test_arguments_that_the_pipeline_lacks_are_named(sd):
    with pytest.raises(UnknownName, match="no argument named 'guidance'; did you mean guidance_scale"):
        sd.generate(PROMPTS, guidance=3.0)


def test_many_rows_come_in_their_order(sd):
    """65 prompts go through in two pieces."""
    made = sd.generate(["a cat", "a dog"] * 33, list(range(66)), num_inference_steps=1)
    assert made.shape[0] == 66
    assert far(made[65:], sd.generate(["a dog"], [65], num_inference_steps=1)) <= CLOSE
    assert sd.generate([]).shape[0] == 0


class Stamp(Shield):
    """Adds a word, a negative prompt, and a white corner."""

    def screen(self, prompts):
        return [f"{prompt} in glossy style" for prompt in prompts]

    def arrange(self, subject, call):
        return {**call, "negative_prompt": ["a boat"] * len(call["prompt"])}

    def review(self, outputs):
        outputs = outputs.copy()
        outputs[:, 0, 0] = 255
        return outputs


def test_shields_see_prompts_calls_and_pictures(sd):
    guarded = sd.guarded(Stamp())
    expected = sd.generate([f"{prompt} in glossy style" for prompt in PROMPTS], negative_prompt=["a boat"] * 3)
    expected[:, 0, 0] = 255
    assert far(guarded.generate(PROMPTS), expected) == 0
    assert far(guarded.unguarded().generate(PROMPTS), sd.generate(PROMPTS)) == 0
    assert guarded.digest == sd.digest


def test_a_shield_that_cannot_guard_pictures_raises(sd):
    class ForText:
        def screen(self, prompts):
            return prompts

    with pytest.raises(Unfit, match="ForText does not know how to guard a model that draws"):
        sd.guarded(ForText()).generate(PROMPTS)


def test_a_shield_that_fails_lets_nothing_through(sd):
    class Broken(Shield):
        def arrange(self, subject, call):
            raise EffaceError("broken")

    with pytest.raises(EffaceError, match="broken"):
        sd.guarded(Broken()).generate(PROMPTS)


def test_bad_rows_are_named(sd, tmp_path):
    with pytest.raises(BadRows, match="found columns text; .* needs prompt"):
        sd.generate([{"text": "a cat"}])
    with pytest.raises(BadRows, match="3 prompts and 1 seeds"):
        sd.generate(PROMPTS, [1])
    with pytest.raises(BadRows, match="row 1: found columns prompt; this needs pictures"):
        sd.losses(sd.encode([{"prompt": "a cat"}]))
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no picture")
    with pytest.raises(BadRows, match="row 1: .*broken.png is no picture"):
        pictures_of([{"prompt": "a cat", "image": str(broken)}])
    with pytest.raises(BadRows, match=r"row 1: a picture is \(height, width, 3\)"):
        pictures_of([{"prompt": "a cat", "image": np.zeros((8, 8))}])
    with pytest.raises(BadRows, match="different sizes .*8x8.*9x8"):
        pictures_of([{"prompt": "a", "image": np.zeros((8, 8, 3))}, {"prompt": "a", "image": np.zeros((8, 9, 3))}])


def test_pictures_come_from_files_too(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "one.png")
    assert np.array_equal(pictures_of([{"prompt": "a", "image": tmp_path / "one.png"}])[0], pixels)


def test_half_precision_on_a_cpu_is_refused():
    with pytest.raises(Unfit, match="float16 on a CPU.*torch.float32"):
        Diffusion(tiny_pipelines.pipeline("sd").to(torch.float16))
