"""From one frame of a DICOM file to a picture of 8-bit RGB. pydicom and its plugins decode; the mapping to tones is here.

The order of the standard (DICOM PS3.4, N.2): stored values, modality transformation, window, and only then the inversion of MONOCHROME1.
Overlays are not drawn. Padding is black. Pixels that are not square are resampled to square ones.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import IO, TYPE_CHECKING, Any, Final, Literal

from osler.images.dicom_header import DicomError, Header, naming_damage, read_header
from osler.images.dicom_values import FrameValues, Padding, pixel_shape, read_entries, read_frame_values
from osler.images.limits import size_fault
from osler.images.ultrasound import union
from osler.images.windows import WHITE, FileWindow, Preset, Window, WindowChoice, apply_range, apply_window, to_range

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL.Image import Image

_ROWS: Final = 256  # of a frame of more than 16 bits, that are mapped at a time
_SQUARE: Final = 0.01  # pixels whose height and width differ by less than this share are square
_SHORT: Final = 8  # bits of a display value

Tones = Callable[["NDArray[np.float64]"], "NDArray[np.float64]"]


def read_picture(
    stream: IO[bytes], frame: int = 0, windows: tuple[WindowChoice, ...] = (), crop: Literal["regions"] | None = None
) -> Image:
    """One frame of a DICOM file in mode RGB, with square pixels; `crop` leaves out what lies around the ultrasound regions.

    `windows` has no member (the first VOI lookup table of the file, else its first valid window, else minimum to maximum), one, or one for
    each channel. Raises DicomError, and MissingExtra where a library is not installed.
    """
    import PIL.Image

    header = read_header(stream)
    _check_frame(header, frame)
    with naming_damage("a damaged header"):
        box = _box(header, crop)
        width, height = _square_size(header, frame, box)
        values = read_frame_values(header, frame) if header.is_grey else None
        if values is None and windows:
            raise DicomError("has colours, but a window is for greyscale: leave the window out")
        chosen = [_choose(values, choice) for choice in windows or (None,)] if values is not None else []
    stored = _decode(stream, header, frame)
    if header.is_float:
        _check_numbers(stored, stream, header, frame)
    with naming_damage("pixels or tables that do not fit its header"):
        if values is not None:
            channels = [_to_grey(stored, header, values, window) for window in chosen]
            grey = [PIL.Image.fromarray(channel) for channel in channels]
            picture = PIL.Image.merge("RGB", grey if len(grey) > 1 else grey * 3)
        elif header.photometric == "PALETTE COLOR":
            picture = PIL.Image.fromarray(_apply_palette(stored, header))
        else:
            picture = PIL.Image.fromarray(_to_bytes(stored, header.bits_stored))
    if picture.size == (width, height) and not crop:
        return picture
    return picture.crop(box).resize((width, height), PIL.Image.Resampling.BILINEAR)


def read_values(stream: IO[bytes], frame: int = 0) -> NDArray[np.float64]:
    """The values of a greyscale frame in one row, in the units of the modality, without padding. Raises what `read_picture` raises."""
    import numpy as np

    header = read_header(stream)
    _check_frame(header, frame)
    if not header.is_grey:
        raise DicomError("has colours, but a window is for greyscale: leave the window out")
    with naming_damage("a damaged header"):
        values = read_frame_values(header, frame)
    stored = _decode(stream, header, frame)
    with naming_damage("pixels or tables that do not fit its header"):
        kept = stored[~_find_padding(stored, values.padding) | ~np.isfinite(stored)]
        return values.transform(kept.astype(np.float64))


def read_window(stream: IO[bytes], frame: int = 0, windows: tuple[WindowChoice, ...] = ()) -> Window | None:
    """The window by which `read_picture` shows a greyscale frame: that of the file, the one asked for, or the range of its values.

    None for three windows, for a lookup table of the file, and for colours. Raises what `read_picture` raises.
    """
    header = read_header(stream)
    _check_frame(header, frame)
    if not header.is_grey or len(windows) > 1:
        return None
    with naming_damage("a damaged header"):
        values = read_frame_values(header, frame)
        window = _choose(values, windows[0] if windows else None)
    if window is not None or values.voi_table is not None:
        return window
    if _is_display(header, values):
        return to_range(0.0, float((1 << header.bits_stored) - 1))
    shown = read_values(stream, frame)
    return to_range(float(shown.min()), float(shown.max())) if shown.size else None


def _check_numbers(stored: NDArray[Any], stream: IO[bytes], header: Header, frame: int) -> None:
    """Raise DicomError where no pixel of any frame of the file is a number; one such frame among others is black."""
    import numpy as np

    others = (number for number in range(header.num_frames) if number != frame)
    if not np.isfinite(stored).any() and not any(np.isfinite(_decode(stream, header, number)).any() for number in others):
        raise DicomError("has no pixel that is a number: remove the row")


def read_size(stream: IO[bytes], frame: int = 0, crop: Literal["regions"] | None = None) -> tuple[int, int]:
    """Width and height of the picture that `read_picture` gives, from the header alone. Raises the same errors."""
    header = read_header(stream)
    _check_frame(header, frame)
    with naming_damage("a damaged header"):
        return _square_size(header, frame, _box(header, crop))


def _box(header: Header, crop: Literal["regions"] | None) -> tuple[int, int, int, int]:
    """The part that is shown: left, top, right, bottom in stored pixels, the last two outside."""
    return union(header) if crop else (0, 0, header.columns, header.rows)


def _check_frame(header: Header, frame: int) -> None:
    if frame >= header.num_frames:
        raise DicomError(f"has no frame {frame}: it has {header.num_frames}, counted from 0")


def _square_size(header: Header, frame: int, box: tuple[int, int, int, int]) -> tuple[int, int]:
    """Width and height of a part with square pixels: the direction with the larger pixels is enlarged, so that no detail is lost."""
    columns, rows = box[2] - box[0], box[3] - box[1]
    pixel_height, pixel_width = pixel_shape(header, frame)
    side = min(pixel_height, pixel_width)
    is_square = max(pixel_height, pixel_width) <= side * (1 + _SQUARE)
    if max(pixel_height, pixel_width) > side * max(rows, columns) * 2:
        raise DicomError(f"has pixels of {pixel_height:g} x {pixel_width:g}, which cannot be made square: convert it to PNG")
    width, height = (columns, rows) if is_square else (round(columns * pixel_width / side), round(rows * pixel_height / side))
    if fault := size_fault(width, height):
        raise DicomError(f"{'cropped' if is_square else 'with square pixels'} {fault}")
    return width, height


def _choose(values: FrameValues, choice: WindowChoice | None) -> Window | None:
    """The window that is meant; None for the lookup table of the file, or the range of the values. Raises DicomError."""
    if choice is None:
        valid = [window for window in values.windows if window.is_valid]
        return valid[0] if valid and values.voi_table is None else None
    if isinstance(choice, Window):
        return choice
    if isinstance(choice, Preset):
        if not values.is_hounsfield:
            raise DicomError(f"is no CT in Hounsfield units, for which the window {choice.name!r} is: give a centre and a width")
        return choice.window
    return _find_window(values.windows, choice)


def _find_window(windows: tuple[Window, ...], choice: FileWindow) -> Window:
    if choice.number is not None:
        if choice.number > len(windows):
            raise DicomError(f"has no window {choice.number}: it has {len(windows)}")
        found = windows[choice.number - 1]
    else:
        wanted = (choice.explanation or "").strip().casefold()
        named = [window for window in windows if window.explanation.strip().casefold() == wanted]
        if len(named) != 1:
            raise DicomError(f"explains {len(named)} of its {len(windows)} windows as {choice.explanation!r}: give a number")
        found = named[0]
    if not found.is_valid:
        raise DicomError(f"has a window of the width {found.width:g}, which the standard does not allow: give a centre and a width")
    return found


def _decode(stream: IO[bytes], header: Header, frame: int) -> NDArray[Any]:
    """The stored values of the frame, (rows, columns) or (rows, columns, 3) in RGB, with unused bits removed."""
    import numpy as np
    from pydicom.pixels.decoders.base import get_decoder
    from pydicom.pixels.utils import as_pixel_options

    dataset, pixels = header.dataset, header.pixels
    array: NDArray[Any]
    syntax = dataset.file_meta.TransferSyntaxUID
    shift = header.high_bit - header.bits_stored + 1  # of the stored bits within the allocated ones; pydicom takes it for 0
    with naming_damage(f"pixels ({syntax.name}) that cannot be decoded"):
        is_deep = header.bits_stored > _SHORT  # pydicom converts YBR colours of 8 bits only
        options = as_pixel_options(
            dataset, pixel_keyword=pixels.keyword, pixel_vr=pixels.vr or "OW", correct_unused_bits=not shift, as_rgb=not is_deep
        )
        source: Any = dataset if pixels.place is None else stream
        if pixels.place is not None:
            _check_codestream(stream, header, frame)
            stream.seek(pixels.place)
        array, told = get_decoder(syntax).as_array(source, index=frame, **options)
        if shift:
            array = np.left_shift(array, header.bits_allocated - 1 - header.high_bit) >> header.bits_allocated - header.bits_stored
        if str(told["photometric_interpretation"]).startswith("YBR_FULL"):
            array = _to_rgb(array, header.bits_stored)
    return array


def _to_rgb(array: NDArray[Any], bits: int) -> NDArray[Any]:
    """Colours of so many bits by the inverse of the equations of PS3.3, C.7.6.3.1.2: no colour is half of the full scale."""
    import numpy as np

    top, half = (1 << bits) - 1, 1 << bits - 1
    shown = np.empty_like(array)
    for begin in range(0, len(array), _ROWS):
        rows = slice(begin, begin + _ROWS)
        luma, blue, red = np.moveaxis(array[rows].astype(np.float64) - [0, half, half], -1, 0)
        colours = np.stack([luma + 1.402 * red, luma - 0.344136 * blue - 0.714136 * red, luma + 1.772 * blue], axis=-1)
        shown[rows] = np.rint(colours.clip(0, top))
    return shown


def _check_codestream(stream: IO[bytes], header: Header, frame: int) -> None:
    """Raise DicomError where compressed pixels say another size than the header, before a decoder makes room for them."""
    from pydicom.encaps import get_frame

    if not header.dataset.file_meta.TransferSyntaxUID.is_encapsulated or header.pixels.place is None:
        return
    tables = [header.dataset.get(keyword) for keyword in ("ExtendedOffsetTable", "ExtendedOffsetTableLengths")]
    offsets = (tables[0], tables[1]) if all(tables) else None
    stream.seek(header.pixels.place)
    size = _codestream_size(get_frame(stream, frame, number_of_frames=header.num_frames, extended_offsets=offsets))
    if size is not None and size != (header.columns, header.rows):
        raise DicomError(
            f"has compressed pixels of {size[0]} x {size[1]}, but a header of {header.columns} x {header.rows}: fetch it again"
        )


def _codestream_size(data: bytes) -> tuple[int, int] | None:
    """Width and height that a JPEG, JPEG-LS or JPEG 2000 codestream states; None for RLE, and where they are not found."""
    start = data.find(b"\xff\x4f\xff\x51", 0, 4096)
    if start >= 0:  # JPEG 2000: SIZ follows SOC; the size is measured from an offset
        right, bottom, left, top = struct.unpack(">4I", data[start + 8 : start + 24])
        return right - left, bottom - top
    if not data.startswith(b"\xff\xd8"):
        return None
    place = 2
    while place + 9 <= len(data):
        if data[place] != 0xFF or data[place + 1] == 0xFF:
            place += 1
            continue
        marker, length = data[place + 1], int.from_bytes(data[place + 2 : place + 4], "big")
        if marker in (0xC0, 0xC1, 0xC2, 0xC3, 0xC5, 0xC6, 0xC7, 0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF, 0xF7):  # start of a frame
            height, width = struct.unpack(">HH", data[place + 5 : place + 9])
            return width, height
        place += 2 + length
    return None


def _to_grey(stored: NDArray[Any], header: Header, values: FrameValues, window: Window | None) -> NDArray[np.uint8]:
    """Tones of 8 bits, (rows, columns)."""
    import numpy as np

    is_short = stored.dtype.kind in "iu" and header.bits_stored <= 16
    if is_short:  # a table of all values is faster than all pixels, and exact
        lowest = int(stored.min())
        levels = np.arange(lowest, int(stored.max()) + 1)
        is_present = np.bincount((stored.astype(np.int32) - lowest).ravel(), minlength=len(levels)) > 0
    else:
        levels = stored
        is_present = np.isfinite(stored)
    is_padding = _find_padding(levels, values.padding)
    tones = _tones(header, values, window, levels[is_present & ~is_padding])
    if is_short:
        return _round(tones, levels, is_padding)[stored.astype(np.int32) - lowest]
    shown = np.empty(stored.shape, np.uint8)
    for begin in range(0, len(stored), _ROWS):
        rows = slice(begin, begin + _ROWS)
        shown[rows] = _round(tones, stored[rows], is_padding[rows])
    return shown


def _find_padding(stored: NDArray[Any], padding: Padding | None) -> NDArray[np.bool_]:
    import numpy as np

    is_padding = ~np.isfinite(stored) if stored.dtype.kind == "f" else np.zeros(stored.shape, np.bool_)
    if padding is not None:
        is_padding |= (stored >= padding.low) & (stored <= padding.high)
    return is_padding


def _round(tones: Tones, stored: NDArray[Any], is_padding: NDArray[np.bool_]) -> NDArray[np.uint8]:
    import numpy as np

    values = np.where(is_padding, 0, stored).astype(np.float64)
    return np.where(is_padding, 0, np.rint(tones(values))).astype(np.uint8)


def _tones(header: Header, values: FrameValues, window: Window | None, seen: NDArray[Any]) -> Tones:
    """The function from stored values to tones. `seen` are the stored values of the picture without padding, each at least once."""
    import numpy as np

    is_display = _is_display(header, values)
    low, high = 0.0, float((1 << header.bits_stored) - 1) if is_display else 0.0
    if window is None and values.voi_table is None and not is_display and seen.size:
        ends = seen if values.modality_table else np.array([seen.min(), seen.max()])
        transformed = values.transform(ends.astype(np.float64))
        low, high = float(transformed.min()), float(transformed.max())

    def tones(stored: NDArray[np.float64]) -> NDArray[np.float64]:
        shown = values.transform(stored)
        if window is not None:
            shown = apply_window(shown, window)
        elif values.voi_table is not None:
            shown = values.voi_table.apply(shown) * (WHITE / values.voi_table.max_output)
        else:
            shown = apply_range(shown, low, high)
        return WHITE - shown if header.photometric == "MONOCHROME1" else shown

    return tones


def _is_display(header: Header, values: FrameValues) -> bool:
    """Whether the values were made to be shown, as in a PNG: no range is guessed."""
    is_unsigned_byte = header.bits_stored <= _SHORT and not header.is_signed
    return is_unsigned_byte and values.modality_table is None and (values.slope, values.intercept) == (1, 0)


def _to_bytes(stored: NDArray[Any], bits: int) -> NDArray[np.uint8]:
    """Unsigned values of so many bits, scaled to 8 bits by the range that the bits have."""
    import numpy as np

    if bits == _SHORT:
        return stored.astype(np.uint8)
    scaled = np.empty(stored.shape, np.uint8)
    for begin in range(0, len(stored), _ROWS):
        rows = slice(begin, begin + _ROWS)
        scaled[rows] = np.rint(np.clip(stored[rows] * (WHITE / ((1 << bits) - 1)), 0, WHITE))
    return scaled


def _apply_palette(stored: NDArray[Any], header: Header) -> NDArray[np.uint8]:
    """The colours (rows, columns, 3) of the values by the palette of the file (DICOM PS3.3, C.7.6.3.1.5 and C.7.9.2)."""
    import numpy as np

    dataset = header.dataset
    is_little_endian = bool(dataset.original_encoding[1])
    shown = np.empty((*stored.shape, 3), np.uint8)
    for channel, colour in enumerate(("Red", "Green", "Blue")):
        descriptor: Any = dataset.get(f"{colour}PaletteColorLookupTableDescriptor")
        if descriptor is None or len(descriptor) != 3 or descriptor[2] not in (8, 16):
            raise DicomError(f"has no {colour.lower()} palette that can be read: convert it to PNG")
        length, first, bits = int(descriptor[0]) or 1 << 16, int(descriptor[1]), int(descriptor[2])
        data: Any = dataset.get(f"{colour}PaletteColorLookupTableData")
        if data is not None:
            entries = read_entries(data, length, is_little_endian=is_little_endian)
        else:
            segments = dataset.get(f"Segmented{colour}PaletteColorLookupTableData") or b""
            entries = _expand_segments(segments, bits, length, is_little_endian=is_little_endian)
        if len(entries) < length:
            raise DicomError(f"has a {colour.lower()} palette that is shorter than it says: convert it to PNG")
        top = 255 if entries.dtype.itemsize == 1 or bits == _SHORT else 65535
        tones = np.rint(np.minimum(entries, top) * (WHITE / top)).astype(np.uint8)
        shown[..., channel] = tones[np.clip(stored.astype(np.int64) - first, 0, length - 1)]
    return shown


def _expand_segments(data: bytes, bits: int, length: int, *, is_little_endian: bool) -> NDArray[Any]:
    """The entries of a segmented palette. Raises DicomError where it is damaged."""
    import numpy as np

    order = "<" if is_little_endian else ">"
    words = np.frombuffer(data, np.uint8) if bits == _SHORT else np.frombuffer(data[: len(data) // 2 * 2], f"{order}u2")
    entries: list[int] = []
    ends: list[tuple[int, int]] = [(0, 1 << 30)]  # place, and segments left, of the outer and of a repeated list
    while ends and len(entries) < length:
        place, left = ends.pop()
        if not left or place + 2 > len(words):
            continue
        kind, count = int(words[place]), int(words[place + 1])
        if kind == 0:  # discrete
            entries += words[place + 2 : place + 2 + count].tolist()
            ends.append((place + 2 + count, left - 1))
        elif kind == 1 and entries and place + 2 < len(words) and count:  # linear, from the last entry
            steps = np.linspace(entries[-1], int(words[place + 2]), count + 1)[1:]
            entries += np.rint(steps).astype(int).tolist()
            ends.append((place + 3, left - 1))
        elif kind == 2 and entries and len(ends) < 2:  # `count` segments again, from a place in bytes
            parts = words[place + 2 : place + (6 if bits == _SHORT else 4)].tolist()  # the least significant part first
            offset = sum(part << bits * i for i, part in enumerate(parts))
            ends += [(place + 2 + len(parts), left - 1), (offset if bits == _SHORT else offset // 2, count)]
        else:
            raise DicomError("has a segmented palette that is damaged: convert it to PNG")
    return np.array(entries[:length], words.dtype)
