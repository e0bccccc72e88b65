"""Certificates of certified removal: every assumption of the theorem is looked at again, and refused by name when it fails."""

import json

import pytest
from safetensors.numpy import load_file, save_file

from efface import runs
from efface.certify.issue import issue, verify
from efface.core.errors import Missing, Unsound
from efface.testing.tiny import digits, trained_classifier

SEED = 2**61 + 12345
ROWS = [*digits("random").forget, *digits("random").keep][:300]


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def train(place, out, seed=SEED, **terms):
    settings = {"terms.features": "input", **{f"terms.{name}": value for name, value in terms.items()}}
    options = runs.TrainOptions(model=str(place / "net"), keep=place / "all.jsonl", recipe="convex_head", settings=settings, seed=seed, device="cpu", out=place / out)
    return runs.train(options)


def forget(place, model, forget_rows, keep_rows, out):
    write(place / f"{out}-forget.jsonl", forget_rows)
    write(place / f"{out}-keep.jsonl", keep_rows)
    options = runs.ForgetOptions(
        model=str(model), forget=place / f"{out}-forget.jsonl", keep=place / f"{out}-keep.jsonl", method="certified_removal", device="cpu", seed=1, out=place / out,
    )  # fmt: skip
    return runs.forget(options)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A network, 300 rows, a convex head on them, and two runs that took two and then three rows out."""
    folder = tmp_path_factory.mktemp("removal")
    (folder / "net").mkdir()
    trained_classifier().save(folder / "net")
    write(folder / "all.jsonl", ROWS)
    train(folder, "head")
    forget(folder, folder / "head" / "model", ROWS[:2], ROWS[2:], "first")
    forget(folder, folder / "first", ROWS[2:5], ROWS[5:], "second")
    return folder


def basis(certificate, kind):
    return {item.name for item in certificate.assumptions if item.basis == kind}


def test_issued_and_verified(place):
    certificate = issue(place / "second")
    assert certificate.claim == "bounded" and certificate.system == "certified_removal"
    assert certificate.bound["epsilon"] == 1.0 and certificate.bound["delta"] == 1e-4
    assert 0 < certificate.bound["gradient left"] <= certificate.bound["spent"] <= certificate.bound["budget"] == pytest.approx(0.684090, abs=1e-6)
    assert certificate.evidence == {"removed in this run": 3, "removed in all": 5, "kept": 295}
    assert basis(certificate, "checked") >= {"terms", "gaussian constant", "secret seed", "independent features", "kept rows", "no copies", "norms", "budget", "gradient"}
    assert basis(certificate, "declared") == {"kept secret"}
    found = verify(place / "second" / "certificate.json")
    assert found.good and any(line.startswith("gradient: ") for line in found.checked)


def test_the_seed_does_not_leak(place):
    issue(place / "first")
    text = (place / "first" / "certificate.json").read_text()
    assert str(SEED) not in text and "run.json" not in [file["path"] for file in json.loads(text)["files"]]
    assert str(SEED) not in "".join(path.read_text(errors="ignore") for path in (place / "first" / "model").glob("*"))


def test_who_has_the_model_alone_can_check_its_bytes(place, tmp_path):
    import shutil

    issue(place / "first")
    shutil.copytree(place / "first" / "model", tmp_path / "model")
    shutil.copy(place / "first" / "certificate.json", tmp_path)
    found = verify(tmp_path / "certificate.json")
    assert found.good and any("not checked again" in line and "run.json" in line for line in found.unchecked)
    assert not any(line.startswith("gradient") for line in found.checked)


def copied(place, tmp_path, name="second"):
    """A copy of one run, whose origin stays where it was."""
    import shutil

    shutil.copytree(place / name, tmp_path / name)
    return tmp_path / name


def edited(folder, change):
    path = folder / "model" / "model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)
    return folder


@pytest.mark.parametrize(
    ("change", "assumption"),
    [
        (lambda t: t["head.weight"].__iadd__(1e-2), "gradient"),
        (lambda t: t["spent"].__imul__(1e-3), "gradient"),
        (lambda t: t["spent"].__imul__(1e3), "budget"),
        (lambda t: t["rows"].__iadd__(1), "kept rows"),
    ],
    ids=["other weights", "less counted", "more spent", "other rows"],
)
def test_a_head_that_is_not_what_the_removals_made_is_refused(place, tmp_path, change, assumption):
    with pytest.raises(Unsound, match=f"the assumption '{assumption}' fails"):
        issue(edited(copied(place, tmp_path), change))


def test_other_terms_are_refused(place, tmp_path):
    folder = copied(place, tmp_path)
    path = folder / "model" / "config.json"
    config = json.loads(path.read_text())
    config["arguments"]["terms"]["epsilon"] = 0.9
    path.write_text(json.dumps(config))
    with pytest.raises(Unsound, match="'terms' fails.*other epsilon"):
        issue(folder)


def test_after_issuing_a_changed_bit_is_named(place, tmp_path):
    folder = copied(place, tmp_path)
    issue(folder)
    edited(folder, lambda tensors: tensors["head.weight"].__iadd__(1e-9))
    found = verify(folder / "certificate.json")
    assert not found.good and "model/model.safetensors has changed" in found.problems[0] and "head.weight" in found.problems[0]


@pytest.mark.parametrize(
    ("options", "assumption", "says"),
    [
        ({"seed": 0}, "secret seed", "secrets.randbits"),
        ({"epsilon": 30.0}, "gaussian constant", "smaller epsilon"),
        ({"features": "body"}, "independent features", "terms.independent=true"),
    ],
)
def test_what_was_wrong_from_the_start_is_refused(place, options, assumption, says):
    name = assumption.replace(" ", "-")
    head = train(place, f"head-{name}", **options)
    folder = forget(place, head, ROWS[:1], ROWS[1:], name)
    with pytest.raises(Unsound, match=f"the assumption '{assumption}' fails") as raised:
        issue(folder)
    assert says in str(raised.value)


def test_features_may_be_declared_independent(place):
    head = train(place, "head-public", features="body", independent=True)
    certificate = issue(forget(place, head, ROWS[:1], ROWS[1:], "public"))
    assert "independent features" in basis(certificate, "declared")


def test_copies_of_a_removed_row_are_refused(place):
    write(place / "all.jsonl", [*ROWS, {**ROWS[0], "id": "again"}])
    head = train(place, "head-copies")
    write(place / "all.jsonl", ROWS)
    import efface.api as api

    with pytest.MonkeyPatch.context() as patch:  # such a request is refused at the door; this run came about otherwise
        patch.setattr(api, "refuse_overlap", lambda *given: None)
        folder = forget(place, head, ROWS[:1], [*ROWS[1:], {**ROWS[0], "id": "again"}], "copies")
    with pytest.raises(Unsound, match="'no copies' fails.*forget row 1"):
        issue(folder)


def test_without_rows_or_origin_there_is_none(place, tmp_path):
    folder = copied(place, tmp_path)
    record = json.loads((folder / "run.json").read_text())
    record["source"]["model"] = str(tmp_path / "gone")
    (folder / "run.json").write_text(json.dumps(record))
    with pytest.raises(Unsound, match="'the run that trained the head' fails"):
        issue(folder)
    again = copied(place, tmp_path / "other")
    record = json.loads((again / "run.json").read_text())
    record["request"]["keep"]["source"] = f"file:{tmp_path / 'gone.jsonl'}"
    (again / "run.json").write_text(json.dumps(record))
    with pytest.raises(Missing, match="the rows of this run are needed again"):
        issue(again)


def test_what_no_theorem_covers_is_refused(place):
    with pytest.raises(Unsound, match="convex_head promises nothing that can be proven"):
        issue(place / "head")
    with pytest.raises(Missing, match="no run folder"):
        issue(place / "nothing")
