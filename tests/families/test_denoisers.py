"""Which modules play which role, and that a denoiser is asked exactly as its pipeline asks it."""

import pytest
import torch
from diffusers import DDPMPipeline, DDPMScheduler, StableDiffusionPipeline, UNet2DConditionModel, UNet2DModel

from efface.core.errors import Unfit, UnknownName
from efface.families import text_readers
from efface.families.denoisers import Text
from efface.families.diffusion import Diffusion
from efface.testing import tiny_pipelines

KINDS = list(tiny_pipelines.KINDS)
COUNTS = {
    "sd": {"cross.key": 4, "cross.value": 4, "cross.query": 4, "self": 16, "cross": 16},
    "sdxl": {"cross.key": 4, "cross.value": 4, "cross.query": 4, "self": 16, "cross": 16},
    "sd3": {"cross.key": 2, "cross.value": 2, "cross.query": 2, "text.in": 1, "text.pooled": 1, "self": 6, "cross": 6},
    "flux": {"cross.key": 1, "cross.value": 1, "cross.query": 1, "text.in": 1, "text.pooled": 1, "self": 6, "cross": 3},
    "video-unet": {"cross.key": 4, "cross.value": 4, "cross.query": 4, "self": 56, "cross": 16},
    "cogvideox": {"text.in": 1, "self": 8, "cross": 8},
}
"""By hand: one transformer in the down block, one in the mid block, two in the up block of a U-Net; four linear modules an
attention. SD3 has two joint blocks, FLUX a joint one and a single one, CogVideoX two blocks. A video U-Net has five modules along
the frames (8 linear modules each, 40) beside the 16 of its pictures."""


@pytest.fixture(scope="module", params=KINDS)
def subject(request):
    return tiny_pipelines.subject(request.param)


def test_roles(subject):
    assert {role: len(subject.modules_of(role)) for role in subject.layout.roles} == COUNTS[subject.layout.name]


@pytest.mark.parametrize("kind", ["sd", "sdxl", "video-unet"])
def test_keys_and_values_read_text(kind):
    """Their inputs are as wide as the text; in SDXL's case that of two encoders, in a video's case not that of other frames."""
    subject = tiny_pipelines.subject(kind)
    width = subject.embed_text(["a cat"]).states.shape[-1]
    for role in ("cross.key", "cross.value"):
        modules = subject.modules_of(role)
        assert all(module.in_features == width for module in modules.values())
        assert lengths_read(subject, modules.values()) == {16}, "what they read is the prompt, of 16 tokens"


def lengths_read(subject, modules):
    """Lengths of the sequences that modules read in a generation."""
    heard = set()
    handles = [module.register_forward_pre_hook(lambda module, given: heard.add(given[0].shape[1])) for module in modules]
    try:
        subject.generate(["a cat"])
    finally:
        for handle in handles:
            handle.remove()
    return heard


def test_names_are_names_of_parameters(subject):
    named = dict(subject.model.named_parameters())
    for role in (*subject.layout.roles, "denoiser", "text", "vae", "text.mlp", "text.attention", "text.layers"):
        names = subject.names_of(role)
        assert names and set(names) <= set(named) and list(subject.weights(role)) == names
    assert set(subject.names_of("denoiser")) | set(subject.names_of("text")) | set(subject.names_of("vae")) == set(named)
    for module in subject.modules_of("text.in" if "text.in" in subject.layout.roles else "cross.key"):
        assert f"{module}.weight" in named
    with pytest.raises(UnknownName, match="cross.kye"):
        subject.names_of("cross.kye")


def test_text_mlp_covers_each_layer_of_each_encoder(subject):
    """CLIP layers have two such matrices with biases (4 parameters), T5 layers three without; two layers each."""
    names = subject.names_of("text.mlp")
    for part in (part for part in subject.parts if part.startswith("text_encoder")):
        t5 = "shared.weight" in dict(subject.parts[part].named_parameters())
        assert sum(name.startswith(f"{part}.") for name in names) == (6 if t5 else 8), part


def asked(subject, prompts, steps=3, **more):
    """Every call of the denoiser in one generation: ({argument: value}, answer)."""
    calls = []

    def hear(module, args, kwargs, output):
        first = {"hidden_states": args[0], "timestep": args[1]} if len(args) > 1 else {}
        calls.append(({**first, **kwargs}, output[0]))

    handle = subject.denoiser.register_forward_hook(hear, with_kwargs=True)
    try:
        subject.generate(prompts, num_inference_steps=steps, **more)
    finally:
        handle.remove()
    return calls


def test_noise_is_what_the_pipeline_is_told(subject):
    """The denoiser's answers in a generation, got again through embed_text, free_text and noise, with its own latents and times."""
    prompts = ["a cat in plain style", "a red dog"]
    text, free = subject.embed_text(prompts), subject.free_text(2)
    guided = subject.layout.guided == "outside"
    calls = asked(subject, prompts)
    assert len(calls) == 3
    for given, answer in calls:
        latents, t = given["hidden_states"], given["timestep"]
        t = t.reshape(-1)[:1].expand(2) * (1000 if subject.layout.name == "flux" else 1)
        if subject.layout.name == "flux":
            latents, answer = (subject.pipe._unpack_latents(value, 16, 16, subject.pipe.vae_scale_factor) for value in (latents, answer))
        pieces = zip(latents.split(2), answer.split(2), [free, text] if guided else [text], strict=True)
        for part, theirs, words in pieces:
            with torch.no_grad():
                ours = subject.noise(part, t, words)
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_flux_is_told_its_guidance():
    """The subject's own guidance, or the one given: another answer with another guidance."""
    subject = tiny_pipelines.subject("flux")
    latents, t, text = torch.randn(1, *subject.latent_shape), torch.tensor([500]), subject.embed_text(["a cat"])
    with torch.no_grad():
        own, same, other = (subject.noise(latents, t, text, guidance) for guidance in (None, 3.0, 9.0))
    assert torch.equal(own, same) and not torch.allclose(own, other)


def test_embed_text_is_the_pipeline_s(subject):
    """What a generation hands to the denoiser is embed_text, bit for bit, in the rows of the prompts."""
    prompts = ["a cat in plain style", "a red dog"]
    text = subject.embed_text(prompts)
    given, _ = asked(subject, prompts, 1)[0]
    assert torch.equal(given["encoder_hidden_states"][-2:], text.states)
    pooled = given.get("pooled_projections", (given.get("added_cond_kwargs") or {}).get("text_embeds"))
    assert (pooled is None) == (text.pooled is None)
    assert pooled is None or torch.equal(pooled[-2:], text.pooled)


def test_readers_give_the_same_states(subject):
    """Each encoder's states stand at its place in what the denoiser reads."""
    prompts = ["a cat in plain style", "a red dog"]
    readers = text_readers.readers_of(subject)
    cuts = [reader.cut(subject.pipe, prompts, {}) for reader in readers]
    states = [reader.states(subject.pipe, tokens.ids, tokens.mask) for reader, tokens in zip(readers, cuts, strict=True)]
    whole = subject.embed_text(prompts).states
    covered = torch.zeros(whole.shape[1:], dtype=torch.bool)
    for found, (first, column) in zip(states, text_readers.places(subject, cuts[0].length, [s.shape[-1] for s in states]), strict=True):
        place = (slice(first, first + found.shape[1]), slice(column, column + found.shape[2]))
        assert torch.equal(whole[:, place[0], place[1]], found)
        covered[place] = True
    assert not bool(whole[:, ~covered].any()), "what no encoder gives is zero"


def test_gradients_reach_the_text_encoder_and_the_denoiser(subject):
    names = [subject.names_of("text.mlp")[0], subject.names_of("denoiser")[0]]
    after = subject.trainable(names)
    said = after.noise(torch.randn(1, *after.latent_shape), torch.tensor([500]), after.embed_text(["a cat"]))
    said.square().mean().backward()
    gradients = {name: p.grad for name, p in after.model.named_parameters() if p.grad is not None}
    assert set(gradients) == set(names) or subject.layout.name == "flux"
    assert float(gradients[names[1]].abs().max()) > 0


def test_text_rows_and_repeats():
    text = Text(torch.arange(4.0).view(2, 1, 2), torch.arange(2.0).view(2, 1))
    assert len(text) == 2 and torch.equal(text[1:].states, text.states[1:]) and torch.equal(text[:1].pooled, text.pooled[:1])
    assert text.repeat(2).pooled.flatten().tolist() == [0, 0, 1, 1], "each prompt twice in a row"


def test_a_pipeline_that_reads_no_text_is_refused():
    unet = UNet2DModel(sample_size=8, block_out_channels=(32,), down_block_types=("DownBlock2D",), up_block_types=("UpBlock2D",))
    with pytest.raises(Unfit, match="DDPMPipeline denoises with UNet2DModel, which reads no text"):
        Diffusion(DDPMPipeline(unet, DDPMScheduler()))
    with pytest.raises(Unfit, match="neither a unet nor a transformer"):
        Diffusion(object())


def test_a_unet_without_text_attention_is_refused():
    pipe = tiny_pipelines.pipeline("sd")
    deaf = UNet2DConditionModel(
        sample_size=8, block_out_channels=(32,), down_block_types=("DownBlock2D",), up_block_types=("UpBlock2D",), mid_block_type=None,
    )
    parts = {**pipe.components, "unet": deaf}
    with pytest.raises(Unfit, match="no text cross-attention, so no prompt reaches it"):
        Diffusion(StableDiffusionPipeline(**parts, requires_safety_checker=False))


def test_a_role_that_a_kind_lacks_names_those_it_has():
    with pytest.raises(Unfit, match="has no module for the role 'cross.key'.*text.in"):
        tiny_pipelines.subject("cogvideox").modules_of("cross.key")
