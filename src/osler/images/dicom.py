"""One frame of a DICOM file as an image source: `DicomFrame(root=folder, path="ct/17.dcm", window="lung")`.

An `ImageFile` reads a DICOM file too: its first frame, with the window of the file.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, TYPE_CHECKING, Final, Literal

from osler.errors import ConfigError, DataError
from osler.images.dicom_header import DicomError, damage_errors, has_dicom_mark, naming_damage
from osler.images.dicom_pixels import read_picture, read_size, read_values, read_window
from osler.images.files import ImageFile
from osler.images.windows import Window, WindowChoice, parse_windows

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL.Image import Image
    from pydicom.dataset import Dataset

_DIRECTION: Final = re.compile("(?:[LR]|[AP]|[HF]){1,3}")  # of a person: other animals have words of their own
_OPPOSITE: Final = str.maketrans("LRAPHF", "RLPAFH")


@dataclass(frozen=True, slots=True, kw_only=True)
class DicomFrame:
    """One frame of a DICOM file below the folder `root`, with a window; implements `ImageSource` and `HasDigest`.

    The constructor raises DataError for a path that leaves the root, and ConfigError for a negative frame, an unknown window or an unknown
    crop; it does not open the file. Every later failure is a DataError of one line that names the path, or MissingExtra without the extra
    "medical".
    """

    root: Path
    path: str  # relative, with forward slashes: "ct/17.dcm"
    frame: int = 0
    window: str | None = None  # "lung", "40/400", "file:2", "lung+mediastinum+bone"; None for the file's first window. See `windows`
    crop: Literal["regions"] | None = None  # the rectangle with all ultrasound regions: without the texts and scales around them
    _file: ImageFile = field(init=False, repr=False, compare=False)
    _windows: tuple[WindowChoice, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.frame < 0:
            raise ConfigError(f"frame {self.frame} is negative: frames are counted from 0")
        if self.crop not in (None, "regions"):
            raise ConfigError(f"crop {self.crop!r} is unknown: regions, or none")
        object.__setattr__(self, "_file", ImageFile(root=self.root, path=self.path))
        object.__setattr__(self, "_windows", parse_windows(self.window))

    @property
    def uri(self) -> str:
        """The relative path, and what else is given: "ct/17.dcm?frame=3&window=lung"."""
        asked = [f"frame={self.frame}"] * (self.frame > 0)
        asked += [f"{name}={value}" for name, value in (("window", self.window), ("crop", self.crop)) if value is not None]
        return self._file.uri + ("?" + "&".join(asked) if asked else "")

    def load(self) -> Image:
        """The frame in mode RGB, with square pixels. See `dicom_pixels.read_picture`."""
        with self._opened() as stream:
            return read_picture(stream, self.frame, self._windows, self.crop)

    def read_values(self) -> NDArray[np.float64]:
        """The values of the frame in one row, in the units of the modality, without padding. Raises what `load` raises."""
        with self._opened() as stream:
            return read_values(stream, self.frame)

    def read_window(self) -> Window | None:
        """The window that shows the values; None for three of them, for a lookup table and for colours. Raises what `load` raises."""
        with self._opened() as stream:
            return read_window(stream, self.frame, self._windows)

    def with_window(self, window: str) -> DicomFrame:
        """The same slice with another window. Raises ConfigError for one that it cannot have."""
        return replace(self, window=window)

    def check_header(self) -> None:
        """Raise DataError where the file is missing, no DICOM file with pixels, or too large. Decodes no pixel."""
        self.read_size()

    def read_size(self) -> tuple[int, int]:
        """Width and height of the picture, from the header alone. Raises the errors of `check_header`."""
        with self._opened() as stream:
            return read_size(stream, self.frame, self.crop)

    def read_elements(self, keywords: Sequence[str]) -> Dataset:
        """These elements of the header, without those that are damaged. Raises the errors of `check_header`."""
        from pydicom import dcmread

        with self._opened() as stream, naming_damage("a damaged header"):
            dataset = dcmread(stream, stop_before_pixels=True, specific_tags=list(keywords))
            for tag in list(dataset.keys()):
                try:
                    dataset[tag]  # converted when it is asked for, and damage shows only then
                except damage_errors():
                    del dataset[tag]
            return dataset

    def read_edges(self) -> tuple[str, ...]:
        """The letters of the patient at the left, right, upper and lower edge by Patient Orientation (0020,0020): ("R", "L", "H", "F").

        () where the file does not say them. Raises the errors of `check_header`.
        """
        told = self.read_elements(("PatientOrientation",)).get("PatientOrientation") or ()
        ends = [str(end).strip().upper() for end in ([told] if isinstance(told, str) else told)]
        if len(ends) != 2 or not all(_DIRECTION.fullmatch(end) for end in ends):
            return ()
        right, lower = ends
        return right.translate(_OPPOSITE), right, lower.translate(_OPPOSITE), lower

    def digest(self) -> str:
        """The SHA-256 of the file, the frame, the window and the crop; that of the file alone where nothing is asked for."""
        content = self._file.digest()
        if not self.frame and self.window is None and self.crop is None:
            return content
        crop = f" {self.crop}" if self.crop else ""
        return hashlib.sha256(f"{content} {self.frame} {self._windows}{crop}".encode()).hexdigest()

    @contextmanager
    def _opened(self) -> Iterator[IO[bytes]]:
        with self._file.open() as stream:
            try:
                if not has_dicom_mark(stream):
                    raise DicomError('is no DICOM file with "DICM" at byte 128: convert it, or remove the row')
                yield stream
            except DicomError as error:
                raise DataError(f"image {self.path!r} {error}") from None
