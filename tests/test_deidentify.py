"""De-identified DICOM: the standard's table is whole, and what is planted into every element is found nowhere."""

import io
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from planted import CT_STORAGE, MARK, Planter, leaks, plant_dicom
from pydicom import Dataset, dcmread
from pydicom.datadict import dictionary_VR, keyword_for_tag
from pydicom.uid import JPEG2000Lossless
from small_dicom import item, sequence, write_dicom

from osler.data.privacy.context import context_of
from osler.data.privacy.deidentify import DeidentifyOptions, deidentify, patient_of, pseudonym
from osler.data.privacy.keys import MAX_SHIFT, Key
from osler.data.privacy.profile import Action, Option, code_terms, load_profile
from osler.data.privacy.values import age_at, cap_age, clean_words, move_date
from osler.images.dicom_header import DicomError

KEY = Key(secret=b"k" * 32)
OTHER_KEY = Key(secret=b"o" * 32)
OPTIONS = DeidentifyOptions(key=KEY)
EVERYTHING = replace(OPTIONS, clean_descriptors=True, patient_characteristics=True)


def saved(dataset: Dataset) -> bytes:
    stream = io.BytesIO()
    dataset.save_as(stream, enforce_file_format=True, implicit_vr=False, little_endian=True)
    return stream.getvalue()


def test_the_table_is_whole() -> None:
    """Edition 2026c: 652 attributes and three repeating groups, each known to pydicom or newer than its dictionary."""
    profile = load_profile()
    rules = [*profile.by_tag.values(), *profile.repeating.values()]
    stated = {"X": 415, "D": 93, "U": 55, "Z": 42, "X/D": 23, "X/Z": 11, "X/Z/D": 8, "Z/D": 6, "X/Z/U*": 2}
    assert Counter(rule.stated for rule in rules) == stated
    assert len(profile.by_tag) == 652
    assert len(profile.repeating) == 3
    for tag, rule in profile.by_tag.items():
        assert keyword_for_tag(tag) == (rule.keyword if rule.keyword != "-" else ""), hex(tag)
        assert (Option.DATES in rule.options) <= (rule.keyword == "-" or dictionary_VR(tag) in ("DA", "DT", "TM"))


@pytest.mark.parametrize(
    ("tag", "stated", "action", "options"),
    [
        (0x00100010, "Z", Action.EMPTY, set()),  # Patient's Name
        (0x00100020, "Z/D", Action.DUMMY, set()),
        (0x00100030, "Z", Action.EMPTY, set()),  # Patient's Birth Date never stays
        (0x00080020, "Z", Action.EMPTY, {Option.DATES}),  # Study Date
        (0x0008002A, "X/Z/D", Action.DUMMY, {Option.DATES}),
        (0x0008103E, "X", Action.REMOVE, {Option.DESCRIPTORS}),  # Series Description
        (0x00101010, "X", Action.REMOVE, {Option.CHARACTERISTICS}),  # Patient's Age
        (0x00080018, "U", Action.UID, set()),  # SOP Instance UID
        (0x00081140, "X/Z/U*", Action.UID, set()),  # Referenced Image Sequence
        (0x50020010, "X", Action.REMOVE, set()),  # a curve
        (0x60083000, "X", Action.REMOVE, set()),  # an overlay
    ],
)
def test_rows_of_the_table(tag: int, stated: str, action: Action, options: set[Option]) -> None:
    rule = load_profile().find(tag)
    assert rule is not None
    assert (rule.stated, rule.action, set(rule.options)) == (stated, action, options)


@pytest.mark.parametrize("tag", [0x00280010, 0x00080060, 0x60003100, 0x00091001])
def test_what_the_table_does_not_name(tag: int) -> None:
    assert load_profile().find(tag) is None


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, Planter]:
    """A file with an identifier in every element, and what was planted."""
    path, planter = tmp_path_factory.mktemp("planted") / "a.dcm", Planter()
    plant_dicom(path, planter)
    content = path.read_bytes()
    assert len(planter.marks) > 7000
    assert {mark.lower() for mark in planter.marks} <= {found.decode().lower() for found in re.findall(rb"(?i)zqxvkj\d{5}k", content)}
    return content, planter


@pytest.mark.integration
@pytest.mark.parametrize(
    ("dates", "options"), [("removed", OPTIONS), ("modified", EVERYTHING), ("full", EVERYTHING)], ids=["basic", "modified", "full"]
)
def test_planted_identifiers_are_found_nowhere(planted: tuple[bytes, Planter], dates: str, options: DeidentifyOptions) -> None:
    before, planter = planted
    content = saved(deidentify(dcmread(io.BytesIO(before)), replace(options, dates=dates)))
    assert leaks(content, MARK, "987654321") == []
    cleaned = dcmread(io.BytesIO(content))
    days = KEY.shift(patient_of(dcmread(io.BytesIO(before))))
    moved = {move_date("DA", day, days) for day in planter.days} if dates == "modified" else set()
    if dates != "full":
        assert [day for day in planter.days if day.encode() in content and day not in moved] == []
    for keyword in ("PatientBirthDate", "OtherPatientIDs", "PatientComments", "EthnicGroup", "PatientAddress"):
        assert not cleaned.get(keyword), keyword
    assert not any(element.tag.is_private or element.tag.group in (0x5000, 0x6000, 0xFFFC) for element in cleaned)
    kept = {"PatientAge": "090Y", "PatientWeight": 71.5, "PatientSize": 1.83}
    expected = kept if options.patient_characteristics else dict.fromkeys(kept)
    assert {keyword: cleaned.get(keyword) for keyword in kept} == expected
    assert (cleaned.preamble, cleaned.Rows, cleaned.PixelSpacing) == (b"\0" * 128, 64, [1, 1])
    assert np.array_equal(cleaned.pixel_array, np.arange(64 * 64).reshape(64, 64) % 4096)


def test_it_says_what_was_done(tmp_path: Path) -> None:
    path = write_dicom(tmp_path / "a.dcm", np.zeros((4, 4), np.uint8), StudyDate="20200115")
    for options, codes in [
        (OPTIONS, ["113100"]),
        (replace(EVERYTHING, dates="modified"), ["113100", "113105", "113107", "113108"]),
        (replace(OPTIONS, dates="full", boxes=((0, 0, 2, 2),)), ["113100", "113101", "113106"]),
    ]:
        cleaned = deidentify(dcmread(path), options)
        assert [code.CodeValue for code in cleaned.DeidentificationMethodCodeSequence] == codes
        assert (cleaned.PatientIdentityRemoved, cleaned.PatientName) == ("YES", "")
        told = {"removed": "REMOVED", "modified": "MODIFIED", "full": "UNMODIFIED"}[options.dates]
        assert cleaned.LongitudinalTemporalInformationModified == told


def test_a_key_keeps_series_and_patients_together(tmp_path: Path) -> None:
    first = write_dicom(tmp_path / "a.dcm", np.zeros((4, 4), np.uint8), SeriesInstanceUID="1.2.3.4", StudyDate="20200115")
    second = write_dicom(tmp_path / "b.dcm", np.zeros((4, 4), np.uint8), SeriesInstanceUID="1.2.3.4", StudyDate="20200301")
    one, other, foreign = (
        deidentify(dcmread(path), DeidentifyOptions(key=key, dates="modified"))
        for path, key in [(first, KEY), (second, KEY), (first, OTHER_KEY)]
    )
    assert (one.SeriesInstanceUID, one.PatientID) == (other.SeriesInstanceUID, other.PatientID)
    assert one.SOPInstanceUID != other.SOPInstanceUID
    assert one.SeriesInstanceUID.startswith("2.25.")
    assert one.SeriesInstanceUID.is_valid
    assert one.SeriesInstanceUID != foreign.SeriesInstanceUID
    assert one.PatientID != foreign.PatientID
    days = [np.datetime64(f"{day[:4]}-{day[4:6]}-{day[6:]}") for day in (one.StudyDate, other.StudyDate)]
    assert days[1] - days[0] == np.timedelta64(46, "D")
    assert 1 <= (np.datetime64("2020-01-15") - days[0]).astype(int) <= MAX_SHIFT


CODE = {"CodeValue": "T-D3000", "CodingSchemeDesignator": "SRT", "CodeMeaning": "Zqxvkj Chest of Mr Smith"}


@pytest.mark.parametrize(
    ("elements", "keyword", "kept"),
    [
        ({"BodyPartExamined": "CHEST"}, "BodyPartExamined", "CHEST"),
        ({"BodyPartExamined": "SMITH"}, "BodyPartExamined", ""),
        ({"ImageType": ["ORIGINAL", "PRIMARY", "SMITH"]}, "ImageType", ["ORIGINAL", "PRIMARY", ""]),
        ({"RescaleType": "HU"}, "RescaleType", "HU"),
        ({"RescaleType": "SMITH"}, "RescaleType", ""),
        ({"Laterality": "L"}, "Laterality", "L"),
        ({"Manufacturer": "SMITH"}, "Manufacturer", ""),
        ({"SeriesDescription": "AX T2 Brain Smith 4711"}, "SeriesDescription", "ax t2 brain"),
        ({"PatientAge": "012M"}, "PatientAge", "012M"),
        ({"PatientBirthDate": "19500601", "StudyDate": "20200531"}, "PatientAge", "069Y"),
        ({"PatientBirthDate": "19200601", "StudyDate": "20200531"}, "PatientAge", "090Y"),
        ({"ReferencedSOPClassUID": CT_STORAGE}, "ReferencedSOPClassUID", CT_STORAGE),
    ],
)
def test_values_that_stay(tmp_path: Path, elements: dict, keyword: str, kept: object) -> None:
    path = write_dicom(tmp_path / "a.dcm", np.zeros((4, 4), np.uint8), **elements)
    cleaned = deidentify(dcmread(path), replace(EVERYTHING, dates="full"))
    assert cleaned.get(keyword) == kept


def test_codes_keep_the_meaning_of_the_standard(tmp_path: Path) -> None:
    unknown = item(CodeValue="Zqxvkj", CodingSchemeDesignator="99LOCAL", CodeMeaning="Zqxvkj")
    path = write_dicom(tmp_path / "a.dcm", np.zeros((4, 4), np.uint8), AnatomicRegionSequence=sequence(item(**CODE), unknown))
    (code,) = deidentify(dcmread(path), OPTIONS).AnatomicRegionSequence
    assert (code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning) == ("51185008", "SCT", "Thoracic structure (body structure)")


def test_nothing_hides_beside_the_pixels(tmp_path: Path) -> None:
    """An overlay in unused bits, and a comment within a compressed frame."""
    stored = np.full((8, 8), 0xF123, np.uint16)
    cleaned = deidentify(dcmread(write_dicom(tmp_path / "a.dcm", stored, BitsStored=12)), OPTIONS)
    assert set(cleaned.PixelData) == {0x23, 0x01}
    signed = np.array([[-1, -1024], [7, 2047]], np.int16)
    cleaned = deidentify(dcmread(write_dicom(tmp_path / "b.dcm", signed & 0x0FFF, BitsStored=12, PixelRepresentation=1)), OPTIONS)
    assert np.array_equal(cleaned.pixel_array, signed)
    dataset = dcmread(write_dicom(tmp_path / "c.dcm", (np.arange(4096) % 4096).astype(np.uint16).reshape(64, 64)))
    dataset.compress(JPEG2000Lossless, generate_instance_uid=False)
    at = dataset.PixelData.index(b"\xff\x52")  # the marker segment COD: a comment (COM) may stand before it
    comment = b"\xff\x64\x00\x0c\x00\x01Zqxvkj-j"
    start = dataset.PixelData.index(b"\xff\x4f\xff\x51")
    frame = dataset.PixelData[start:at] + comment + dataset.PixelData[at:].rstrip(b"\0")
    from pydicom.encaps import encapsulate

    dataset.PixelData = encapsulate([frame[: frame.rindex(b"\xff\xd9") + 2]])
    dataset.save_as(tmp_path / "d.dcm", enforce_file_format=True)
    assert b"Zqxvkj-j" in (tmp_path / "d.dcm").read_bytes()
    cleaned = deidentify(dcmread(tmp_path / "d.dcm"), OPTIONS)
    assert b"Zqxvkj" not in saved(cleaned)
    assert np.array_equal(cleaned.pixel_array, np.arange(4096).reshape(64, 64))


def test_the_elements_of_an_emptied_header_come_from_the_file_meta(tmp_path: Path) -> None:
    """The published body CT series has no SOP UIDs in its data set."""
    dataset = dcmread(write_dicom(tmp_path / "a.dcm", np.zeros((4, 4), np.uint8)))
    dataset.SOPClassUID, dataset.SOPInstanceUID = "", ""
    cleaned = deidentify(dataset, OPTIONS)
    assert (cleaned.SOPClassUID, cleaned.file_meta.MediaStorageSOPInstanceUID) == (CT_STORAGE, cleaned.SOPInstanceUID)


@pytest.mark.parametrize(
    ("one", "other", "is_same"),
    [
        ({"PatientID": "7"}, {"PatientID": "7", "PatientName": "Smith"}, True),
        ({"PatientID": "7"}, {"PatientID": "8"}, False),
        ({"PatientID": "7", "IssuerOfPatientID": "a"}, {"PatientID": "7", "IssuerOfPatientID": "b"}, False),
        ({"PatientName": "Smith"}, {"PatientName": "SMITH", "StudyInstanceUID": "1.2"}, True),
        ({"PatientName": "Smith"}, {"PatientName": "Smith", "PatientBirthDate": "19470311"}, False),
        ({"StudyInstanceUID": "1.2"}, {"StudyInstanceUID": "1.2", "PatientName": ""}, True),
        ({"FrameOfReferenceUID": "1.2"}, {"FrameOfReferenceUID": "1.2"}, True),
        ({"SOPInstanceUID": "1.2"}, {"SOPInstanceUID": "1.3"}, False),
    ],
)
def test_who_is_one_patient(one: dict, other: dict, is_same: bool) -> None:
    assert (pseudonym(item(**one), KEY) == pseudonym(item(**other), KEY)) is is_same


GREY, RGB = np.arange(1, 65, dtype=np.uint8).reshape(8, 8), np.full((8, 8, 3), 9, np.uint8)
COLOUR = {"SamplesPerPixel": 3, "PhotometricInterpretation": "RGB"}


@pytest.mark.parametrize(
    ("stored", "elements", "black"),
    [
        (GREY, {}, 1),
        (GREY, {"PhotometricInterpretation": "MONOCHROME1"}, 64),
        (np.stack([GREY, GREY]), {}, 1),
        (RGB, COLOUR | {"PlanarConfiguration": 0}, 0),
        (np.moveaxis(RGB, 2, 0).reshape(8, 8, 3), COLOUR | {"PlanarConfiguration": 1}, 0),
    ],
)
def test_boxes_are_blackened(tmp_path: Path, stored: np.ndarray, elements: dict, black: int) -> None:
    path = write_dicom(tmp_path / "a.dcm", stored, **elements)
    shown = deidentify(dcmread(path), replace(OPTIONS, boxes=((2, 0, 99, 3),))).pixel_array
    shown = shown.reshape(-1, 8, 8, shown.shape[-1]) if shown.shape[-1] == 3 else shown.reshape(-1, 8, 8, 1)
    before = dcmread(path).pixel_array.reshape(shown.shape)
    assert (shown[:, :3, 2:] == black).all()
    assert np.array_equal(shown[:, 3:], before[:, 3:])
    assert np.array_equal(shown[:, :3, :2], before[:, :3, :2])


def test_only_ultrasound_regions_stay(tmp_path: Path) -> None:
    region = item(RegionLocationMinX0=2, RegionLocationMinY0=3, RegionLocationMaxX1=5, RegionLocationMaxY1=7)
    path = write_dicom(tmp_path / "a.dcm", RGB, **COLOUR, PlanarConfiguration=0, SequenceOfUltrasoundRegions=sequence(region))
    shown = deidentify(dcmread(path), replace(OPTIONS, outside_regions=True)).pixel_array
    expected = np.zeros_like(RGB)
    expected[3:8, 2:6] = 9
    assert np.array_equal(shown, expected)


@pytest.mark.parametrize(
    ("stored", "elements", "options", "message"),
    [
        (None, {}, OPTIONS, "without pixels"),
        (GREY, {"SOPClassUID": "1.2.3.4"}, OPTIONS, "a private kind"),
        (GREY, {"PixelData": b"\0\0"}, OPTIONS, "cannot be decoded"),
        (GREY, {}, replace(OPTIONS, outside_regions=True), "names no ultrasound regions"),
        (GREY, {"PhotometricInterpretation": "PALETTE COLOR"}, replace(OPTIONS, boxes=((0, 0, 1, 1),)), "cannot be blackened"),
    ],
)
def test_what_is_refused(tmp_path: Path, stored: np.ndarray | None, elements: dict, options: DeidentifyOptions, message: str) -> None:
    path = write_dicom(tmp_path / "a.dcm", stored, **elements)
    with pytest.raises(DicomError, match=message) as raised:
        deidentify(dcmread(path), options)
    assert "SECRET" not in str(raised.value)


@pytest.mark.parametrize(
    ("elements", "fields"),
    [
        ({"PatientAge": "063Y", "PatientSex": "F"}, {"age": "63 years", "sex": "female"}),
        ({"PatientAge": "095Y", "PatientSex": "SMITH"}, {"age": "90 years or older"}),
        ({"PatientAge": "001M", "ImageLaterality": "R"}, {"age": "1 month", "laterality": "right"}),
        ({"PatientAge": "090Y", "PatientSex": "O", "Laterality": "B"},
         {"age": "90 years or older", "sex": "other", "laterality": "bilateral"}),
        ({"PatientAge": "089Y", "PatientSex": "M", "Laterality": "U"}, {"age": "89 years", "sex": "male"}),
        ({"PatientBirthDate": "20200101", "StudyDate": "20200111"}, {"age": "10 days"}),
        ({"PatientBirthDate": "20200101", "StudyDate": "19990111"}, {}),
        ({"Laterality": "SMITH", "PatientName": "Smith"}, {}),
        ({"ReasonForStudy": "Chest pain, Dr Smith 4711, rule out pneumonia"}, {"indication": "chest pain rule out pneumonia"}),
    ],
)  # fmt: skip
def test_context_of_a_header(elements: dict, fields: dict) -> None:
    assert context_of(item(**elements), clean_descriptors=True).values == fields
    assert context_of(item(**elements)).indication is None


@pytest.mark.parametrize(
    ("made", "expected"),
    [
        (cap_age("089Y"), "089Y"),
        (cap_age("090Y"), "090Y"),
        (cap_age("1200"), None),
        (cap_age("999M"), "999M"),
        (age_at("20000229", "20010228"), "011M"),
        (age_at("2000.02.29", "20200301"), "020Y"),
        (move_date("DA", "20200301", 1), "20200229"),
        (move_date("DA", "Smith", 1), None),
        (move_date("DT", "20200301101112.5+0100", 1), "20200229101112.5"),
        (move_date("TM", "101112", 5), "101112"),
        (move_date("TM", "Smith", 5), None),
        (move_date("DA", "00010101", 5), None),
        (clean_words("T1 post contrast AXIAL ^Meyer^ 19470311"), "t1 post contrast axial"),
    ],
)
def test_values(made: str | None, expected: str | None) -> None:
    assert made == expected


def test_terms_of_the_standard() -> None:
    terms = code_terms()
    assert len(terms) > 570
    assert {"L", "R", "B", "U"} == terms["Laterality"]
    assert {"CT", "MR", "US", "CR"} <= terms["Modality"]
