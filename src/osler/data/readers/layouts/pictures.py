"""The images of a row: paths below the image root, or the encoded image itself in base64, in a data URL or in a table's cell.

A path that does not end as a picture does is that of a study: a folder, a volume, a DICOM file. An object may say more about it: `window`,
`plane`, `series`, `position`, `label`, `label_value` (see `osler.images.study.Study`), and `caption` about any image.
"""

from __future__ import annotations

import base64
import binascii
import difflib
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from osler.config import StudyConfig
from osler.data.readers.layouts.fields import is_absent, parse_literal
from osler.errors import ConfigError, DataError
from osler.images.embedded import ImageBytes
from osler.images.files import MAX_BYTES, EncodedImage, ImageFile
from osler.images.study import SETTINGS, Study, is_study
from osler.types import ImageSource

WHAT: Final = "'image' or 'images'"
MAX_CAPTION: Final = 500
"""Characters of a caption."""

_NAMES: Final[dict[tuple[type, ...], str]] = {
    (str,): "text",
    (int,): "a whole number",
    (int, float): "a number",
    (int, str): "a number or a name",
}
_DATA_URL: Final = re.compile(r"data:image/[\w.+-]{1,40};base64,", re.IGNORECASE)
_ADDRESS: Final = re.compile(r"[a-z][a-z0-9+.-]{1,20}://", re.IGNORECASE)
_BASE64: Final = re.compile(r"(?:/9j/|iVBORw0KGgo|R0lGOD|UklGR|Qk[0-3]|SUkqA|TU0AK)[A-Za-z0-9+/\s]{40,}={0,2}\s*")
"""Base64 of a file that begins as a JPEG, PNG, GIF, WebP, BMP or TIFF does."""


class Pictures:
    """The image sources of the rows of one file; equal bytes are one source."""

    def __init__(self, root: Path, notes: Counter[str], prefix: str = "") -> None:
        """`prefix` is put before every path: the folder of the table below the root, "train/"."""
        self._root = root
        self._prefix = prefix
        self._notes = notes
        self._known: dict[ImageSource, ImageSource] = {}

    def read_all(self, given: Sequence[tuple[str, Any]]) -> tuple[ImageSource, ...]:
        """The images of a row by its fields (name, value), which must agree. Raises DataError for none and for no image."""
        if not given:
            raise DataError(f"{WHAT} is missing")
        images = self._read(given[0][1])
        for name, value in given[1:]:
            if not _is_same(given[0][1], value):
                raise DataError(f"{given[0][0]!r} and {name!r} give different images: keep one of them")
        return images

    def read_captions(self, given: Sequence[tuple[str, Any]]) -> tuple[str | None, ...]:
        """The captions of the images that `read_all` gives. Raises DataError for one that is no text of a line."""
        if not given:
            return ()
        if isinstance(path := given[0][1], str) and not path.lstrip().startswith(("[", "{")):
            return (None,)
        return tuple(_read_caption(member) for member in _members(path))

    def _read(self, value: Any) -> tuple[ImageSource, ...]:
        images = tuple(self._read_one(member) for member in _members(value))
        if not images:
            raise DataError(f"{WHAT} is not a path or a list of paths")
        return images

    def _read_one(self, value: Any) -> ImageSource:
        settings: dict[str, Any] = {}
        if isinstance(value, dict):
            settings = _read_settings(value)
            content, path = value.get("bytes"), _path_of(value)
            if isinstance(content, (bytes, EncodedImage)):
                value = content
            elif isinstance(path, str):
                value = path
        encoded = value.strip() if isinstance(value, str) else ""
        header = _DATA_URL.match(encoded)
        if settings and (not isinstance(value, str) or header or _BASE64.fullmatch(encoded)):
            raise DataError(f"{next(iter(settings))!r} of an image is for a study, which is named by its path: leave it out")
        if isinstance(value, EncodedImage):
            self._notes["image in the file itself"] += 1
            return self._known.setdefault(value, value)
        if isinstance(value, bytes):
            return self._embedded(value)
        if not isinstance(value, str):
            raise DataError(f"{WHAT} is not a path or a list of paths")
        value = encoded
        if header or _BASE64.fullmatch(value):
            return self._embedded(_decode(value[header.end() if header else 0 :]))
        if _ADDRESS.match(value) or value[:5].lower() == "data:":
            raise DataError(f"image {value[:80]!r} is an address: fetch it, and give its path below the image root")
        if "\\" in value and "/" not in value:
            self._notes["backslash in the path of an image"] += 1
            value = value.replace("\\", "/")
        if settings or is_study(value):
            if "label" in settings:
                settings["label"] = self._prefix + settings["label"]
            try:
                return Study(root=self._root, path=self._prefix + value, **settings)
            except ConfigError as error:
                raise DataError(f"image {value!r}: {error}") from None
        return ImageFile(root=self._root, path=self._prefix + value)

    def _embedded(self, content: bytes) -> ImageSource:
        if len(content) > MAX_BYTES:
            raise DataError(f"an image has {len(content):,} bytes, more than {MAX_BYTES:,}: store a smaller copy")
        self._notes["image in the file itself"] += 1
        source = ImageBytes.of(content)
        return self._known.setdefault(source, source)


def _read_settings(value: dict[str, Any]) -> dict[str, Any]:
    """What an object says about its study. Raises DataError for a value of the wrong type."""
    for name in value.keys() - SETTINGS.keys() - {"caption"}:
        if name in StudyConfig.model_fields:
            raise DataError(f"{name!r} of an image is no setting of a row: set it in [data.study]")
        if close := difflib.get_close_matches(str(name).lower(), [*SETTINGS, "caption"], n=1, cutoff=0.8):
            raise DataError(f"unknown {name!r} of an image: did you mean {close[0]!r}?")
    settings = {name: value[name] for name in SETTINGS if not is_absent(value.get(name))}
    for name, setting in settings.items():
        if not isinstance(setting, SETTINGS[name]) or isinstance(setting, bool):
            raise DataError(f"{name!r} of an image is {type(setting).__name__}, not {_NAMES[SETTINGS[name]]}")
    return settings


def _read_caption(value: Any) -> str | None:
    caption = value.get("caption") if isinstance(value, dict) else None
    if is_absent(caption):
        return None
    if not isinstance(caption, str) or len(caption) > MAX_CAPTION:
        raise DataError(f"the caption of an image is no text of at most {MAX_CAPTION} characters")
    return " ".join(caption.split()).rstrip(":")


def _members(value: Any) -> list[Any]:
    value = parse_literal(value)
    return [member for member in (value if isinstance(value, (list, tuple)) else [value]) if not is_absent(member)]


def _is_same(one: Any, other: Any) -> bool:
    """Whether two fields give the same images as far as paths tell: equal, or one the end of the other ("a.png" and "images/a.png")."""
    first, second = ([_path_or_member(member) for member in _members(value)] for value in (one, other))
    if not all(isinstance(member, str) and not _BASE64.fullmatch(member) and not _DATA_URL.match(member) for member in (*first, *second)):
        return True  # encoded images carry no path
    return len(first) == len(second) and all(_ends_with(*sorted(pair, key=len)) for pair in zip(first, second, strict=True))


def _path_or_member(member: Any) -> Any:
    """The path of an object that gives no bytes; any other member as it is."""
    if not isinstance(member, dict) or not is_absent(member.get("bytes")):
        return member
    return member if (path := _path_of(member)) is None else path


def _path_of(value: dict[str, Any]) -> Any:
    """What an object gives as its path; None without one."""
    return next((value[key] for key in ("path", "url", "image") if not is_absent(value.get(key))), None)


def _ends_with(short: str, long: str) -> bool:
    return long == short or long.endswith(f"/{short}")


def _decode(text: str) -> bytes:
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except binascii.Error as error:
        raise DataError("an image is no valid base64: write the file again") from error
