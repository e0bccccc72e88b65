"""Spam or not: a text classifier that must forget all mail of one sender, of one topic, or mail with wrong labels.

Mail comes from SpamAssassin's public corpus (`efface fetch spam-assassin`), from a file of yours with columns text, y and, if
you like, identity (the sender), or, with file=synthetic, out of a generator. Texts are subject and body, without other headers.

    sender     two thirds of one sender's mail are forgotten; the rest of it, on which nobody trains, is the unseen part
    topic      the same with all training mail that holds a word
    noisy      some of the training mail, whose labels were turned to another class

A network that reads well gets most mail of a sender right without having seen it, so in the first two scenarios original and
references are close, as with random rows; the noisy scenario sets them apart.

Training and test mail share no sender. Messages that stand in two parts, letter for letter but for case and spaces, are noted,
and their later copies left out. The network is a BERT: MiniLM (`efface fetch minilm`) with a new head, or a tiny one with
random weights whose words are those of the keep rows, so that not even the word list of a reference has seen a forget row.
What MiniLM read in pretraining is its makers' to say; its references share that start. At the default sizes four models take
about two minutes on one CPU core with the tiny network and a quarter of an hour with MiniLM, once.
"""

from __future__ import annotations

import email
import email.message
import email.utils
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field

from efface.core import digest, files
from efface.core import rows as row_files
from efface.core.card import Card
from efface.core.config import Config, Fit
from efface.core.context import Context
from efface.core.errors import BadConfig, BadRows
from efface.core.types import Benchmark, Case, Data, Request, Row
from efface.data import fetch
from efface.data.messages_generator import messages
from efface.data.sources import find
from efface.families import checkpoint, scenarios, splits
from efface.families.classifier import Classifier
from efface.families.references import trained

LONGEST = 4000
"""Characters of a message that are kept."""
WORDS = 4000
"""Most words that the tiny network knows."""
SPECIAL = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}


class SpamConfig(Config):
    """Settings of the benchmark."""

    scenario: Literal["sender", "topic", "noisy"] = "sender"
    """What is forgotten: mail of one sender, mail that holds a word, or mail with wrong labels."""
    sender: str = ""
    """The sender to forget; "" for who wrote most, but no more than a tenth of train_rows."""
    topic: str = "razor"
    """The word of the topic scenario."""
    share: float = Field(0.1, gt=0, lt=1)
    """Share of the training mail that gets wrong labels in the noisy scenario."""
    train_rows: int = Field(1200, ge=20)
    """Most messages to train on, forget rows included."""
    test_rows: int = Field(400, ge=10)
    """Most messages to test with."""
    seed: int = 0
    """Of the messages drawn and of the wrong labels."""
    file: str = ""
    """Rows of yours with text and y; "synthetic" for invented ones, "" for the fetched corpus."""
    net: Literal["auto", "minilm", "tiny"] = "auto"
    """MiniLM with a new head, or a tiny BERT; auto takes MiniLM where it was fetched."""
    tokens: int = Field(64, ge=8, le=512)
    """Most tokens of a message."""
    fit: Fit = Fit(lr=1e-3, epochs=10, batch=16, schedule="linear", precision="no")
    """Optimizer settings of the tiny network."""
    minilm_fit: Fit = Fit(lr=2e-4, epochs=3, batch=16, schedule="linear", warmup=10)
    """Optimizer settings of MiniLM."""


class Spam(Benchmark[SpamConfig]):
    """A text classifier forgets a sender, a topic, or wrong labels."""

    card = Card(
        name="spam", title="Spam mail: a sender, a topic or wrong labels forgotten", paper="SpamAssassin public corpus", families=("classifier",),
    )

    def case(self, ctx: Context) -> Case:
        """The trained network, the request, three references, mail of other senders as utility."""
        config = self.config
        mail = _mail(config.file)
        classes = max(2, 1 + max(int(str(row["y"])) for row in mail))
        parts = _parts(mail, classes, config)
        items = [(splits.Item(str(row["id"]), part, "", digest.of_value(_plain(row))), row) for part in splits.ORDER for row in parts[part]]
        parts = splits.sifted(items, ctx, "spam")
        asked = Request(**{name: Data.inline(parts[name]) for name in ("forget", "keep", "unseen")}, reason=f"benchmark spam, {config.scenario}")  # type: ignore[arg-type]
        small = config.net == "tiny" or (config.net == "auto" and not fetch.is_there(find("minilm")))
        tokenizer = _tokenizer(parts["keep"], config.tokens) if small else None
        start = (lambda seed: _tiny(seed, classes, tokenizer)) if small else (lambda seed: _minilm(seed, classes, config.tokens))
        baselines = trained(start, asked, config.fit if small else config.minilm_fit, ctx, "spam")
        name = "a tiny BERT" if small else "MiniLM with a new head"
        ctx.note(network=name)
        return Case(
            name=f"spam/{config.scenario}", original=baselines["original"], request=asked, baselines=baselines,
            reference=f"{name} from the same start, trained on the {len(parts['keep'])} keep rows alone, three seeds",
            utility={"mail of other senders": Data.inline(parts["test"])},
        )


def _parts(mail: Sequence[Row], classes: int, config: SpamConfig) -> dict[str, list[Row]]:
    """The rows of each part. Training and test rows share no sender. Raises BadConfig or BadRows when a part would be empty."""
    drawn = splits.by_identity([str(row["identity"]) for row in mail], {"train": 0.7, "test": 0.3}, config.seed)
    train, test = ([mail[place] for place in _shuffled(drawn[part], config.seed)] for part in ("train", "test"))
    splits.check_disjoint({"keep": [str(row["identity"]) for row in train], "test": [str(row["identity"]) for row in test]})
    if config.scenario == "noisy":
        train, rest = train[: config.train_rows], train[config.train_rows :]
        count = max(1, round(config.share * len(train)))
        away = rest[:count] or test[:count]
        forget, unseen = (scenarios.mislabeled(rows, config.seed + at, classes) for at, rows in enumerate((train[:count], away), start=1))
        used = {row["id"] for row in away}
        parts = {"forget": forget, "keep": train[count:], "unseen": unseen, "test": [row for row in test if row["id"] not in used][: config.test_rows]}
    else:
        asked = _asked(train, config)
        chosen = {row["id"] for row in asked}
        cut = max(1, 2 * len(asked) // 3)
        keep = [row for row in train if row["id"] not in chosen][: max(1, config.train_rows - cut)]
        parts = {"forget": asked[:cut], "keep": keep, "unseen": asked[cut:], "test": test[: config.test_rows]}
    if empty := [part for part, rows in parts.items() if not rows]:
        raise BadRows(f"the {config.scenario} scenario leaves no {' and no '.join(empty)} rows of {len(mail)} messages; give more of them")
    return parts


def _asked(train: Sequence[Row], config: SpamConfig) -> list[Row]:
    """The training rows of the sender or the topic. Raises BadConfig when there are too few."""
    if config.scenario == "topic":
        found, what = [row for row in train if config.topic.casefold() in str(row["text"]).casefold()], f"topic = {config.topic!r}"
    else:
        most = Counter(str(row["identity"]) for row in train).most_common()
        sender = config.sender or next((name for name, count in most if count <= config.train_rows / 10), most[-1][0])
        found, what = [row for row in train if row["identity"] == sender], f"sender = {sender!r} (most mail: {', '.join(name for name, _ in most[:5])})"
    if not 2 <= len(found) < len(train):
        raise BadConfig(f"{what} matches {len(found)} of {len(train)} training messages; it must match at least two, and not all")
    return found


def _shuffled(places: Sequence[int], seed: int) -> list[int]:
    order = torch.randperm(len(places), generator=torch.Generator().manual_seed(seed)).tolist()
    return [places[at] for at in order]


def _plain(row: Row) -> str:
    return " ".join(str(row["text"]).casefold().split())


# -- mail -----------------------------------------------------------------------------------------------------------------------


def _mail(file: str) -> list[Row]:
    """All messages with something to read, as rows with text, y, id and identity. Raises Missing or BadRows."""
    if file == "synthetic":
        return list(messages())
    if file:
        return [_given(row, number, file) for number, row in enumerate(row_files.read(Path(file)), start=1)]
    found: list[Row] = []
    folder = fetch.folder("spam-assassin")
    for path in sorted(folder.glob("*/*.json")):
        stored: Any = files.read_json(path)
        message = email.message_from_string(stored["text"])
        text = f"{message.get('Subject', '')}\n{_body(message)}"[:LONGEST].strip()
        if text:
            sender = email.utils.parseaddr(str(message.get("From", "")))[1].casefold() or path.stem
            found.append({"text": text, "y": int(path.parent.name.startswith("spam")), "id": f"{path.parent.name}/{path.stem}", "identity": sender})
    return found


def _given(row: Row, number: int, file: str) -> Row:
    y = row.get("y")
    if not isinstance(row.get("text"), str) or not str(row["text"]).strip() or not isinstance(y, int) or isinstance(y, bool) or y < 0:
        raise BadRows(f"{file}: row {number} has columns {', '.join(map(str, row))}; it needs text, and y, a class number from 0 on")
    return {"text": str(row["text"])[:LONGEST], "y": y, "id": f"row {number}", "identity": str(row.get("identity", f"row {number}"))}


def _body(message: email.message.Message) -> str:
    """The readable parts of a message, markup taken out."""
    found = []
    for part in message.walk():
        if part.get_content_maintype() == "text":
            raw = part.get_payload(decode=True)
            text = raw.decode("utf-8", "replace") if isinstance(raw, bytes) else str(raw)
            found.append(re.sub(r"<[^>]{0,500}>", " ", text) if part.get_content_subtype() == "html" else text)
    return "\n".join(found)


# -- networks -------------------------------------------------------------------------------------------------------------------


def _tokenizer(rows: Sequence[Row], tokens: int) -> Any:
    """A tokenizer that knows the commonest words of these rows, in lower case."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    cut = pre_tokenizers.Sequence([pre_tokenizers.Whitespace(), pre_tokenizers.Digits(individual_digits=True)])
    counts = Counter(word for row in rows for word, _ in cut.pre_tokenize_str(str(row["text"]).lower()))
    words = [*SPECIAL.values(), *sorted(counts, key=lambda word: (-counts[word], word))[:WORDS]]
    core = Tokenizer(models.WordLevel({word: at for at, word in enumerate(dict.fromkeys(words))}, unk_token=SPECIAL["unk_token"]))
    core.normalizer, core.pre_tokenizer = normalizers.Lowercase(), cut
    core.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    kind: Any = PreTrainedTokenizerFast
    return kind(tokenizer_object=core, model_max_length=tokens, **SPECIAL)


def _tiny(seed: int, classes: int, tokenizer: Any) -> Classifier:
    """A BERT with two layers of 64 and random weights."""
    from transformers import BertConfig, BertForSequenceClassification

    shape: Any = {
        "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 128, "max_position_embeddings": 512,
        "vocab_size": len(tokenizer), "pad_token_id": 0, "num_labels": classes,
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed % 2**62)
        model = BertForSequenceClassification(BertConfig(**shape))
    return Classifier(model.requires_grad_(False), tokenizer=tokenizer)


def _minilm(seed: int, classes: int, tokens: int) -> Classifier:
    """MiniLM with a head drawn by the seed."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    folder = fetch.folder("minilm")
    with checkpoint.quiet(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed % 2**62)
        model = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=classes, use_safetensors=True)
        tokenizer = AutoTokenizer.from_pretrained(folder, model_max_length=tokens)
    return Classifier(model.requires_grad_(False), tokenizer=tokenizer)
