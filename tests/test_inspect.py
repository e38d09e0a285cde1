"""`data check` counts samples, `data view` shows them, and `data convert` writes files that the jsonl reader reads back."""

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from osler.cli.data import print_check
from osler.cli.main import main
from osler.data.inspect import check, convert
from osler.data.readers import read
from osler.errors import ConfigError, DataError
from osler.images.files import ImageFile
from osler.types import Sample

FIXTURES = Path(__file__).parent / "fixtures"


@pytest.fixture
def slake(tmp_path):
    """Invented SLAKE rows; cases 1 to 3 have images, of which case 3 is truncated."""
    root = tmp_path / "slake"
    (root / "imgs").mkdir(parents=True)
    for name in ("train.json", "validate.json", "test.json"):
        (root / name).write_bytes((FIXTURES / "slake" / name).read_bytes())
    for case in (1, 2, 3):
        (root / "imgs" / f"case{case}").mkdir()
        Image.new("RGB", (40, 30), (90, 0, 0)).save(root / "imgs" / f"case{case}" / "source.jpg", "BMP")
    data = (root / "imgs/case3/source.jpg").read_bytes()
    (root / "imgs/case3/source.jpg").write_bytes(data[: len(data) // 2])
    return root


@pytest.mark.parametrize(("images", "num_bad"), [("none", 0), ("header", 20), ("decode", 21)])
def test_check_counts_everything(slake, images, num_bad):
    report = check("slake", slake, split="train", look=images)
    assert (report.num_samples, report.num_images, report.num_subjects, len(report.refused)) == (26, 23, 23, 1)
    assert report.counts == {
        "ct": {"anatomy_identification": 1, "other_biological_attributes": 24},
        "xray": {"other_biological_attributes": 1},
    }
    assert report.num_choices["open-ended"] == 1
    assert sum(report.targets.values()) == 25
    assert len(report.bad_images) == num_bad
    assert not report.is_clean


def test_check_prints_counts_traps_and_refusals(slake, capsys):
    print_check(check("slake", slake, split="train", look="decode"))
    text = capsys.readouterr().out
    for line in (
        "26 samples, 23 images, 23 named subjects, 1 rows refused",
        "      anatomy identification  other biological attributes  all",
        "ct                         1                           24   25",
        "xray                       -                            1    1",
        "all                        1                           25   26",
        "         1  white space around 'answer_type'",
        "  slake/train.json/5: 'answer' is empty",
        "images: decoded, 21 of 23 cannot be shown:",
        "  slake/12: image 'case5/source.jpg' does not exist under",
        "  ... and 1 more; --json lists them all",
    ):
        assert line in text


def test_check_as_json_holds_everything(slake):
    report = json.loads(check("slake", slake, split="train").to_json())
    assert report["refused"] == [{"row": "slake/train.json/5", "reason": "'answer' is empty"}]
    assert len(report["bad_images"]) == 20
    assert report["is_clean"] is False


STRICT = [("train", [], 0), ("train", ["--strict"], 1), ("test", ["--strict", "--images", "none"], 0), ("test", ["--strict"], 1)]


@pytest.mark.parametrize(("split", "options", "code"), STRICT)
def test_strict_says_no_to_refused_rows_and_bad_images(slake, capsys, split, options, code):
    found = main(
        ["data", "check", "--data.reader=slake", f"--data.root={slake}", f"--data.options={{split='{split}'}}", "--json", *options]
    )
    payload = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert found == code == payload.get("exit_code", 0)
    assert payload["is_clean"] is (code == 0 and "--strict" in options)


def test_check_of_phantom_is_clean(capsys):
    report = check("phantom", look="decode", split="test", modalities=["ct"], num_questions=5, size=64)
    assert report.is_clean
    print_check(report)
    assert "images: decoded, all sound" in capsys.readouterr().out


def test_check_lets_no_control_character_through(tmp_path, capsys):
    (tmp_path / "rows.jsonl").write_text(json.dumps({"image": "\x1b[31m.png", "problem": "x", "answer": "some"}) + "\n[1]\n")
    print_check(check("jsonl", tmp_path / "rows.jsonl"))
    text = capsys.readouterr().out
    assert "cannot be shown" in text
    assert text.replace("\n", "").isprintable()


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda path: check("slake", path, look="all"), ConfigError, "use one of none, header, decode"),
        (
            lambda path: convert(everything("vqa_rad", FIXTURES / "vqa_rad") + everything("slake", FIXTURES / "slake"), path / "o"),
            DataError,
            "does not exist under",
        ),
        (lambda path: convert(everything("vqa_rad", FIXTURES / "vqa_rad"), path / "file" / "out"), DataError, "cannot be written"),
    ],
)
def test_mistakes_are_one_line(tmp_path, call, error, message):
    (tmp_path / "file").write_text("")
    with pytest.raises(error, match=message):
        call(tmp_path)


def everything(reader, root, **options):
    return read(reader, root, split="all", **options)


def flat(sample: Sample):
    return replace(sample, images=())


def test_convert_comes_back_the_same(slake, tmp_path):
    samples = everything("slake", slake, language="all")
    path = tmp_path / "out" / "slake.jsonl"
    assert convert(samples, path) == slake / "imgs"
    assert len(samples) == 29
    assert list(path.parent.iterdir()) == [path]
    assert read("jsonl", path, images=slake / "imgs") == samples


def test_convert_writes_images_that_have_no_file(tmp_path):
    samples = read("phantom", split="test", modalities=["ct", "oct"], num_questions=5, size=64)
    again = read("jsonl", tmp_path / "phantom.jsonl", images=convert(samples, tmp_path / "phantom.jsonl"))
    assert list(map(flat, again)) == list(map(flat, samples))
    assert len(list((tmp_path / "images").iterdir())) == len({sample.images for sample in samples})
    assert again[0].images[0].load().tobytes() == samples[0].images[0].load().tobytes()


def test_images_of_several_roots_are_copied(slake, tmp_path):
    Image.new("L", (50, 40), 7).save(tmp_path / "a.png")
    (tmp_path / "rows.jsonl").write_text(json.dumps({"image": "a.png", "question": "What?", "answer": "Grey"}))
    samples = [*everything("slake", slake)[:2], *read("jsonl", tmp_path / "rows.jsonl", split="test")]
    out = tmp_path / "out" / "all.jsonl"
    assert convert(samples, out, splits=dict.fromkeys((sample.id for sample in samples), "train")) == out.parent
    again = read("jsonl", out, split="all")
    assert [sample.images[0].load().tobytes() for sample in again] == [sample.images[0].load().tobytes() for sample in samples]
    assert json.loads(out.read_text().splitlines()[0])["split"] == "train"


@pytest.mark.parametrize(
    "choices",
    [("A. baumannii", "B. fragilis"), ("1. degree", "2. degree"), ("CT", "<b>"), ()],
)
def test_nothing_is_taken_apart_in_what_osler_wrote(tmp_path, choices):
    Image.new("L", (50, 40), 7).save(tmp_path / "a.png")
    sample = Sample(
        id="x",
        dataset="d",
        images=(ImageFile(root=tmp_path, path="a.png"),),
        question="Images show (A) CT and (B) MRI. Which is B?",
        choices=choices,
        target="B",
        modality=None,
        question_type=None,
    )
    convert([sample], tmp_path / "out.jsonl")
    assert read("jsonl", tmp_path / "out.jsonl", split="test") == [sample]


DATA = os.environ.get("OSLER_TEST_DATA")


@pytest.mark.integration
@pytest.mark.skipif(not DATA, reason="OSLER_TEST_DATA does not name the folder of real annotation files")
@pytest.mark.parametrize(("reader", "folder", "num_images"), [("slake", "slake", 546), ("vqa_rad", "vqa_rad", 221)])
def test_real_images_are_sound(reader, folder, num_images):
    report = check(reader, Path(DATA) / folder)
    assert (report.num_images, report.bad_images) == (num_images, ())


@pytest.mark.integration
@pytest.mark.skipif(not DATA, reason="OSLER_TEST_DATA does not name the folder of real annotation files")
@pytest.mark.parametrize(("reader", "folder"), [("slake", "slake"), ("vqa_rad", "vqa_rad"), ("huatuo", "medvlm_r1")])
def test_real_rows_convert_and_come_back(reader, folder, tmp_path):
    samples = everything(reader, Path(DATA) / folder)
    assert read("jsonl", tmp_path / "real.jsonl", images=convert(samples, tmp_path / "real.jsonl")) == samples
