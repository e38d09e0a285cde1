"""A dataset under keyed names: what a reader returned, without its paths, ids and metadata (`[data] private = true`).

Pictures keep their pixels, questions and answers their words: those are what a policy is trained on. Everything that only tells rows, files
and patients apart becomes a keyed hash. An error of a private dataset says what is wrong in words of this module, never in those of a file.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final, TypeVar

from osler.data.privacy.keys import Key
from osler.data.readers.base import ReadReport, Refusal
from osler.data.splits.cases import case_of
from osler.errors import ConfigError, DataError, MissingExtra, OslerError
from osler.images.clip import Clip
from osler.images.files import HasHeader
from osler.images.fingerprints import digest_image
from osler.images.sizes import size_of
from osler.types import ImageSource, Sample

if TYPE_CHECKING:
    from PIL.Image import Image

Value = TypeVar("Value")
REMEDY: Final = "to see which and why, ask `osler data check` without [data] private, where names may be seen"

# What an error of the image readers says -> what a private dataset says. Nothing else of an error is repeated.
_REASONS: Final = {
    r"does not exist under": "does not exist",
    r"is a link that leaves|must be relative to the image root": "lies outside of the image root",
    r"is not a file": "is not a file",
    r"cannot be opened": "cannot be opened",
    r"bytes, more than|is larger than": "is too large",
    r"pixels, more than|too narrow|cannot be made square|frames, more than": "has a size that Osler does not read",
    r"is not an image that Osler reads|is no DICOM file|is no volume": "is of a kind that Osler does not read",
    r"is damaged or cut short|has a damaged header|cannot be decoded|that do not fit|shorter than": "is damaged",
    r"that is a number": "holds no number",
    r"patients: |several patients": "holds files of several patients",
    r"without pixels": "is a DICOM file without pixels",
    r"transfer syntax|which Osler does not read|photometric|the standard does not allow": "has pixels that Osler does not read",
    r"has no frame|has no slice": "has no such frame or slice",
    r"is no longer in|cannot be read from": "has changed since it was read",
    r"a window is for greyscale|has no window|windows of its own": "has no such window",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class PrivateImage:
    """Another image source under a keyed name; implements `ImageSource`, `HasHeader` and `HasDigest`.

    Its errors are a DataError of one line with the keyed name. The picture is a new one that holds pixels and nothing else: no comment, no
    EXIF, no file name.
    """

    uri: str  # "private/3f0c27c1b0a14e559d02"
    source: ImageSource = field(repr=False)
    key: Key = field(repr=False, compare=False)

    @classmethod
    def of(cls, source: ImageSource, key: Key) -> PrivateImage:
        """The source under the keyed hash of its URI."""
        return cls(uri=f"private/{key.name('image', source.uri)}", source=source, key=key)

    def load(self) -> Image:
        """The picture in mode RGB."""
        import PIL.Image

        with self.naming_no_file():
            picture = self.source.load()
            return PIL.Image.frombytes("RGB", picture.size, picture.convert("RGB").tobytes())

    def check_header(self) -> None:
        """Raise DataError where the header shows that the image cannot be read; does nothing for a source without a header."""
        if isinstance(self.source, HasHeader):
            with self.naming_no_file():
                self.source.check_header()

    def read_size(self) -> tuple[int, int]:
        """Width and height of the picture."""
        with self.naming_no_file():
            return size_of(self.source)

    def digest(self) -> str:
        """The keyed hash of the content: equal for equal content, and no hash of the file that somebody else could know."""
        if (digest := digest_image(self.source)) is None:
            raise DataError(f"image {self.uri} cannot be read: {REMEDY}")
        return self.key.digest("content", digest)

    @contextmanager
    def naming_no_file(self) -> Iterator[None]:
        """Raise what the block raises with the keyed name and a reason of this module."""
        try:
            yield
        except MissingExtra:
            raise
        except (OslerError, OSError) as error:
            raise DataError(f"image {self.uri} {_reason(str(error))}: {REMEDY}") from None


def expand(image: ImageSource, parts: Callable[[ImageSource], Sequence[ImageSource]]) -> tuple[ImageSource, ...]:
    """The parts of an image, such as the slices of a study, under keyed names where the image is private."""
    if not isinstance(image, PrivateImage):
        return tuple(parts(image))
    with image.naming_no_file():
        return tuple(_hide(part, image.key) for part in parts(image.source))


def _hide(part: ImageSource, key: Key) -> ImageSource:
    """A picture under a keyed name; a clip stays one, of frames under keyed names."""
    if isinstance(part, Clip):
        return Clip(sources=tuple(_hide(frame, key) for frame in part.sources))
    return PrivateImage.of(part, key)


def make_private(report: ReadReport, key: Key, reader: str) -> ReadReport:
    """The samples with keyed ids, subjects and images and without metadata, and the refused rows without their words.

    A dataset is called after its reader, with the beginning of a keyed hash where its own name is another one. A sample without a subject
    gets that of its path where Osler knows the naming of the dataset.
    """
    kinds = {name: reader if name == reader else f"{reader}-{key.name('dataset', name)[:6]}" for name in _datasets(report.samples)}
    images: dict[ImageSource, PrivateImage] = {}
    samples = [_private_sample(sample, key, kinds[sample.dataset], images) for sample in report.samples]
    refused = (Refusal(row=f"{reader}/{key.name('row', refusal.row)}", reason=f"is refused: {REMEDY}") for refusal in report.refused)
    return ReadReport(
        samples=tuple(samples),
        refused=tuple(refused),
        notes=_without_quotes(report.notes),
        splits=report.splits,
    )


def read_private(read: Callable[[], Value]) -> Value:
    """The result of a reader whose error may name files and quote rows: what it raises is a DataError without its words."""
    try:
        return read()
    except (ConfigError, MissingExtra):
        raise
    except OslerError:
        raise DataError(f"the data cannot be read: {REMEDY}") from None


def _private_sample(sample: Sample, key: Key, dataset: str, images: dict[ImageSource, PrivateImage]) -> Sample:
    case = case_of(sample)
    return replace(
        sample,
        id=f"{dataset}/{key.name('sample', sample.id)}",
        dataset=dataset,
        images=tuple(images.setdefault(source, PrivateImage.of(source, key)) for source in sample.images),
        subject_id=None if case is None else key.name("subject", case),
        metadata={},
    )


def _datasets(samples: Sequence[Sample]) -> list[str]:
    return list(dict.fromkeys(sample.dataset for sample in samples))


def _without_quotes(notes: Mapping[str, int]) -> dict[str, int]:
    """The notes without what they quote of the data, such as the name of a column."""
    told: dict[str, int] = {}
    for note, count in notes.items():
        words = re.sub(r"(['\"]).*\1", "...", note)
        told[words] = told.get(words, 0) + count
    return told


def _reason(text: str) -> str:
    return next((reason for pattern, reason in _REASONS.items() if re.search(pattern, text)), "cannot be read")
