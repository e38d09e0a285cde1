"""One frame of a DICOM file is the picture that the standard says, or one line that says why not."""

import math
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian, JPEG2000Lossless, JPEGLSLossless, RLELossless
from small_dicom import item, sequence, write_dicom

from osler.errors import ConfigError, DataError
from osler.images.dicom import DicomFrame
from osler.images.files import ImageFile
from osler.images.windows import PRESETS, VoiFunction, Window, apply_window, parse_windows

HU = {"RescaleSlope": 1, "RescaleIntercept": -1024, "RescaleType": "HU"}


def show(path: Path, window: str | None = None, frame: int = 0) -> np.ndarray:
    """The red channel of a frame; of greyscale the three are checked to be equal."""
    pixels = np.asarray(DicomFrame(root=path.parent, path=path.name, window=window, frame=frame).load())
    if window is None or "+" not in window:
        assert (pixels == pixels[..., :1]).all()
    return pixels[..., 0]


def linear(value: float, center: float, width: float) -> int:
    """PS3.3, C.11.2.1.2.1, value by value."""
    if value <= center - 0.5 - (width - 1) / 2:
        return 0
    if value > center - 0.5 + (width - 1) / 2:
        return 255
    return round(((value - (center - 0.5)) / (width - 1) + 0.5) * 255)


# ---- windows


@pytest.mark.parametrize(
    ("function", "width", "value", "tone"),
    [
        # PS3.3, C.11.2.1.2.1, note 2, by its own example: centre 2048, width 4096 is the identity of 12 bits.
        (VoiFunction.LINEAR, 4096, 0, 0),
        (VoiFunction.LINEAR, 4096, 4095, 255),
        (VoiFunction.LINEAR, 4096, 2048, (2048 - 2047.5) / 4095 * 255 + 127.5),
        (VoiFunction.LINEAR, 1, 2047, 0),  # note 3: a threshold
        (VoiFunction.LINEAR, 1, 2048, 255),
        (VoiFunction.LINEAR_EXACT, 4096, 2048, 127.5),
        (VoiFunction.LINEAR_EXACT, 4096, 0, 0),
        (VoiFunction.LINEAR_EXACT, 0.5, 2048.1, (0.1 / 0.5 + 0.5) * 255),
        (VoiFunction.SIGMOID, 100, 2048, 127.5),
        (VoiFunction.SIGMOID, 100, 2098, 255 / (1 + math.exp(-2))),
        (VoiFunction.SIGMOID, 1e-3, -1e9, 0),
    ],
)
def test_a_window_is_the_formula_of_the_standard(function: VoiFunction, width: float, value: float, tone: float) -> None:
    shown = apply_window(np.array([float(value)]), Window(center=2048, width=width, function=function))
    assert shown[0] == pytest.approx(tone, abs=1e-6)


@pytest.mark.parametrize("text", ["", "lungs", "LUNG", "40", "40/0", "40/400/1", "file:", "file:0", "lung+bone", "lung+", "nan/1", "a+b+c"])
def test_an_unknown_window_is_one_line(text: str) -> None:
    with pytest.raises(ConfigError, match="window"):
        parse_windows(text)


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_spans_its_hounsfield_units(tmp_path: Path, name: str) -> None:
    window = PRESETS[name]
    stored = np.arange(0, 4096, dtype=np.uint16).reshape(64, 64)
    shown = show(write_dicom(tmp_path / "a", stored, WindowCenter=0, WindowWidth=1, **HU), name)
    expected = [linear(value - 1024, window.center, window.width) for value in range(4096)]
    np.testing.assert_allclose(shown.ravel(), expected, atol=1)
    assert (shown.ravel() == expected).mean() > 0.99  # a half may round either way


def test_three_windows_are_three_channels(tmp_path: Path) -> None:
    path = write_dicom(tmp_path / "a", np.arange(0, 4096, 4, dtype=np.uint16).reshape(32, 32), **HU)
    pixels = np.asarray(DicomFrame(root=tmp_path, path="a", window="lung+mediastinum+40/400").load())
    for channel, window in enumerate(("lung", "mediastinum", "40/400")):
        assert (pixels[..., channel] == show(path, window)).all()


TWO = {"WindowCenter": [100, 40], "WindowWidth": [200, 80], "WindowCenterWidthExplanation": ["WIDE", "Narrow"]}


@pytest.mark.parametrize(
    ("elements", "window", "used"),
    [
        (TWO, None, (100, 200)),
        (TWO, "file:1", (100, 200)),
        (TWO, "file:2", (40, 80)),
        (TWO, "file:NARROW", (40, 80)),
        (TWO, "60/20", (60, 20)),
        ({"WindowCenter": [100, 40], "WindowWidth": [0, 80]}, None, (40, 80)),  # the first that the standard allows
        ({"WindowCenter": [100, 40], "WindowWidth": [200]}, None, (100, 200)),
        ({"WindowCenter": 100, "WindowWidth": 0}, None, (0.5, 256)),  # none: minimum to maximum, here 0 to 255
        ({"WindowCenter": None, "WindowWidth": None}, None, (0.5 + 127.5 - 0.5 + 0.0, 256)),
    ],
)
def test_the_window_that_is_meant_is_used(tmp_path: Path, elements: dict, window: str | None, used: tuple[float, float]) -> None:
    stored = np.arange(256, dtype=np.uint16).reshape(16, 16)
    shown = show(write_dicom(tmp_path / "a", stored, **elements), window)
    is_whole_range = used[1] == 256
    expected = [value if is_whole_range else linear(value, *used) for value in range(256)]
    np.testing.assert_allclose(shown.ravel(), expected, atol=1)


@pytest.mark.parametrize(
    ("elements", "window", "message"),
    [
        (HU | {"Modality": "MR"}, "lung", "is no CT in Hounsfield units, for which the window 'lung' is"),
        ({}, "lung", "is no CT in Hounsfield units"),  # no rescale
        (HU | {"RescaleType": "US"}, "bone", "is no CT in Hounsfield units"),
        (TWO, "file:3", "has no window 3: it has 2"),
        (TWO, "file:lung", "explains 0 of its 2 windows as 'lung'"),
        ({"WindowCenter": 1, "WindowWidth": 0}, "file:1", "a window of the width 0"),
        ({"WindowCenter": 1, "WindowWidth": 2, "VOILUTFunction": "CUBIC"}, None, "unknown VOI LUT function"),
        ({"RescaleSlope": 0, "RescaleIntercept": 1}, None, "a rescale slope of 0"),
    ],
)
def test_a_window_that_does_not_fit_is_one_line(tmp_path: Path, elements: dict, window: str | None, message: str) -> None:
    write_dicom(tmp_path / "a", np.arange(4, dtype=np.uint16).reshape(2, 2), **elements)
    with pytest.raises(DataError, match=message) as caught:
        DicomFrame(root=tmp_path, path="a", window=window).load()
    assert str(caught.value).startswith("image 'a' ")
    assert "\n" not in str(caught.value)


# ---- greyscale: what a stored value becomes

WINDOW = {"WindowCenter": 288, "WindowWidth": 176}
RAMP = np.array([[0, 100, 200, 255]], np.uint16)
LUT = item(LUTDescriptor=[4, 10, 16], LUTData=np.array([0, 65535, 32768, 16384], "<u2").tobytes())
LUT_8_IN_16 = item(LUTDescriptor=[4, 10, 8], LUTData=np.array([0, 255, 128, 64], "<u2").tobytes())
LUT_8 = item(LUTDescriptor=[4, 10, 8], LUTData=bytes([0, 255, 128, 64]))
LUT_AS_NUMBERS = item(LUTDescriptor=[4, 10, 8])
LUT_AS_NUMBERS.add_new("LUTData", "US", [0, 255, 128, 64])


@pytest.mark.parametrize(
    ("stored", "elements", "tones"),
    [
        pytest.param(RAMP, {}, [0, 100, 200, 255], id="minimum to maximum"),
        pytest.param(RAMP, {"PhotometricInterpretation": "MONOCHROME1"}, [255, 155, 55, 0], id="inverted"),
        pytest.param(
            RAMP,
            {"PhotometricInterpretation": "MONOCHROME1", "RescaleSlope": 0.684, "RescaleIntercept": 200} | WINDOW,
            [255 - linear(0.684 * value + 200, 288, 176) for value in (0, 100, 200, 255)],
            id="inverted after slope, intercept and window",
        ),
        pytest.param(RAMP, {"RescaleSlope": -1, "RescaleIntercept": 0}, [255, 155, 55, 0], id="negative slope"),
        pytest.param(np.array([[-2000, 0, 100, 60]], np.int16), {"PixelPaddingValue": -2000}, [0, 0, 255, 153], id="padding is outside"),
        pytest.param(
            np.array([[4095, 0, 100, 60]], np.uint16),
            {"PixelPaddingValue": 4095, "PhotometricInterpretation": "MONOCHROME1"},
            [0, 255, 0, 102],
            id="padding is black after the inversion too",
        ),
        pytest.param(
            np.array([[4095, 4090, 0, 100]], np.uint16),
            {"PixelPaddingValue": 4095, "PixelPaddingRangeLimit": 4089},
            [0, 0, 0, 255],
            id="a range of padding",
        ),
        pytest.param(np.array([[9, 9, 9, 9]], np.uint16), {"PixelPaddingValue": 9}, [0, 0, 0, 0], id="all padding"),
        pytest.param(np.array([[9, 9, 9, 9]], np.uint16), {}, [0, 0, 0, 0], id="constant"),
        pytest.param(np.array([[10, 20, 30, 40]], np.uint8), {}, [10, 20, 30, 40], id="8 bits as they are"),
        pytest.param(np.array([[10, 20, 30, 40]], np.uint8), {"RescaleSlope": 2}, [0, 85, 170, 255], id="8 bits with a slope"),
        pytest.param(np.array([[-128, 0, 127, 127]], np.int8), {}, [0, 128, 255, 255], id="signed 8 bits"),
        pytest.param(np.array([[0, 15, 7, 255]], np.uint8), {"BitsStored": 4}, [0, 255, 119, 255], id="4 of 8 bits"),
        pytest.param(
            np.array([[0x0FFF, 0x0001, 0xF7FF, 0xF800]], np.uint16),
            {"BitsStored": 12, "PixelRepresentation": 1, "WindowCenter": 0.5, "WindowWidth": 5},
            [linear(-1, 0.5, 5), linear(1, 0.5, 5), 255, 0],
            id="signed 12 bits, the 4 above them are not pixels",
        ),
        pytest.param(
            np.array([[0x0010, 0x0020, 0xFFF0, 0x000F]], np.uint16),
            {"BitsStored": 12, "HighBit": 15, "PixelRepresentation": 1},
            [170, 255, 0, 85],
            id="12 bits at the top of 16",
        ),
        pytest.param(np.array([[0, 1 << 31, 1 << 30, (1 << 32) - 1]], np.uint32), {}, [0, 128, 64, 255], id="32 bits"),
        pytest.param(np.array([[-(1 << 31), 0, 0, (1 << 31) - 1]], np.int32), {}, [0, 128, 128, 255], id="signed 32 bits"),
        pytest.param(np.array([[0.5, 1.5, np.nan, np.inf]], np.float32), {}, [0, 255, 0, 0], id="float"),
        pytest.param(np.array([[1e300, 0, -1e300, 5e299]]), {"DoubleFloatPixelPaddingValue": -1e300}, [255, 0, 0, 128], id="double"),
        pytest.param(
            np.array([[9, 10, 11, 99]], np.uint16), {"VOILUTSequence": sequence(LUT)} | WINDOW, [0, 0, 255, 64], id="VOI before windows",
        ),
        pytest.param(np.array([[9, 10, 11, 12]], np.uint16), {"VOILUTSequence": sequence(LUT_8_IN_16)}, [0, 0, 255, 128], id="8 in 16"),
        pytest.param(np.array([[9, 10, 11, 12]], np.uint16), {"VOILUTSequence": sequence(LUT_8)}, [0, 0, 255, 128], id="VOI, 8 bits"),
        pytest.param(np.array([[9, 10, 11, 12]], np.uint16), {"VOILUTSequence": sequence(LUT_AS_NUMBERS)}, [0, 0, 255, 128], id="VOI, US"),
        pytest.param(
            np.array([[9, 10, 11, 12]], np.uint16), {"ModalityLUTSequence": sequence(LUT)}, [0, 0, 255, 128], id="a modality table"
        ),
        pytest.param(
            np.array([[9, 10, 11, 12]], np.uint16),
            {"ModalityLUTSequence": sequence(LUT), "WindowCenter": 32768.5, "WindowWidth": 2},
            [0, 0, 255, 128],
            id="a window on a modality table",
        ),
        pytest.param(np.array([[0x1000, 0x0800, 0x1FFF, 0x10]], np.uint16), {"BitsStored": 12}, [0, 128, 255, 1], id="no overlay"),
    ],
)  # fmt: skip
def test_a_stored_value_becomes_the_right_tone(tmp_path: Path, stored: np.ndarray, elements: dict, tones: list[int]) -> None:
    np.testing.assert_allclose(show(write_dicom(tmp_path / "a", stored, **elements))[0], tones, atol=0.51)


IMPLICIT, EXPLICIT = ImplicitVRLittleEndian, ExplicitVRLittleEndian


@pytest.mark.parametrize(
    ("syntax", "stored", "first", "elements"),
    [
        (EXPLICIT, np.uint16([1014, 1015, 1016, 1017]), -10, HU),
        (IMPLICIT, np.uint16([1014, 1015, 1016, 1017]), -10, HU),  # unsigned pixels, but Hounsfield units are signed
        (IMPLICIT, np.int16([-10, -9, -8, -7]), -10, {}),
        (IMPLICIT, np.uint16([40000, 40001, 40002, 40003]), 40000, {}),
        (IMPLICIT, np.int16([-10, -9, -8, -7]), 40000, {"RescaleSlope": 1, "RescaleIntercept": 40010}),
        (IMPLICIT, np.int16([-10, -9, -8, -7]), 40000, {"table": True}),  # a modality table gives unsigned values
    ],
)
def test_the_first_value_of_a_voi_table_has_the_sign_of_its_input(
    tmp_path: Path, syntax: str, stored: np.ndarray, first: int, elements: dict
) -> None:
    table = item()
    table.add_new("LUTDescriptor", "SS" if first < 0 else "US", [4, first, 8])
    table.add_new("LUTData", "OW", bytes([0, 85, 170, 255]))
    elements = dict(elements)
    if elements.pop("table", False):
        modality = item()
        modality.add_new("LUTDescriptor", "SS", [4, -10, 16])
        modality.add_new("LUTData", "OW", np.arange(40000, 40004, dtype="<u2").tobytes())
        elements["ModalityLUTSequence"] = sequence(modality)
    write_dicom(tmp_path / "a", stored[None], syntax=syntax, VOILUTSequence=sequence(table), **elements)
    assert show(tmp_path / "a")[0].tolist() == [0, 85, 170, 255]


@pytest.mark.parametrize("value", [0, 1])
def test_one_bit_is_black_or_white(tmp_path: Path, value: int) -> None:
    packed = bytes([255 * value] * 8)
    elements = {"Rows": 8, "Columns": 8, "BitsAllocated": 1, "BitsStored": 1, "HighBit": 0}
    assert (show(write_dicom(tmp_path / "a", np.zeros((8, 8), np.uint8), pixels=packed, **elements)) == 255 * value).all()


def test_padding_of_the_wrong_type_is_padding(tmp_path: Path) -> None:
    """63536 as an unsigned number is -2000 in signed pixels: many scanners write it so."""
    path = write_dicom(tmp_path / "a", np.array([[-2000, 0, 100, 60]], np.int16))
    dataset = pydicom.dcmread(path)
    dataset.add_new("PixelPaddingValue", "US", 63536)
    dataset.save_as(path)
    assert show(path)[0].tolist() == [0, 0, 255, 153]


@pytest.mark.parametrize("syntax", [JPEG2000Lossless, JPEGLSLossless, RLELossless])
def test_ten_bits_are_ten_bits_in_every_compression(tmp_path: Path, syntax: str) -> None:
    """Pillow shifts JPEG 2000 of 10 bits to 16."""
    stored = np.arange(1024, dtype=np.uint16).reshape(32, 32)
    plain = write_dicom(tmp_path / "plain", stored, BitsStored=10)
    dataset = pydicom.dcmread(plain)
    dataset.compress(syntax)
    dataset.save_as(tmp_path / "compressed")
    for window in (None, "512/200"):
        np.testing.assert_array_equal(show(tmp_path / "compressed", window), show(plain, window))
    assert show(plain, "512/200").ravel().tolist() == [linear(value, 512, 200) for value in range(1024)]


def test_frames_have_their_own_slope_and_window(tmp_path: Path) -> None:
    """Integer values of an enhanced file mean something else in every frame: here 100 is 100, 50 and 1100."""

    def groups(slope: float, intercept: float, center: float) -> object:
        return item(
            PixelValueTransformationSequence=sequence(item(RescaleSlope=slope, RescaleIntercept=intercept, RescaleType="HU")),
            FrameVOILUTSequence=sequence(item(WindowCenter=center, WindowWidth=101)),
        )

    shared = item(PixelMeasuresSequence=sequence(item(PixelSpacing=[2, 1])))
    path = write_dicom(
        tmp_path / "a",
        np.full((3, 2, 2), 100, np.uint16),
        SharedFunctionalGroupsSequence=sequence(shared),
        PerFrameFunctionalGroupsSequence=sequence(groups(1, 0, 100.5), groups(0.5, 0, 75.5), groups(1, 1000, 1075.5)),
        RescaleSlope=7,
        RescaleIntercept=7,
    )
    assert [show(path, frame=frame)[0, 0] for frame in range(3)] == [
        linear(100, 100.5, 101),
        linear(50, 75.5, 101),
        linear(1100, 1075.5, 101),
    ]
    assert [show(path, "75.5/101", frame)[0, 0] for frame in range(3)] == [linear(value, 75.5, 101) for value in (100, 50, 1100)]
    assert show(path).shape == (4, 2)  # pixels twice as high as wide
    with pytest.raises(DataError, match="has no frame 3: it has 3, counted from 0"):
        show(path, frame=3)


# ---- colour

RED_GREEN = np.array([[[255, 0, 0], [0, 255, 0]]], np.uint8)
# Y, Cb, Cr of pure red and green by the equations of PS3.3, C.7.6.3.1.2.
YBR = np.array([[[76, 85, 255], [150, 44, 21]]], np.uint8)
EQUATIONS = np.array([[0.299, 0.587, 0.114], [-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]])


def deep_ybr(bits: int) -> np.ndarray:
    """Pure red and green in YBR_FULL of so many bits: no colour is half of the full scale."""
    top = (1 << bits) - 1
    values = RED_GREEN / 255 * top @ EQUATIONS.T + [0, 1 << bits - 1, 1 << bits - 1]
    return np.rint(values.clip(0, top)).astype(np.uint16)


PALETTE = {f"{colour}PaletteColorLookupTableDescriptor": [3, 5, 16] for colour in ("Red", "Green", "Blue")}
ENTRIES = {"Red": [65535, 0, 257], "Green": [0, 65535, 0], "Blue": [0, 0, 0]}
TABLES = {f"{colour}PaletteColorLookupTableData": np.array(entries, "<u2").tobytes() for colour, entries in ENTRIES.items()}
SEGMENTS = {"Red": [0, 2, 65535, 0, 1, 1, 257], "Green": [0, 1, 0, 1, 1, 65535, 1, 1, 0], "Blue": [0, 1, 0, 1, 2, 0]}
SEGMENTED = {f"Segmented{colour}PaletteColorLookupTableData": np.array(words, "<u2").tobytes() for colour, words in SEGMENTS.items()}
COLOUR = {"SamplesPerPixel": 3, "PlanarConfiguration": 0, "PhotometricInterpretation": "RGB"}


@pytest.mark.parametrize(
    ("stored", "elements", "colours"),
    [
        pytest.param(RED_GREEN, COLOUR, RED_GREEN[0], id="rgb"),
        pytest.param(RED_GREEN.astype(np.uint16) * 257, COLOUR, RED_GREEN[0], id="16 bits"),
        pytest.param(RED_GREEN.astype(np.uint32) * 16843009, COLOUR, RED_GREEN[0], id="32 bits"),
        pytest.param(RED_GREEN.astype(np.uint16) * 16, COLOUR | {"BitsStored": 12}, RED_GREEN[0] * (4080 / 4095), id="12 of 16 bits"),
        pytest.param(YBR, COLOUR | {"PhotometricInterpretation": "YBR_FULL"}, RED_GREEN[0], id="ybr"),
        pytest.param(deep_ybr(16), COLOUR | {"PhotometricInterpretation": "YBR_FULL"}, RED_GREEN[0], id="ybr of 16 bits"),
        pytest.param(
            deep_ybr(12), COLOUR | {"PhotometricInterpretation": "YBR_FULL", "BitsStored": 12}, RED_GREEN[0], id="ybr of 12 of 16 bits"
        ),
        pytest.param(
            np.array([[5, 6, 7, 0, 99]], np.uint8),
            {"PhotometricInterpretation": "PALETTE COLOR"} | PALETTE | TABLES,
            [[255, 0, 0], [0, 255, 0], [1, 0, 0], [255, 0, 0], [1, 0, 0]],
            id="palette",
        ),
        pytest.param(
            np.array([[5, 6, 300, 700]], np.uint16),
            {"PhotometricInterpretation": "PALETTE COLOR"} | PALETTE | SEGMENTED,
            [[255, 0, 0], [0, 255, 0], [1, 0, 0], [1, 0, 0]],
            id="segmented palette, values beyond it",
        ),
    ],
)
def test_a_stored_colour_is_shown(tmp_path: Path, stored: np.ndarray, elements: dict, colours: object) -> None:
    write_dicom(tmp_path / "a", stored, **elements)
    np.testing.assert_allclose(np.asarray(ImageFile(root=tmp_path, path="a").load())[0], colours, atol=1.01)


def test_colour_by_plane_and_halved_chroma(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (4, 6, 3), np.uint8)
    planes = write_dicom(tmp_path / "planes", noise, pixels=noise.transpose(2, 0, 1).tobytes(), **COLOUR | {"PlanarConfiguration": 1})
    assert (np.asarray(ImageFile(root=tmp_path, path=planes.name).load()) == noise).all()
    halved = bytes([76, 76, 85, 255, 150, 150, 44, 21])  # Y Y Cb Cr for every two pixels
    write_dicom(tmp_path / "422", np.zeros((1, 4, 3), np.uint8), pixels=halved, **COLOUR | {"PhotometricInterpretation": "YBR_FULL_422"})
    shown = np.asarray(ImageFile(root=tmp_path, path="422").load())[0]
    np.testing.assert_allclose(shown, np.repeat(RED_GREEN[0], 2, axis=0), atol=2)


# ---- shape


@pytest.mark.parametrize(
    ("elements", "size"),
    [
        ({"PixelSpacing": [0.5, 0.5]}, (40, 20)),
        ({"PixelSpacing": [0.5, 0.504]}, (40, 20)),  # square within one in a hundred
        ({"PixelSpacing": [1.0, 0.5]}, (40, 40)),  # distance of rows first: higher than wide
        ({"PixelSpacing": [0.5, 1.0]}, (80, 20)),
        ({"ImagerPixelSpacing": [1.0, 0.5]}, (40, 40)),
        ({"PixelSpacing": [1, 1], "ImagerPixelSpacing": [1.0, 0.5]}, (40, 20)),
        ({"PixelAspectRatio": [2, 1]}, (40, 40)),
        ({"PixelSpacing": [0, 0], "PixelAspectRatio": [1, 2]}, (80, 20)),
        ({"SequenceOfUltrasoundRegions": [(3, 3, 0.1, 0.2)]}, (40, 40)),
        ({"SequenceOfUltrasoundRegions": [(4, 3, 0.1, 0.2)]}, (40, 20)),  # seconds to the right: an M-mode
        ({"SequenceOfUltrasoundRegions": [(3, 3, 0.1, 0.2), (3, 3, 0.1, 0.1)]}, (40, 20)),
    ],
)
def test_pixels_become_square(tmp_path: Path, elements: dict, size: tuple[int, int]) -> None:
    names = ("PhysicalUnitsXDirection", "PhysicalUnitsYDirection", "PhysicalDeltaX", "PhysicalDeltaY")
    if regions := elements.get("SequenceOfUltrasoundRegions"):
        elements = {"SequenceOfUltrasoundRegions": sequence(*(item(**dict(zip(names, region, strict=True))) for region in regions))}
    write_dicom(tmp_path / "a", np.zeros((20, 40), np.uint8), **elements)
    source = DicomFrame(root=tmp_path, path="a")
    assert source.read_size() == source.load().size == size
    assert ImageFile(root=tmp_path, path="a").read_size() == size
