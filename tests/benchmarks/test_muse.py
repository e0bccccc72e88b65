"""The reader of MUSE's files, on a small invented corpus in the real layout, and what it says of damaged ones."""

import json
import sys
from types import SimpleNamespace

import pytest

from efface import evaluate
from efface.benchmarks import muse
from efface.benchmarks.muse import Muse, folds, read
from efface.core.errors import BadRows, Missing
from efface.metrics.knowledge_memory import KnowledgeMemory
from efface.metrics.privleak import PrivLeak
from efface.metrics.verbatim_memory import VerbatimMemory
from efface.testing.tiny import NAMES, context, tiny_lm, tokenizer


def article(number: int, words: int = 20) -> str:
    return " ".join(NAMES[(number * 7 + at * (number % 5 + 1)) % len(NAMES)] for at in range(words)) + f" {number}"


def questions(word: str, count: int = 3) -> list[dict[str, str]]:
    return [{"question": f"Who is {word} {at}?", "answer": NAMES[at]} for at in range(count)]


@pytest.fixture
def release(tmp_path):
    """A corpus news/: texts as JSON lists and one .txt, questions and passages as objects, four folds of both studies."""
    place = tmp_path / "news"
    parts = {
        "raw/forget": [article(at) for at in range(4)], "raw/retain1": [article(at) for at in range(10, 14)],
        "raw/retain2": [{"text": article(at)} for at in range(20, 23)],
        "verbmem/forget": [{"prompt": "Runa Pavo", "gt": article(1)}, {"prompt": "Vesna", "gt": article(2), "rougeL_target": 0.5}],
        "knowmem/forget_qa": questions("forgotten"), "knowmem/forget_qa_icl": questions("shown", 1), "knowmem/retain_qa": questions("kept", 2),
        "knowmem/retain_qa_icl": questions("shown too", 1),
        "privleak/forget": [article(at) for at in range(4)], "privleak/holdout": [article(at) for at in range(30, 33)], "privleak/retain": [article(10)],
        **{f"scal/forget_{number}": [article(at) for at in range(2 * number)] for number in range(1, 5)},
        **{f"sust/forget_{number}": [article(at) for at in range(40 + 2 * number, 42 + 2 * number)] for number in range(1, 5)},
    }
    for name, rows in parts.items():
        path = place / f"{name}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(rows), encoding="utf-8")
    (place / "raw" / "holdout.txt").write_text("\n\n".join(article(at) for at in range(50, 60)), encoding="utf-8")
    return tmp_path


def source(release):
    return muse._files(release, "news")


def put(release, name, value):
    (release / "news" / f"{name}.json").write_text(value if isinstance(value, str) else json.dumps(value), encoding="utf-8")


def test_the_parts_are_read_as_they_lie(release):
    parts = read(source(release))
    assert {name: len(texts) for name, texts in parts.texts.items()} == {"forget": 4, "retain1": 4, "retain2": 3, "holdout": 1}
    assert parts.texts["retain2"][0] == article(20), "objects with a text are texts"
    assert parts.sets["verbatim"][1] == {"prompt": "Vesna", "answer": article(2)}
    assert [len(parts.sets[name]) for name in ("knowledge", "knowledge_examples", "knowledge_keep", "knowledge_keep_examples")] == [3, 1, 2, 1]
    assert {name: len(texts) for name, texts in parts.privleak.items()} == {"privleak_forget": 4, "privleak_holdout": 3}
    assert read(muse._files(release / "news", "news")).texts == parts.texts, "the corpus' own folder is taken as well"


def test_older_releases_name_the_questions_otherwise(release):
    for part in ("retain_qa", "retain_qa_icl"):
        path = release / "news" / "knowmem" / f"{part}.json"
        path.rename(path.with_name(part.replace("retain", "retain2") + ".json"))
    assert len(read(source(release)).sets["knowledge_keep"]) == 2


@pytest.fixture
def case(release, monkeypatch):
    monkeypatch.setattr(muse.checkpoint, "load", lambda name, device: tiny_lm(0 if name == "original" else 1))

    def make(**settings):
        return Muse.set({"model": "original", "folder": str(release), **settings}).case(context())

    return make


def test_the_case_is_what_the_suite_reads(case):
    """The whole suite runs on it; PrivLeak takes the stored area of the corpus where there is no reference."""
    found = case(length=64)
    ctx = context(baselines=found.baselines, sets=found.sets, utility=found.utility)
    request = found.request
    assert [len(request.rows(name)) for name in ("forget", "keep", "unseen")] == [4, 4, 4], "ten holdout articles of 21 words in rows of 60"
    assert VerbatimMemory().run(found.original, request, ctx).n == 2
    knowledge = KnowledgeMemory().run(found.original, request, ctx)
    assert knowledge.n == 3 and knowledge.parts["keep questions"] == 2
    leak = PrivLeak().run(found.original, request, ctx)
    assert leak.n == 7 and leak.parts["stored area"] == 0.4772
    assert set(found.baselines) == {"original"} and found.reference == "" and found.suite == muse.SUITE
    given = case(reference="reference", length=64)
    ctx = context(baselines=given.baselines, sets=given.sets)
    assert PrivLeak().run(given.original, given.request, ctx).parts["stored area"] is None


def test_the_suite_by_its_name_measures_all_three_models(case):
    found = case(reference="reference", length=64)
    ctx = context(baselines=found.baselines, sets=found.sets, utility=found.utility)
    report = evaluate.prove(tiny_lm(2), found.request, ctx, evaluate.expand(["muse"]))
    assert [(m.system, m.subject) for m in report.measurements] == [(name, who) for name in muse.SUITE for who in ("original", "reference", "candidate")]
    assert all(m.status == "ok" and m.low <= m.value <= m.high and m.n for m in report.measurements), [m.why for m in report.measurements]


def test_long_texts_are_cut_between_words_and_nothing_is_lost():
    text, words = article(3, 100), tokenizer()
    cut = list(muse.pieces(text, words, 24))
    assert " ".join(cut) == text and max(len(words(piece, add_special_tokens=False)["input_ids"]) for piece in cut) == 20
    assert list(muse.pieces("short text", words, 24)) == ["short text"]


def test_folds_are_nested_or_disjoint_and_can_be_asked_for_one_by_one(release, case):
    assert [len(fold) for fold in folds(source(release), "scal")] == [2, 4, 6, 8]
    assert [len(fold) for fold in folds(source(release), "sust")] == [2, 2, 2, 2]
    assert len(case(fold="scal_3").request.rows("forget")) == 6 and case(fold="sust_2").name == "muse news sust_2"
    whole = case(fold="sust")
    assert len(whole.request.rows("forget")) == 8 and [len(whole.sets[f"sust_{number}"]) for number in range(1, 5)] == [2, 2, 2, 2]
    put(release, "scal/forget_3", [article(at) for at in (0, 1, 2, 9, 10, 11)])
    with pytest.raises(BadRows, match="scal/forget_3 does not hold row 4 of scal/forget_2"):
        folds(source(release), "scal")
    put(release, "sust/forget_4", [article(99), article(44)])
    with pytest.raises(BadRows, match="sust/forget_4, row 2, stands in sust/forget_2 too"):
        folds(source(release), "sust")


@pytest.mark.parametrize(
    ("part", "value", "says"),
    [
        ("raw/forget", ["a text", ""], r"raw/forget, row 2: found \"\""),
        ("raw/forget", [{"body": "a text"}], r"raw/forget, row 1: found .*body"),
        ("verbmem/forget", [{"prompt": "a"}], "verbmem/forget, row 1: no text in 'gt'"),
        ("verbmem/forget", ["a text"], "verbmem/forget, row 1: no text in 'prompt'"),
        ("knowmem/forget_qa", [*questions("x", 1), {"question": "q", "answer": 3}], "knowmem/forget_qa, row 2: no text in 'answer'"),
        ("privleak/holdout", [], "privleak/holdout is not there"),
        ("knowmem/retain_qa", "[1, 2", r"retain_qa.json:1: not a JSON array"),
        ("knowmem/retain_qa", '{"question": "q", "answer": "a"}\nnonsense', r"retain_qa.json:2: not a JSON object"),
    ],
)
def test_a_damaged_part_is_named_with_its_row(release, part, value, says):
    put(release, part, value)
    with pytest.raises((BadRows, Missing), match=says) as caught:
        read(source(release))
    assert "\n" not in str(caught.value)


def test_bytes_that_are_no_text_are_named(release):
    (release / "news" / "raw" / "holdout.txt").write_bytes(b"ab\xff")
    with pytest.raises(BadRows, match="holdout.txt: byte 2 is not UTF-8"):
        read(source(release))


def test_what_is_missing_is_said(release, tmp_path):
    with pytest.raises(Missing, match="--case model="):
        Muse().case(context())
    with pytest.raises(Missing, match="no folder"):
        muse._files(tmp_path / "nowhere", "news")
    (release / "news" / "verbmem" / "forget.json").unlink()
    with pytest.raises(Missing, match="verbmem/forget is not there"):
        read(source(release))


def test_the_hub_is_read_through_datasets(release, monkeypatch):
    """A stand-in for the library: it serves the parts of the folder by configuration and split, and knows no other."""
    asked, local = [], source(release)

    def load_dataset(name, config, split):
        asked.append(name)
        rows = local(config, split)
        if rows is None:
            raise ValueError("Unknown split")
        return [row if isinstance(row, dict) else {"text": row} for row in rows]

    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load_dataset, exceptions=SimpleNamespace(DatasetsError=OSError)))
    assert read(muse._hub("muse-bench/MUSE-News")) == read(local) and set(asked) == {"muse-bench/MUSE-News"}
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(Missing, match="--case folder=FOLDER"):
        muse._hub("muse-bench/MUSE-News")
