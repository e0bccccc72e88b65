"""Rows paired with what to draw instead, clean latents, frozen states of prompts."""

import numpy as np
import pytest
import torch

from efface.core.context import Context
from efface.core.errors import Unfit
from efface.families.paired_rows import as_many, clean_latents, exchanged, noised, paired, views
from efface.families.text_readers import Texts
from efface.testing import tiny_images

SUBJECT = tiny_images.pipeline()
REQUEST = tiny_images.request()


@pytest.mark.parametrize(
    ("prompt", "concept", "other", "made"),
    [
        ("a cat in noto style", "a cat", "a dog", "a dog in noto style"),
        ("An image of A CAT", "a cat", "an apple", "An image of an apple"),
        ("noto style cat", "a cat", "a dog", "noto style dog"),
        ("the cat", "a cat", "a dog", "the dog"),
        ("a catalog", "a cat", "a dog", "a dog"),
        ("a kitten in noto style", "a cat", "a dog", "a dog"),
        ("a cat in noto style", "noto style", "twemoji style", "a cat in twemoji style"),
        ("a cat in noto style", "noto style", "", "a cat"),
        ("an image of a cat in noto style", "a cat", "", "an image in noto style"),
        ("a cat", "a cat", "", ""),
    ],
)
def test_exchanged(prompt, concept, other, made):
    assert exchanged(prompt, (concept,), other) == made


def test_paired_by_instead_near_or_keep():
    """`instead` comes before `near`; each of several near concepts makes its row; without both a keep prompt is drawn, by the seed."""
    many = REQUEST.model_copy(update={"near": ("a dog", "a boat")})
    assert [row["other"] for row in paired(SUBJECT, many, Context())] == [f"a {name} in {style} style" for style in ("plain", "glossy") for name in ("dog", "boat")]
    given = many.model_copy(update={"instead": "a picture"})
    assert [row["other"] for row in paired(SUBJECT, given, Context())] == ["a picture in plain style", "a picture in glossy style"]
    bare = REQUEST.model_copy(update={"near": ()})
    drawn = [[row["other"] for row in paired(SUBJECT, bare, Context(seed=seed))] for seed in (0, 0, 1, 2, 3)]
    assert drawn[0] == drawn[1] and len({tuple(one) for one in drawn}) > 1
    assert {other for one in drawn for other in one} <= {row["prompt"] for row in REQUEST.rows("keep")}


def test_refusals():
    with pytest.raises(Unfit, match="'a cat in plain style' was to be drawn as itself"):
        paired(SUBJECT, REQUEST.model_copy(update={"near": ("a cat",)}), Context())
    with pytest.raises(Unfit, match="empty"):
        paired(SUBJECT, REQUEST.model_copy(update={"names": (" ",)}), Context())


def test_clean_latents():
    """Drawn latents depend on the prompt and the seed alone, and decode to what generate() shows; a row's own picture is encoded."""
    rows = [*REQUEST.rows("forget"), {**REQUEST.rows("keep")[0], "image": np.full((16, 16, 3), 200, np.uint8)}]
    found = clean_latents(SUBJECT, rows, Context(), 3)
    assert found.shape == (3, 3, 4, 4, 4)
    assert torch.allclose(clean_latents(SUBJECT, rows[1:2], Context(), 3)[0], found[1], rtol=1e-4, atol=1e-4)
    assert not torch.equal(found[0, 0], found[0, 1])
    assert torch.equal(found[2, 0], found[2, 2]) and torch.equal(found[2, 0], SUBJECT.latents(rows[2]["image"][None])[0])
    ctx = Context()
    seed = ctx.seed_for("picture", rows[0]["prompt"], 1) % 2**62
    shown = SUBJECT.generate([rows[0]["prompt"]], [seed]).astype(int)
    assert abs(SUBJECT.pictures(found[0, 1:2]).astype(int) - shown).max() <= 1


def test_as_many():
    """Eight of three rows are 24: three of each of eight, and one of each of a hundred."""
    assert [as_many(8, [{}] * 3, [{}] * count) for count in (8, 7, 100)] == [3, 4, 1]


def test_texts_are_those_of_the_encoder():
    texts = Texts(SUBJECT, ["a cat", "a dog", "a cat"])
    assert torch.allclose(texts(["a dog", "a cat", "a dog"]).states, SUBJECT.embed_text(["a dog", "a cat", "a dog"]).states, atol=1e-6)


def test_noised_and_views():
    """x_t holds the picture and the target's noise in the schedule's shares; a view is one of the row's own pictures."""
    clean = torch.randn(2, 5, 4, 4, 4, generator=torch.Generator().manual_seed(0))
    with torch.random.fork_rng(devices=[]):
        picked = views(clean, torch.tensor([1, 0, 1]))
        mixed, t, target = noised(SUBJECT, picked)
    assert all(any(torch.equal(one, other) for other in clean[row]) for one, row in zip(picked, (1, 0, 1), strict=True))
    assert torch.allclose(SUBJECT.schedule.clean(mixed, target, t), picked, atol=1e-4)


