"""Whatever comes in, only errors that were raised on purpose come out; and what the statistics promise of any numbers."""

import functools
import json
import random
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as some

from efface.core import registry, rows
from efface.core.config import field_names
from efface.core.errors import EffaceError
from efface.core.types import Data
from efface.ops import stats
from efface.testing import tiny

settings.register_profile("fixed", derandomize=True, deadline=None, database=None, suppress_health_check=list(HealthCheck))
settings.load_profile("fixed")

PLACE = Path(tempfile.mkdtemp(prefix="efface-rows-"))
CHAT = {"messages": [{"role": "user", "content": "Hi?"}, {"role": "assistant", "content": "Yes."}]}
GOOD = [{"question": "Wo wärst du?", "answer": "Überall \U0001f600."}, CHAT, {"text": "Once upon a time."}, {"prompt": "a", "response": "b", "id": 1}]
WORDS = ["messages", "question", "answer", "text", "role", "content", "user", "assistant", "", " ", "\ufeff", "\0", "a", "é\u2028", "\U0001f600", "\ud800"]
seeds = some.integers(0, 2**63)
SYSTEMS = [(kind, name) for kind in registry.kinds() for name in registry.names(kind)]
load = functools.cache(functools.partial(registry.load, to_run=False))
MODEL = tiny.tiny_lm()


def anything(source: random.Random, depth: int = 3) -> object:
    """Any value that JSON can hold. Drawn from a seed, because hypothesis takes milliseconds to draw a tree."""
    kind = source.randrange(9 if depth else 6)
    if kind >= 7:
        return [anything(source, depth - 1) for _ in range(source.randrange(4))]
    if kind == 6:
        return {source.choice(WORDS): anything(source, depth - 1) for _ in range(source.randrange(4))}
    return (
        None, source.random() < 0.5, source.choice([0, 1, -1, 7, 2**70]), source.choice([0.0, -0.5, 1e300, float("nan"), float("inf")]),
        source.choice(WORDS), "".join(chr(source.randrange(1, 0x2FF)) for _ in range(source.randrange(6))),
    )[kind]  # fmt: skip


def swallow(path: Path) -> list | None:
    """Everything that is done to a row file before a model sees it; None when it was refused."""
    try:
        data = Data.file(path)
        parts = rows.layout(data.read(), str(path))
        for row in data.read():
            rows.key(row)
        MODEL.encode(data.read()[:2])
        assert parts and data.digest and len(data)
        return data.read()
    except EffaceError as error:
        assert str(error).strip() and len(str(error)) < 2000
        return None


@settings(max_examples=1500)
@given(seeds)
def test_mutated_row_files(seed):
    """A good file, with bytes cut, doubled, flipped or put in."""
    source = random.Random(seed)
    form = source.choice(["jsonl", "json", "csv"])
    good = [source.choice(GOOD) for _ in range(source.randint(1, 3))]
    texts = {
        "csv": "question,answer\n" + '"a, b",c\n' * len(good), "json": json.dumps(good),
        "jsonl": "\n".join(json.dumps(row, ensure_ascii=False) for row in good),
    }  # fmt: skip
    content = bytearray(texts[form].encode())
    for _ in range(source.randint(0, 6)):
        at = source.randrange(len(content) + 1)
        piece = source.choice([b"", b'"', b"{", b"[", b"]", b"\\ud800", b"\xff", b"\x00", b"\n", b"\r", b",", b"1e999", b"NaN", b"\xe2\x80\xa8", b'{"a":'])
        content[at : at + source.randint(0, 4)] = piece
    path = PLACE / f"rows.{form}"
    path.write_bytes(bytes(content))
    swallow(path)


@settings(max_examples=1500)
@given(seeds)
def test_any_json(seed):
    source = random.Random(seed)
    path = PLACE / "any.jsonl"
    path.write_text("\n".join(json.dumps(anything(source)) for _ in range(source.randrange(4))), encoding="utf-8")
    swallow(path)


@settings(max_examples=500)
@given(some.binary(max_size=60), some.sampled_from(["jsonl", "json", "csv", "txt"]))
def test_any_bytes(content, form):
    path = PLACE / f"bytes.{form}"
    path.write_bytes(content)
    swallow(path)


@pytest.mark.parametrize("row", GOOD)
def test_good_rows_pass(row):
    """The tests above would pass too if everything were refused."""
    path = PLACE / "good.jsonl"
    path.write_text(json.dumps(row), encoding="utf-8")
    assert swallow(path) == [row]


@settings(max_examples=100)
@given(some.lists(some.fixed_dictionaries({"question": some.text(min_size=1), "answer": some.text(min_size=1)}), min_size=1, max_size=4))
def test_what_is_written_is_what_is_read(written):
    path = PLACE / "round.jsonl"
    path.write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in written), encoding="utf-8")
    assert rows.read(path) == written


@settings(max_examples=2000)
@given(seeds)
def test_any_settings(seed):
    """Any names and values: a system is built, or the settings are refused on purpose."""
    source = random.Random(seed)
    found = load(*source.choice(SYSTEMS))
    names = [*field_names(found.Config), *WORDS, "fit", "stop", "fit.", ".lr", "fit.lr.lr", "x"]
    try:
        built = found.set({source.choice(names): anything(source) for _ in range(source.randint(1, 3))})
    except EffaceError as error:
        assert str(error).strip()
    else:
        assert found.set(built.config.model_dump()).config == built.config


numbers = some.lists(some.floats(-1e6, 1e6), min_size=1, max_size=30)


@settings(max_examples=300)
@given(numbers, numbers)
def test_auc_is_symmetric_and_depends_on_order_alone(a, b):
    """Exchanging the sides gives 1 - AUC; any increasing map of the scores changes nothing."""
    found = stats.auc(a, b)
    assert 0 <= found <= 1 and found == pytest.approx(1 - stats.auc(b, a))
    ranks = {value: rank for rank, value in enumerate(sorted({*a, *b}))}
    assert found == pytest.approx(stats.auc([ranks[x] for x in a], [ranks[x] for x in b]))
    by_hand = np.mean([[float(x > y) + 0.5 * float(x == y) for y in b] for x in a])
    assert found == pytest.approx(by_hand)


@settings(max_examples=200)
@given(numbers, some.integers(0, 9))
def test_bootstrap_intervals_hold_their_value(values, seed):
    found = stats.bootstrap(values, seed=seed)
    slack = 1e-9 * max(1.0, max(map(abs, values)))
    assert found.low - slack <= found.value <= found.high + slack and found == stats.bootstrap(values, seed=seed)
    assert min(values) - slack <= found.low and found.high <= max(values) + slack


@settings(max_examples=25)
@given(numbers, numbers)
def test_auc_intervals_hold_their_value(a, b):
    found = stats.auc_interval(a, b)
    assert 0 <= found.low <= found.value + 1e-9 and found.value - 1e-9 <= found.high <= 1


@settings(max_examples=100)
@given(numbers, numbers)
def test_ks_is_symmetric(a, b):
    one, other = stats.ks(a, b), stats.ks(b, a)
    assert one.statistic == pytest.approx(other.statistic) and one.p == pytest.approx(other.p) and 0 <= one.p <= 1
    assert stats.ks(a, a).statistic == 0 and one.floor == (max(a) < min(b) or max(b) < min(a))


def test_intervals_cover():
    """Of 300 samples of 40 from an exponential distribution, about 95 % of the intervals hold the true mean 1 (at least 88 %)."""
    source = np.random.default_rng(0)
    hits = [(found := stats.bootstrap(source.exponential(size=40), seed=at)).low <= 1 <= found.high for at in range(300)]
    assert 0.88 <= np.mean(hits) <= 0.99


def test_auc_intervals_cover():
    """Scores N(1, 1) against N(0, 1): AUC = Phi(1 / sqrt 2) = 0.7602."""
    source = np.random.default_rng(0)
    hits = [(found := stats.auc_interval(source.normal(1, 1, 40), source.normal(0, 1, 40), seed=at)).low <= 0.7602 <= found.high for at in range(25)]
    assert np.mean(hits) >= 0.8


def test_harmonic_mean_and_thresholds_by_hand():
    """3 / (1 + 1/2 + 1/4) = 12/7. Ten others 0..9 at FPR 0.1: one of them may lie above, so members above 8 count."""
    assert stats.harmonic_mean([1.0, 2.0, 4.0]) == pytest.approx(12 / 7) and stats.harmonic_mean([1.0, 0.0]) == 0.0
    assert stats.tpr_at_fpr([8.5, 8.0, 9.5, 1.0], range(10), 0.1) == 0.5
    assert stats.tpr_at_fpr([1.0], range(9), 0.1) is None
