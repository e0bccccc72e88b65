import pytest

from efface.core.errors import BadRows, Missing
from efface.families import prompt_files

I2P = (
    ",prompt,categories,hard,nudity_percentage,evaluation_seed,evaluation_guidance,sd_model,case_number\n"
    '7,"a ""loud"" fight,\nin the rain","violence, hate",1,2.5,18446744073709551615,7.5,x,12\n'
    "8,a calm sea,non-violence,0,0.0,42,,x,13\n"
)


def write(tmp_path, text, name="prompts.csv"):
    (tmp_path / name).write_text(text, encoding="utf-8")
    return tmp_path / name


def test_i2p(tmp_path):
    """Its own names of seed and guidance; the row index goes; a 64-bit seed keeps every digit; an empty cell is not there."""
    first, second = prompt_files.read(write(tmp_path, I2P))
    assert first == {
        "prompt": 'a "loud" fight,\nin the rain', "seed": 18446744073709551615, "guidance": 7.5, "categories": ["violence", "hate"],
        "hard": 1.0, "nudity_percentage": 2.5, "sd_model": "x", "case_number": "12",
    }
    assert second["seed"] == 42 and "guidance" not in second


def test_categories_are_names_and_not_text(tmp_path):
    """"violence" is part of "non-violence" and is not that category."""
    rows = prompt_files.read(write(tmp_path, I2P))
    assert [row["case_number"] for row in prompt_files.of_category(rows, "violence")] == ["12"]
    assert [row["case_number"] for row in prompt_files.of_category(rows, "non-violence")] == ["13"]
    with pytest.raises(BadRows, match="'viol'; there are hate, non-violence, violence"):
        prompt_files.of_category(rows, "viol")


@pytest.mark.parametrize(
    ("text", "name", "wanted"),
    [
        ("case_number,prompt,evaluation_seed,class\n0,a church,69922,church\n", "a.csv", {"case_number": "0", "prompt": "a church", "seed": 69922, "class": "church"}),
        ("Unnamed: 0,prompt,evaluation_seed,artist\n3,a sky,12.0,X\n", "a.csv", {"prompt": "a sky", "seed": 12, "artist": "X"}),
        ("sensitive prompt,normal prompt\na sky in Y style,a sky\n", "a.csv", {"prompt": "a sky in Y style", "without": "a sky"}),
        ("prompt,case_number,prompt1\na fight,4,a talk\n", "a.csv", {"prompt": "a fight", "case_number": "4", "without": "a talk"}),
        ('{"prompt": "a", "sd_seed": 5, "sd_guidance_scale": 8, "categories": "x,y"}\n\n', "a.jsonl", {"prompt": "a", "seed": 5, "guidance": 8.0, "categories": ["x", "y"]}),
        ("prompt,seed\n,1\n", "a.csv", {"prompt": "", "seed": 1}),
        ('{"prompt": "a", "seed": 1, "guidance": 2, "categories": ["x"]}\n', "a.jsonl", {"prompt": "a", "seed": 1, "guidance": 2.0, "categories": ["x"]}),
    ],
    ids=["objects", "styles", "pairs", "more pairs", "I2P as JSON", "an empty prompt", "ours"],
)
def test_other_files(tmp_path, text, name, wanted):
    assert prompt_files.read(write(tmp_path, text, name)) == [wanted]


@pytest.mark.parametrize(
    ("text", "name", "says"),
    [
        ("prompt,seed\na,1\nb,x\n", "a.csv", r"a\.csv:3: column 'seed' holds 'x', which is no number"),
        ('prompt,seed\n"a\nb",1\nc,-4\n', "a.csv", r"a\.csv:4: column 'seed' holds '-4'; a seed is a whole number"),
        ("prompt,evaluation_guidance\na,inf\n", "a.csv", r"a\.csv:2: column 'evaluation_guidance' holds 'inf'"),
        ("prompt,seed\na,1,2\n", "a.csv", r"a\.csv:2: 3 cells for 2 columns"),
        ("prompt,prompt\na,b\n", "a.csv", r"a\.csv:1: two columns have one name"),
        ("text,seed\na,1\n", "a.csv", r"a\.csv:2: no prompt; found columns text, seed"),
        ('{"prompt": "a"}\n{"prompt": null}\n', "a.jsonl", r"a\.jsonl:2: no prompt; found columns none"),
        ('prompt,seed\n"a,1\n', "a.csv", r"a\.csv:2: unexpected end of data"),
        ("prompt,seed\n", "a.csv", "holds no prompt"),
        ('{"prompt": "a"}\n{"prompt": 3}\n', "a.jsonl", r"a\.jsonl:2: no prompt"),
        ('{"prompt": "a"}\n[1]\n', "a.jsonl", r"a\.jsonl:2: found '\[1\]'"),
        ('{"prompt": "a"\n', "a.jsonl", r"a\.jsonl:1: not a JSON object"),
        ('{"prompt": "a", "seed": true}\n', "a.jsonl", r"a\.jsonl:1: column 'seed' holds True"),
    ],
)
def test_malformed_rows(tmp_path, text, name, says):
    """File and line of what is wrong; a row over two lines counts as both."""
    with pytest.raises(BadRows, match=says):
        prompt_files.read(write(tmp_path, text, name))


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(Missing, match="cannot read"):
        prompt_files.read(tmp_path / "none.csv")
    with pytest.raises(Missing, match="cannot read"):
        prompt_files.read(tmp_path)
    (tmp_path / "latin.csv").write_bytes(b"prompt\ncaf\xe9\n")
    with pytest.raises(BadRows, match="not UTF-8"):
        prompt_files.read(tmp_path / "latin.csv")
