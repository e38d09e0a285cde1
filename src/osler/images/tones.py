"""From what a decoder gives to a picture of 8-bit RGB.

PIL keeps 16 bits of greyscale only: of colours, and of grey with alpha, it keeps the high byte. Such files are decoded twice, once for the
high and once for the low bytes, by telling PIL's decoder that the bytes of a value are in the opposite order.
"""

from __future__ import annotations

import re
import struct
import sys
import zlib
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL.Image import Image
    from PIL.ImageFile import ImageFile as Decoder

_DEEP: Final = re.compile(r"(LA|RGBA|RGBa|RGBX|RGB|CMYK);16([LBN])")  # PIL's names for 16 bits a channel, little- or big-endian or native
_OTHER_ORDER: Final = {"L": "B", "B": "L"}
_NATIVE: Final = "L" if sys.byteorder == "little" else "B"
_MAX_16: Final = 65535
_ROWS: Final = 256  # of an image, that are blended at a time
_DARK: Final = 64  # tones below it are hard to see on black
_NEARLY_ALL: Final = 0.9  # of the pixels that are seen: a drawing in black may have a line in colour

_PLANES: Final = 2  # a value of TIFF's PlanarConfiguration tag
_WHITE_IS_ZERO: Final = 0  # a value of TIFF's PhotometricInterpretation tag


class DepthError(Exception):
    """A file whose 16 bits cannot be read: what it is, in words."""


def read_rgb(decoder: Decoder) -> Image:
    """The picture of a decoder that has read its header, in mode RGB, upright. Raises DepthError, or an error of `decoder_errors`."""
    if (deep := _find_deep(decoder)) is not None:
        return _read_deep(decoder, *deep)
    decoder.load()
    _turn_upright(decoder)
    return _to_rgb(decoder)


def decoder_errors() -> tuple[type[Exception], ...]:
    """The exceptions that PIL's decoders raise for damaged files, warnings included, in case those are turned into errors."""
    from PIL.Image import DecompressionBombError

    return (OSError, SyntaxError, ValueError, LookupError, TypeError, ArithmeticError, EOFError, NotImplementedError, AttributeError,
            AssertionError, MemoryError, struct.error, zlib.error, DecompressionBombError, Warning)  # fmt: skip


def _find_deep(decoder: Decoder) -> tuple[str, str] | None:
    """The channels of an image with several of 16 bits, "RGBA", and the byte order, "L" or "B"; None for any other image."""
    from PIL.ExifTags import Base

    raw_mode = _split(decoder.tile[0].args)[0] if decoder.tile else ""
    tags: Any = getattr(decoder, "tag_v2", {})
    is_planar = tags.get(Base.PlanarConfiguration) == _PLANES and tags.get(Base.BitsPerSample, (1,))[0] > 8 and len(decoder.getbands()) > 1
    if is_planar and raw_mode == "R":
        return "".join(decoder.getbands()), "L" if tags.prefix == b"II" else "B"
    if (match := _DEEP.fullmatch(raw_mode)) is None:
        return None
    if is_planar:
        raise DepthError("is a compressed TIFF of 16-bit colours in separate planes, which Osler does not read")
    if match[1] == "CMYK":
        raise DepthError("has CMYK colours of 16 bits, which Osler does not read")
    return match[1], _NATIVE if match[2] == "N" else match[2]


def _split(args: Any) -> tuple[str, tuple[Any, ...]]:
    """The arguments of a tile: PIL's name of the bytes, and what a TIFF has beside it."""
    return (args, ()) if isinstance(args, str) else (str(args[0]), tuple(args[1:]))


def _read_deep(decoder: Decoder, channels: str, order: str) -> Image:
    """The picture of an image with several channels of 16 bits, scaled as greyscale is."""
    import numpy as np
    import PIL.Image

    stream = decoder.fp
    transparent = decoder.info.get("transparency")
    if channels == "LA":  # four bytes, as RGBA of 8 bits
        values = _decode(decoder, "RGBA", "").view(">u2").astype(np.uint16)
    else:
        layout = channels.replace("a", "A")
        values = np.left_shift(_decode(decoder, layout, order), 8, dtype=np.uint16)
        assert stream is not None
        stream.seek(0)
        values |= _decode(type(decoder)(stream), layout, _OTHER_ORDER[order])
    alpha = values[..., -1] if channels in ("LA", "RGBA", "RGBa") else None
    colours = values[..., :-1] if alpha is not None else values
    if channels == "RGBa":  # colours that are multiplied by alpha
        colours = _divide(colours, values[..., -1:])
    elif isinstance(transparent, tuple) and alpha is None:  # the one colour of a PNG that is transparent
        alpha = np.where((colours == transparent).all(axis=-1), 0, _MAX_16).astype(np.uint16)
    shown = _stretch_colours(colours, alpha)
    return PIL.Image.fromarray(shown[..., 0] if channels == "LA" else shown).convert("RGB")


def _decode(decoder: Decoder, layout: str, order: str) -> NDArray[np.uint8]:
    """One byte of every value, (height, width, channels), upright: the high one if `order` is the file's byte order, else the low one."""
    import numpy as np

    tiles = []
    for tile in decoder.tile:
        old, rest = _split(tile.args)
        if len(old) == 1 and old not in layout:
            continue  # a plane beyond the channels
        raw_mode = f"{old if len(old) == 1 else layout};16{order}" if order else layout
        tiles.append(tile._replace(args=(raw_mode, *rest) if rest else raw_mode))
    decoder.tile = tiles
    decoder.load()
    _turn_upright(decoder)
    return np.asarray(decoder)


def _divide(colours: NDArray[np.uint16], alpha: NDArray[np.uint16]) -> NDArray[np.uint16]:
    """`colours`, (height, width, 3), divided by `alpha`, (height, width, 1)."""
    import numpy as np

    divided = np.empty_like(colours)
    for begin in range(0, len(colours), _ROWS):
        rows = slice(begin, begin + _ROWS)
        quotient = colours[rows] * np.float32(_MAX_16) / np.maximum(alpha[rows], 1)
        divided[rows] = quotient.round().clip(0, _MAX_16)
    return divided


def _stretch_colours(colours: NDArray[np.uint16], alpha: NDArray[np.uint16] | None) -> NDArray[np.uint8]:
    """Colours of 16 bits, (height, width, channels), scaled by one minimum and maximum of the visible pixels and blended with black."""
    import numpy as np

    where = True if alpha is None else alpha[..., None] > 0
    low, high = int(colours.min(initial=_MAX_16, where=where)), int(colours.max(initial=0, where=where))
    tones = _scale(np.arange(_MAX_16 + 1, dtype=np.float32), low, high).clip(0, 255)  # of every value
    if alpha is None:
        shown: NDArray[np.uint8] = tones.round().astype(np.uint8)[colours]
        return shown
    shown = np.empty(colours.shape, np.uint8)
    for begin in range(0, len(colours), _ROWS):
        rows = slice(begin, begin + _ROWS)
        shown[rows] = (tones[colours[rows]] * (alpha[rows, :, None] / np.float32(_MAX_16))).round()
    return shown


def _scale(values: Any, low: float, high: float) -> Any:
    """`values` as floats from 0 for `low` to 255 for `high`; all 0 where the two are equal."""
    return (values - low) * (255 / (high - low) if high > low else 0.0)


def _to_rgb(image: Image) -> Image:
    import PIL.Image

    if image.mode.startswith("I") or image.mode == "F":
        return _stretch(image)
    if image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info:
        layer = image.convert("RGBA")
        tone = _background(layer)
        return PIL.Image.alpha_composite(PIL.Image.new("RGBA", layer.size, (tone, tone, tone, 255)), layer).convert("RGB")
    return image.convert("RGB")


def _background(layer: Image) -> int:
    """The tone behind transparent pixels: 0 as in medical images; 255 where nearly all that is seen would vanish in black."""
    import numpy as np

    is_seen = np.asarray(layer.getchannel("A")) > 127
    tones = np.asarray(layer.convert("RGB").convert("L"))[is_seen]
    return 255 if tones.size and (tones < _DARK).mean() >= _NEARLY_ALL else 0


def _stretch(image: Image) -> Image:
    """Greyscale of more than 8 bits, scaled from its minimum (black) to its maximum (white); a constant image is black."""
    import numpy as np
    import PIL.Image
    from PIL.ExifTags import Base

    values = np.asarray(image, dtype=np.float64 if image.mode == "F" else np.float32)  # float32 represents every 16-bit value exactly
    finite = np.isfinite(values)
    if not finite.any():
        raise ValueError("no pixel is a number")
    transparent = image.info.get("transparency")
    is_transparent = values == (transparent if isinstance(transparent, int) else np.nan)  # the one grey of a PNG that is transparent
    seen = finite & ~is_transparent
    low, high = (float(values[seen].min()), float(values[seen].max())) if seen.any() else (0.0, 0.0)
    scaled = _scale(np.nan_to_num(values, nan=low, posinf=high, neginf=low), low, high)
    if getattr(image, "tag_v2", {}).get(Base.PhotometricInterpretation) == _WHITE_IS_ZERO:  # PIL inverts such files only up to 8 bits
        scaled = 255 - scaled
    return PIL.Image.fromarray(np.where(is_transparent, 0, scaled).round().astype(np.uint8)).convert("RGB")


def _turn_upright(image: Image) -> None:
    """Apply the EXIF orientation in place. A damaged EXIF block is ignored: the pixels themselves are intact."""
    from PIL.ImageOps import exif_transpose

    with suppress(*decoder_errors()):
        exif_transpose(image, in_place=True)
