"""An image file as an RGB picture, or one line that says why not.

Nothing here is guessed: the format is read from the first bytes and never from the name, sizes are bounded before a pixel is decoded, and
what cannot be shown raises DataError. PIL is imported when the first image is opened. To add a format, add a row to `_SIGNATURES` and its
decoder to `_decoder`.
"""

from __future__ import annotations

import hashlib
import re
import stat
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import IO, TYPE_CHECKING, Final

from osler.errors import DataError
from osler.types import ImageSource

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageFile import ImageFile as Decoder

MAX_PIXELS: Final = 64_000_000
"""The most pixels an image may have, e.g. 8000 x 8000."""

MAX_BYTES: Final = 512 * 1024**2
"""The largest image file that is opened."""

MAX_ASPECT_RATIO: Final = 200
"""The longest side over the shortest; the processors of the Qwen2-VL family refuse anything beyond."""

_UNSAFE_PATH: Final = re.compile(r"^[/\\]|^[A-Za-z]:[/\\]|(?:^|[/\\])\.\.(?:[/\\]|$)|\0")

# First bytes -> format. RIFF is checked for "WEBP" four bytes later; BigTIFF has the version 43 where TIFF has 42.
_SIGNATURES: Final = (
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    (b"\xff\xd8\xff", "JPEG"),
    (b"II*\0", "TIFF"),
    (b"MM\0*", "TIFF"),
    (b"II+\0", "TIFF"),
    (b"MM\0+", "TIFF"),
    (b"GIF87a", "GIF"),
    (b"GIF89a", "GIF"),
    (b"RIFF", "WebP"),
    (b"BM", "BMP"),
)
FORMATS: Final = tuple(dict.fromkeys(name for _, name in _SIGNATURES))

_ORIENTATION_TAG: Final = 0x0112
_PHOTOMETRIC_TAG: Final = 0x0106
_WHITE_IS_ZERO: Final = 0


@lru_cache(maxsize=1 << 17)  # an audit asks for the name of every image of a dataset many times
def _tidy(path: str) -> str:
    return PurePosixPath(path).as_posix()


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageFile:
    """An image below `root`; an `ImageSource`. Raises DataError at once for a path that is absolute or climbs with '..'.

    `path` is relative, with forward slashes: "imgs/xmlab1/source.jpg".
    """

    root: Path
    path: str

    def __post_init__(self) -> None:
        if not self.path.strip() or _UNSAFE_PATH.search(self.path):
            raise DataError(f"image path {_shorten(self.path)} must be relative to the image root, without '..'")

    @property
    def uri(self) -> str:
        """The relative path, e.g. "imgs/xmlab1/source.jpg"."""
        return _tidy(self.path)

    def load(self) -> Image:
        """The picture as RGB, upright. Raises DataError in one line that names the path.

        The first frame or page of a file that has several; EXIF rotation applied; transparency laid on black, the background of medical
        images; greyscale of more than 8 bits stretched from its own lowest to its own highest value (no windowing); CMYK converted.
        """
        with self._opened() as decoder:
            try:
                return _upright(_to_rgb(decoder), _orientation(decoder))
            except _decoder_errors() as error:
                raise self._fault(f"is damaged or cut short ({_reason(error)}): fetch it again") from error

    def open(self) -> IO[bytes]:
        """The bytes of the file, after the same checks of its place and size. Raises DataError in one line that names the path."""
        return self._open_stream()

    def digest(self) -> str:
        """The SHA-256 of the file's bytes, in hexadecimal. Raises DataError or OSError."""
        with self.open() as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()  # type: ignore[arg-type]

    def check_header(self) -> None:
        """Raise DataError if the file is missing, out of bounds or not an image. Decodes nothing."""
        with self._opened():
            pass

    @contextmanager
    def _opened(self) -> Iterator[Decoder]:
        """A decoder that has read the header only."""
        with self._open_stream() as stream:
            try:
                decoder = _decoder(stream)
            except _decoder_errors() as error:
                raise self._fault(f"has a damaged header ({_reason(error)}): fetch it again") from error
            if decoder is None:
                raise self._fault(f"is not an image that Osler reads ({', '.join(FORMATS)}): convert it, or remove the row")
            self._check_size(*decoder.size)
            yield decoder

    def _open_stream(self) -> IO[bytes]:
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
        except (OSError, RuntimeError, ValueError) as error:  # also a loop of links, and a name that no file can have
            raise self._fault(f"cannot be opened ({_reason(error)}): check the file and its permissions") from error

    def _check_size(self, width: int, height: int) -> None:
        if width * height > MAX_PIXELS:
            raise self._fault(f"has {width} x {height} pixels, more than {MAX_PIXELS:,}: store a smaller copy")
        if max(width, height) > MAX_ASPECT_RATIO * min(width, height):
            raise self._fault(f"has {width} x {height} pixels, too narrow for any model: remove the row")

    def _fault(self, what: str) -> DataError:
        return DataError(f"image {_shorten(self.path)} {what}")


def verify(source: ImageSource, *, decode: bool = False) -> str | None:
    """What is wrong with an image, in one line, or None. Reads the header of a file only, unless `decode` asks for every pixel."""
    try:
        if decode:
            source.load()
        elif isinstance(source, ImageFile):
            source.check_header()
    except DataError as error:
        return str(error)
    return None


def _decoder(stream: IO[bytes]) -> Decoder | None:
    """PIL's decoder for the stream, its header read, or None for a format that is not in the table.

    The plugins are called directly: `PIL.Image.open` warns of, or refuses, large images by a limit that is global to the process.
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
    for signature, name in _SIGNATURES:
        if head.startswith(signature) and (name != "WebP" or head[8:12] == b"WEBP"):
            return plugins[name](stream)
    return None


def _to_rgb(image: Image) -> Image:
    import PIL.Image

    if image.mode.startswith("I") or image.mode == "F":
        return _stretch(image)
    if image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info:
        layer = image.convert("RGBA")
        return PIL.Image.alpha_composite(PIL.Image.new("RGBA", layer.size, (0, 0, 0, 255)), layer).convert("RGB")
    return image.convert("RGB")


def _stretch(image: Image) -> Image:
    """A picture of more than 8 bits, from its own lowest (black) to its own highest value (white); a constant one is black."""
    import numpy as np
    import PIL.Image

    values = np.asarray(image, dtype=np.float64 if image.mode == "F" else np.float32)  # the narrower one is exact for 16 bits
    finite = np.isfinite(values)
    if not finite.any():
        raise ValueError("no pixel is a number")
    low, high = float(values[finite].min()), float(values[finite].max())
    scaled = (np.nan_to_num(values, nan=low, posinf=high, neginf=low) - low) * (255 / (high - low) if high > low else 0.0)
    if getattr(image, "tag_v2", {}).get(_PHOTOMETRIC_TAG) == _WHITE_IS_ZERO:  # PIL inverts such files only up to 8 bits
        scaled = 255 - scaled
    return PIL.Image.fromarray(scaled.round().astype(np.uint8)).convert("RGB")


def _orientation(decoder: Decoder) -> int:
    """The EXIF orientation, 1 to 8; 1 where the tag is absent or its block is unreadable, since the pixels are sound then."""
    try:
        value = decoder.getexif().get(_ORIENTATION_TAG, 1)
    except _decoder_errors():
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _upright(image: Image, orientation: int) -> Image:
    from PIL.Image import Transpose

    turns = {
        2: Transpose.FLIP_LEFT_RIGHT,
        3: Transpose.ROTATE_180,
        4: Transpose.FLIP_TOP_BOTTOM,
        5: Transpose.TRANSPOSE,
        6: Transpose.ROTATE_270,
        7: Transpose.TRANSVERSE,
        8: Transpose.ROTATE_90,
    }
    return image.transpose(turns[orientation]) if orientation in turns else image


def _decoder_errors() -> tuple[type[Exception], ...]:
    """What PIL's decoders raise for damaged files, also where warnings are errors; a hostile file must not end a run."""
    from PIL.Image import DecompressionBombError

    return (OSError, SyntaxError, ValueError, LookupError, TypeError, ArithmeticError, EOFError, NotImplementedError, AttributeError,
            AssertionError, MemoryError, struct.error, zlib.error, DecompressionBombError, Warning)  # fmt: skip


def _reason(error: BaseException) -> str:
    return _shorten(str(error) or type(error).__name__, quote=False)


def _shorten(text: str, *, quote: bool = True, limit: int = 200) -> str:
    """`text` for one line of an error, cut to `limit` characters; quoted, so that no control character reaches a terminal."""
    text = text if len(text) <= limit else text[: limit - 3] + "..."
    return repr(text) if quote else text.encode("unicode_escape").decode("ascii")
