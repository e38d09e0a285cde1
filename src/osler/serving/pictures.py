"""Images of a request: encoded bytes in data URLs, bounded in number, bytes and pixels. Nothing is fetched and no file is opened."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Sequence
from typing import Final

from osler.errors import DataError
from osler.evaluation.question import reword
from osler.images.embedded import ImageBytes
from osler.serving.errors import ApiError
from osler.serving.settings import ServerSettings

_DATA_URL: Final = re.compile(r"data:[\w.+-]*(?:/[\w.+-]*)?(?:;[\w.+-]+=[^;,]{0,100})*;base64,", re.IGNORECASE)
_MAX_HEAD: Final = 400  # characters before the data


def read_data_url(url: str, param: str) -> ImageBytes:
    """The image of a data URL; the bytes say the format, not the media type. Raises ApiError (400) for any other URL and bad base64."""
    if (head := _DATA_URL.match(url[:_MAX_HEAD])) is None:
        raise ApiError(
            400, f"{param} is no data URL: send data:image/png;base64,.. ; no address is fetched and no file is opened", param=param
        )
    try:
        content = base64.b64decode("".join(url[head.end() :].split()), validate=True)
    except (binascii.Error, ValueError):
        raise ApiError(400, f"{param} holds no base64: encode the bytes of the image", param=param) from None
    if not content:
        raise ApiError(400, f"{param} is empty: send the bytes of an image", param=param)
    return ImageBytes.of(content)


def read_images(urls: Sequence[tuple[str, str]], settings: ServerSettings) -> tuple[ImageBytes, ...]:
    """The images of (data URL, parameter) pairs, with their headers checked. Blocks: call it in a thread.

    Raises ApiError (400) for too many images, too many pixels together, and for what is not an image that Osler reads.
    """
    if len(urls) > settings.max_images:
        raise ApiError(400, f"{len(urls)} images are more than {settings.max_images}: send fewer", param=urls[settings.max_images][1])
    images, pixels = [], 0
    for url, param in urls:
        image = read_data_url(url, param)
        try:
            width, height = image.read_size()
        except DataError as error:
            raise ApiError(400, f"{param}: {reword(str(error))}", param=param, code="invalid_image") from None
        pixels += width * height
        if pixels > settings.max_pixels:
            raise ApiError(
                400,
                f"the images have more than {settings.max_pixels:,} pixels together: send smaller ones",
                param=param,
                code="invalid_image",
            )
        images.append(image)
    return tuple(images)
