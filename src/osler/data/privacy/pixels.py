"""The pixels of a de-identified file: decoded anew, without anything that hides beside them, and blackened where it is asked.

A compressed frame may carry comments, and native pixels may carry an overlay in their unused bits or bytes behind the last frame.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from osler.images.dicom_header import DicomError, naming_damage
from osler.images.ultrasound import read_regions

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from pydicom.dataset import Dataset

Box = tuple[int, int, int, int]
"""Left, top, right and bottom in pixels of a frame as it is stored; right and bottom are outside."""

PIXELS: Final = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")


def decode_pixels(dataset: Dataset) -> None:
    """Decode compressed pixels in place, and leave nothing beside them. Raises DicomError for pixels that cannot be decoded."""
    from pydicom.pixels.utils import decompress

    with naming_damage("pixels that cannot be decoded"):
        if dataset.file_meta.TransferSyntaxUID.is_encapsulated:
            decompress(dataset, generate_instance_uid=False)
        keyword = next(name for name in PIXELS if name in dataset)
        length = _length(dataset)
        content = bytes(dataset[keyword].value)[:length]
        if len(content) < length:
            raise ValueError("the pixels are cut short")
        content = _without_unused_bits(content, dataset) if keyword == "PixelData" else content
        dataset[keyword].value = content + b"\0" * (length % 2)


def blacken(dataset: Dataset, boxes: Sequence[Box], *, outside_regions: bool) -> None:
    """Blacken boxes of every frame of decoded pixels in place, and what lies outside of all ultrasound regions.

    Raises DicomError for colours that cannot be blackened, and where there are no regions.
    """
    import numpy as np

    photometric = str(dataset.PhotometricInterpretation)
    if "PixelData" not in dataset or int(dataset.BitsAllocated) not in (8, 16, 32) or photometric not in _BLACKENED:
        raise DicomError("has colours or a number of bits that cannot be blackened: convert it to RGB or greyscale")
    rows, columns, samples = int(dataset.Rows), int(dataset.Columns), int(dataset.SamplesPerPixel)
    values = np.frombuffer(dataset.PixelData, dtype=_dtype(dataset))[: _length(dataset) * 8 // int(dataset.BitsAllocated)].copy()
    is_planar = samples > 1 and int(dataset.get("PlanarConfiguration", 0)) == 1
    shape = (-1, samples, rows, columns) if is_planar else (-1, rows, columns, samples)
    frames = values.reshape(shape)
    hidden = np.zeros((rows, columns), bool)
    for left, top, right, bottom in boxes:
        hidden[max(top, 0) : max(bottom, 0), max(left, 0) : max(right, 0)] = True
    if outside_regions:
        hidden |= ~_regions(dataset, (rows, columns))
    black = values.max() if photometric == "MONOCHROME1" else values.min() if photometric == "MONOCHROME2" else 0
    for sample in range(samples):
        tone = 128 if photometric == "YBR_FULL" and sample else black
        if is_planar:
            frames[:, sample, hidden] = tone
        else:
            frames[:, hidden, sample] = tone
    dataset.PixelData = values.tobytes() + b"\0" * (values.nbytes % 2)


_BLACKENED: Final = ("MONOCHROME1", "MONOCHROME2", "RGB", "YBR_FULL")


def _regions(dataset: Dataset, shape: tuple[int, int]) -> NDArray[np.bool_]:
    """Where the ultrasound regions of the file are. Raises DicomError where it names none."""
    import numpy as np

    shown = np.zeros(shape, bool)
    for region in read_regions(dataset):
        if region.box is not None:
            left, top, right, bottom = (max(edge, 0) for edge in region.box)
            shown[top:bottom, left:right] = True
    if not shown.any():
        raise DicomError("names no ultrasound regions: blacken named boxes, or leave the file out")
    return shown


def _length(dataset: Dataset) -> int:
    """The bytes of all frames, without padding."""
    samples, frames = int(dataset.get("SamplesPerPixel", 1)), int(dataset.get("NumberOfFrames") or 1)
    num_values = int(dataset.Rows) * int(dataset.Columns) * samples * max(frames, 1)
    if str(dataset.PhotometricInterpretation) == "YBR_FULL_422" and not dataset.file_meta.TransferSyntaxUID.is_encapsulated:
        num_values = num_values // 3 * 2
    return -(-num_values * int(dataset.BitsAllocated) // 8)


def _dtype(dataset: Dataset) -> str:
    return f"<{'i' if dataset.get('PixelRepresentation', 0) else 'u'}{int(dataset.BitsAllocated) // 8}"


def _without_unused_bits(content: bytes, dataset: Dataset) -> bytes:
    """The pixels with 0, or the sign, in the bits that hold no pixel."""
    import numpy as np

    allocated, stored = int(dataset.BitsAllocated), int(dataset.BitsStored)
    lowest = int(dataset.get("HighBit", stored - 1)) - stored + 1
    if stored >= allocated or allocated not in (8, 16, 32):
        return content
    mask = ((1 << stored) - 1) << lowest
    values = np.frombuffer(content, dtype=f"<u{allocated // 8}") & np.array(mask, f"<u{allocated // 8}")
    if dataset.get("PixelRepresentation", 0) and not lowest:
        spare = allocated - stored
        values = (values << spare).view(f"<i{allocated // 8}") >> spare
    return bytes(values.tobytes())
