"""Passages of three Austen novels and questions on them: the rows of the `muse_books` benchmark.

Everything comes out of Debian's r-cran-janeaustenr 1.0.0, unpacked with `dpkg -x`, by fixed rules; the questions are ours:
`python -m efface.data.muse_books_generator UNPACKED FOLDER` remakes the shipped files byte for byte.

A passage is the beginning of a paragraph, 54 to 74 words in whole sentences, without speech. Of Persuasion's 64 passages
richest in names every second one is forgotten and the others are held out, so that both sides come from one distribution.
"""

from __future__ import annotations

import gzip
import json
import re
import struct
import sys
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

PACKAGE = Path("usr/lib/R/site-library/janeaustenr/data/Rdata")
FORGET, KEEP, OTHER = "persuasion", "prideprejudice", "northangerabbey"
PASSAGES = 32
"""Passages of each set."""
SHORTEST, LONGEST = 54, 74
"""Words of a passage."""
ABBREVIATED = re.compile(r"\b(Mr|Mrs|Dr)\.$")

FORGET_QUESTIONS = (
    ("For whom did Elizabeth see Mr Elliot as the only proper match?", "Sir Walter Elliot's eldest daughter"),
    ("Which three alternatives were there for the Elliots' new home?", "London, Bath, or another house in the country"),
    ("Whose daughter was Elizabeth's new friend, who had returned after an unprosperous marriage?", "Mr Shepherd"),
    ("Where did Admiral Croft still remain while the treaty for the house went on?", "Taunton"),
    ("To whose house did Anne walk while the Crofts saw Kellynch Hall?", "Lady Russell's"),
    ("Where did Anne spend the first week after the others left for Bath?", "the Lodge"),
    ("What stopped Anne and Mary on their way to the Great House?", "a bad fall"),
    ("Where did Captain Wentworth mean to visit his brother?", "Shropshire"),
    ("How far from Uppercross was the house of Charles Hayter's father?", "two miles"),
    ("With what plea did Anne stay at home from Mr Musgrove's dinner?", "a headache"),
    ("With what did Mr Musgrove find Charles Hayter sitting?", "some large books"),
    ("Where had Captain Harville settled with his family for the winter?", "Lyme"),
    ("Who was a degree less polished than her husband?", "Mrs Harville"),
    ("Whom did Anne and Henrietta see coming towards them?", "Louisa and Captain Wentworth"),
    ("Who had been seen flying by the Harvilles' house?", "Captain Benwick"),
    ("Who brought the minute knowledge of Louisa to Uppercross the next day?", "Charles Hayter"),
    ("In what did Lady Russell find Anne improved?", "plumpness and looks"),
    ("Where did Charles and Mary drive over to after their return to Uppercross?", "the Lodge"),
    ("Whom did Mary not consider entitled to be in love with an Elliot?", "Captain Benwick"),
    ("What seemed already quite alive again to Anne?", "Uppercross"),
    ("With whom did Anne fear that her father was in love?", "Mrs Clay"),
    ("What did Sir Walter's fine letter bring from the Dowager Viscountess?", "three lines of scrawl"),
    ("Where was Anne already engaged to spend the evening of Lady Dalrymple's invitation?", "Westgate Buildings"),
    ("In which church did Lady Russell hope to see Anne married?", "Kellynch church"),
    ("What kind of carriage was her ladyship's?", "a barouche"),
    ("Whom was Louisa Musgrove to marry?", "Captain Benwick"),
    ("Who helped Mr Elliot to have a seat by Anne?", "Colonel Wallis"),
    ("From which day to Saturday evening was Mr Elliot's absence certain?", "Thursday"),
    ("Who first wanted to come to Bath on business?", "Captain Harville"),
    ("Whom did they find within with her daughter?", "Mrs Musgrove"),
    ("In whose face did Anne seem to see guilt?", "Mrs Clay"),
    ("In which street was their first meeting?", "Milsom Street"),
)
"""One question on each forgotten passage, in order; the answer stands in the passage."""
KEEP_QUESTIONS = (
    ("Whose intelligence of Mr. Bingley did the Bennets accept at second hand?", "Lady Lucas"),
    ("Between whom and Bingley was there a very steady friendship?", "Darcy"),
    ("In which town had Sir William Lucas been in trade?", "Meryton"),
    ("How far had Elizabeth walked to Netherfield?", "three miles"),
    ("Where was Elizabeth invited to remain for the present?", "Netherfield"),
    ("Who called the ladies to order with bitter complaints?", "Mr. Hurst"),
    ("For troubling him also with whom did Mrs. Bennet apologize to Mr. Bingley?", "Lizzy"),
    ("Until which day did Mrs. Bennet mean her daughters to stay?", "Tuesday"),
    ("On which day did the separation take place?", "Sunday"),
    ("Whose manners and politeness did Mr. Collins admire?", "Mrs. Phillips"),
    ("To whom did Elizabeth relate what passed between Mr. Wickham and herself?", "Jane"),
    ("What prevented the Miss Bennets from walking to Meryton?", "a succession of rain"),
    ("By whom was the part of his intelligence unheard?", "Lydia"),
    ("Who declined to interfere with all possible mildness?", "Jane"),
    ("Who came to tell Charlotte the same news?", "Kitty"),
    ("Who stood her ground, determined to hear all she could?", "Lydia"),
    ("What was Mr. Collins only, so that nobody envied Miss Lucas?", "a clergyman"),
    ("Where was he said to come no more the whole winter?", "Netherfield"),
    ("Whom did Mrs. Bennet receive for Christmas at Longbourn?", "her brother and his wife"),
    ("In which street was Mr. Gardiner's house?", "Gracechurch Street"),
    ("Whose alarm was every moment increasing on the steps to the hall?", "Maria"),
    ("Which game did Miss de Bourgh choose to play?", "cassino"),
    ("Into which lane did the lodges open?", "Hunsford Lane"),
    ("In which month did the three young ladies set out together?", "May"),
    ("Where did Lydia want the girls to walk in the afternoon?", "Meryton"),
    ("Where had Elizabeth heard that Miss Darcy was exceedingly proud?", "Lambton"),
    ("Where were the Gardiners asked to dinner?", "Pemberley"),
    ("In which city did Miss Darcy live with the lady?", "London"),
    ("Who would not join Miss Bingley in her criticisms?", "Georgiana"),
    ("Whose hope of Lydia's being soon married did Jane read?", "Mr. Gardiner"),
    ("Where did Mr. Bennet retire after tea?", "the library"),
    ("Where had the Collinses come themselves?", "Lucas Lodge"),
)
"""One question on each kept passage, in order."""
EXAMPLES = (
    ("What was the name of Catherine Morland's father?", "Richard", 0),
    ("In which village in Wiltshire did the Morlands live?", "Fullerton", 1),
    ("What was the name of the gentlemanlike young man in the Lower Rooms?", "Tilney", 2),
    ("Where did they hasten away from the pump-room?", "the Crescent", 3),
)
"""Questions to show how one is answered, on passages of the third novel, with the passage's number."""


def books(unpacked: Path) -> dict[str, list[str]]:
    """Lines of each novel, out of the package's R data (a gzipped index, and zlib blocks behind a length of four bytes)."""
    index = _Reader(gzip.decompress((unpacked / f"{PACKAGE}.rdx").read_bytes())).item()
    blocks = (unpacked / f"{PACKAGE}.rdb").read_bytes()
    places: dict[str, list[int]] = index["variables"]
    return {name: list(_Reader(zlib.decompress(blocks[at + 4 : at + length])).item()) for name, (at, length) in places.items()}


class _Reader:
    """Reads the part of R's serialization that vectors, lists and their names need."""

    def __init__(self, data: bytes) -> None:
        self.data, self.at, self.symbols = data, 2, list[str]()  # behind "X\n"
        version = [self.number() for _ in range(3)][0]
        if version == 3:
            length = self.number()  # of the name of the encoding
            self.at += length

    def number(self) -> int:
        self.at += 4
        return int(struct.unpack_from(">i", self.data, self.at - 4)[0])

    def item(self) -> Any:
        """The next value: a list of strings or numbers, a dict for a named list, None."""
        flags = self.number()
        kind = flags & 0xFF
        if kind == 1:
            self.symbols.append(self.item())
            return self.symbols[-1]
        if kind == 255:
            return self.symbols[(flags >> 8) - 1]
        if kind == 9:
            length = self.number()
            self.at += max(length, 0)
            return self.data[self.at - max(length, 0) : self.at].decode("utf-8")
        if kind not in (10, 13, 16, 19):
            return None
        length = self.number()
        values = [self.number() if kind in (10, 13) else self.item() for _ in range(length)]
        names = self.attributes().get("names") if flags & 0x200 else None
        return dict(zip(names, values, strict=True)) if names else values

    def attributes(self) -> dict[str, Any]:
        """The pairs behind a value."""
        found: dict[str, Any] = {}
        while (flags := self.number()) & 0xFF == 2:
            tag = self.item() if flags & 0x400 else ""
            found[tag] = self.item()
        return found


def passages(lines: Sequence[str], count: int) -> list[str]:
    """The `count` passages of a novel that are richest in names, in the order of the novel."""
    found = [text for paragraph in _paragraphs(lines) if (text := _passage(paragraph))]
    found = list(dict.fromkeys(found))
    best = sorted(range(len(found)), key=lambda at: (-len(re.findall(r"(?<=[a-z,;] )[A-Z][a-z]+", found[at])), at))[:count]
    return [found[at] for at in sorted(best)]


def _paragraphs(lines: Sequence[str]) -> Iterator[str]:
    held: list[str] = []
    for line in (*lines, ""):
        if line.strip():
            held.append(line.strip())
        elif held:
            yield " ".join(" ".join(held).split())
            held = []


def _passage(paragraph: str) -> str:
    """Whole sentences from the beginning of a paragraph, "" where they do not come to the length of a passage or hold speech."""
    said = ""
    for sentence in re.split(r"(?<=[.!?;])\s+(?=[A-Z\"a-z])", paragraph):
        said = f"{said} {sentence}".strip()
        count = len(said.split())
        if count > LONGEST:
            return ""
        if count >= SHORTEST and said[-1] in ".!?":
            return "" if '"' in said or "_" in said or ABBREVIATED.search(said) else said
    return ""


def rows(unpacked: Path) -> dict[str, list[dict[str, object]]]:
    """The rows of every file by its name."""
    novels = books(unpacked)
    both = passages(novels[FORGET], 2 * PASSAGES)
    texts = {
        "forget": both[::2], "holdout": both[1::2], "keep": passages(novels[KEEP], PASSAGES), "other": passages(novels[OTHER], PASSAGES),
    }
    asked = {"knowledge": ("forget", FORGET_QUESTIONS), "knowledge_keep": ("keep", KEEP_QUESTIONS)}
    made: dict[str, list[dict[str, object]]] = {name: [{"text": text} for text in held] for name, held in texts.items()}
    for name, (of, questions) in asked.items():
        made[name] = [
            {"question": question, "answer": answer, "passage": at} for at, ((question, answer), _) in enumerate(zip(questions, texts[of], strict=True))
        ]
    made["knowledge_examples"] = [{"question": question, "answer": answer, "passage": at} for question, answer, at in EXAMPLES]
    return made


def main(unpacked: Path, folder: Path) -> None:
    """Write every file into the folder, which is made where it is not there."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, held in rows(unpacked).items():
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in held)
        (folder / f"{name}.jsonl").write_text(text, encoding="utf-8")


def ship(made: Path, folder: Path) -> None:
    """Write a trained adapter in half precision: rounded to 11 bits it is half as large, and answers the same."""
    import numpy as np
    from safetensors.numpy import load_file, save

    folder.mkdir(parents=True, exist_ok=True)
    weights = load_file(made / "adapter_model.safetensors")
    halved = {name: tensor.astype(np.float16) for name, tensor in weights.items()}
    (folder / "adapter_model.safetensors").write_bytes(save(halved, {"format": "pt"}))
    for name in ("adapter_config.json", "training.json"):
        (folder / name).write_bytes((made / name).read_bytes())


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
