"""Every DICOM file of pydicom's wheel is read or refused by its reason; damaged and hostile files are one line."""

import pickle
import sys
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.uid import JPEG2000Lossless, JPEGBaseline8Bit, JPEGLSLossless, RLELossless
from small_dicom import item, sequence, write_dicom

from osler.errors import ConfigError, DataError, MissingExtra
from osler.images.dicom import DicomFrame
from osler.images.files import ImageFile, verify

HU = {"RescaleSlope": 1, "RescaleIntercept": -1024, "RescaleType": "HU"}
RED_GREEN = np.array([[[255, 0, 0], [0, 255, 0]]], np.uint8)
COLOUR = {"SamplesPerPixel": 3, "PlanarConfiguration": 0, "PhotometricInterpretation": "RGB"}
PALETTE = {f"{colour}PaletteColorLookupTableDescriptor": [3, 5, 16] for colour in ("Red", "Green", "Blue")}
TWO = {"WindowCenter": [100, 40], "WindowWidth": [200, 80]}

GREY = np.zeros((2, 2), np.uint8)


@pytest.mark.parametrize(
    ("stored", "elements", "message"),
    [
        (None, {}, "is a DICOM file without pixels"),
        (GREY, {"Rows": None}, "has no Rows"),
        (GREY, {"Rows": 0}, "has 2 x 0 pixels"),
        (GREY, {"NumberOfFrames": 2_000_000_000}, "has 2,000,000,000 frames, more than"),
        (GREY, {"Rows": 60000, "Columns": 60000}, "has 60000 x 60000 pixels, more than"),
        (GREY, {"Rows": 201, "Columns": 1}, "too narrow for any model"),
        (GREY, {"PixelSpacing": [1, 1000]}, "cannot be made square"),
        (GREY, {"PixelSpacing": [float("inf"), 1]}, "a PixelSpacing that is no finite number"),
        (GREY, {"PhotometricInterpretation": "YBR_PARTIAL_420", "SamplesPerPixel": 3}, "the photometric interpretation YBR_PARTIAL_420"),
        (GREY, {"PhotometricInterpretation": "SECRET NAME"}, "the photometric interpretation unknown"),
        (GREY, {"PhotometricInterpretation": None}, "the photometric interpretation missing"),
        (GREY, {"SamplesPerPixel": 3, "PlanarConfiguration": 0}, "3 samples per pixel, which MONOCHROME2 does not allow"),
        (GREY, {"BitsStored": 9}, "stores 9 of 8 bits"),
        (GREY, {"BitsStored": 4, "HighBit": 2}, "has the high bit 2"),
        (GREY, {"PixelPresentation": "COLOR"}, "supplemental palette"),
        (GREY, {"PhotometricInterpretation": "PALETTE COLOR"}, "has no red palette"),
        (
            GREY,
            {"PhotometricInterpretation": "PALETTE COLOR"} | PALETTE | {"RedPaletteColorLookupTableData": b"ab"},
            "shorter than it says",
        ),
        (GREY, {"PixelData": b"\0\0"}, r"pixels \(Explicit VR Little Endian\) that cannot be decoded"),
        (GREY, {"VOILUTSequence": sequence(item(LUTDescriptor=[9, 0, 16], LUTData=b"ab"))}, "does not fit its descriptor"),
        (GREY, {"VOILUTSequence": sequence(item(LUTDescriptor=[9, 0, 16]))}, "without a descriptor or data"),
        (RED_GREEN, COLOUR | {"window": "40/400"}, "has colours, but a window is for greyscale"),
    ],
)
def test_a_file_that_cannot_be_read_is_one_line(tmp_path: Path, stored: np.ndarray | None, elements: dict, message: str) -> None:
    elements = dict(elements)
    window = elements.pop("window", None)
    write_dicom(tmp_path / "a.dcm", stored, **elements)
    with pytest.raises(DataError, match=message) as caught:
        DicomFrame(root=tmp_path, path="a.dcm", window=window).load()
    assert str(caught.value).startswith("image 'a.dcm' ")
    assert str(caught.value).isprintable()
    assert "SECRET" not in str(caught.value)


MPEG4 = "1.2.840.10008.1.2.4.102"


@pytest.mark.parametrize(
    ("syntax", "content", "message"),
    [
        (MPEG4, b"\0" * 8, "stores its pixels as MPEG-4 AVC/H.264 High Profile / Level 4.1, which Osler does not read"),
        ("1.2.3.4.5", b"\0" * 8, "stores its pixels as a private transfer syntax"),
        (JPEG2000Lossless, b"\xff\x4f\xff\x51\0\x2f\0\0" + np.array([60000, 60000, 0, 0], ">u4").tobytes() + b"\0" * 64, "60000 x 60000"),
        (JPEGBaseline8Bit, b"\xff\xd8\xff\xc0\0\x11\x08\xea\x60\xea\x60\x01" + b"\0" * 64, "60000 x 60000"),
        (JPEGLSLossless, b"\xff\xd8\xff\xf7\0\x0b\x08\xea\x60\xea\x60\x01" + b"\0" * 64, "60000 x 60000"),
        (RLELossless, b"\0" * 100, "cannot be decoded"),
    ],
)
def test_compressed_pixels_are_not_trusted(tmp_path: Path, syntax: str, content: bytes, message: str) -> None:
    write_dicom(tmp_path / "a", GREY, pixels=pydicom.encaps.encapsulate([content]), syntax=syntax)
    with pytest.raises(DataError, match=message):
        ImageFile(root=tmp_path, path="a").load()


def test_a_meta_header_of_wrong_lengths_is_one_line(tmp_path: Path) -> None:
    content = bytearray(write_dicom(tmp_path / "a", GREY).read_bytes())
    content[138:140] = (3).to_bytes(2, "little")  # the length of the group length, which is a number of 4 bytes
    (tmp_path / "a").write_bytes(content)
    assert "damaged header (BytesLengthException)" in str(verify(ImageFile(root=tmp_path, path="a")))


@pytest.mark.parametrize("keyword", ["WindowCenter", "RescaleSlope", "PixelSpacing", "NumberOfFrames", "PixelPaddingValue"])
def test_what_a_damaged_element_holds_is_never_repeated(tmp_path: Path, caplog: pytest.LogCaptureFixture, keyword: str) -> None:
    path = write_dicom(
        tmp_path / "a", GREY, **{keyword: "1" if keyword == "NumberOfFrames" else [1, 1] if keyword == "PixelSpacing" else 1}
    )
    element = pydicom.dcmread(path)
    element.add_new(keyword, "LO", "SECRET^NAME")
    element.save_as(path)
    caplog.clear()
    fault = verify(ImageFile(root=tmp_path, path="a"), decode=True)
    assert f"a {keyword} that is no" in str(fault)
    assert "SECRET" not in str(fault)
    assert not caplog.records


def test_a_deflated_bomb_is_not_inflated(tmp_path: Path) -> None:
    path = write_dicom(tmp_path / "a", GREY, syntax=pydicom.uid.DeflatedExplicitVRLittleEndian)
    assert (np.asarray(ImageFile(root=tmp_path, path=path.name).load()) == 0).all()
    content = path.read_bytes()
    end = 144 + int.from_bytes(content[140:144], "little")
    squeeze = zlib.compressobj(1, wbits=-15)
    head = squeeze.compress(zlib.decompress(content[end:], -15))
    path.write_bytes(content[:end] + head + b"".join(squeeze.compress(b"\0" * (1 << 24)) for _ in range(40)) + squeeze.flush())
    with pytest.raises(DataError, match="larger than 536,870,912 bytes when it is inflated"):
        ImageFile(root=tmp_path, path="a").check_header()


def test_a_damaged_file_is_a_picture_or_one_line(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    files = [
        "MR_small.dcm",
        "MR_small_RLE.dcm",
        "MR_small_jpeg_ls_lossless.dcm",
        "JPGExtended.dcm",
        "examples_palette.dcm",
        "MR_small_jp2klossless.dcm",
    ]
    for name in files:
        content = np.frombuffer((PYDICOM / "test_files" / name).read_bytes(), np.uint8)
        for _ in range(15):
            damaged = content.copy()
            damaged[rng.integers(0, min(len(content), rng.choice([2000, len(content)])), 4)] = rng.integers(0, 256, 4)
            (tmp_path / "damaged").write_bytes(damaged.tobytes()[: rng.choice([len(content), rng.integers(140, len(content))])])
            fault = verify(ImageFile(root=tmp_path, path="damaged"), decode=True)
            assert fault is None or fault.isprintable()


def test_without_pydicom_one_line_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_dicom(tmp_path / "a", GREY)
    monkeypatch.setitem(sys.modules, "pydicom.errors", None)  # an import of it fails now
    with pytest.raises(MissingExtra, match=r"pydicom is not installed: pip install 'osler\[medical\]'"):
        ImageFile(root=tmp_path, path="a").load()


# ---- the source


def test_a_frame_is_small_travels_and_has_a_name(tmp_path: Path) -> None:
    write_dicom(tmp_path / "a.dcm", np.zeros((3, 2, 2), np.uint16), **HU)
    whole = DicomFrame(root=tmp_path, path="./a.dcm")
    other = DicomFrame(root=tmp_path, path="a.dcm", frame=2, window="lung")
    assert (whole.uri, other.uri) == ("a.dcm", "a.dcm?frame=2&window=lung")
    assert pickle.loads(pickle.dumps(other)) == other
    assert whole.digest() == ImageFile(root=tmp_path, path="a.dcm").digest()
    sources = (whole, other, DicomFrame(root=tmp_path, path="a.dcm", frame=2), DicomFrame(root=tmp_path, path="a.dcm", window="lung"))
    assert len({source.digest() for source in sources}) == len(set(sources)) == 4


@pytest.mark.parametrize(
    ("path", "message"), [("/etc/passwd", "relative"), ("../a", "relative"), ("absent", "does not exist"), ("png", "is no DICOM")]
)
def test_the_path_is_checked_as_that_of_any_image(tmp_path: Path, path: str, message: str) -> None:
    (tmp_path / "png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"\0" * 200)
    with pytest.raises(DataError, match=message):
        DicomFrame(root=tmp_path, path=path).load()
    with pytest.raises(ConfigError, match="is negative"):
        DicomFrame(root=tmp_path, path="a", frame=-1)


def test_threads_read_side_by_side(tmp_path: Path) -> None:
    """Warnings of pydicom are hidden while any thread reads, and shown again after the last one."""
    import warnings

    sources = [ImageFile(root=PYDICOM / "test_files", path="MR_small_padded.dcm")] * 24
    before = list(warnings.filters)
    with ThreadPoolExecutor(4) as pool:
        pictures = list(pool.map(lambda source: source.load().tobytes(), sources))
    assert len(set(pictures)) == 1
    assert warnings.filters == before


# ---- every file of pydicom's wheel

PYDICOM = Path(pydicom.__file__).parent / "data"
NO_IMAGE, NO_PIXELS = "is not an image that Osler reads", "is a DICOM file without pixels"
NO_MARK = "is a DICOM file without the 128 bytes"
REFUSED = {
    "test_files/JPEG-lossy.dcm": r"pixels \(JPEG Extended .* that cannot be decoded",  # a spectral selection that its process forbids
    "test_files/JPEG2000-embedded-sequence-delimiter.dcm": "compressed pixels of 3722445056 x 1024",  # bytes were put into it
    "test_files/MR_truncated.dcm": "cannot be decoded",
    "test_files/badVR.dcm": "a NumberOfFrames that is no integer",  # "1A"
    "test_files/meta_missing_tsyntax.dcm": "does not say its transfer syntax",
    "test_files/nested_priv_SQ.dcm": "has no Rows",
}
BEGINS_AS_DICOM = ("ExplVR_LitEndNoMeta.dcm", "rtstruct.dcm")  # no_meta.dcm has a space first
UNMARKED = ("ExplVR_BigEndNoMeta.dcm", "ExplVR_LitEndNoMeta.dcm", "no_meta.dcm", "rtstruct.dcm", "zipMR.gz", "crayons.icc")
FILES = sorted(path.relative_to(PYDICOM).as_posix() for path in PYDICOM.rglob("*") if path.is_file() and path.suffix not in (".py", ".pyc"))


@pytest.mark.integration
def test_every_file_of_pydicom_is_read_or_refused_by_its_reason() -> None:
    counts = dict.fromkeys(("read", NO_PIXELS, NO_IMAGE, "other"), 0)
    for name in FILES:
        source = ImageFile(root=PYDICOM, path=name)
        fault = verify(source, decode=True)
        content = (PYDICOM / name).read_bytes()
        if name in REFUSED:
            with pytest.raises(DataError, match=REFUSED[name]):
                source.load()
            counts["other"] += 1
        elif content[128:132] != b"DICM":
            assert (NO_MARK if name.endswith(BEGINS_AS_DICOM) else NO_IMAGE) in str(fault), name
            assert name.endswith((*UNMARKED, ".txt", ".md", ".json", ".dump", "README")), name
            counts[NO_IMAGE] += 1
        elif fault is None:
            assert source.load().size == source.read_size()
            counts["read"] += 1
        else:
            assert NO_PIXELS in fault, name
            assert not pydicom.dcmread(PYDICOM / name).keys() & {"PixelData", "FloatPixelData", "DoubleFloatPixelData"}
            counts[NO_PIXELS] += 1
    assert counts == {"read": 101, NO_PIXELS: 81, NO_IMAGE: 17, "other": 6} or pydicom.__version__ != "3.0.2"


SAME = {
    "MR_small.dcm": (0, "MR_small_RLE.dcm", "MR_small_bigendian.dcm", "MR_small_expb.dcm", "MR_small_implicit.dcm", "MR_small_padded.dcm",
                     "MR_small_jp2klossless.dcm", "MR_small_jpeg_ls_lossless.dcm"),
    "SC_rgb_rle.dcm": (5, "SC_rgb_dcmtk_+eb+cr.dcm", "SC_rgb_dcmtk_+eb+cy+n1.dcm", "SC_rgb_dcmtk_+eb+cy+n2.dcm", "SC_rgb_gdcm_KY.dcm",
                       "SC_rgb_dcmtk_+eb+cy+np.dcm", "SC_rgb_dcmtk_+eb+cy+s2.dcm", "SC_rgb_dcmtk_+eb+cy+s4.dcm", "SC_rgb_rle_16bit.dcm",
                       "SC_rgb_jpeg_dcmtk.dcm", "SC_rgb_jpeg_gdcm.dcm", "SC_rgb_jpeg_lossy_gdcm.dcm", "SC_rgb_rle_32bit.dcm",
                       "SC_rgb_jls_lossy_line.dcm", "SC_rgb_jls_lossy_sample.dcm", "SC_ybr_full_422_uncompressed.dcm"),
    "liver_1frame.dcm": (0, "liver_expb_1frame.dcm"),
    "rtdose_1frame.dcm": (0, "rtdose_expb_1frame.dcm", "rtdose_rle_1frame.dcm", "rtdose.dcm", "rtdose_rle.dcm", "rtdose_expb.dcm"),
    "SC_rgb_small_odd.dcm": (5, "SC_rgb_small_odd_big_endian.dcm", "SC_rgb_small_odd_jpeg.dcm"),
}  # fmt: skip


@pytest.mark.parametrize("name", SAME)
def test_one_picture_in_every_encoding_and_colour_space_is_one_picture(name: str) -> None:
    """Colours that were converted twice would be far away: the flat areas of these files are pure red, green, blue, yellow .."""
    distance, *others = SAME[name]
    shown = np.asarray(ImageFile(root=PYDICOM / "test_files", path=name).load()).astype(float)
    for other in others:
        same = np.asarray(ImageFile(root=PYDICOM / "test_files", path=str(other)).load())
        assert np.abs(shown - same).mean() <= distance, other


def expect(dataset: pydicom.Dataset) -> np.ndarray:
    """The first frame by pydicom's own arrays and the formulas of the standard, written here once more, in another way."""
    stored = dataset.pixel_array
    if dataset.get("NumberOfFrames", 1) > 1:
        stored = stored[0]
    if dataset.PhotometricInterpretation == "PALETTE COLOR":
        return pydicom.pixels.apply_color_lut(stored, dataset) / 257
    if dataset.SamplesPerPixel == 3:
        return np.rint(stored / (2.0**dataset.BitsStored - 1) * 255)
    values = stored * float(dataset.get("RescaleSlope", 1)) + float(dataset.get("RescaleIntercept", 0))
    low, high = values.min(), values.max()
    is_padding = stored == dataset.get("PixelPaddingValue", np.nan)
    if "WindowCenter" in dataset:
        center, width = (float(np.atleast_1d(dataset[keyword].value)[0]) for keyword in ("WindowCenter", "WindowWidth"))
        low, high = center - 0.5 - (width - 1) / 2, center - 0.5 + (width - 1) / 2
    elif dataset.BitsStored <= 8:
        low, high = 0, 2**dataset.BitsStored - 1
    elif is_padding.any():
        low, high = values[~is_padding].min(), values[~is_padding].max()
    tones = np.interp(values, [low, high], [0, 255])
    return np.where(is_padding, 0, 255 - tones if dataset.PhotometricInterpretation == "MONOCHROME1" else tones)


@pytest.mark.integration
@pytest.mark.filterwarnings("ignore::UserWarning:pydicom")
def test_every_picture_of_pydicom_is_that_of_the_standard() -> None:
    num_checked = 0
    for name in FILES:
        source = ImageFile(root=PYDICOM, path=name)
        if (PYDICOM / name).read_bytes()[128:132] != b"DICM" or verify(source, decode=True) is not None:
            continue
        shown = np.asarray(source.load()).astype(float)
        expected = expect(pydicom.dcmread(PYDICOM / name))
        if shown.shape[:2] != expected.shape[:2]:  # pixels that are not square: 98892001/CT2N
            assert "98892001/CT2N" in name
            continue
        if expected.ndim == 2:
            expected = np.repeat(expected[..., None], 3, axis=2)
        np.testing.assert_allclose(shown, expected, atol=0.501, err_msg=name)
        num_checked += 1
    assert num_checked >= 99
