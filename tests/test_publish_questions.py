"""Which questions a card speaks of: true splits and datasets, none that were trained on, and what is said where that is not known."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from small_runs import SolidImage, recipe

from osler.cli.main import main
from osler.config import Config
from osler.data.select import load_split
from osler.errors import OslerError
from osler.evaluation.run import evaluate
from osler.files import read_json_object
from osler.publishing.publish import publish_run
from osler.publishing.questions import describe_source
from osler.training.grpo import train_grpo
from osler.types import Sample

pytestmark = pytest.mark.integration

TEST = {"modalities": ["mri", "ct"], "limit": 4}


@pytest.fixture(scope="module")
def run(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A policy that was trained on four MRI phantoms, without an evaluation in its folder."""
    folder = tmp_path_factory.mktemp("runs") / "phantoms-train"
    train_grpo(recipe(tiny_folder), folder)
    return folder


def asking(policy: Path, **data: Any) -> Config:
    return recipe(policy, data=data, eval={"max_completion_length": 6})


def write_rows(folder: Path, samples: list[Sample], **changes: Any) -> Path:
    """Samples as rows of a file, with their ids and one grey picture."""
    folder.mkdir()
    SolidImage(grey=80, size=56).load().save(folder / "grey.png")
    keys = ("id", "question", "choices", "target", "modality", "question_type")
    rows = [{**{key: getattr(sample, key) for key in keys}, "images": ["grey.png"], **changes} for sample in samples]
    (folder / "hospital.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return folder / "hospital.jsonl"


@pytest.fixture(scope="module")
def phantoms(run: Path, tiny_folder: Path) -> Path:
    """An evaluation of the policy in a folder of its own, on held-out phantoms."""
    return evaluate(asking(tiny_folder, test=TEST), run.parent / "phantoms-eval", policy=str(run), label="grpo").run


@pytest.fixture(scope="module")
def hospital(run: Path, tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An evaluation of the policy on another dataset, whose MRI questions share one image."""
    samples = load_split(recipe(tiny_folder, data={"test": {"modalities": ["mri"], "limit": 3}}).data, "test")
    root = tmp_path_factory.mktemp("hospital")
    file = write_rows(root / "rows", samples)
    text = file.read_text()
    for sample in samples:
        text = text.replace(sample.id, f"hospital/{sample.id.rpartition('/')[2]}")
    file.write_text(text)
    config = asking(tiny_folder, reader="jsonl", root=str(file), test={"modalities": [], "limit": None})
    return evaluate(config, root / "hospital-eval", policy=str(run), label="real").run


def card_of(run: Path, out: Path, *others: Path) -> str:
    return publish_run(run, out / "card", others=others, is_dry=True).card


# Questions that were trained on

TRAINED: list[tuple[str, dict[str, Any], str]] = [
    ("the training questions", {"split": "train", "modalities": ["mri"], "limit": 4}, "4 of its 4"),
    ("some of them", {"split": "train", "modalities": ["mri", "ct"], "limit": 4}, "2 of its 4"),
    ("all splits", {"split": "all", "modalities": ["mri"], "limit": 6}, "4 of its 18"),
]


@pytest.mark.parametrize(("name", "test", "number"), TRAINED, ids=[row[0] for row in TRAINED])
def test_an_evaluation_on_training_questions_is_refused(
    run: Path, tiny_folder: Path, tmp_path: Path, name: str, test: dict[str, Any], number: str
) -> None:
    if test["split"] == "all":
        test = {**test, "limit": None, "options": {"num_questions": 6}}
    other = evaluate(asking(tiny_folder, test=test), tmp_path / "other", policy=str(run), label="grpo").run
    with pytest.raises(OslerError, match=f"grpo.jsonl: {number} questions were trained on") as caught:
        publish_run(run, tmp_path / "out", others=[other])
    assert f"leave out --with {other}" in str(caught.value)
    assert f"--data.test.split={test['split']}" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_training_questions_of_an_earlier_stage_count(run: Path, tmp_path: Path, tiny_folder: Path) -> None:
    later = tmp_path / "later"
    train_grpo(recipe(run, data={"train": {"modalities": ["xray"], "limit": 2}}), later)
    config = asking(tiny_folder, test={"split": "train", "modalities": ["mri"], "limit": 4})
    other = evaluate(config, tmp_path / "other", policy=str(later), label="grpo").run
    with pytest.raises(OslerError, match="4 of its 4"):
        card_of(later, tmp_path, other)


def test_records_in_the_run_itself_are_no_exception(tiny_folder: Path, tmp_path: Path) -> None:
    config = asking(tiny_folder, test={"split": "train", "modalities": ["mri"], "limit": 4})
    folder = tmp_path / "run"
    train_grpo(config, folder)
    evaluate(config, folder, policy=str(folder), label="grpo")
    with pytest.raises(OslerError, match=r"4 of its 4 .* move its files out of the run"):
        card_of(folder, tmp_path)


def test_a_split_is_said_to_keep_together_what_it_does(tiny_folder: Path, tmp_path: Path) -> None:
    made = ["--data.reader=phantom", "--data.options.num_questions=10", "--data.options.modalities=['mri']"]
    assert main(["split", *made, "--images", "none", "--out", str(tmp_path / "split.json")]) == 0
    config = asking(tiny_folder, manifest=str(tmp_path / "split.json"), test={"modalities": ["mri"], "limit": 2})
    folder = tmp_path / "run"
    train_grpo(config, folder)
    evaluate(config, folder, policy=str(folder), label="grpo")
    card = card_of(folder, tmp_path)
    assert "come from one split that keeps patients together; SHA-256 of its manifest: `" in card
    (tmp_path / "split.json").unlink()
    assert "No manifest of `osler split` is known that parted trained questions and those of GRPO." in card_of(folder, tmp_path)


def lose_data(run: Path) -> None:
    """The recipe names a reader that is not here."""
    values = read_json_object(run / "config.json")
    (run / "config.json").write_text(json.dumps({**values, "data": {**values["data"], "reader": "gone"}}))


def change_hash(run: Path) -> None:
    values = read_json_object(run / "manifest.json")
    values["train"]["ids_sha256"] = "0" * 64
    (run / "manifest.json").write_text(json.dumps(values))


def lose_key(run: Path) -> None:
    values = read_json_object(run / "config.json")
    (run / "config.json").write_text(json.dumps({**values, "data": {**values["data"], "private": True, "key_file": str(run / "key")}}))


@pytest.mark.parametrize("damage", [lose_data, change_hash, lose_key], ids=["data that are gone", "other data", "a key that is gone"])
def test_an_overlap_that_cannot_be_known_is_told(
    run: Path, phantoms: Path, tiny_folder: Path, tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    assert "compared with those of this training by their ids" in card_of(run, tmp_path, phantoms)
    copy = Path(shutil.copytree(run, tmp_path / "run"))
    damage(copy)
    card = card_of(copy, tmp_path, phantoms)
    assert "**Whether tested questions were trained on is not known**" in card
    assert "| Tested: GRPO | Phantom | test | 4 | not known |" in card
    assert not (copy / "key").exists()
    # What all of them together are is known by hashes.
    config = asking(tiny_folder, test={"split": "train", "modalities": ["mri"], "limit": 4})
    other = evaluate(config, tmp_path / "other", policy=str(run), label="grpo").run
    with pytest.raises(OslerError, match="4 of its 4"):
        card_of(copy, tmp_path, other)


@pytest.mark.parametrize(("question", "number"), [(None, "4 of its 4"), ("What is it?", None)], ids=["a copy", "only the ids are the same"])
def test_ids_of_other_files_count_with_their_question(
    run: Path, tiny_folder: Path, tmp_path: Path, question: str | None, number: str | None
) -> None:
    samples = load_split(recipe(tiny_folder).data, "train")
    file = write_rows(tmp_path / "rows", samples, **({"question": question} if question else {}))
    config = asking(tiny_folder, reader="jsonl", root=str(file), test={"modalities": [], "limit": None})
    other = evaluate(config, tmp_path / "other", policy=str(run), label="copy").run
    if number is None:
        assert "| Tested: copy | hospital | test | 4 | 0 |" in card_of(run, tmp_path, other)
    else:
        with pytest.raises(OslerError, match=number):
            card_of(run, tmp_path, other)


def test_the_split_is_that_of_the_evaluation(run: Path, tiny_folder: Path, tmp_path: Path) -> None:
    from huggingface_hub import ModelCard

    config = asking(tiny_folder, test={"split": "validation", "modalities": ["mri"], "limit": 2})
    other = evaluate(config, tmp_path / "other", policy=str(run), label="grpo").run
    card = card_of(run, tmp_path, other)
    assert {one.dataset_split for one in ModelCard(card).data.eval_results} == {"validation"}
    assert "### GRPO on Phantom, split validation" in card
    assert "split test" not in card


# Other datasets


def test_results_name_their_dataset(run: Path, phantoms: Path, hospital: Path, tmp_path: Path) -> None:
    from huggingface_hub import ModelCard

    card = card_of(run, tmp_path, phantoms, hospital)
    found = {one.dataset_name: (one.dataset_type, one.dataset_split) for one in ModelCard(card).data.eval_results}
    assert found == {"Phantom": ("phantom", "test"), "hospital": ("hospital", "test")}
    first, second = card.partition("### GRPO on Phantom, split test")[2].split("### real on hospital, split test")
    assert "| MRI (trained on) | 2 |" in first
    assert "| MRI | 3 |" in second.partition("By question type")[0]
    assert "- The images of Phantom are drawings" in card
    assert "(trained on)" not in second.partition("\n\n")[2].partition("\n\n")[0]
    assert "hospital, split test: The intervals count images and patients, not questions: here 3 questions about 1 " in card
    assert "- **hospital**: source not stated. Licence: not stated." in card
    assert "accuracies on different questions cannot be compared" in card


def test_nothing_is_said_of_data_that_were_not_used(run: Path, hospital: Path, tmp_path: Path) -> None:
    card = card_of(run, tmp_path, hospital)
    assert "are drawings made by a program: its results" not in card
    assert "- It was trained on drawings made by a program." in card
    assert "(trained on)" not in card
    assert "Phantom, split" not in card


def test_the_checklist_names_another_dataset(run: Path, hospital: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    publish_run(run, out, others=[hospital])
    text = (out / "CHECKLIST.md").read_text()
    assert "Another dataset than that of training (hospital)" in text
    assert "real: 3 questions of hospital, split test" in text


@pytest.mark.parametrize(
    ("name", "title", "source"), [("slake", "SLAKE", True), ("hospital", "hospital", False), ("jsonl", "jsonl", False)]
)
def test_a_dataset_has_the_title_of_its_reader(name: str, title: str, source: bool) -> None:
    found = describe_source(name, is_of_training=True)
    assert title in found.title
    assert (found.source is not None) == source


# What a person is told


def test_an_evaluation_beside_the_run_is_named(run: Path, phantoms: Path, tmp_path: Path) -> None:
    (note,) = [one for one in publish_run(run, tmp_path / "out", is_dry=True).notes if "no results" in one]
    assert f"--with {phantoms}" in note
    copy = Path(shutil.copytree(run, tmp_path / "alone" / "run"))
    (note,) = [one for one in publish_run(copy, tmp_path / "out", is_dry=True).notes if "no results" in one]
    assert "--with FOLDER" in note


FOLDERS = [("policy", "publish the run, .*phantoms-train$"), ("checkpoints", "publish the run, .*phantoms-train$")]


@pytest.mark.parametrize(("part", "message"), FOLDERS)
def test_a_part_of_a_run_names_the_run(run: Path, tmp_path: Path, part: str, message: str) -> None:
    with pytest.raises(OslerError, match=message):
        publish_run(run / part, tmp_path / "out")
    shutil.copytree(run / "policy", tmp_path / "policy")
    with pytest.raises(OslerError, match="a policy without its run"):
        publish_run(tmp_path / "policy", tmp_path / "out")


@pytest.mark.parametrize("parent", ["file", "/proc"])
def test_a_place_that_cannot_be_written_is_one_line(run: Path, tmp_path: Path, parent: str, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    out = tmp_path / parent / "card"
    if parent == "/proc" and not out.parent.is_dir():
        pytest.skip("this system has no /proc")
    assert main(["publish", str(run), "--out", str(out)]) == 2
    error = capsys.readouterr().err
    assert f"cannot write {out}" in error
    assert error.count("\n") == 1


def test_an_edited_card_gets_the_new_id_in_the_lines_of_osler_alone(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "card"
    publish_run(run, out)
    readme = out / "README.md"
    readme.write_text(readme.read_text().replace("# card\n", "# My card\n").replace("vllm serve card", "vllm serve mine"))
    (note,) = [one for one in publish_run(run, out, hub_id="me/test").notes if "edited" in one]
    assert "only the lines that named card were changed, to me/test" in note
    text = readme.read_text()
    assert 'name = "me/test"' in text
    assert "# My card\n" in text
    assert "vllm serve mine" in text
    # The id stays known, and an unchanged edit needs no more words.
    assert not [one for one in publish_run(run, out).notes if "edited" in one]
    assert readme.read_text() == text
    (out / "config.json").write_text("{}")
    with pytest.raises(OslerError, match=r"your edits of README.md go with it"):
        publish_run(run, out)


KEYS = [
    ("licence = 'mit'", r"unknown key licence; did you mean 'license'\? \(known here: base_model, checklist"),
    ("[energy]\nmeasured_with = 'x'\nkw = 1", r"unknown key energy.kw; did you mean 'kwh'\? \(known here: kg_co2, kwh, measured_with\)"),
]


@pytest.mark.parametrize(("text", "message"), KEYS)
def test_an_unknown_key_names_the_known_ones(tmp_path: Path, text: str, message: str) -> None:
    from osler.publishing.author import read_author

    (tmp_path / "author.toml").write_text(text)
    with pytest.raises(OslerError, match=message):
        read_author(tmp_path / "author.toml")
