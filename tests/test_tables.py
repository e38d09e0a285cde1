"""Every kind of table holds the same samples; splits and ids are told apart."""

import io
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import datasets
import pytest
from PIL import Image
from table_writers import WITHOUT_IDS, WRITERS, Row, write_cells
from test_layouts import COMMON, read_rows, reasons

from osler.data.readers import read, read_with_report
from osler.data.readers.layouts.tables import split_of
from osler.errors import DataError
from osler.taxonomy import Modality
from osler.types import Sample

QUESTIONS: list[Row] = [
    {
        "id": f"q{number}",
        "image": f"images/{number % 4}.png",
        "question": f"Which technique, in picture {number}?",
        "choices": ["CT", "MRI", "X-ray"][: 2 + number % 2],
        "answer": "ABA"[number % 3],
        "modality": ["ct", "mri", "xray"][number % 3],
        "subject_id": f"0{number % 5}",
    }
    for number in range(12)
]


def decoded(content: bytes) -> bytes:
    return Image.open(io.BytesIO(content)).convert("RGB").tobytes()


def check_read(root: Path, rows: Sequence[Row], images: dict[str, bytes], writer: str) -> None:
    """What is read from a root is the rows and the images that were written."""
    report = read_with_report("jsonl", root, split="test")
    assert reasons(report) == []
    names = [str(number) if writer in WITHOUT_IDS else row["id"] for number, row in enumerate(rows)]
    assert [texts_of(sample) for sample in report.samples] == [
        (name, row["question"], tuple(row["choices"]), row["answer"], Modality(row["modality"]), row["subject_id"])
        for name, row in zip(names, rows, strict=True)
    ]
    for sample, row in zip(report.samples, rows, strict=True):
        assert sample.images[0].load().tobytes() == decoded(images[row["image"]])
    num_images = len({row["image"] for row in rows})
    assert len({sample.images[0] for sample in report.samples}) == len({sample.images[0].uri for sample in report.samples}) == num_images


def texts_of(one: Sample) -> Any:
    return one.id, one.question, one.choices, one.target, one.modality, one.subject_id


@pytest.mark.parametrize("writer", WRITERS)
def test_every_table_holds_the_same_questions(tmp_path: Path, writer: str) -> None:
    (tmp_path / "images").mkdir()
    for number in range(4):
        Image.new("L", (40, 30), 40 * number).save(tmp_path / f"images/{number}.png")
    images = {f"images/{number}.png": (tmp_path / f"images/{number}.png").read_bytes() for number in range(4)}
    check_read(WRITERS[writer](tmp_path, QUESTIONS, images), QUESTIONS, images, writer)


@pytest.fixture(scope="module")
def forty() -> list[Sample]:
    """Questions of the real SLAKE, read once for all tables."""
    chosen = [
        sample
        for sample in read("slake", Path(os.environ["OSLER_TEST_DATA"]) / "slake", split="train")
        if sample.choices and sample.modality
    ]
    return chosen[:40]


@pytest.mark.integration
@pytest.mark.skipif("OSLER_TEST_DATA" not in os.environ, reason="OSLER_TEST_DATA does not name the folder of real annotation files")
@pytest.mark.parametrize("writer", WRITERS)
def test_forty_questions_of_slake_are_the_same_in_every_table(tmp_path: Path, forty: list[Sample], writer: str) -> None:
    slake = Path(os.environ["OSLER_TEST_DATA"]) / "slake"
    assert len(forty) == 40
    rows: list[Row] = [
        {
            "id": sample.id,
            "image": sample.images[0].uri,
            "question": sample.question,
            "choices": list(sample.choices),
            "answer": sample.target,
            "modality": str(sample.modality),
            "subject_id": sample.subject_id,
        }
        for sample in forty
    ]
    images = {row["image"]: (slake / "imgs" / row["image"]).read_bytes() for row in rows}
    for path, content in images.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_bytes(content)
    check_read(WRITERS[writer](tmp_path, rows, images), rows, images, writer)


def test_semicolons_divide_cells_too(tmp_path: Path) -> None:
    write_cells(tmp_path / "rows.csv", [{"image": "a.png", "question": "Which, then?", "A": "CT", "B": "MRI", "answer": "B"}], ";")
    assert [sample.choices for sample in read("jsonl", tmp_path, split="test")] == [("CT", "MRI")]


@pytest.mark.parametrize("suffix", ["csv", "tsv"])
def test_a_cell_is_text_as_it_stands(tmp_path: Path, suffix: str) -> None:
    row = {
        "id": "01",
        "image": "a.png",
        "question": "Stage?",
        "A": "None",
        "B": "NA",
        "C": "01",
        "D": "1.0",
        "answer": "NA",
        "patient_id": "007",
    }
    write_cells(tmp_path / f"rows.{suffix}", [row], "," if suffix == "csv" else "\t")
    (sample,) = read("jsonl", tmp_path, split="test")
    assert (sample.id, sample.subject_id, sample.choices, sample.target) == ("01", "007", ("None", "NA", "01", "1.0"), "B")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("rows.zip", "PK", "rows.zip is an archive: unpack it"),
        ("rows.jsonl.gz", "x", "is an archive: unpack it"),
        ("rows.xlsx", "PK", "is a spreadsheet: save it as CSV"),
        ("rows.pkl", "x", "may run code when it is read"),
        ("rows.csv", "image,image\na,b\n", "names a column twice"),
        ("rows.json", '{"a": 1', "is not valid JSON"),
        ("rows.json", "3", "holds a single value, not a list of rows"),
        ("rows.parquet", "PAR1", "cannot be read as Parquet"),
        ("rows.parquet", "", "cannot be read as Parquet"),
    ],
)
def test_a_file_that_is_no_table_is_one_line(tmp_path: Path, name: str, content: str, message: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match=message) as caught:
        read("jsonl", tmp_path / name, split="test")
    assert "\n" not in str(caught.value)


def test_a_folder_of_archives_says_so(tmp_path: Path) -> None:
    (tmp_path / "all.zip").write_text("PK")
    with pytest.raises(DataError, match=r"holds no table .*; all.zip is an archive"):
        read("jsonl", tmp_path, split="test")


def test_cells_that_do_not_fit_the_names_are_refused(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("image,question,answer\na.png,Which organ?,Liver\na.png,Which, then?,Liver\na.png,Which?\n")
    report = read_with_report("jsonl", tmp_path / "rows.csv")
    assert [(refusal.row, refusal.reason.split(":")[0]) for refusal in report.refused] == [
        ("rows.csv:2", "4 cells for 3 columns"),
        ("rows.csv:3", "2 cells for 3 columns"),
    ]
    assert len(report.samples) == 1


def test_one_object_is_one_row(tmp_path: Path) -> None:
    (tmp_path / "rows.json").write_text(json.dumps(COMMON))
    assert [sample.target for sample in read("jsonl", tmp_path / "rows.json", split="test")] == ["B"]


def test_a_quotation_mark_that_swallows_rows_is_said(tmp_path: Path) -> None:
    rows = ['1\ta.png\t"Large mass seen. Which?\tx1\ty1\tA', "2\ta.png\tq2\tx2\ty2\tA", '3\ta.png\tq3 big"\tx3\ty3\tB']
    (tmp_path / "rows.tsv").write_text("index\timage\tquestion\tA\tB\tanswer\n" + "\n".join(rows) + "\n")
    assert "a cell holds a tab" in reasons(read_with_report("jsonl", tmp_path / "rows.tsv"))[0]
    (tmp_path / "rows.csv").write_text('image,question,answer\na.png,"Which?,x\na.png,the "big" one,y\n')
    with pytest.raises(DataError, match=r"rows.csv, line \d: .* double a quotation mark"):
        read("jsonl", tmp_path / "rows.csv", split="test")


def test_an_index_that_is_a_name_of_an_image_stays(tmp_path: Path) -> None:
    write_cells(tmp_path / "rows.csv", [{"index": n, "image": n + 1, "question": "Which?", "answer": "x y"} for n in (1, 2)])
    assert [sample.images[0].uri for sample in read("jsonl", tmp_path, split="test")] == ["2", "3"]


def test_a_missing_shard_is_said(tmp_path: Path) -> None:
    for number in (0, 2):
        (tmp_path / f"train-{number:05d}-of-00003.parquet").touch()
    with pytest.raises(DataError, match="holds 2 of 3 shards of train"):
        read("jsonl", tmp_path, split="train")


def test_a_rewritten_parquet_file_is_read_anew(tmp_path: Path) -> None:
    """Also where the time of its last change is kept."""
    for answer in "AB":
        datasets.Dataset.from_list([{**COMMON, "answer": answer}]).to_parquet(tmp_path / "rows.parquet")
        os.utime(tmp_path / "rows.parquet", (1, 1))
        assert [sample.target for sample in read("jsonl", tmp_path, split="test")] == [answer]


def test_classes_are_read_by_name(tmp_path: Path) -> None:
    features = {
        "image": datasets.Value("string"),
        "question": datasets.Value("string"),
        "label": datasets.ClassLabel(names=["Normal", "Mass"]),
    }
    rows = [{"image": "a.png", "question": "Which?", "label": number} for number in (1, 0)]
    datasets.Dataset.from_list(rows, features=datasets.Features(features)).to_parquet(tmp_path / "test.parquet")
    assert [sample.target for sample in read("jsonl", tmp_path, split="test")] == ["Mass", "Normal"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"train": [COMMON], "test": [COMMON]}, r"holds several lists \(train, test\)"),
        ({"questions": [COMMON], "images": [{"id": 1}]}, r"holds several lists \(questions, images\)"),
    ],
)
def test_a_file_of_several_lists_is_refused(tmp_path: Path, content: Any, message: str) -> None:
    (tmp_path / "rows.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match=message):
        read("jsonl", tmp_path / "rows.json", split="test")


def test_one_row_with_options_as_objects_is_one_row(tmp_path: Path) -> None:
    row = {**COMMON, "options": [{"key": "A", "value": "CT"}, {"key": "B", "value": "MRI"}]}
    (tmp_path / "rows.json").write_text(json.dumps(row))
    assert [sample.choices for sample in read("jsonl", tmp_path / "rows.json", split="test")] == [("CT", "MRI")]


def test_images_of_two_folders_have_two_names(tmp_path: Path) -> None:
    for number, split in enumerate(("train", "test")):
        (tmp_path / split).mkdir()
        Image.new("L", (30, 30), 90 * number).save(tmp_path / split / "0.png")
        (tmp_path / split / "metadata.jsonl").write_text(json.dumps({"file_name": "0.png", "question": "Which?", "answer": "Mass"}))
    samples = read("jsonl", tmp_path, split="all")
    assert [sample.images[0].uri for sample in samples] == ["test/0.png", "train/0.png"]
    assert len({sample.images[0].load().tobytes() for sample in samples}) == 2


def test_another_table_may_prove_where_numbers_begin(tmp_path: Path) -> None:
    for split, answers in (("train", (0, 1)), ("test", (1, 2))):
        rows = "".join(json.dumps({**COMMON, "answer": answer}) + "\n" for answer in answers)
        (tmp_path / f"{split}.jsonl").write_text(rows)
    assert [sample.target for sample in read("jsonl", tmp_path, split="test")] == ["B", "C"]


# Splits and ids

SPLIT_NAMES = {
    "train": "train",
    "val": "validation",
    "dev": "validation",
    "slake_test": "test",
    "test-00000": "test",
    "Train": "train",
    "testing": "test",
    "contest": None,
    "train_val": None,
    "test-train": None,
    "not_train": None,
    "test_b": None,
    "rows": None,
}


@pytest.mark.parametrize(("name", "split"), SPLIT_NAMES.items())
def test_the_split_of_a_name(name: str, split: str | None) -> None:
    assert split_of(name) == split


def write_splits(folder: Path) -> None:
    for split, number in (("train", 3), ("val", 1), ("test", 2)):
        rows = ({**COMMON, "id": name, "question": f"{split} {name}?"} for name in range(number))
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.mark.parametrize(
    ("split", "ids"),
    [
        ("train", ["0", "1", "2"]),
        ("validation", ["0"]),
        ("test", ["0", "1"]),
        ("all", ["test/0", "test/1", "train/0", "train/1", "2", "val/0"]),
    ],
)
def test_an_id_of_several_tables_is_told_apart_where_they_are_read_together(tmp_path: Path, split: str, ids: list[str]) -> None:
    write_splits(tmp_path)
    assert [sample.id for sample in read("jsonl", tmp_path, split=split)] == ids
    report = read_with_report("jsonl", tmp_path)
    assert (len(report.samples), report.refused, report.splits) == (6, (), ("train", "validation", "test"))


def test_an_id_twice_in_one_table_is_refused_unless_rows_are_numbered(tmp_path: Path) -> None:
    report = read_rows(tmp_path, {**COMMON, "id": "x"}, {**COMMON, "id": "x"})
    assert reasons(report) == ["the id 'x' was used by an earlier row: give each row its own, or number the rows with --data.ids=row"]
    assert [sample.id for sample in read("jsonl", tmp_path, split="test", ids="row")] == ["rows/1", "rows/2"]


def test_rows_may_name_their_split(tmp_path: Path) -> None:
    report = read_rows(tmp_path, *({**COMMON, "id": name, "split": name} for name in ("train", "val", "test", "test_b", "")))
    assert [reason.partition(",")[0] for reason in reasons(report)] == ["it names the split 'test_b'", "it names no split"]
    assert [sample.id for sample in read("jsonl", tmp_path, split="test")] == ["test"]
    assert [sample.id for sample in read("jsonl", tmp_path, split="validation")] == ["val"]
