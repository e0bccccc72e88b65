import pytest
import torch

from efface.attacks import p4d
from efface.attacks.p4d import P4D
from efface.core.context import Context
from efface.core.errors import BadConfig, Missing
from efface.core.types import Data, Request
from efface.families import soft_tokens, token_slots
from efface.testing.painting import Painter, Reader

LABELS = ("dog", "cat")
FAST = {"steps": 4, "look": 2, "rows": 2, "length": 4}


def request(*prompts):
    return Request(kind="concept", names=("a cat",), forget=Data.inline([{"prompt": prompt} for prompt in prompts]))


def context():
    return Context(baselines={"judge/object": Reader(LABELS), "original": Painter(lambda prompt, seed: 1)})


def test_nearest_by_cosine():
    """(3, .1) is nearer to (1, 0) than to (4, 4) in angle, whatever the lengths."""
    table = torch.tensor([[4.0, 4.0], [1.0, 0.0], [0.0, -2.0]])
    assert p4d.nearest(torch.tensor([[3.0, 0.1], [0.1, 0.2], [1e-3, -5.0]]), table).tolist() == [1, 0, 2]


def test_the_gradient_is_taken_at_the_projection(monkeypatch):
    """What the denoiser reads are embeddings of the vocabulary, never the vectors that move; and the vectors do move, by AdamW's step.

    The first step of AdamW on v with gradient g is v (1 - lr wd) - lr sign(g), up to its epsilon.
    """
    read, moved = [], []
    plain, near = token_slots.states, p4d.nearest
    monkeypatch.setattr(token_slots, "states", lambda *given: read.extend(given[2]) or plain(*given))
    monkeypatch.setattr(p4d, "nearest", lambda vectors, table: moved.append(vectors.detach().clone()) or near(vectors, table))
    subject = Painter(lambda prompt, seed: 0)
    P4D.set({**FAST, "steps": 2, "look": 2, "form": "N", "rows": 1}).run(subject, request("a cat"), context())
    table = soft_tokens.table(subject)
    known = table[token_slots.typeable(subject, Context())]
    assert all(any(torch.equal(row, other) for other in known) for vectors in read for row in vectors.detach())
    change = moved[1] - moved[0] * (1 - 0.1 * 0.1)
    assert torch.allclose(change.abs(), torch.full_like(change, 0.1), atol=1e-3) or (change.abs() <= 0.1 + 1e-4).all() and change.abs().median() > 0.09


def test_both_forms():
    """N: a prompt of free tokens alone; K: one before each three of the prompt's own. Each has its share, and the value is of both."""
    subject = Painter(lambda prompt, seed: int("cat" in prompt and prompt.split()[1] == "a"))
    found = P4D.set(FAST).run(subject, request("a cat", "a boat in plain style"), context())
    assert found.parts["K"] == 0.5 == found.value and found.parts["N"] == 0
    first, second = found.table
    assert (first["kind"], first["steps"], first["pictures"]) == ("K", 4 + 2, 2 + 1)
    assert first["found"].split()[1:] == ["a", "cat"] and len(second["found"].split()) == 7
    alone = P4D.set({**FAST, "form": "N"}).run(subject, request("a boat"), context())
    assert "K" not in alone.parts and all(len(row["found"].split()) == 4 for row in alone.table)


def test_an_erased_model_is_read_like_the_original():
    """Where nothing was erased and "a cat" is the whole prompt, the loss at "a cat" itself is zero: the original agrees with itself."""
    subject = Painter(lambda prompt, seed: 0)
    slots = token_slots.alone(subject.pipe.tokenizer, 2)
    ids = subject.pipe.tokenizer("a cat", add_special_tokens=False).input_ids
    text = token_slots.states(subject, slots, [soft_tokens.table(subject)[torch.tensor(ids)]], [0])
    latents, t = torch.randn(1, *subject.latent_shape, generator=torch.Generator().manual_seed(0)), torch.tensor([500])
    assert torch.allclose(subject.noise(latents, t, text), subject.noise(latents, t, subject.embed_text(["a cat"])), atol=1e-6)


def test_plain_successes_cost_nothing_and_batches_change_nothing():
    found = P4D.set(FAST).run(Painter(lambda prompt, seed: 1), request("a cat"), context())
    assert found.value == 1 == found.parts["unattacked"] and found.parts["steps"] == 0 == found.parts["pictures"]
    searched = [
        [row["found"] for row in P4D.set({**FAST, "batch": batch, "form": "K"}).run(Painter(lambda prompt, seed: 0), request("a cat", "a boat"), context()).table]
        for batch in (1, 8)
    ]
    assert searched[0] == searched[1]


def test_what_is_refused():
    with pytest.raises(Missing, match="--original"):
        P4D().run(Painter(lambda prompt, seed: 0), request("a cat"), Context(baselines={"judge/object": Reader(LABELS)}))
    with pytest.raises(BadConfig, match="form"):
        P4D.set({"form": "M"})
