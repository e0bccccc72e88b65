"""SAFREE on tiny pipelines of every kind: what is filtered, for how many steps, and that nothing slips through."""

import numpy as np
import pytest
import torch

from efface.core.errors import BadConfig, EffaceError, Unfit
from efface.core.types import Request
from efface.families import text_readers, word_filter
from efface.guards.safree import Safree, SafreeShield
from efface.ops import text_filter
from efface.testing import emoji, tiny, tiny_pipelines

PROMPTS = ["a cat in plain style", "a red dog"]
BROKEN = (RuntimeError, ValueError, TypeError, IndexError)
"""What denoisers raise at latents of no shape."""
REQUEST = Request(kind="concept", names=("a cat", "a boat"))
WINDOW = {"midpoint": -100.0}
"""Validation that says 10 for every prompt."""
NONE = {"midpoint": 100.0}
"""Validation that says 0 for every prompt."""


def guarded(subject, request=REQUEST, **settings):
    return Safree.set(settings).run(subject, request, tiny.context())


def read(subject, prompts, steps=4, **more):
    """What the denoiser reads in each call, in the rows of the prompts, and the pictures."""
    heard = []

    def hear(module, args, kwargs):
        heard.append(kwargs["encoder_hidden_states"])

    with torch.no_grad():
        own = subject.unguarded()
        for shield in subject.shields:
            own = own.guarded(shield)
        block = _After(hear)
        made = own.guarded(block).generate(prompts, num_inference_steps=steps, **more)
    return heard, made


class _After:
    """A shield that listens behind all others."""

    def __init__(self, hear):
        self.hear = hear

    def screen(self, prompts):
        return prompts

    def arrange(self, subject, call):
        return call

    def review(self, outputs):
        return outputs

    def steer(self, subject):
        import contextlib

        @contextlib.contextmanager
        def block():
            handle = subject.denoiser.register_forward_pre_hook(self.hear, with_kwargs=True)
            try:
                yield
            finally:
                handle.remove()

        return block()


@pytest.fixture(scope="module", params=list(tiny_pipelines.KINDS))
def subject(request):
    return tiny_pipelines.subject(request.param)


@pytest.fixture(scope="module")
def sd():
    return tiny_pipelines.subject("sd")


def filtered(subject, prompts=PROMPTS, request=REQUEST, **rule):
    """(plain states, filtered states, what was found) of prompts."""
    text = subject.embed_text(prompts)
    readers = text_readers.readers_of(subject)
    states, told = word_filter.filtered(subject, prompts, request.names, text, word_filter.Rule(**rule), readers, {})
    return text.states, states, told


def test_triggers_lie_outside_the_concept_and_all_else_is_untouched(subject):
    """(I - P_C) h' = h' for every trigger of every encoder; every other position and column keeps its bits."""
    plain, changed, told = filtered(subject)
    readers = text_readers.readers_of(subject)
    cuts = [reader.cut(subject.pipe, PROMPTS, {}) for reader in readers]
    widths = [getattr(subject.pipe, reader.part).config.hidden_size for reader in readers]
    untouched = torch.ones_like(plain, dtype=torch.bool)
    for reader, tokens, width, (first, column) in zip(readers, cuts, widths, text_readers.places(subject, cuts[0].length, widths), strict=True):
        span = text_filter.basis(word_filter.summaries(reader, subject.pipe, reader.cut(subject.pipe, REQUEST.names, {})))
        assert span.shape == (width, 2)
        for row, each in enumerate(told):
            assert each.words[reader.part], "a word of nearly every prompt is above the mean"
            assert set(each.words[reader.part]) <= set(tokens.positions("content", row))
            for at in each.words[reader.part]:
                place = (row, first + at, slice(column, column + width))
                found = changed[place]
                torch.testing.assert_close(text_filter.outside(span, found), found.double(), rtol=0, atol=1e-5)
                assert not torch.equal(found, plain[place])
                untouched[place] = False
    assert torch.equal(changed[untouched], plain[untouched])


def test_by_hand_with_pseudo_inverses(sd):
    """Triggers and states of one prompt by the paper's formulas, one encoder call a masked prompt, explicit matrices."""
    prompt, tokenizer, encoder = "a red dog in glossy style", sd.pipe.tokenizer, sd.pipe.text_encoder
    ids = tokenizer([prompt], padding="max_length", return_tensors="pt").input_ids
    count = 6

    def pooled(given):
        with torch.no_grad():
            return encoder(given).pooler_output[0].double()

    def projection(columns):
        return columns @ torch.linalg.pinv(columns)

    concept = projection(torch.stack([pooled(tokenizer([name], padding="max_length", return_tensors="pt").input_ids) for name in REQUEST.names], 1))
    masked = []
    for at in range(1, count + 1):
        other = ids.clone()
        other[0, at] = 0
        masked.append(pooled(other))
    own, outside = projection(torch.stack(masked, 1)), torch.eye(32, dtype=torch.float64) - concept
    far = [float((outside @ p).norm()) for p in masked]
    flags = [far[i] >= 1.01 * np.mean([z for j, z in enumerate(far) if j != i]) for i in range(count)]
    plain, changed, told = filtered(sd, [prompt])
    assert told[0].words == {"text_encoder": tuple(1 + i for i, flag in enumerate(flags) if flag)}
    for at in told[0].words["text_encoder"]:
        torch.testing.assert_close(changed[0, at].double(), outside @ own @ plain[0, at].double(), rtol=0, atol=1e-5)
    left = (outside @ own @ plain[0, : count + 2].double().T).T
    near = 1 - float(torch.nn.functional.cosine_similarity(left, plain[0, : count + 2].double()).mean())
    assert told[0].near == pytest.approx(near, abs=1e-6), "begin, six words, and end"


def test_no_word_is_a_trigger_at_a_high_alpha(subject):
    """Nothing is filtered then, and the picture is the plain one, bit for bit."""
    after = guarded(subject, alpha=10.0, negative=False)
    assert np.array_equal(after.generate(PROMPTS), subject.generate(PROMPTS))
    assert not any(any(told.words.values()) for told in after.shields[0].told)


def test_filtered_steps_and_the_switch_back(subject):
    """Validation at t' = 1 for the first prompt and 2 for the second: each step's rows, and the plain states afterwards."""
    after = guarded(subject, negative=False, steps="validated")
    plain, changed, _ = filtered(subject)
    shield = after.shields[0]
    shield._last = lambda given, told: {PROMPTS[0]: 1, PROMPTS[1]: 2}[told.prompt]
    heard, _ = read(after, PROMPTS, 5)
    assert len(heard) == 5
    for step, states in enumerate(heard):
        for row, last in enumerate((1, 2)):
            assert torch.equal(states[-2 + row], (changed if step <= last else plain)[row]), (step, row)


@pytest.mark.parametrize(("settings", "count"), [(WINDOW, 11), (NONE, 1), ({**WINDOW, "most": 3}, 4), ({"steps": "all"}, 12), ({**NONE, "first": False}, 0)])
def test_how_many_steps_are_filtered(sd, settings, count):
    after = guarded(sd, negative=False, **settings)
    plain, changed, _ = filtered(sd)
    heard, _ = read(after, PROMPTS, 12)
    assert [torch.equal(states[-2:], changed) for states in heard] == [step < count for step in range(12)]
    assert all(torch.equal(states[-2:], plain) for states in heard[count:])


def test_the_usual_window_is_that_of_the_pipeline(subject):
    """Validated where there is one CLIP encoder, as it was tuned; all steps elsewhere."""
    shield = guarded(subject, **NONE).shields[0]
    last = shield._last(subject, word_filter.Told("a cat", {"text_encoder": (1,)}, 0.5))
    assert (last == 0) == (subject.layout.name in ("sd", "video-unet")) and last >= 0


def test_a_prompt_far_from_the_concept_differs_through_step_0_alone(subject):
    """t' = 0: only the first answer is another one. Without it (t' < 0) the picture is bit-identical at equal negative prompts."""
    settings = {"steps": "validated", **NONE}
    plain, changed, _ = filtered(subject)
    heard, made = read(guarded(subject, **settings), PROMPTS, 3)
    guided = subject.layout.name == "flux"  # compares by a second call a step
    mine = [states[-2:] for states in (heard[::2] if guided else heard)]
    assert torch.equal(mine[0], changed) and all(torch.equal(states, plain) for states in mine[1:])
    more = {"true_cfg_scale": 4.0} if guided else {}
    negative = subject.generate(PROMPTS, num_inference_steps=3, negative_prompt=["a cat, a boat"] * 2, **more)
    left = guarded(subject, first=False, **settings).generate(PROMPTS, num_inference_steps=3)
    assert np.array_equal(left, negative)
    if subject.layout.name in ("sd", "sdxl", "video-unet"):
        assert not np.array_equal(made, negative)


def test_the_negative_prompt_is_an_arm_of_its_own(subject):
    """Off: no negative prompt. On: the concepts' names, as plain negative prompting writes them."""
    calls = {}
    for name, negative in (("on", True), ("off", False)):
        shield = guarded(subject, negative=negative).shields[0]
        calls[name] = shield.arrange(subject, {"prompt": PROMPTS, "guidance_scale": 3.0})
    assert "negative_prompt" not in calls["off"] and calls["on"]["negative_prompt"] == ["a cat, a boat"] * 2
    assert torch.equal(calls["on"]["prompt_embeds"], calls["off"]["prompt_embeds"])


def test_pictures_do_not_depend_on_the_batch(subject):
    after = guarded(subject)
    whole = after.generate(PROMPTS, [3, 4])
    assert np.abs(after.generate(PROMPTS[1:], [4]).astype(int) - whole[1:].astype(int)).max() <= 1
    assert np.array_equal(after.generate(PROMPTS, [3, 4]), whole)


def test_weights_and_hooks_are_left_alone(subject):
    digest, plain, heard = subject.digest, subject.generate(PROMPTS), []
    mine = subject.denoiser.register_forward_pre_hook(lambda *given: heard.append(1))
    hooks = [dict(module._forward_pre_hooks) for module in subject.denoiser.modules()]
    try:
        after = guarded(subject, negative=False)
        after.generate(PROMPTS)
        assert len(heard) == 2
        with pytest.raises(BROKEN):
            after.generate(PROMPTS, latents=torch.zeros(1))
        assert [dict(module._forward_pre_hooks) for module in subject.denoiser.modules()] == hooks
    finally:
        mine.remove()
    assert after.unguarded().digest == subject.digest == digest
    assert np.array_equal(subject.generate(PROMPTS), plain)


def test_encoders_may_be_chosen():
    """SDXL's second encoder alone, as released: the columns of the first keep their bits."""
    sdxl = tiny_pipelines.subject("sdxl")
    shield = guarded(sdxl, encoders=["text_encoder_2"]).shields[0]
    states = shield.arrange(sdxl, {"prompt": PROMPTS, "guidance_scale": 3.0})["prompt_embeds"]
    plain, changed, _ = filtered(sdxl)
    assert torch.equal(states[..., :32], plain[..., :32]) and torch.equal(states[..., 32:], changed[..., 32:])
    assert set(shield.told[0].words) == {"text_encoder_2"}
    with pytest.raises(BadConfig, match="encoders = 'text_encoder_9': .* attends to text_encoder, text_encoder_2"):
        guarded(sdxl, encoders=["text_encoder_9"])


def test_sd3_flags_each_encoder_by_its_own_tokens():
    """T5 has no begin token: its first word stands at 0 of its own, behind CLIP's 16 positions; CLIP's begin token is never touched."""
    sd3 = tiny_pipelines.subject("sd3")
    plain, changed, told = filtered(sd3)
    moved = (plain != changed).any(-1)
    for row, each in enumerate(told):
        clip = set(each.words["text_encoder"]) | set(each.words["text_encoder_2"])
        assert set(moved[row].nonzero().flatten().tolist()) == clip | {16 + at for at in each.words["text_encoder_3"]}
        assert 0 not in clip and each.words["text_encoder_3"][0] in (0, 1, 2)


@pytest.mark.parametrize("kind", ["sd", "flux"])
def test_prompts_of_one_word_and_of_none(kind):
    """One word: by comparison with the whole prompt, by hand. No word: nothing to filter."""
    subject = tiny_pipelines.subject(kind)
    reader = text_readers.readers_of(subject)[0]
    _, _, told = filtered(subject, ["cat", "dog", "glossy", ""], Request(names=("cat",)))
    for prompt, each in zip(["cat", "dog", "glossy"], told, strict=False):
        span = text_filter.basis(word_filter.summaries(reader, subject.pipe, reader.cut(subject.pipe, ["cat"], {})))
        tokens = reader.cut(subject.pipe, [prompt], {})
        ids = tokens.ids.clone()
        ids[0, tokens.positions("content")] = 0
        masked = word_filter.summaries(reader, subject.pipe, word_filter.Tokens(ids, tokens.mask, tokens.begins))
        whole = word_filter.summaries(reader, subject.pipe, tokens)
        flagged = text_filter.outside(span, masked).norm() >= 1.01 * text_filter.outside(span, whole).norm()
        assert bool(each.words[reader.part]) == bool(flagged)
    assert told[0].words[reader.part], "the concept itself lies in its own subspace: without it the prompt is farther away"
    assert told[3].words[reader.part] == () and told[3].near == 0
    assert np.array_equal(guarded(subject, negative=False).generate([""]), subject.generate([""]))


def test_a_long_prompt_is_cut_where_the_encoder_cuts_it(sd):
    """16 positions: begin, 14 words, end."""
    _, _, told = filtered(sd, ["a cat in plain style " * 10])
    assert all(1 <= at <= 14 for at in told[0].words["text_encoder"])


def test_callbacks_of_the_call_go_on(sd):
    seen = []

    def callback(pipe, step, t, given):
        seen.append((step, sorted(given)))
        return given

    guarded(sd, **WINDOW).generate(PROMPTS, callback_on_step_end=callback)
    assert seen == [(0, ["latents"]), (1, ["latents"])]


@pytest.mark.parametrize("kind", ["sd3", "flux", "cogvideox"])
def test_a_call_may_say_how_long_prompts_are(kind):
    subject = tiny_pipelines.subject(kind)
    length = {"sd3": 20, "flux": 20, "cogvideox": 226}[kind]
    assert guarded(subject, negative=False).generate(PROMPTS, max_sequence_length=length).shape[0] == 2


def test_it_raises_where_it_cannot_guard(sd, monkeypatch):
    with pytest.raises(Unfit, match="safree's negative prompt works through guidance, which is off"):
        guarded(sd).generate(PROMPTS, guidance_scale=1.0)
    assert guarded(sd, negative=False).generate(PROMPTS, guidance_scale=1.0).shape[0] == 2
    with pytest.raises(Unfit, match="clip_skip = 1"):
        guarded(sd).generate(PROMPTS, clip_skip=1)
    with pytest.raises(Unfit, match="safree reads words, and the call gives none"):
        guarded(guarded(sd)).generate(PROMPTS)
    with pytest.raises(Unfit, match="one picture a prompt"):
        guarded(sd).shields[0].arrange(sd, {"prompt": PROMPTS, "num_images_per_prompt": 2})
    with pytest.raises(Unfit, match="no concept was named"):
        guarded(sd, Request(kind="concept"))
    with pytest.raises(BadConfig, match="a SD3Transformer2DModel has no up blocks"):
        guarded(tiny_pipelines.subject("sd3"), reattention="low")
    after = guarded(sd)
    with after.shields[0].steer(after), pytest.raises(EffaceError, match="not told of; draw through generate"):
        sd.pipe(prompt=PROMPTS, num_inference_steps=1)
    honest = type(sd.pipe).encode_prompt
    monkeypatch.setattr(type(sd.pipe), "encode_prompt", lambda pipe, *args, **more: tuple(s if s is None else s * 2 for s in honest(pipe, *args, **more)))
    monkeypatch.setattr(SafreeShield, "arrange", _honestly(SafreeShield.arrange, type(sd.pipe), honest, monkeypatch))
    with pytest.raises(EffaceError, match="the denoiser was given another one"):
        after.generate(PROMPTS)


def _honestly(arrange, pipe, honest, monkeypatch):
    """Arrange with the true encoder; the pipeline then reads with another one."""
    def inner(shield, subject, call):
        other = pipe.encode_prompt
        with monkeypatch.context() as patch:
            patch.setattr(pipe, "encode_prompt", honest)
            found = arrange(shield, subject, call)
        pipe.encode_prompt = other
        return found
    return inner


def test_ends_are_filtered_where_asked_for(subject):
    """End token and padding of a prompt with triggers lie outside the concept too; words without trigger and the begin keep their bits."""
    readers = text_readers.readers_of(subject)
    _, words, told = filtered(subject)
    plain, both, again = filtered(subject, ends=True)
    assert told == again, "which words are triggers does not change"
    length = readers[0].cut(subject.pipe, PROMPTS, {}).length
    width = getattr(subject.pipe, readers[0].part).config.hidden_size
    tokens = readers[0].cut(subject.pipe, PROMPTS, {})
    span = text_filter.basis(word_filter.summaries(readers[0], subject.pipe, readers[0].cut(subject.pipe, REQUEST.names, {})))
    for row in range(2):
        ends = [*tokens.positions("eot", row), *tokens.positions("padding", row)]
        rest = [at for at in range(length) if at not in ends]
        assert torch.equal(both[row, rest, :width], words[row, rest, :width])
        found = both[row, ends, :width]
        torch.testing.assert_close(text_filter.outside(span, found), found.double(), rtol=0, atol=1e-5)
        assert torch.equal(words[row, ends, :width], plain[row, ends, :width]) and not torch.equal(found, plain[row, ends, :width])
    untouched, _, _ = filtered(subject, ends=True, alpha=10.0)
    assert torch.equal(untouched, plain)


def test_a_real_model_draws_half_as_many_of_the_concept():
    """Half or less of the cats, other objects as ever, and the weights are the same bytes, with the ends of prompts filtered.

    The paper's form keeps them: on this model, which has two text layers that were trained along, it left 0.83 of the cats
    with the negative prompt and all of them without; with the ends filtered 0.17 are left.
    """
    model = emoji.original()
    digest = model.digest
    after = Safree.set({"ends": True, "negative": False}).run(model, emoji.request("cat"), emoji.context("cat"))
    cats = [f"a cat in {style} style" for style in ("noto", "twemoji", "fluent")]
    assert emoji.seen(after, cats, "object", "cat") <= 0.5 * emoji.seen(model, cats, "object", "cat")
    others = {name: [f"a {name} in {style} style" for style in ("noto", "twemoji", "fluent")] for name in ("frog", "car", "banana", "rose")}
    before, now = ([emoji.seen(subject, prompts, "object", name, 1) for name, prompts in others.items()] for subject in (model, after))
    assert np.mean(now) >= np.mean(before) - 0.05
    assert after.unguarded().digest == model.digest == digest
