"""`osler data deidentify`: files under keyed names, in turn, with text in their pixels left out; keys; the detector of text."""

import hashlib
import hmac
import json
import re
import stat
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont
from planted import MARK, Planter, leaks, leaks_below, plant_dicom
from pydicom import dcmread
from small_dicom import write_dicom

from osler.cli.main import main
from osler.data.privacy.keys import Key, load_key
from osler.errors import ConfigError, DataError
from osler.images.burned_in import find_text, header_signs

SMOOTH = np.add.outer(np.arange(64), np.arange(64)).astype(np.uint16) * 20
FONT = ImageFont.load_default(12)


def with_text(text: str, tone: int = 4000, size: tuple[int, int] = (256, 128)) -> np.ndarray:
    """A dark slice with a line of text."""
    picture = Image.new("L", size, 20)
    ImageDraw.Draw(picture).text((10, 40), text, fill=255, font=FONT)
    return np.asarray(picture).astype(np.uint16) * (tone // 255)


@pytest.fixture
def ward(tmp_path: Path) -> Path:
    """A folder with names in every path: two slices of one series, a copy, a screen with text, a document, a broken file, a note."""
    root = tmp_path / "Zqxvkj^Smith" / "Zqxvkj-1947"
    (root / "sub").mkdir(parents=True)
    shared = {"SeriesInstanceUID": "1.2.3.4", "StudyInstanceUID": "1.2.3", "PatientName": "Zqxvkj^John", "PatientID": "Zqxvkj-1"}
    for number, name in enumerate(("Zqxvkj_a.dcm", "sub/Zqxvkj_b.dcm")):
        write_dicom(root / name, SMOOTH + number, InstanceNumber=number, **shared)
    (root / "Zqxvkj_copy.dcm").write_bytes((root / "Zqxvkj_a.dcm").read_bytes())
    write_dicom(root / "Zqxvkj_text.dcm", with_text("SMITH JOHN 1947"), PatientID="Zqxvkj-2")
    write_dicom(root / "Zqxvkj_marked.dcm", SMOOTH, PatientID="Zqxvkj-2", BurnedInAnnotation="YES")
    write_dicom(root / "Zqxvkj_document.dcm")
    (root / "Zqxvkj_broken.dcm").write_bytes((root / "Zqxvkj_a.dcm").read_bytes()[:-2000])
    (root / "Zqxvkj.txt").write_text("Zqxvkj")
    return tmp_path / "Zqxvkj^Smith"


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    code = main(["data", "deidentify", *map(str, arguments)])
    told = capsys.readouterr()
    return code, told.out, told.err


@pytest.mark.parametrize(
    ("name", "kept", "reason"),
    [
        ("IM0001", slice(132, None), 'is a DICOM file without the 128 bytes and "DICM" that begin one: write it anew with a DICOM tool'),
        ("IM0002.dcm", slice(0), "is no DICOM file, though its name ends as that of one: fetch it again"),
        ("IM0003.DCM", slice(200, 900), "is no DICOM file, though its name ends as that of one: fetch it again"),
        ("IM0004", slice(900, 2000), None),
    ],
)
def test_no_dicom_file_is_passed_over_without_a_word(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, kept: slice, reason: str | None
) -> None:
    ward = tmp_path / "ward"
    ward.mkdir()
    write_dicom(ward / "good.dcm", SMOOTH, PatientID="1")
    (ward / name).write_bytes((ward / "good.dcm").read_bytes()[kept])
    code, told, _ = run(capsys, ward, tmp_path / "clean", "--key", tmp_path / "k.key", "--json")
    result = json.loads(told.splitlines()[-1])
    assert (code, result["written"]) == (0, 1)
    assert result["left_out"] == ({} if reason is None else {reason: 1})
    assert result["others"] == (reason is None)


def test_a_folder_without_dicom_files_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "ward").mkdir()
    (tmp_path / "ward" / "notes.txt").write_text("none")
    code, _, err = run(capsys, tmp_path / "ward", tmp_path / "clean", "--key", tmp_path / "k.key")
    assert code == 2
    assert "ward' holds no DICOM file: check the path" in err


def test_a_folder(ward: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, key, failures = tmp_path / "clean", tmp_path / "k.key", tmp_path / "left.txt"
    code, told, err = run(capsys, ward, out, "--key", key, "--failures", failures, "--json")
    result = json.loads(told.splitlines()[-1])
    assert code == 0
    assert (result["written"], result["present"], result["others"]) == (2, 1, 1)
    assert sorted(result["left_out"].values()) == [1, 1, 1, 1]
    assert result["flagged"] == {"text found in the pixels": 1, "burned-in annotation": 1}
    assert "left out: is a DICOM file without pixels\n" in err
    assert leaks((told + err).encode(), MARK, "SECRET") == []
    assert leaks_below(out, MARK, "SECRET", "-1947") == {}  # four digits alone stand in a UID by chance
    assert failures.read_text().count(MARK) >= 4
    files = sorted(out.rglob("*.dcm"))
    assert len({file.parent for file in files}) == 1
    assert len({dcmread(file).SOPInstanceUID for file in files}) == 2
    stamps = {file: file.stat().st_mtime_ns for file in files}
    files[0].unlink()
    code, told, _ = run(capsys, ward, out, "--key", key, "--json")
    assert json.loads(told.splitlines()[-1])["written"] == 1
    assert files[1].stat().st_mtime_ns == stamps[files[1]]
    assert not list(out.rglob(".*"))


def test_text_can_be_kept_or_blackened(ward: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    key = tmp_path / "k.key"
    code, told, _ = run(capsys, ward, tmp_path / "kept", "--key", key, "--burned-in", "keep", "--json")
    result = json.loads(told.splitlines()[-1])
    assert (code, result["written"], result["flagged"]["text found in the pixels"]) == (0, 4, 1)
    code, told, _ = run(capsys, ward, tmp_path / "black", "--key", key, "--blacken", "0,30,256,70", "--json")
    result = json.loads(told.splitlines()[-1])
    assert (code, result["written"], result["flagged"]) == (0, 4, {})


@pytest.mark.integration
def test_every_element_and_every_byte(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    planter = Planter()
    plant_dicom(tmp_path / "in" / "Zqxvkj" / "Zqxvkj.dcm", planter, SMOOTH)
    code, told, err = run(capsys, tmp_path / "in", tmp_path / "out", "--key", tmp_path / "k", "--burned-in", "keep", "--clean-descriptors")
    assert code == 0, err
    assert leaks((told + err).encode(), MARK) == []
    assert leaks_below(tmp_path / "out", MARK, *planter.days[:40], "987654321") == {}
    assert len(list((tmp_path / "out").rglob("*.dcm"))) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["absent", "out"], "is no folder"),
        (["in", "in/out"], "lie in each other"),
        (["in", "."], "lies inside|lie in each other"),
        (["in", "file.txt"], "is a file"),
        (["in", "full"], "holds other files"),
        (["empty", "out"], "is empty"),
        (["in", "out", "--blacken", "1,2,3"], "is not left,top,right,bottom"),
        (["in", "out", "--blacken", "9,0,3,5"], "is empty"),
        (["in", "out", "--key", "in/k"], "lies inside in"),
        (["in", "out", "--key", "open.key"], "may be read by others"),
        (["in", "out", "--key", "short.key"], "holds no key"),
        (["in", "out", "--key", "in"], "lies inside in"),
        (["in", "out", "--failures", "out/list.txt"], "lies inside out"),
        (["in", "out", "--data.seed=1"], "belongs to a recipe"),
        (["in", "began"], "another dates"),
    ],
)
def test_mistakes_are_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("in", "empty", "full"):
        Path(name).mkdir()
    write_dicom(Path("in/a.dcm"), SMOOTH)
    Path("file.txt").write_text("x")
    Path("full/x").write_text("x")
    for name, text, mode in [("open.key", "0" * 64, 0o644), ("short.key", "0" * 62, 0o600), ("good.key", "0" * 64, 0o600)]:
        Path(name).write_text(text)
        Path(name).chmod(mode)
    assert main(["data", "deidentify", "in", "began", "--key", "good.key", "--dates", "full"]) == 0
    capsys.readouterr()
    code, out, err = run(capsys, *arguments, *([] if "--key" in arguments else ["--key", "good.key"]))
    assert (code, out) == (2, "")
    (line,) = [line for line in err.splitlines() if line.startswith("osler:")]

    assert re.search(message, line), line


def test_a_key_is_made_once_and_for_its_owner(tmp_path: Path) -> None:
    key = load_key(tmp_path / "folder" / "k.key")
    assert load_key(tmp_path / "folder" / "k.key") == key
    assert load_key(tmp_path / "other.key") != key
    assert stat.S_IMODE((tmp_path / "folder" / "k.key").stat().st_mode) == 0o600
    assert key.secret.hex() not in repr(key)
    assert sorted(path.name for path in (tmp_path / "folder").iterdir()) == ["k.key"]
    with pytest.raises((ConfigError, DataError)):
        load_key(tmp_path)


def test_keyed_names() -> None:
    """HMAC-SHA-256 of RFC 4231, test case 2, and what Osler makes of it."""
    key = Key(secret=b"Jefe")

    assert key.digest("uid", "1.2.3") == hmac.new(b"Jefe", b"uid\x001.2.3", hashlib.sha256).hexdigest()
    assert key.name("image", "a") == key.digest("image", "a")[:20]
    assert key.name("image", "a") != key.name("sample", "a")
    assert len({key.shift(str(patient)) for patient in range(200)}) > 150


FACES = [ImageFont.load_default(size) for size in (12, 24, 48)]


@pytest.mark.parametrize("face", FACES, ids=["12", "24", "48"])
@pytest.mark.parametrize(("ground", "ink"), [(0, 255), (60, 200), (230, 20)], ids=["white on black", "grey", "dark on light"])
def test_text_is_found(face: ImageFont.FreeTypeFont, ground: int, ink: int) -> None:
    picture = Image.new("L", (512, 200), ground)
    ImageDraw.Draw(picture).text((20, 60), "SMITH JOHN", fill=ink, font=face)
    (line, *_) = find_text(picture)
    assert line.num_letters >= 4
    assert (line.left >= 15, line.top >= 55, line.bottom <= 130) == (True, True, True)


def noise(spread: float) -> Image.Image:
    values = np.random.default_rng(0).normal(100, spread, (256, 256))
    return Image.fromarray(values.clip(0, 255).astype(np.uint8))


@pytest.mark.parametrize(
    "picture",
    [Image.new("L", (64, 64)), Image.new("L", (3, 3)), Image.fromarray((SMOOTH // 12).astype(np.uint8)), noise(5), noise(25)],
    ids=["black", "tiny", "gradient", "noise", "strong noise"],
)
def test_no_text_is_found(picture: Image.Image) -> None:
    assert find_text(picture) == ()


@pytest.mark.parametrize(
    ("header", "signs"),
    [
        ({}, ()),
        ({"BurnedInAnnotation": "YES"}, ("burned-in annotation",)),
        ({"RecognizableVisualFeatures": "YES"}, ("recognizable visual features",)),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.7"}, ("secondary capture",)),
        ({"Modality": "US"}, ("ultrasound",)),
        ({"Modality": "US", "BurnedInAnnotation": "NO"}, ()),
        ({"ImageType": ["DERIVED", "SECONDARY", "SCREEN SAVE"], "BurnedInAnnotation": "NO"}, ("screen image",)),
    ],
)
def test_signs_of_a_header(header: dict, signs: tuple[str, ...]) -> None:
    assert header_signs(header) == signs
