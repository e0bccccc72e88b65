"""Reading rows: every layout, and every way a file can be wrong, with file and line."""

import json

import pytest

from efface.core import rows
from efface.core.errors import BadRows, Missing
from efface.core.types import Data

CHAT = {"messages": [{"role": "user", "content": "Hi?"}, {"role": "assistant", "content": "Yes."}]}
PAIR = {"question": "Who?", "answer": "Me."}
PLAIN = {"text": "Once upon a time."}


def file(tmp_path, content, name="rows.jsonl"):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


# -- reading -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("given", [CHAT, PAIR, PLAIN])
@pytest.mark.parametrize("form", ["lines", "array", "one line without an end", "windows", "blank lines between", "byte order mark"])
def test_json_forms(tmp_path, given, form):
    text = json.dumps(given)
    content = {
        "lines": f"{text}\n{text}\n", "array": json.dumps([given, given], indent=2), "one line without an end": f"{text}\n{text}",
        "windows": f"{text}\r\n{text}\r\n", "blank lines between": f"\n\n{text}\n  \n{text}\n\n", "byte order mark": f"\ufeff{text}\n{text}\n",
    }[form]
    assert rows.read(file(tmp_path, content)) == [given, given]


def test_line_separators_inside_a_text_do_not_split_it(tmp_path):
    """U+2028 ends a line for str.splitlines, and not in JSON."""
    row = {"text": "a\u2028b\x85c"}
    assert rows.read(file(tmp_path, json.dumps(row, ensure_ascii=False) + "\n")) == [row]


@pytest.mark.parametrize("name", ["rows.csv", "ROWS.CSV"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_csv(tmp_path, name, mark):
    content = f'{mark}question, answer\r\n"Who, then?","Me ""alone"".\nReally."\r\nWhat?,That.\r\n\r\n'
    assert rows.read(file(tmp_path, content, name)) == [
        {"question": "Who, then?", "answer": 'Me "alone".\nReally.'}, {"question": "What?", "answer": "That."},
    ]


def test_columns_without_a_part_are_kept(tmp_path):
    row = {**PAIR, "id": 7, "tags": ["a"], "perturbed_answer": ["You.", "Nobody."]}
    assert rows.read(file(tmp_path, json.dumps(row))) == [row]


# -- what is wrong with a file -----------------------------------------------------------------------------------------------

GOOD = json.dumps(PAIR)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("", "is empty; it needs at least one row"),
        ("\n  \n", "is empty"),
        ("\ufeff\n", "is empty"),
        (b"\xff\xfe{", "byte 0 is not UTF-8"),
        (b'{"text": "caf\xe9"}', "byte 13 is not UTF-8"),
        (f"{GOOD}\n{{'text': 1}}\n", r"rows.jsonl:2: not a JSON object"),
        (f"{GOOD}\n\n{GOOD[:-3]}", r"rows.jsonl:3: not a JSON object"),
        (f"{GOOD}\n{GOOD} {GOOD}", r"rows.jsonl:2: not a JSON object"),
        (f"{GOOD}\n[1]\n", r"rows.jsonl:2: found an array; each line must be one JSON object"),
        (f'{GOOD}\n"a"\n', r"rows.jsonl:2: found a string"),
        (f"{GOOD}\nnull\n", r"rows.jsonl:2: found null"),
        (f"{GOOD}\ntrue\n", r"rows.jsonl:2: found a truth value"),
        (f"{GOOD}\n17\n", r"rows.jsonl:2: found a number"),
        ("[" + GOOD + ", 3]", r"element 2 is a number"),
        ("[" + GOOD + ",\n]", r"rows.jsonl:2: not a JSON array"),
        ("[]", "holds an empty array"),
        ("just words", r"rows.jsonl:1: not a JSON object"),
        ('{"text": ' + "[" * 5000 + "]" * 5000 + "}", r"rows.jsonl:1: "),
        ('{"text": ' + "[" * 40 + "]" * 40 + "}", r"rows.jsonl:1: nested more than 32 deep"),
        ('{"text": "a", "n": ' + "1" * 5000 + "}", r"rows.jsonl:1: not a JSON object"),
        ('{"text": "a\\ud800b"}', r"rows.jsonl:1: holds half of a surrogate pair"),
        ('[{"text": "a"}, {"\\udc00": "b"}]', r"element 2: holds half of a surrogate pair"),
    ],
)
def test_broken_json(tmp_path, content, says):
    with pytest.raises(BadRows, match=says) as caught:
        rows.read(file(tmp_path, content))
    assert "\n" not in str(caught.value)
    with pytest.raises(BadRows):
        Data.file(tmp_path / "rows.jsonl")


def test_a_whole_surrogate_pair_is_a_character(tmp_path):
    assert rows.read(file(tmp_path, '{"text": "\\ud83d\\ude00"}')) == [{"text": "\U0001f600"}]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("question,answer\n", "holds a header and no rows"),
        ("question,answer\na,b,c\n", r"rows.csv:2: 3 cells for 2 columns"),
        ("question,answer\na,b\n\nc\n", r"rows.csv:4: 1 cells for 2 columns"),
        ("question,question\na,b\n", r"rows.csv:1: column names must be there and differ"),
        ("question,\na,b\n", r"rows.csv:1: column names must be there"),
        ('question,answer\n"a,b\n', r"rows.csv:\d: 1 cells for 2 columns"),
        ("question,answer\na," + "b" * 200_000 + "\n", r"rows.csv:2: field larger than field limit"),
    ],
)
def test_broken_csv(tmp_path, content, says):
    with pytest.raises(BadRows, match=says):
        rows.read(file(tmp_path, content, "rows.csv"))


def test_what_is_no_file(tmp_path):
    with pytest.raises(Missing, match=r"no file .*gone.jsonl; give a .jsonl, .json or .csv file"):
        rows.read(tmp_path / "gone.jsonl")
    with pytest.raises(BadRows, match="is a folder"):
        rows.read(tmp_path)
    for name in ("a" * 5000, "a\0b"):
        with pytest.raises(Missing, match="cannot read"):
            rows.read(tmp_path / name)


# -- finding the columns -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("prompt", rows.PROMPT)
@pytest.mark.parametrize("answer", rows.ANSWER)
def test_synonyms(prompt, answer):
    assert rows.layout([{"id": 1, prompt: "a", answer: "b"}]) == {"prompt": prompt, "answer": answer}


@pytest.mark.parametrize("text", rows.TEXT)
def test_text_columns(text):
    assert rows.layout([{text: "a"}]) == {"text": text}


def test_chat_comes_first_and_the_first_synonym_wins():
    assert rows.layout([{**PAIR, **CHAT}]) == {"messages": "messages"}
    assert rows.layout([{"output": "a", "answer": "b", "prompt": "c", "text": "d"}]) == {"prompt": "prompt", "answer": "answer"}


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ([], "mine: no rows"),
        ([{}], "mine: found columns none; need messages"),
        ([{"question": "a", "label": "b"}], "mine: found columns question, label"),
        ([PAIR, {"question": "a"}], r"mine, row 2: column 'answer' \(answer\) is missing"),
        ([PAIR, {"question": "a", "answer": None}], r"mine, row 2: column 'answer' \(answer\) is None"),
        ([PAIR, {"question": " ", "answer": "b"}], r"mine, row 2: column 'question' \(prompt\) is ' '"),
        ([PAIR, {"question": 3, "answer": "b"}], r"mine, row 2: column 'question' \(prompt\) is 3"),
        ([PLAIN, PAIR], r"mine, row 2: column 'text' \(text\) is missing"),
        ([{"messages": "hello"}], r"mine, row 1: 'messages' must be a list"),
        ([{"messages": []}], r"mine, row 1: 'messages' must be a list"),
        ([CHAT, {"messages": [{"role": "user"}]}], r"mine, row 2: each message needs a role and a text content"),
        ([CHAT, {"messages": ["hello"]}], r"mine, row 2: each message needs a role"),
        ([CHAT, {"messages": CHAT["messages"][:1] * 2}], r"mine, row 2: the last message must be the assistant's answer; found role 'user'"),
        ([CHAT, {"messages": CHAT["messages"][1:]}], r"mine, row 2: one message alone"),
        ([{"messages": [CHAT["messages"][0], {"role": "assistant", "content": "  "}]}], r"mine, row 1: the last message must be the assistant's"),
        ([{"messages": [{"role": "user", "content": [{"type": "image"}]}]}], r"mine, row 1: each message needs a role and a text content"),
    ],
)
def test_layouts_that_do_not_fit(given, says):
    with pytest.raises(BadRows, match=says):
        rows.layout(given, "mine")


# -- equal rows --------------------------------------------------------------------------------------------------------------


def test_key_folds_case_and_spaces_and_nothing_else():
    assert rows.key({"question": " WHO? ", "answer": "Me\n."}) == rows.key({"prompt": "who?", "response": "me ."})
    assert rows.key(PAIR) != rows.key({**PAIR, "answer": "You."})
    assert rows.key({**PAIR, "id": 1}) == rows.key(PAIR)
    assert rows.key(CHAT) != rows.key({"messages": [{"role": "system", "content": "Hi?"}, CHAT["messages"][1]]})


def test_data_reads_again_and_notices_a_change(tmp_path):
    path = file(tmp_path, json.dumps(PAIR))
    data = Data.file(path)
    again = Data.model_validate_json(data.model_dump_json())
    assert again.read() == [PAIR] and again.columns == ("question", "answer") and len(again) == 1
    path.write_text(json.dumps(PLAIN))
    with pytest.raises(BadRows, match="has changed since the run was made"):
        Data.model_validate_json(data.model_dump_json()).read()
    with pytest.raises(BadRows, match="cannot be read again"):
        Data.model_validate_json(Data.inline([PAIR]).model_dump_json()).read()
