"""The header of a DICOM file, as far as it is about pixels, checked. No element that names a patient is read."""

from __future__ import annotations

import logging
import math
import struct
import threading
import warnings
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Any, ClassVar, Final

from osler.errors import MissingExtra
from osler.images.limits import MAX_BYTES, MAX_SLICES, size_fault
from osler.images.tones import decoder_errors

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

MARK_OFFSET: Final = 128
NO_MARK: Final = 'is a DICOM file without the 128 bytes and "DICM" that begin one: write it anew with a DICOM tool'
"""What is said of a file of which `lacks_mark` is true."""

_MARK: Final = b"DICM"
_DEFLATED: Final = "1.2.840.10008.1.2.1.99"
_PIXEL_TAGS: Final = {0x7FE00008: "FloatPixelData", 0x7FE00009: "DoubleFloatPixelData", 0x7FE00010: "PixelData"}
_COLOURS: Final = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT")
_GREYS: Final = ("MONOCHROME1", "MONOCHROME2")

# All of group 0028 and what else decides how a frame looks.
_KEYWORDS: Final = (
    "SOPClassUID", "Modality", "ImagerPixelSpacing", "NominalScannedPixelSpacing", "SequenceOfUltrasoundRegions", "PresentationLUTShape",
    "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence", "SamplesPerPixel", "PhotometricInterpretation",
    "PlanarConfiguration", "NumberOfFrames", "Rows", "Columns", "PixelSpacing", "PixelAspectRatio", "BitsAllocated", "BitsStored",
    "HighBit", "PixelRepresentation", "PixelPaddingValue", "PixelPaddingRangeLimit", "FloatPixelPaddingValue",
    "DoubleFloatPixelPaddingValue", "FloatPixelPaddingRangeLimit", "DoubleFloatPixelPaddingRangeLimit", "RescaleIntercept",
    "RescaleSlope", "RescaleType", "ModalityLUTSequence", "WindowCenter", "WindowWidth", "WindowCenterWidthExplanation", "VOILUTFunction",
    "VOILUTSequence", "PixelPresentation", "RedPaletteColorLookupTableDescriptor", "GreenPaletteColorLookupTableDescriptor",
    "BluePaletteColorLookupTableDescriptor", "RedPaletteColorLookupTableData", "GreenPaletteColorLookupTableData",
    "BluePaletteColorLookupTableData", "SegmentedRedPaletteColorLookupTableData", "SegmentedGreenPaletteColorLookupTableData",
    "SegmentedBluePaletteColorLookupTableData", "ExtendedOffsetTable", "ExtendedOffsetTableLengths",
)  # fmt: skip


class DicomError(Exception):
    """A DICOM file that cannot be read: what it is, in words, and the remedy. It repeats no value of an element that may name a patient."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PixelElement:
    """Where the pixels are."""

    keyword: str  # "PixelData"
    vr: str | None  # "OW"; None where the file does not say it
    place: int | None  # of the value, in bytes of the file; None in a deflated file, whose data set holds the pixels


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """The elements of the image pixel module, checked."""

    dataset: Dataset
    pixels: PixelElement
    num_frames: int
    rows: int
    columns: int
    samples: int  # per pixel: 1 or 3
    photometric: str  # "MONOCHROME2"
    bits_allocated: int
    bits_stored: int
    high_bit: int
    is_float: bool
    is_signed: bool

    @property
    def is_grey(self) -> bool:
        """Whether the values go through a modality transformation and a window; else they are colours."""
        return self.photometric in _GREYS


def has_dicom_mark(stream: IO[bytes]) -> bool:
    """Whether "DICM" stands at byte 128; the stream is rewound."""
    stream.seek(MARK_OFFSET)
    mark = stream.read(len(_MARK))
    stream.seek(0)
    return mark == _MARK


def lacks_mark(stream: IO[bytes]) -> bool:
    """Whether a file begins with the first element of a DICOM data set in place of 128 bytes and "DICM"; the stream is rewound."""
    stream.seek(0)
    head = stream.read(8)
    stream.seek(0)
    is_first = head[:2] in (b"\2\0", b"\x08\0") and head[3:4] == b"\0"
    return is_first and len(head) == 8 and (head[4:6].isalpha() or head[6:] == b"\0\0")


class _Quiet:
    """Hides warnings and logs of pydicom and highdicom, which repeat values of the header, while any thread reads.

    `catch_warnings` alone is for one thread.
    """

    _lock: ClassVar[threading.Lock] = threading.Lock()
    _depth: ClassVar[int] = 0
    _caught: ClassVar[ExitStack] = ExitStack()

    def __enter__(self) -> None:
        with _Quiet._lock:
            if not _Quiet._depth:
                for name in ("pydicom", "highdicom"):
                    log = logging.getLogger(name)
                    _Quiet._caught.callback(setattr, log, "propagate", log.propagate)
                    log.propagate = False  # to the handlers of the program; their own do nothing
                _Quiet._caught.enter_context(warnings.catch_warnings())
                warnings.filterwarnings("ignore", module=r"pydicom|highdicom")
            _Quiet._depth += 1

    def __exit__(self, *error: object) -> None:
        with _Quiet._lock:
            _Quiet._depth -= 1
            if not _Quiet._depth:
                _Quiet._caught.close()


def damage_errors() -> tuple[type[Exception], ...]:
    """What pydicom raises for damaged files. Raises MissingExtra without pydicom."""
    try:
        from pydicom.errors import BytesLengthException, InvalidDicomError
    except ImportError:
        raise MissingExtra("pydicom", "medical") from None
    return (*decoder_errors(), RuntimeError, InvalidDicomError, BytesLengthException)


@contextmanager
def naming_damage(what: str) -> Iterator[None]:
    """Raise what pydicom raises as a DicomError "has a damaged header (ValueError): ..."; MissingExtra without pydicom."""
    errors = damage_errors()
    try:
        with _Quiet():
            yield
    except errors as error:
        raise DicomError(f"has {what} ({type(error).__name__}): fetch it again, or convert it with another tool") from None


def read_header(stream: IO[bytes]) -> Header:
    """The checked header of a DICOM file; of a deflated file the data set holds the pixels too. Reads no pixel of any other file.

    Raises DicomError for a file without pixels or one that Osler does not read, MissingExtra where a library is not installed.
    """
    with naming_damage("a damaged header"):
        dataset, pixels = _read_dataset(stream)
        syntax = dataset.file_meta.get("TransferSyntaxUID")
        if pixels is None:
            raise DicomError("is a DICOM file without pixels: remove the row")
        if not syntax:
            raise DicomError("does not say its transfer syntax (0002,0010): convert it to PNG")
        header = _check(dataset, pixels)
        _check_decoder(syntax)
    return header


def _read_dataset(stream: IO[bytes]) -> tuple[Dataset, PixelElement | None]:
    """The data set, and where its pixels are: None for a file without any."""
    from pydicom import dcmread

    if is_deflated(stream):
        dataset = dcmread(stream, specific_tags=[*_KEYWORDS, *_PIXEL_TAGS.values()])
        found = next((keyword for keyword in _PIXEL_TAGS.values() if keyword in dataset), None)
        return dataset, PixelElement(keyword=found, vr=None, place=None) if found else None
    dataset = dcmread(stream, stop_before_pixels=True, specific_tags=list(_KEYWORDS))
    head = stream.read(12)  # tag, VR, two reserved bytes and length, or tag and length
    if len(head) < 8:
        return dataset, None
    group, element = struct.unpack("<HH" if dataset.original_encoding[1] else ">HH", head[:4])
    keyword = _PIXEL_TAGS.get(group << 16 | element)
    vr = head[4:6].decode("ascii") if head[4:6] in (b"OB", b"OW", b"OF", b"OD", b"UN") else None  # as it is, not as the syntax says
    return dataset, PixelElement(keyword=keyword, vr=vr, place=stream.tell() - (0 if vr else 4)) if keyword else None


def find_data_set(stream: IO[bytes]) -> tuple[int, str]:
    """Where the data set begins, and its transfer syntax; (0, "") where the file meta information does not begin with its length."""
    stream.seek(MARK_OFFSET + len(_MARK))
    head = stream.read(12)  # (0002,0000), UL, 4 bytes
    if head[:8] != b"\2\0\0\0UL\4\0" or len(head) != 12:
        return 0, ""
    length = struct.unpack("<I", head[8:])[0]
    meta = stream.read(min(length, 1 << 16))
    place = meta.find(b"\2\0\x10\0UI")
    size = int.from_bytes(meta[place + 6 : place + 8], "little")
    syntax = meta[place + 8 : place + 8 + size] if place >= 0 and length <= 1 << 16 else b""
    return MARK_OFFSET + len(_MARK) + len(head) + length, syntax.decode("ascii", "replace").rstrip("\0 ")


def is_deflated(stream: IO[bytes]) -> bool:
    """Whether the data set is compressed as a whole; raises DicomError where it is larger than MAX_BYTES. Rewinds the stream."""
    start, syntax = find_data_set(stream)
    if syntax == _DEFLATED:
        stream.seek(start)
        inflate, total = zlib.decompressobj(-zlib.MAX_WBITS), 0
        chunk = stream.read(1 << 20)
        while chunk:
            total += len(inflate.decompress(chunk, 1 << 24))
            if total > MAX_BYTES:
                raise DicomError(f"is larger than {MAX_BYTES:,} bytes when it is inflated: store a smaller copy")
            chunk = inflate.unconsumed_tail or stream.read(1 << 20)
    stream.seek(0)
    return syntax == _DEFLATED


def _check_decoder(syntax: Any) -> None:
    """Raise DicomError for a transfer syntax that no library decodes, MissingExtra where its library is not installed."""
    from pydicom.pixels.decoders.base import get_decoder

    try:
        decoder = get_decoder(syntax)
    except NotImplementedError:
        name = syntax.name if syntax.name != syntax else "a private transfer syntax"
        raise DicomError(f"stores its pixels as {name}, which Osler does not read: convert it") from None
    if not decoder.is_available:
        raise MissingExtra("a decoder of this DICOM file's pixels", "medical")


def _check(dataset: Dataset, pixels: PixelElement) -> Header:
    is_float = pixels.keyword != "PixelData"
    rows, columns, bits = (integer(dataset, keyword) for keyword in ("Rows", "Columns", "BitsAllocated"))
    samples = integer(dataset, "SamplesPerPixel", 1)
    stored = bits if is_float else integer(dataset, "BitsStored", bits)
    photometric = str(dataset.get("PhotometricInterpretation", "")).strip().upper()
    if min(rows, columns) < 1:
        raise DicomError(f"has {columns} x {rows} pixels: remove the row")
    if fault := size_fault(columns, rows):
        raise DicomError(fault)
    if photometric not in (*_COLOURS, *_GREYS, "PALETTE COLOR"):
        is_term = photometric.isascii() and photometric.replace("_", "").isalnum() and len(photometric) <= 16  # of the VR CS
        name = photometric if is_term else "unknown" if photometric else "missing"
        raise DicomError(f"has the photometric interpretation {name}, which Osler does not read: convert it to PNG")
    if samples != (3 if photometric in _COLOURS else 1):
        raise DicomError(f"has {samples} samples per pixel, which {photometric} does not allow: convert it to PNG")
    if not 1 <= stored <= bits or bits > 64:
        raise DicomError(f"stores {stored} of {bits} bits, which the standard does not allow: convert it to PNG")
    if str(dataset.get("PixelPresentation", "")) in ("COLOR", "MIXED"):
        raise DicomError("shows some values in colours by a supplemental palette, which Osler does not read: convert it to PNG")
    high_bit = stored - 1 if is_float else integer(dataset, "HighBit", stored - 1)
    if not stored - 1 <= high_bit < bits:
        raise DicomError(f"has the high bit {high_bit} of {stored} stored in {bits}, which the standard does not allow: convert it to PNG")
    return Header(
        dataset=dataset,
        pixels=pixels,
        num_frames=count_frames(dataset),
        rows=rows,
        columns=columns,
        samples=samples,
        photometric=photometric,
        bits_allocated=bits,
        bits_stored=stored,
        high_bit=high_bit,
        is_float=is_float,
        is_signed=not is_float and integer(dataset, "PixelRepresentation", 0) == 1,
    )


def count_frames(dataset: Dataset) -> int:
    """Number of Frames, at least 1. Raises DicomError where it is no number or too large."""
    num_frames = max(integer(dataset, "NumberOfFrames", 1), 1)
    if num_frames > MAX_SLICES:
        raise DicomError(f"has {num_frames:,} frames, more than {MAX_SLICES:,}: store a part of it")
    return num_frames


def read_num_frames(stream: IO[bytes]) -> int:
    """The number of frames of an open DICOM file. Raises DicomError for a damaged header."""
    from pydicom import dcmread

    with naming_damage("a damaged header"):
        stream.seek(0)
        return count_frames(dcmread(stream, stop_before_pixels=True, specific_tags=["NumberOfFrames"]))


def integer(dataset: Dataset, keyword: str, default: int | None = None) -> int:
    """The integer of an element. Raises DicomError where it is no integer, or missing and without a default."""
    try:
        value: Any = dataset.get(keyword)
        if value is None or value == "":
            value = default
        if value is None:
            raise DicomError(f"has no {keyword}: fetch it again, or remove the row")
        if int(value) != float(value):
            raise ValueError
        return int(value)
    except (ValueError, TypeError, OverflowError):
        raise DicomError(f"has a {keyword} that is no integer: convert it to PNG") from None


def numbers(dataset: Dataset, keyword: str) -> tuple[float, ...]:
    """The finite numbers of an element, () where it is missing or empty. Raises DicomError for anything else."""
    try:
        value: Any = dataset.get(keyword)
        if value is None or value == "":
            return ()
        values = tuple(float(member) for member in ([value] if isinstance(value, int | float | str) else value))
    except (ValueError, TypeError, OverflowError):
        values = (math.nan,)
    if not all(map(math.isfinite, values)):
        raise DicomError(f"has a {keyword} that is no finite number: convert it to PNG")
    return values
