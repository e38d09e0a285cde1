"""Read an image file as an RGB picture. Every failure is a DataError with a one-line message.

The format is read from the first bytes, never from the file name, and the size is checked before a pixel is decoded. PIL is imported when
the first image is opened. To add a format, add a row to `_SIGNATURES` and its decoder to `_decoder`. A DICOM file gives its first frame;
`dicom.DicomFrame` gives any frame, with any window.
"""

from __future__ import annotations

import hashlib
import re
import stat
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, TYPE_CHECKING, Final, Protocol, runtime_checkable

from osler.errors import DataError
from osler.images.dicom_header import NO_MARK, DicomError, has_dicom_mark, lacks_mark, read_num_frames
from osler.images.dicom_pixels import read_picture, read_size
from osler.images.limits import MAX_ASPECT_RATIO as MAX_ASPECT_RATIO
from osler.images.limits import MAX_BYTES as MAX_BYTES
from osler.images.limits import MAX_PIXELS as MAX_PIXELS
from osler.images.limits import size_fault
from osler.images.tones import DepthError, decoder_errors, read_rgb
from osler.types import ImageSource

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageFile import ImageFile as Decoder

MORE_PICTURES: Final = "with several pages or frames: only the first is shown"
"""What is said of a file of which `EncodedImage.has_more` is true, behind its name or number."""

_UNSAFE_PATH: Final = re.compile(r"^[/\\]|^[A-Za-z]:[/\\]|(?:^|[/\\])\.\.(?:[/\\]|$)|\0")

# Format -> its first bytes. RIFF is checked for "WEBP" four bytes later; BigTIFF has the version 43, "+", where TIFF has 42, "*".
_SIGNATURES: Final = {
    "PNG": (b"\x89PNG\r\n\x1a\n",),
    "JPEG": (b"\xff\xd8\xff",),
    "TIFF": (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"),
    "GIF": (b"GIF87a", b"GIF89a"),
    "WebP": (b"RIFF",),
    "BMP": (b"BM",),
}
FORMATS: Final = tuple(_SIGNATURES)  # of PIL; DICOM files are read too


_UNTIDY: Final = re.compile(r"//|/$|(?:^|/)\.(?:/|$)")


def _normalize(path: str) -> str:
    return PurePosixPath(path).as_posix() if _UNTIDY.search(path) else path  # an audit reads the uri of every image many times


class EncodedImage(ABC):
    """An image as encoded bytes, in a file or elsewhere; implements `ImageSource` and `HasDigest` but for `uri`."""

    __slots__ = ()

    if TYPE_CHECKING:  # a field of the dataclasses below; a property here would become its default

        @property
        def uri(self) -> str:
            """See `ImageSource`."""

    @abstractmethod
    def open(self) -> IO[bytes]:
        """The encoded bytes as an open stream. Raises DataError, one line that names the image."""

    def load(self) -> Image:
        """The decoded picture in mode RGB, upright. Raises DataError, one line that names the path.

        Of several frames or pages, the first. The EXIF orientation is applied. Transparent pixels are blended with black, the background
        of medical images; of 8 bits with white where 90 % of what is seen is darker than the tone 64, such as a drawing in black. Values of
        more than 8 bits are scaled so that the image's minimum becomes 0 and its maximum 255 (no windowing),
        with one minimum and one maximum for all its colours. CMYK is converted.
        """
        with self.open() as stream:
            if has_dicom_mark(stream):
                with self._naming_faults():
                    return read_picture(stream)
            decoder = self._read_header(stream)
            try:
                return read_rgb(decoder)
            except DepthError as error:
                raise self._fault(f"{error}: convert it to PNG") from None
            except decoder_errors() as error:
                raise self._fault(f"is damaged or cut short ({_reason(error)}): fetch it again") from error

    def digest(self) -> str:
        """The SHA-256 of the encoded bytes, in hexadecimal. Raises DataError when it cannot be opened, OSError when reading fails."""
        with self.open() as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()  # type: ignore[arg-type]

    def check_header(self) -> None:
        """Raise DataError if the file is missing, not an image, or too large. Decodes no pixel."""
        self.read_size()

    def read_size(self) -> tuple[int, int]:
        """Width and height in pixels, as the file's header gives them; of a DICOM file, once its pixels are square.

        Raises the errors of `check_header`.
        """
        with self.open() as stream:
            if has_dicom_mark(stream):
                with self._naming_faults():
                    return read_size(stream)
            return self._read_header(stream).size

    def has_more(self) -> bool:
        """Whether the file holds more pictures than the one that `load` gives: pages of a TIFF, frames of a clip or of a DICOM file.

        Raises the errors of `check_header`.
        """
        with self.open() as stream:
            if has_dicom_mark(stream):
                with self._naming_faults():
                    return read_num_frames(stream) > 1
            decoder = self._read_header(stream)
            try:
                return bool(getattr(decoder, "is_animated", False))
            except decoder_errors():  # of what follows the first picture, which is sound
                return False

    def _read_header(self, stream: IO[bytes]) -> Decoder:
        """A decoder that has read the header only."""
        try:
            decoder = _decoder(stream)
        except decoder_errors() as error:
            if str(error) == "unknown pixel mode":  # Pillow's words for a TIFF that is sound
                raise self._fault("has a number of channels or bits that Osler does not read: convert it to PNG") from error
            raise self._fault(f"has a damaged header ({_reason(error)}): fetch it again") from error
        if decoder is None:
            stream.seek(0)
            if not stream.read(1):
                raise self._fault("is empty: fetch it again")
            if lacks_mark(stream):
                raise self._fault(NO_MARK)
            raise self._fault(f"is not an image that Osler reads ({', '.join(FORMATS)}, DICOM): convert it, or remove the row")
        if fault := size_fault(*decoder.size):
            raise self._fault(fault)
        return decoder

    @contextmanager
    def _naming_faults(self) -> Iterator[None]:
        """Name the image in the errors of the DICOM reader."""
        try:
            yield
        except DicomError as error:
            raise self._fault(str(error)) from None

    def _fault(self, what: str) -> DataError:
        return DataError(f"image {_shorten(self.uri)} {what}")


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageFile(EncodedImage):
    """An image file below the folder `root`; implements `ImageSource`.

    `path` is relative, with forward slashes: "imgs/xmlab1/source.jpg". The constructor raises DataError for an absolute path or one with
    '..'; it does not open the file.
    """

    root: Path
    path: str

    def __hash__(self) -> int:
        return hash(self.path)  # images of one dataset have one root, whose hash takes longer

    def __post_init__(self) -> None:
        if not self.path.strip() or _UNSAFE_PATH.search(self.path):
            raise DataError(f"image path {_shorten(self.path)} must be relative to the image root, without '..'")

    @property
    def uri(self) -> str:
        """The relative path, e.g. "imgs/xmlab1/source.jpg"."""
        return _normalize(self.path)

    def open(self) -> IO[bytes]:
        """The file's bytes as an open stream, after checks of path and file size. Raises DataError, one line that names the path."""
        try:
            root = self.root.resolve(strict=True)
            full = (root / self.path).resolve(strict=True)
            if not full.is_relative_to(root):
                raise self._fault("is a link that leaves the image root: make the folder that it points to the root")
            status = full.stat()
            if not stat.S_ISREG(status.st_mode):
                raise self._fault("is not a file: check the path")
            if status.st_size > MAX_BYTES:
                raise self._fault(f"has {status.st_size:,} bytes, more than {MAX_BYTES:,}: store a smaller copy")
            return full.open("rb")
        except FileNotFoundError as error:
            raise self._fault(f"does not exist under {self.root}: check the image root") from error
        except (OSError, RuntimeError, ValueError) as error:  # RuntimeError: a loop of links; ValueError: an invalid file name
            raise self._fault(f"cannot be opened ({_reason(error)}): check the file and its permissions") from error

    def _fault(self, what: str) -> DataError:
        return DataError(f"image {_shorten(self.path)} {what}")


@runtime_checkable
class HasHeader(Protocol):
    """An image source that can be checked without decoding it: an encoded image, a DICOM frame, a slice of a volume."""

    def check_header(self) -> None:
        """Raise DataError if the file is missing, not an image, or too large."""


def verify(source: ImageSource, *, decode: bool = False) -> str | None:
    """The error message of an image that cannot be read, one line; None for a readable image.

    Of an image in a file only the header is read; `decode=True` decodes every pixel. Other sources are checked only with `decode=True`.
    """
    try:
        if decode:
            source.load()
        elif isinstance(source, HasHeader):
            source.check_header()
    except DataError as error:
        return str(error)
    return None


def _decoder(stream: IO[bytes]) -> Decoder | None:
    """PIL's decoder for the stream, header already read; None for a format that is not in `_SIGNATURES`.

    The plugins are called directly because `PIL.Image.open` warns about or rejects large images by a limit that is global to the process.
    """
    from PIL import BmpImagePlugin, GifImagePlugin, JpegImagePlugin, PngImagePlugin, TiffImagePlugin, WebPImagePlugin

    plugins: dict[str, type[Decoder]] = {
        "PNG": PngImagePlugin.PngImageFile,
        "JPEG": JpegImagePlugin.JpegImageFile,
        "TIFF": TiffImagePlugin.TiffImageFile,
        "GIF": GifImagePlugin.GifImageFile,
        "WebP": WebPImagePlugin.WebPImageFile,
        "BMP": BmpImagePlugin.BmpImageFile,
    }
    head = stream.read(16)
    stream.seek(0)
    for name, signatures in _SIGNATURES.items():
        if head.startswith(signatures) and (name != "WebP" or head[8:12] == b"WEBP"):
            return plugins[name](stream)
    return None


def _reason(error: BaseException) -> str:
    return _shorten(str(error) or type(error).__name__, quote=False)


def _shorten(text: str, *, quote: bool = True) -> str:
    """The first 200 characters of `text` on one line, control characters escaped; quoted for a path."""
    text = text if len(text) <= 200 else f"{text[:197]}..."
    return repr(text) if quote else text.encode("unicode_escape").decode("ascii")
