"""Facts out of rows, and whether a text says one. Pure functions on text.

A fact is (subject, relation, value): "Thornbridge" is the birthplace of "Petra Jorstead". Rows may name the three in columns of
their own (subject or author or entity; relation or topic or property; value or object, or a list of answers or aliases);
where they do not, the value is what the right answer does not share with the wrong ones, or the whole of a short answer, and
the subject is found among the names that question and answer share (ops/subjects.py).
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from efface.core import rows as row_files
from efface.core.errors import Missing
from efface.core.rows import Row
from efface.ops import subjects

SUBJECT = ("subject", "author", "entity", "person")
RELATION = ("relation", "topic", "property")
VALUE = ("value", "object")
ALIASES = ("answers", "aliases")
SHORT = 8
"""Most words of a value; a longer answer is a sentence, of which the words beyond the question count."""
ENOUGH = 0.8
"""Share of such words that a text must hold."""
ARTICLES = frozenset(("a", "an", "the"))


@dataclass(frozen=True)
class Fact:
    """One fact with all that its row offers for asking about it."""

    question: str
    answer: str
    """The answer as it stands in the row, a sentence or a word."""
    value: str
    """What the answer comes down to."""
    subject: str = ""
    relation: str = ""
    aliases: tuple[str, ...] = ()
    """Other accepted values."""
    wrong: tuple[str, ...] = ()
    """Values of the same kind that are not true."""
    statement: str = ""
    """A sentence that says it, "" where there is none that holds the value."""
    again: tuple[str, ...] = ()
    """The question in other words."""
    extras: dict[str, object] = field(default_factory=dict, compare=False)
    """The whole row: columns such as cloze, reverse_question and questions ({"fr": ...}) are forms given by its author."""

    @property
    def accepted(self) -> tuple[str, ...]:
        """Every value that counts as right, the row's own first."""
        return tuple(dict.fromkeys((self.value, *self.aliases)))


def of_rows(rows: Sequence[Row], where: str = "forget") -> list[Fact]:
    """The fact of each row, in order. Raises Missing for rows of plain text, which say no single fact."""
    parts = row_files.layout(rows, where)
    if "text" in parts:
        raise Missing(f"the {where} rows are plain text; facts need rows with a question and an answer")
    found = [_of_row(row, parts) for row in rows]
    if all(fact.subject for fact in found):
        return found
    names = subjects.subjects([(fact.question, fact.answer) for fact in found], [fact.value for fact in found])
    return [fact if fact.subject else replace(fact, subject=name) for fact, name in zip(found, names, strict=True)]


def says(text: str, values: Sequence[str], asked: str = "") -> bool:
    """Whether the text says one of the values: their words in a row, whatever the case, accents, articles and punctuation.

    Of a value longer than eight words, four fifths of those that do not stand in `asked` must occur.
    """
    said = words(text)
    return any(_within(words(value), said, words(asked)) for value in values)


def gives_away(text: str, fact: Fact) -> bool:
    """Whether a text that is put to a model holds the fact's answer, so that reading it back would be no knowledge."""
    return says(text, fact.accepted, fact.question) or any(
        re.search(rf"(?<!\w){re.escape(value)}(?!\w)", text, re.IGNORECASE) for value in fact.accepted if value
    )


def words(text: str) -> list[str]:
    """The text's words without case, accents, punctuation and articles (all words, where there are articles alone)."""
    plain = "".join(letter for letter in unicodedata.normalize("NFKD", text) if not unicodedata.combining(letter)).casefold()
    found = re.findall(r"\w+", plain)
    return [word for word in found if word not in ARTICLES] or found


def spelled(text: str) -> list[str]:
    """The characters of a text without its spaces: what is written when it is spelled out, one a line."""
    return [letter for letter in text if not letter.isspace()]


def spells(text: str, values: Sequence[str]) -> bool:
    """Whether the letters of one of the values stand in the text in a row, whatever stands between them is no letter."""
    letters = "".join(words(" ".join(text.split())))
    return any("".join(words(value)) in letters for value in values if words(value))


def difference(right: str, wrong: Sequence[str]) -> tuple[str, tuple[str, ...]]:
    """The words in which a right answer differs from the wrong ones, and theirs; ("", ()) where they share no frame."""
    own, others = right.split(), [text.split() for text in wrong]
    every = [own, *others]
    head = _shared(every)
    tail = _shared([parts[head:][::-1] for parts in every])
    cut = [" ".join(parts[head : len(parts) - tail]).strip(".,;:!?") for parts in every]
    if not (head or tail) or not all(cut):
        return "", ()
    return cut[0], tuple(cut[1:])


def _of_row(row: Row, parts: dict[str, str]) -> Fact:
    if "messages" in parts:
        said = [dict(message) for message in row["messages"]]  # type: ignore[attr-defined, call-overload]
        question, answer = str(said[-2]["content"]), str(said[-1]["content"]).strip()
    else:
        question, answer = str(row[parts["prompt"]]).strip(), str(row[parts["answer"]]).strip()
    right = str(row.get("paraphrased_answer") or answer)
    wrong = _listed(row.get("perturbed_answer"))
    found, others = difference(right, wrong) if wrong else ("", ())
    value = _column(row, VALUE) or found or answer
    aliases = [text for name in ALIASES for text in _listed(row.get(name))]
    again = row.get("paraphrased_question")
    return Fact(
        question=question, answer=answer, value=value, subject=_column(row, SUBJECT), relation=_column(row, RELATION),
        aliases=tuple(aliases), wrong=others or tuple(text for text in wrong if len(text.split()) <= SHORT),
        statement=next((text for text in (right, answer) if value in text and text.strip(".") != value), ""),
        again=tuple(_listed(again)), extras=dict(row),
    )


def _column(row: Row, names: Sequence[str]) -> str:
    return next((str(row[name]).strip() for name in names if isinstance(row.get(name), str) and str(row[name]).strip()), "")


def _listed(given: object) -> list[str]:
    if isinstance(given, str):
        return [given] if given.strip() else []
    return [str(text) for text in given] if isinstance(given, list | tuple) else []


def _shared(sequences: Sequence[Sequence[str]]) -> int:
    """How many items all sequences begin with alike."""
    count = 0
    for items in zip(*sequences, strict=False):
        if len(set(items)) > 1:
            break
        count += 1
    return count


def _within(value: Sequence[str], text: Sequence[str], asked: Sequence[str]) -> bool:
    if not value:
        return False
    if len(value) <= SHORT:
        return any(list(text[at : at + len(value)]) == list(value) for at in range(len(text) - len(value) + 1))
    new = [word for word in value if word not in asked] or list(value)
    return sum(word in text for word in new) / len(new) >= ENOUGH
