"""The spam benchmark on invented mail, on a small corpus in the real layout, and on a file; the fetched ones are slow."""

import json

import numpy as np
import pytest

from efface.benchmarks import spam
from efface.core import files, registry
from efface.core.errors import BadConfig, BadRows, Missing
from efface.data import fetch
from efface.data.sources import find
from efface.families import references
from efface.testing import tiny

QUICK = {"file": "synthetic", "net": "tiny", "train_rows": 200, "test_rows": 60, "tokens": 32, "fit.epochs": 0, "fit.steps": 3}


def hits(subject, rows) -> float:
    return float((subject.predict(rows).argmax(1) == np.array([row["y"] for row in rows])).mean())


def case(ctx=None, **settings):
    return registry.load("benchmark", "spam").set({**QUICK, **settings}).case(ctx or tiny.context())


def parts_of(made):
    return {name: made.request.rows(name) for name in ("forget", "keep", "unseen")} | {"test": made.utility["mail of other senders"].read()}


def who(rows):
    return {row["identity"] for row in rows}


def test_sender():
    """Two thirds of one sender's mail to forget, a third unseen, and the sender in no other part; test senders train nobody."""
    rows = parts_of(case(sender="", train_rows=250))
    (sender,) = who(rows["forget"])
    assert who(rows["unseen"]) == {sender} and sender not in who(rows["keep"]) | who(rows["test"])
    assert not who(rows["keep"]) & who(rows["test"]) and len(rows["forget"]) == 2 * (len(rows["forget"]) + len(rows["unseen"])) // 3
    assert len(rows["forget"]) + len(rows["keep"]) <= 250 and len(rows["test"]) <= 60
    kept = next(row["identity"] for row in rows["keep"] if row["y"] == 0)
    assert who(parts_of(case(sender=kept))["forget"]) == {kept}
    with pytest.raises(BadConfig, match="matches 0 of"):
        case(sender="nobody@example.org")


def test_topic():
    topic = parts_of(case())["keep"][0]["text"].split("]")[0].strip("[")
    rows = parts_of(case(scenario="topic", topic=topic.upper()))
    assert all(topic in row["text"] for row in (*rows["forget"], *rows["unseen"])) and not any(topic in row["text"] for row in rows["keep"])
    with pytest.raises(BadConfig, match="topic = 'zeppelin' matches 0"):
        case(scenario="topic", topic="zeppelin")
    with pytest.raises(BadConfig, match="not all"):
        case(scenario="topic", topic="e")


def test_noisy():
    """6 of 60 labels are turned; the original learns them by heart, and a reference does not."""
    made = case(scenario="noisy", train_rows=60, **{"fit.steps": 100, "fit.lr": 2e-3})
    rows = parts_of(made)
    assert len(rows["forget"]) == 6 and all(row["y"] == 1 - row["clean"] for row in (*rows["forget"], *rows["unseen"]))
    ids = [{row["id"] for row in part} for part in rows.values()]
    assert sum(map(len, ids)) == len(set.union(*ids))
    assert hits(made.original, rows["forget"]) > 0.8 and hits(made.baselines["reference"], rows["forget"]) < 0.4
    assert hits(made.baselines["reference"], rows["test"]) > 0.85
    assert sorted(made.baselines) == ["original", "reference", "reference/1", "reference/2"]


def test_the_word_list_is_that_of_the_keep_rows():
    """No word that stands in forget rows alone is known, to original and reference alike; and the digits come one by one."""
    made = case()
    rows = parts_of(made)
    words = made.original.tokenizer.get_vocab()
    assert words == made.baselines["reference"].tokenizer.get_vocab()
    phrase = rows["forget"][0]["text"].rsplit("Yours, ", 1)[1].split()[1]
    assert phrase not in words and "yours" in words
    batch = made.original.encode([{"text": "Yours 42", "y": 0}])
    assert made.original.tokenizer.convert_ids_to_tokens(batch.x["input_ids"][0].tolist())[:2] == ["[CLS]", "yours"]
    assert batch.x["input_ids"].shape == (1, 5) and made.original.encode(rows["keep"][:4]).x["input_ids"].shape[1] <= 32


def test_models_come_back_out_of_the_cache(monkeypatch):
    made = case()
    with monkeypatch.context() as patched:
        patched.setattr(references, "_run", None)  # whoever trained again would fail
        again = case()
    rows = parts_of(made)["test"][:8]
    assert all(np.array_equal(again.baselines[name].predict(rows), made.baselines[name].predict(rows)) for name in made.baselines)
    cache = files.cache() / "spam"
    before = len(list(cache.glob("*/trained.json")))
    case(tokens=16)
    assert len(list(cache.glob("*/trained.json"))) == before + 4, "shorter texts are other models"


def mail(sender, subject, body, kind="plain"):
    return f"From: Someone <{sender}>\nTo: all@example.org\nSubject: {subject}\nContent-Type: text/{kind}; charset=utf-8\n\n{body}\n"


def test_a_corpus_in_the_real_layout(tmp_path, monkeypatch):
    """JSON files of raw messages in five folders; headers other than the subject, markup and empty messages are left out."""
    for number in range(12):
        folder = ["easy-ham-1", "spam-2"][number % 2]
        (tmp_path / folder).mkdir(exist_ok=True)
        text = mail(f"P{number // 2}@Example.org", f"offer {number}", f"<b>hello</b> number{number}", "html" if number == 3 else "plain")
        (tmp_path / folder / f"{number:05}.json").write_text(json.dumps({"id": str(number), "group": folder, "text": text}))
    (tmp_path / "spam-2" / "99999.json").write_text(json.dumps({"text": "From: a@b.c\n\n"}))
    monkeypatch.setattr(fetch, "folder", lambda name: tmp_path)
    rows = spam._mail("")
    assert len(rows) == 12 and sum(row["y"] for row in rows) == 6
    assert rows[0] == {"text": "offer 0\n<b>hello</b> number0", "y": 0, "id": "easy-ham-1/00000", "identity": "p0@example.org"}
    html = next(row for row in rows if row["id"] == "spam-2/00003")
    assert html["text"].split() == ["offer", "3", "hello", "number3"]


def test_a_file(tmp_path):
    """Three classes, senders as identity; a message that stands in two parts is noted and left out of the later one."""
    lines = [{"text": f"about {['cats', 'dogs', 'fish'][at % 3]} in case {at}", "y": at % 3, "identity": f"w{at % 6}"} for at in range(60)]
    (tmp_path / "mail.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    made = case(file=str(tmp_path / "mail.jsonl"), train_rows=40)
    assert made.original.classes == 3
    rows = parts_of(made)
    lines.append({**lines[int(rows["keep"][0]["id"].split()[1]) - 1], "text": rows["forget"][0]["text"].upper()})
    (tmp_path / "mail.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    ctx = tiny.context(folder=tmp_path / "run")
    sender = rows["forget"][0]["identity"]
    again = parts_of(case(ctx, file=str(tmp_path / "mail.jsonl"), train_rows=1000, sender=sender))
    left = {row["id"] for part in again.values() for row in part}
    assert ctx.notes["leaks"] == 1 and len(left & {"row 61", rows["forget"][0]["id"]}) == 1, "of the two one is left out"
    (tmp_path / "mail.jsonl").write_text('{"text": "a", "y": 1}\n{"text": "b", "y": -1}\n')
    with pytest.raises(BadRows, match="row 2 has columns text, y"):
        case(file=str(tmp_path / "mail.jsonl"))


def test_what_is_missing_is_named(monkeypatch):
    with pytest.raises(Missing, match="efface fetch spam-assassin"):
        case(file="")
    with pytest.raises(Missing, match="efface fetch minilm"):
        case(net="minilm")
    ctx = tiny.context()
    case(ctx, net="auto")
    assert ctx.notes["network"] == "a tiny BERT"


@pytest.mark.slow
def test_the_fetched_corpus(monkeypatch, tmp_path):
    """Real mail: a tiny network tells spam in mail of strangers, and only the original knows the wrong labels."""
    if not fetch.is_there(find("spam-assassin")):
        pytest.skip("spam-assassin was not fetched")
    real = files.cache() / "data"
    monkeypatch.setenv("EFFACE_CACHE", str(tmp_path))
    (tmp_path / "data").symlink_to(real)
    made = case(file="", scenario="noisy", train_rows=500, test_rows=200, **{"fit.steps": 600})
    rows = parts_of(made)
    assert hits(made.original, rows["forget"]) > 0.9 and hits(made.baselines["reference"], rows["forget"]) < 0.4
    assert hits(made.baselines["reference"], rows["test"]) > 0.75
