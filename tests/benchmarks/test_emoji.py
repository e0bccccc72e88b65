"""The emoji benchmark: what is shipped is what it says, and its parts can be made again."""

import numpy as np
import pytest

from efface import api
from efface.benchmarks import emoji as benchmark
from efface.core.context import Context
from efface.core.errors import UnknownName
from efface.data import emoji_rows as grid
from efface.families import judges
from efface.testing import emoji


@pytest.mark.parametrize("name", ["object", "style"])
def test_judges_know_the_real_pictures(name):
    pictures = benchmark.pictures().reshape(-1, 32, 32, 3)
    right = np.repeat(np.arange(48), 3) if name == "object" else np.tile(np.arange(3), 48)
    assert (judges.chances(emoji.judges()[f"judge/{name}"], pictures).argmax(1) == right).mean() >= 0.95


def test_the_object_judge_calls_noise_and_blank_paper_other():
    noise = np.random.default_rng(0).integers(0, 255, (8, 32, 32, 3), dtype=np.uint8)
    blank = np.full((2, 32, 32, 3), 255, np.uint8)
    judge = emoji.judges()["judge/object"]
    assert (judges.chances(judge, np.concatenate([noise, blank])).argmax(1) == judges.labels(judge).index("other")).mean() >= 0.8


def test_the_original_draws_what_it_is_asked_for():
    prompts = [grid.prompt(name, style) for name, style in zip(grid.OBJECTS[::4], grid.STYLES * 4, strict=True)]
    pictures = emoji.original().generate(prompts, list(range(12)))
    objects, styles = (judges.chances(emoji.judges()[f"judge/{name}"], pictures).argmax(1) for name in ("object", "style"))
    assert (objects == np.arange(0, 48, 4)).mean() >= 0.9 and (styles == np.tile(np.arange(3), 4)).mean() >= 0.9


@pytest.mark.parametrize(("concept", "judge", "prompt"), [("cat", "object", "a cat in noto style"), ("twemoji", "style", "a dog in twemoji style")])
def test_a_reference_never_learned_its_concept_and_knows_the_rest(concept, judge, prompt):
    assert emoji.seen(emoji.original(), [prompt], judge, concept) == 1.0
    assert emoji.seen(emoji.reference(concept), [prompt], judge, concept) == 0.0
    assert emoji.seen(emoji.reference(concept), ["a tree in noto style"], "object", "tree") == 1.0


def test_a_reference_shares_the_autoencoder_and_nothing_else():
    original, other = emoji.original(), emoji.reference("cat")
    equal = {name.split(".")[0] for (name, a), b in zip(original.model.state_dict().items(), other.model.state_dict().values(), strict=True) if bool((a == b).all())}
    assert "vae" in equal and not any(bool((a == b).all()) for a, b in zip(original.weights("cross.key").values(), other.weights("cross.key").values(), strict=True))


def test_the_case_names_concept_neighbors_reference_and_judges():
    case = benchmark.Emoji.set({"concept": "cat"}).case(Context())
    assert case.request.names == ("a cat",) and case.request.near == ("a dog", "a tiger", "a fox")
    assert len(case.request.rows("forget")) == 3 and len(case.request.rows("keep")) == 141
    assert not any("cat" in str(row["prompt"]).split() for row in case.request.rows("keep"))
    assert {"original", "reference", "judge/object", "judge/style"} == set(case.baselines) and "without the pictures of cat" in case.reference
    style = benchmark.Emoji.set({"concept": "fluent"}).case(Context())
    assert style.request.names == ("fluent style",) and "reference" not in style.baselines and style.reference == ""


def test_what_is_not_on_the_grid_is_refused_by_name():
    with pytest.raises(UnknownName, match="zebra"):
        benchmark.Emoji.set({"concept": "zebra"}).case(Context())
    with pytest.raises(UnknownName, match="without_zebra"):
        benchmark.training("without_zebra")
    with pytest.raises(UnknownName, match="reference of the emoji grid"):
        benchmark.reference("dog")


def test_every_word_is_one_token_and_a_strange_one_is_cut():
    tokenizer = emoji.original().pipe.tokenizer
    assert all(len(tokenizer(word).input_ids) == 3 for word in grid.WORDS)
    assert len(tokenizer("zebra").input_ids) > 4


def test_a_part_can_be_trained_again_from_the_same_start():
    """Two steps of the shipped recipe on the shipped pictures: it runs, and without the cat there is no cat among the rows."""
    recipe, request, settings, seed = benchmark.training("without_cat")
    assert settings == {"fit.steps": 6500} and len(request.rows("keep")) == 141
    start = benchmark.start()
    assert start.digest == benchmark.start().digest
    after = api.train(start, request, recipe, {"fit.steps": 2, "fit.batch": 4}, Context(seed=seed))
    assert after.digest != start.digest and [step.system for step in after.lineage] == ["text_to_image"]
