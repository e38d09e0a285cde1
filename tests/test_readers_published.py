"""All benchmarks in their published layouts are checked, viewed, converted, recognised and refused alike."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from published_rows import FIRST, M3D, MEDX, NAMES, SECOND, VERIFY, write_all, write_csv, write_text

from osler.cli.main import main
from osler.config import load_config
from osler.data.readers import read_with_report
from osler.data.readers.recognise import recognise
from osler.data.select import load_split
from osler.errors import ConfigError, DataError
from osler.reports.contact_sheet import view_samples
from osler.types import LETTERS


@pytest.mark.parametrize("name", NAMES)
def test_a_published_dataset_is_checked_viewed_and_converted(tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    root = write_all(name, tmp_path / "data")
    data = (f"--data.reader={name}", f"--data.root={root}")
    assert main(["data", "check", *data, "--images", "decode", "--strict"]) == 0
    assert "images: decoded, all sound" in capsys.readouterr().out
    config = load_config(None, data)
    shown = load_split(config.data, "test", shows_studies=False)
    page = view_samples(shown, tmp_path / "view.html", config.data.study, num=9)
    assert page.read_text().count("data:image/") >= len(shown)
    capsys.readouterr()
    assert main(["data", "convert", *data, "--split", "test", "--out", str(tmp_path / "rows.jsonl"), "--json"]) == 0
    written = json.loads(capsys.readouterr().out.splitlines()[-1])
    back = read_with_report("jsonl", tmp_path / "rows.jsonl", images=written["images"])
    assert (back.refused, len(back.samples)) == ((), written["rows"])
    samples = read_with_report(name, root, split="test").samples
    kept = ("id", "dataset", "question", "choices", "target", "modality", "question_type", "subject_id", "metadata")
    assert [[getattr(sample, key) for key in kept] for sample in back.samples] == [[getattr(s, key) for key in kept] for s in samples]
    assert [[image.load().tobytes() for image in sample.images] for sample in back.samples] == [
        [image.load().tobytes() for image in sample.images] for sample in samples
    ]


@pytest.mark.parametrize("name", NAMES)
def test_a_published_dataset_is_recognised(tmp_path: Path, name: str) -> None:
    root = write_all(name, tmp_path)
    if name == "path_vqa":  # the columns alone are those of many datasets
        assert recognise(root)[0] == "jsonl"
        write_text(root / "README.md", "---\nlicense: mit\npretty_name: PathVQA\n---\n")
    assert recognise(root)[0] == name
    for file in sorted(root.rglob("*.csv")):
        assert recognise(file)[0] == name


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("pmc_vqa", {"version": 3}, "unknown version '3': use one of 1, 2"),
        ("pmc_vqa", {"version": True}, "unknown version 'True'"),
        ("pmc_vqa", {"clean": "yes"}, "clean is 'yes': use true or false"),
        ("pmc_vqa", {"clean": True, "version": 2}, "only version 1 has test_clean.csv"),
        ("pmc_vqa", {"split": "validation"}, "unknown split 'validation': use one of train, test"),
        ("path_vqa", {"split": "val"}, "unknown split 'val'"),
        ("medxpertqa_mm", {"split": "train"}, "without a train split"),
        ("medxpertqa_mm", {"split": "dev"}, "unknown split 'dev': use one of validation, test"),
        ("mimic_cxr_vqa", {"split": "valid"}, "unknown split 'valid'"),
        ("m3d_vqa", {"name": "yn"}, "unknown name 'yn': use one of test5k, yes_no"),
        ("m3d_vqa", {"name": "test5k", "split": "train"}, "M3D-VQA has no test5k questions of the split train: use test"),
        ("m3d_vqa", {"axis": "ct"}, "unknown option 'axis' of reader 'm3d_vqa': use split, seed, name, images"),
    ],
)
def test_a_wrong_option_of_a_published_dataset_is_one_line(tmp_path: Path, name: str, options: Mapping[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read_with_report(name, write_all(name, tmp_path) if name != "path_vqa" else tmp_path, **options)
    assert message in str(caught.value)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("split", [None, "test"])
def test_a_folder_without_the_files_is_one_line(tmp_path: Path, name: str, split: str | None) -> None:
    for root in (tmp_path, tmp_path / "absent"):
        with pytest.raises(DataError, match=r"check the data root|holds no table|does not exist"):
            read_with_report(name, root, split=split)


def test_files_that_need_another_step_say_so(tmp_path: Path) -> None:
    write_text(tmp_path / "dataset/_valid.json", "[]")
    with pytest.raises(DataError, match=r"only _valid\.json without answers, from which build_dataset\.sh"):
        read_with_report("mimic_cxr_vqa", tmp_path)


@pytest.mark.parametrize(("name", "file"), [("pmc_vqa", "test_2.csv"), ("pmc_vqa", "test_clean.csv"), ("m3d_vqa", "M3D_VQA_test5k.csv")])
def test_a_file_of_another_split_is_refused(tmp_path: Path, name: str, file: str) -> None:
    path = write_csv(tmp_path / file, [SECOND if name == "pmc_vqa" else M3D])
    with pytest.raises(ConfigError, match=rf"{file} is the test split, and train is asked for: name the folder as the root"):
        read_with_report(name, path, split="train")
    assert len(read_with_report(name, path, split="test").samples) == len(read_with_report(name, path).samples) == 1


TEXTS = st.text(max_size=30) | st.sampled_from(["A", "B:", " A:x", "Yes", "NA", "Mass", "Answer Choices: (A) x (B) y"])
KINDS = st.sampled_from(["verify", "choose", "query", 3])
VALUES = st.none() | st.integers() | st.booleans() | TEXTS | st.lists(TEXTS, max_size=3) | st.dictionaries(st.sampled_from("ABCDE"), TEXTS)


@settings(max_examples=40, deadline=None)
@given(rows=st.lists(st.fixed_dictionaries({}, optional=dict.fromkeys(MEDX, VALUES)) | VALUES, max_size=4))
def test_any_row_of_medxpertqa_is_a_sample_or_a_refusal(tmp_path_factory: pytest.TempPathFactory, rows: list[Any]) -> None:
    root = tmp_path_factory.mktemp("rows")
    write_text(root / "MM/test.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    report = read_with_report("medxpertqa_mm", root)
    assert len(report.samples) + len(report.refused) == len(rows)


@settings(max_examples=40, deadline=None)
@given(rows=st.lists(st.fixed_dictionaries({}, optional={**dict.fromkeys(VERIFY, VALUES), "semantic_type": KINDS}) | VALUES, max_size=4))
def test_any_row_of_mimic_cxr_vqa_is_a_sample_or_a_refusal(tmp_path_factory: pytest.TempPathFactory, rows: list[Any]) -> None:
    root = tmp_path_factory.mktemp("rows")
    write_text(root / "test.json", json.dumps(rows))
    report = read_with_report("mimic_cxr_vqa", root)
    assert len(report.samples) + len(report.refused) == len(rows)


PRINTED = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20) | TEXTS


@settings(max_examples=40, deadline=None)
@given(data=st.data(), name=st.sampled_from(["pmc_vqa", "m3d_vqa"]))
def test_any_cells_are_a_sample_or_a_refusal(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, name: str) -> None:
    published = FIRST if name == "pmc_vqa" else M3D
    row = st.fixed_dictionaries({column: st.just(value) | PRINTED for column, value in published.items()})
    rows = data.draw(st.lists(row, min_size=1, max_size=3))
    report = read_with_report(name, write_csv(tmp_path_factory.mktemp("rows") / "test.csv", rows))
    assert len(report.samples) + len(report.refused) == len(rows)
    for sample in report.samples:
        assert not sample.choices or sample.target in LETTERS[: len(sample.choices)]
