"""SalUn on text-to-image models: the mask by hand, bit equality outside of it, and all weights as the limit."""

import pytest
import torch
from safetensors.torch import load_file

from efface.core.context import Context
from efface.core.errors import BadConfig, UnknownName
from efface.data import emoji_rows as grid
from efface.families import paired_rows, text_readers
from efface.families.diffusion import Diffusion
from efface.methods.salun import DIFFUSION, SalUn, mask_of, picture_saliency
from efface.ops.loop import draw
from efface.testing import emoji, tiny_images, tiny_pipelines

SUBJECT, REQUEST = tiny_images.pipeline(), tiny_images.request()
FEW = {"fit.steps": 4, "fit.batch": 4, "fit.lr": 1e-3, "diffusion.pictures": 2}


def config(**changes):
    return SalUn.set({"diffusion.pictures": 2, **{name.replace("__", "."): value for name, value in changes.items()}}).config


def moved(before, after):
    """{full name: true where a weight has another value}"""
    old = dict(before.model.named_parameters())
    return {name: new != old[name] for name, new in after.model.named_parameters()}


@pytest.mark.parametrize("guidance", [0.0, 7.5])
def test_saliency_of_a_bias(guidance):
    """The output's bias adds (1 + g) - g = 1 to the guided prediction p, so its gradient of -mean (n - p)^2 is 2 / (C h w) sum of (n - p).

    The mean over the pictures comes first and its absolute value after, so that two pictures may cancel.
    """
    rows, ctx = REQUEST.rows("forget"), Context(seed=3)
    clean = paired_rows.clean_latents(SUBJECT, rows, ctx, 2)
    found = picture_saliency(SUBJECT, rows, clean, config(diffusion__guidance=guidance), ctx)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(ctx.seed_for("saliency", 0) % 2**62)
        mixed, t, noise = paired_rows.noised(SUBJECT, clean.flatten(0, 1))
        said = SUBJECT.noise(mixed, t, SUBJECT.embed_text([rows[0]["prompt"]] * 2 + [rows[1]["prompt"]] * 2))
        free = SUBJECT.noise(mixed, t, SUBJECT.embed_text([""] * 4))
    residual = noise - ((1 + guidance) * said - guidance * free)
    each = 2 / residual[0].numel() * residual.sum((2, 3))
    assert torch.allclose(found["unet.conv_out.bias"], each.mean(0).abs(), atol=1e-6)
    assert (each.abs().mean(0) - each.mean(0).abs()).max() > 1e-3  # the sum of absolute values is something else


def test_density_of_the_mask():
    """Half of all weights of the denoiser, all counted together, to 1e-6; nothing of the text encoder."""
    masks = mask_of(SUBJECT, REQUEST.rows("forget"), config(), Context())
    total = sum(mask.numel() for mask in masks.values())
    assert total == sum(p.numel() for p in SUBJECT.denoiser.parameters())
    assert abs(sum(int(mask.sum()) for mask in masks.values()) / total - 0.5) <= 1 / total
    assert all(mask.dtype == torch.bool for mask in masks.values())
    assert len({float(mask.float().mean()) for mask in masks.values()}) > 10  # no half of each tensor
    few = mask_of(SUBJECT, REQUEST.rows("forget"), config(diffusion__role="cross.value", share=0.1), Context())
    assert set(few) == set(SUBJECT.names_of("cross.value"))


def test_a_planted_weight_is_in_the_mask():
    """The output layer reads one channel a hundred times as strongly: what scales that channel then matters most."""
    planted = SUBJECT.fork()
    with torch.no_grad():
        planted.denoiser.conv_out.weight[:, 3] *= 100
    settings = config(share=0.01)
    masks = [mask_of(subject, REQUEST.rows("forget"), settings, Context()) for subject in (SUBJECT, planted)]
    weight, bias = "unet.conv_norm_out.weight", "unet.conv_norm_out.bias"
    assert masks[1][weight][3] and masks[1][bias][3]
    assert int(masks[1][weight].sum()) < int(masks[0][weight].sum()) or not masks[0][weight][3]


def test_outside_of_the_mask_nothing_moves(tmp_path):
    """With Adam's moments and weight decay; and the mask is written to the run's folder when asked for."""
    ctx = Context(folder=tmp_path)
    after = SalUn.set({**FEW, "fit.weight_decay": 0.1, "share": 0.3, "diffusion.save_mask": True}).run(SUBJECT, REQUEST, ctx)
    masks = load_file(tmp_path / "mask.safetensors")
    computed = mask_of(SUBJECT, REQUEST.rows("forget"), config(share=0.3), Context())
    assert masks.keys() == computed.keys() and all(torch.equal(masks[name], computed[name]) for name in masks)
    changed = moved(SUBJECT, after)
    assert not any((changed[name] & ~masks[name]).any() for name in masks)
    assert not any(changed[name].any() for name in changed if name not in masks)
    inside = sum(int(changed[name].sum()) for name in masks) / ctx.notes["mask_weights"]
    assert inside > 0.95


def test_all_weights_are_plain_training():
    """With every weight in the mask it is, bit for bit, Adam on the two terms written out here."""
    ctx = Context(seed=5)
    found = SalUn.set({**FEW, "share": 1.0, "fit.steps": 3}).run(SUBJECT, REQUEST, ctx)
    plain, other = SUBJECT.trainable(SUBJECT.names_of("denoiser")), Context(seed=5)
    pairs, keep = paired_rows.paired(SUBJECT, REQUEST, other), REQUEST.rows("keep")
    clean = [paired_rows.clean_latents(SUBJECT, rows, other, each) for rows, each in ((pairs, 2), (keep, 1))]
    texts = text_readers.Texts(SUBJECT, [row[name] for row in pairs for name in ("prompt", "other")] + [row["prompt"] for row in keep])
    trained = [p for p in plain.model.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(trained, lr=1e-3, fused=True)
    plain.model.train()
    for step in range(3):
        index = [torch.tensor(draw(len(rows), 4, step, other.seed_for("rows", name))) for name, rows in (("forget", pairs), ("keep", keep))]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(other.seed_for("dropout", step, 0) % 2**62)
            mixed, t, _ = paired_rows.noised(plain, paired_rows.views(clean[0], index[0]))
            wanted = plain.noise(mixed, t, texts([pairs[at]["other"] for at in index[0]])).detach()
            forget = (plain.noise(mixed, t, texts([pairs[at]["prompt"] for at in index[0]])) - wanted).square().mean()
            mixed, t, noise = paired_rows.noised(plain, paired_rows.views(clean[1], index[1]))
            kept = (plain.noise(mixed, t, texts([keep[at]["prompt"] for at in index[1]])) - noise).square().mean()
        (forget + 0.5 * kept).backward()
        optimizer.step()
        optimizer.zero_grad()
    assert found.digest == plain.digest != SUBJECT.digest


def test_settings():
    """Of `fit`, what is left at a classifier's default is the code's for text-to-image models; what was changed holds."""
    ctx = Context()
    after = SalUn.set({"fit.steps": 0, "fit.batch": 4, "diffusion.pictures": 1}).run(SUBJECT, REQUEST, ctx)
    assert after.digest == SUBJECT.digest and ctx.notes["optimizer"] == "adam, lr 1e-05, batch 4"
    assert (DIFFUSION.epochs, DIFFUSION.batch) == (5, 8)
    whole = Context()
    SalUn.set({"diffusion.pictures": 1}).run(SUBJECT, REQUEST, whole)
    assert whole.notes["steps"] == 5  # five epochs of four keep rows in batches of eight
    with pytest.raises(BadConfig, match="fit.rank = 2"):
        SalUn.set({"fit.rank": 2}).run(SUBJECT, REQUEST, Context())
    with pytest.raises(UnknownName, match="no role named 'attn'"):
        SalUn.set({**FEW, "diffusion.role": "attn"}).run(SUBJECT, REQUEST, Context())


def test_the_same_prompt_gives_no_gradient():
    """At the start the model agrees with itself: for two prompts of the same tokens the forget term is 0, and without keep nothing moves."""
    twin = REQUEST.model_copy(update={"instead": "A CAT"})
    ctx = Context()
    after = SalUn.set({**FEW, "diffusion.keep_weight": 0.0}).run(SUBJECT, twin, ctx)
    assert isinstance(after, Diffusion) and after.digest == SUBJECT.digest
    assert [line["forget"] for line in ctx.curve] == [0.0] * 4


@pytest.mark.parametrize("kind", ["sdxl", "sd3"])
def test_other_pipelines(kind):
    """Two text encoders and a flow's target: half of the denoiser may move, and no other weight does."""
    subject, ctx = tiny_pipelines.subject(kind), Context()
    after = SalUn.set({**FEW, "fit.steps": 2, "diffusion.pictures": 1}).run(subject, REQUEST, ctx)
    total = sum(p.numel() for p in subject.denoiser.parameters())
    assert ctx.notes["mask_weights"] == round(total / 2)
    changed = moved(subject, after)
    assert 0 < sum(int(moves.sum()) for moves in changed.values()) <= total / 2
    assert all(name.startswith(subject.layout.part) for name, moves in changed.items() if moves.any())


@pytest.mark.slow
def test_a_real_model_forgets_the_cat():
    """Calibration (100 steps, all keep rows): cat 1.00 -> 0.00, other objects 1.00 -> 1.00, the three nearest 1.00 -> 0.89."""
    request = emoji.request("cat")
    settings = {"fit.lr": 1e-4, "fit.steps": 100, "diffusion.pictures": 4, "diffusion.keep_weight": 1.0}
    after = SalUn.set(settings).run(emoji.original(), request, emoji.context("cat"))
    cats = [row["prompt"] for row in request.rows("forget")]
    assert emoji.seen(emoji.original(), cats, "object", "cat") >= 0.9
    assert emoji.seen(after, cats, "object", "cat") <= 0.2
    kept = [emoji.seen(after, [f"{grid.named(name)} in {style} style" for style in grid.STYLES], "object", name) for name in ("dog", "apple", "car", "tulip")]
    assert sum(kept) / len(kept) >= 0.8
