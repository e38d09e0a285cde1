"""`osler data view`: a page of what a policy sees of questions and of studies."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
from small_dicom import write_dicom
from small_studies import read_row, recipe, save_nifti, save_picture, save_series, values

from osler import read
from osler.cli.main import main
from osler.config import PolicyConfig, StudyConfig
from osler.data.select import load_split
from osler.errors import ConfigError, DataError
from osler.images.study import Study
from osler.policies.load import open_processor
from osler.reports.contact_sheet import measure_with, view_samples, view_study
from osler.types import PLACE


def test_sizes_and_tokens_are_those_of_the_processor() -> None:
    measure = measure_with(open_processor(PolicyConfig()))
    assert measure(PIL.Image.new("RGB", (112, 56))) == ((168, 84), 18)  # osler-tiny enlarges to 16 tokens, and each side is rounded
    assert measure(PIL.Image.new("RGB", (512, 512))) == ((112, 112), 16)


def test_a_study_is_shown_with_what_it_says(tmp_path: Path) -> None:
    save_series(tmp_path / "s", values())
    save_series(tmp_path / "s", values((6, 5, 9)), "1.2.4")
    study = StudyConfig(slices=2, window="200/400")
    text = view_study(Study(root=tmp_path, path="s"), tmp_path / "a" / "view.html", study, lambda picture: ((28, 56), 2)).read_text()
    for told in (
        "What a policy sees of s", "Up to 2 slices (even), window 200/400, at most 768 tokens.", "2 series: number 2 is shown",
        "slice 3 of 9, 2.0 mm; 28 x 56 pixels, 2 tokens", "slice 7 of 9, 6.0 mm", "4 image tokens",
        "not for clinical use", '<span class="edge left">R</span><span class="edge right">L</span>',
        '<span class="edge upper">A</span><span class="edge lower">P</span>',
        "<td>1<td>CT<td>axial<td>4<td>1 x 1 x 1<td>nothing",
    ):  # fmt: skip
        assert told in text, told
    assert text.count("data:image/jpeg;base64,") == 2
    assert "http" not in text


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"layout": "montage"}, ["1 figure", "slice 1 of 4, 0.0 mm; slice 2 of 4", "as one montage"]),
        (
            {"plane": "sagittal", "slices": 1},
            ["1 figure", '<span class="edge left">A</span>', "slice 4 of 6", ", sagittal, window of the file"],
        ),
        ({"max_tokens": 0}, ["4 figure", "window of the file."]),
    ],
)
def test_every_layout_is_named(tmp_path: Path, settings: dict[str, Any], told: list[str]) -> None:
    save_nifti(tmp_path / "v.nii", values())
    text = view_study(Study(root=tmp_path, path="v.nii"), tmp_path / "view.html", StudyConfig(**settings)).read_text()
    assert text.count("<figure>") == int(told[0][0])
    for words in told[1:]:
        assert words in text


def test_questions_show_their_studies(tmp_path: Path) -> None:
    save_nifti(tmp_path / "v.nii", values())
    save_picture(tmp_path / "a.png", 7)
    sample = read_row(tmp_path, [{"path": "v.nii", "caption": "Prior"}, "a.png", "gone"], question="<script>x</script>")
    text = view_samples([sample], tmp_path / "view.html", StudyConfig(slices=3), num=1).read_text()
    assert text.count("data:image/jpeg;base64,") == 4
    assert text.count("class=fault") == 1
    assert "study &#39;gone&#39; does not exist" in text
    assert "<script" not in text
    captioned = replace(sample, question=f"Prior, 2021: {PLACE}\nCurrent: {PLACE}\nThird {PLACE}\nLarger?")
    text = view_samples([captioned], tmp_path / "view.html", StudyConfig(slices=3), num=1).read_text()
    assert [line.split("<")[0] for line in text.split("<h2>")[1:]] == ["Prior, 2021", "Current", "Third"]
    assert "slice 1 of 4, 0.0 mm; 6 x 5 pixels<br>v.nii?axis=2" in text


@pytest.mark.parametrize(
    ("told", "letters"),
    [
        (["L", "F"], "RLHF"),
        (["P", "F"], "APHF"),
        (["R", "H"], "LRFH"),
        (["LA", "F"], ("RP", "LA", "H", "F")),
        (["L"], ""),
        (["L", "CD"], ""),
        (None, ""),
    ],
)
def test_a_radiograph_has_the_letters_of_its_header(tmp_path: Path, told: list[str] | None, letters: Any) -> None:
    write_dicom(tmp_path / "x.dcm", np.arange(900, dtype=np.uint16).reshape(30, 30), Modality="DX", PatientOrientation=told)
    text = view_study(Study(root=tmp_path, path="x.dcm"), tmp_path / "view.html").read_text()
    edges = zip(("left", "right", "upper", "lower"), letters, strict=False)
    assert text.count('class="edge') == len(letters)
    assert all(f'<span class="edge {side}">{letter}</span>' in text for side, letter in edges)


@pytest.mark.parametrize(("max_tokens", "is_told"), [(31, True), (32, False), (0, False)])
def test_a_limit_that_is_not_kept_is_told(tmp_path: Path, max_tokens: int, is_told: bool) -> None:
    save_nifti(tmp_path / "v.nii", values())
    study = StudyConfig(slices=2, max_tokens=max_tokens)
    text = view_study(Study(root=tmp_path, path="v.nii"), tmp_path / "view.html", study, lambda picture: ((112, 112), 16)).read_text()
    assert ("it takes 32 image tokens, more than max_tokens = 31, and the policy refuses it" in text) is is_told


@pytest.mark.parametrize("layout", ["images", "montage", "video"])
def test_a_private_study_has_slices_and_letters_and_no_name(tmp_path: Path, layout: Any) -> None:
    name = "Zqxvkj"
    save_series(tmp_path / name, values((6, 5, 9)), PatientID=name, StudyDate="20240102", SeriesDescription=name)
    (tmp_path / name / f"{name}.txt").write_text(name)
    write_dicom(tmp_path / f"{name}.dcm", np.zeros((4, 5), np.uint16), PatientOrientation=["L", "F"])
    read_row(tmp_path, [name, f"{name}.dcm"], subject_id=name)
    data = recipe(tmp_path, private=True, key_file=str(tmp_path.parent / f"{tmp_path.name}.key")).data
    samples = load_split(data, "train", shows_studies=False)
    text = view_samples(samples, tmp_path / "view.html", StudyConfig(slices=2, layout=layout)).read_text()
    assert "slice 3 of 9" in text
    assert "slice 7 of 9" in text
    for letter, count in (("left", "R"), ("right", "L")):
        assert text.count(f'<span class="edge {letter}">{count}</span>') == (3 if layout == "images" else 2)
    assert '<span class="edge upper">A</span>' in text
    assert '<span class="edge upper">H</span>' in text
    words = re.sub('base64,[^"]*', "", text)
    assert not re.search(f"{name}|2024|SECRET|1\\.2\\.3|[.]dcm| mm|\\.txt", words, re.IGNORECASE)


def test_view_is_one_file_that_escapes_everything(tmp_path: Path) -> None:
    samples = [replace(sample, question="<script>x</script>") for sample in read("phantom", split="train", num_questions=4)]
    text = view_samples(samples, tmp_path / "sheet" / "view.html", num=26).read_text()
    assert "<script" not in text
    assert text.count("&lt;script&gt;x&lt;/script&gt;") == text.count("class=target") == text.count("data:image/jpeg;base64,") == 26
    assert "http" not in text
    assert view_samples(samples, tmp_path / "some.html", num=3).read_text().count("<article>") == 3


def test_what_is_refused(tmp_path: Path) -> None:
    (sample, *_) = read("phantom", split="train", num_questions=1)
    with pytest.raises(ConfigError, match="cannot view 0 samples"):
        view_samples([sample], tmp_path / "view.html", num=0)
    with pytest.raises(DataError, match="no samples to view"):
        view_samples([], tmp_path / "view.html")
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="cannot be written"):
        view_samples([sample], tmp_path / "file" / "view.html")


def test_the_command_takes_a_study_in_place_of_a_recipe(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_nifti(tmp_path / "v.nii.gz", np.repeat(np.repeat(values(), 20, 0), 20, 1))
    out = tmp_path / "view.html"
    assert main(["data", "view", str(tmp_path / "v.nii.gz"), "--out", str(out), "--data.study.slices=2", "--json"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1]) == {"page": str(out)}
    assert "slice 2 of 4, 1.0 mm; 112 x 112 pixels, 16 tokens" in out.read_text()
    assert main(["data", "view", str(tmp_path / "v.nii.gz"), "--out", str(out), "--policy.path=no/such-policy-at-all"]) == 0
    assert "pictures are shown as they are read, without tokens" in capsys.readouterr().err
    assert "slice 1 of 4, 0.0 mm; 120 x 100 pixels<br>" in out.read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nothing"], "no recipe and no study at 'nothing'"),
        ([""], "no recipe and no study at ''"),
        (["x" * 300], "no recipe and no study at 'xxx"),
        (["rows.jsonl"], "is a table of questions: --data.reader=jsonl --data.root=rows.jsonl"),
        (["v.nii", "--data.private=true", "--data.key_file=key"], "a path that is named on the command line stands on the page"),
        (["v.nii", "--data.studys=3"], "a study has no reader, whose option data.studys would be"),
        (["text"], "is not an image that Osler reads"),
        (["empty"], "study 'empty' is an empty folder"),
        (["others"], "such as 'others/IM0001': check the path"),
        (["report.dcm"], "is a DICOM file without pixels: choose another file"),
        (["nothing.png"], "image 'nothing.png' is empty: fetch it again"),
        (["v.nii", "--data.study.window=lungs"], "window 'lungs' is unknown"),
        (["v.nii", "--data.study.plane=up"], "data.study.plane: Input should be 'axial', 'coronal' or 'sagittal'"),
        (["v.nii", "--data.study.slices=0"], "data.study.slices: Input should be greater than or equal to 1"),
        (["v.nii", "--data.study.slice=3"], "unknown key data.study.slice; did you mean 'slices'?"),
        (["v.nii", "--data.study.choice=around"], "gives no position and no label"),
        (["broken.nii"], "is no NIfTI file"),
    ],
)
def test_every_fault_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "others").mkdir()
    (tmp_path / "others" / "IM0001").write_bytes(b"")
    (tmp_path / "nothing.png").write_bytes(b"")
    write_dicom(tmp_path / "report.dcm", None)
    save_nifti(tmp_path / "v.nii", values((6, 5, 12)))
    (tmp_path / "broken.nii").write_bytes(b"nothing of the kind")
    (tmp_path / "rows.jsonl").write_text("{}")
    (tmp_path / "text").write_text("no picture, but longer than the mark of a DICOM file would need it to be")
    assert main(["data", "view", *arguments]) == 2
    err = capsys.readouterr().err.strip()
    assert message in err
    assert len(err.splitlines()) == 1
