"""From files that a client sent to studies in a folder of the server: sorted by content, stored under names of the server's own.

The DICOM files of a folder are one study, whose series are images of their own; so are all DICOM files without a folder. A volume is one
image. Pictures of a folder are a series in the order of their numbers, pictures without a folder are images one by one.
"""

from __future__ import annotations

import shutil
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path, PurePosixPath
from typing import IO, Final, Literal

from osler.errors import DataError
from osler.evaluation.question import reword as reword_question
from osler.images.dicom_header import has_dicom_mark
from osler.images.files import ImageFile, verify
from osler.images.study import PICTURE_SUFFIXES, VOLUME_SUFFIXES, Study, natural_key
from osler.images.volume_headers import VolumeError, read_volume_header

MAX_NAME: Final = 80
"""The most characters of a name that is shown."""

_MAX_TOLD: Final = 3  # files that are left out, by name
_IMAGES: Final = ("dicom", "volume", "picture")
Sort = Literal["dicom", "volume", "picture", "other"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ReceivedFile:
    """A file as a client sent it."""

    name: str  # text to show, maybe a relative path: "ct/IM0001"
    stream: IO[bytes]


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredFile:
    """A file in the folder of an upload."""

    shown: str  # what its user calls it: "ct/IM0001"
    path: str  # below the folder of the upload: "3/1/00007.dcm"
    sort: Sort
    fault: str | None = None  # why it is no picture

    @property
    def folder(self) -> str:
        """The first folder of the name; "" without one."""
        first, _, rest = self.shown.partition("/")
        return first if rest else ""


@dataclass(frozen=True, slots=True, kw_only=True)
class SortedFiles:
    """The studies of an upload."""

    studies: tuple[tuple[str, Study], ...]  # each with the name that its user knows
    names: Mapping[str, str]  # path below the folder -> what its user calls it
    notes: tuple[str, ...]  # what is left out, in words


def reword(message: str, names: Mapping[str, str]) -> str:
    """An error of the readers with the names that a user knows, and a remedy that fits an upload."""
    for path in sorted(names, key=len, reverse=True):
        message = message.replace(f"'{path}'", repr(names[path]))
    return reword_question(message)


def clean_name(name: str) -> str:
    """A name as text to show: forward slashes, no control characters, no empty or dotted part, at most MAX_NAME characters of each."""
    parts = PurePosixPath(name.replace("\\", "/")).parts
    kept = ["".join(sign for sign in part if sign.isprintable()).strip()[:MAX_NAME] for part in parts if part.strip("./ ")]
    return "/".join(part for part in kept if part)[-3 * MAX_NAME :] or "file"


def is_hidden(name: str) -> bool:
    """Whether a file is one that systems add to folders: hidden, or in a hidden folder."""
    parts = [part for part in name.split("/") if part.strip(".")]  # "./" and "../" name no folder
    return any(part.startswith(".") or part == "__MACOSX" for part in parts) or name.rpartition("/")[2] == "Thumbs.db"


def store_files(root: Path, files: Iterable[ReceivedFile], *, max_volume_bytes: int) -> list[StoredFile]:
    """Write the files below `root`, those of one folder and sort together, and look at what each one is.

    Raises DataError for a damaged picture, and for a volume that unpacks to more than `max_volume_bytes`.
    """
    named = [(clean_name(file.name), file) for file in files if not is_hidden(file.name.replace("\\", "/"))]
    named.sort(key=lambda pair: _order(pair[0]))
    groups: dict[tuple[str, Sort], int] = {}
    folders: dict[str, int] = {}
    stored = []
    for number, (shown, file) in enumerate(named):
        folder, _, base = shown.rpartition("/")
        lower = base.lower()
        suffix = next((end for end in (*VOLUME_SUFFIXES, *PICTURE_SUFFIXES) if lower.endswith(end)), "")
        is_dicom = has_dicom_mark(file.stream)
        sort: Sort = "dicom" if is_dicom else "volume" if suffix in VOLUME_SUFFIXES else "picture"
        group = groups.setdefault((folder.partition("/")[0], sort), len(groups))
        path = f"{group}/{folders.setdefault(folder, len(folders))}/{number:05d}{suffix}"
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        with (root / path).open("xb") as out:
            shutil.copyfileobj(file.stream, out)
        stored.append(_look_at(root, StoredFile(shown=shown, path=path, sort=sort), max_volume_bytes))
    return stored


def _order(shown: str) -> list[list[tuple[int, str]]]:
    """A key for folder by folder, by the numbers in the names; files without a folder come first, as they came."""
    return [natural_key(part) for part in shown.split("/")] if "/" in shown else []


def _look_at(root: Path, file: StoredFile, max_volume_bytes: int) -> StoredFile:
    """The file, sorted by its content too; one that is no image is removed."""
    source = ImageFile(root=root, path=file.path)
    if file.sort == "volume":
        with source.open() as stream:
            _check_volume(stream, file.shown, max_volume_bytes)
    if file.sort != "picture" or (fault := verify(source)) is None:
        return file
    fault = reword(fault, {file.path: file.shown})
    if file.path.endswith(PICTURE_SUFFIXES):
        raise DataError(fault)
    (root / file.path).unlink()
    return replace(file, sort="other", fault=fault)


def _check_volume(stream: IO[bytes], shown: str, max_bytes: int) -> None:
    try:
        header = read_volume_header(stream)
    except VolumeError as error:
        raise DataError(reword(f"volume {shown!r} {error}", {})) from None
    if prod(header.stored_shape) * header.dtype.itemsize > max_bytes:
        raise DataError(f"volume {shown!r} unpacks to more than {max_bytes // 1024**2} MiB: send a part of it")


def sort_files(root: Path, stored: Sequence[StoredFile]) -> SortedFiles:
    """The studies of files that are stored below `root`. Raises DataError where no file is a picture, a DICOM file or a volume."""
    by_folder: defaultdict[str, list[StoredFile]] = defaultdict(list)
    for file in stored:
        by_folder[file.folder].append(file)
    studies: list[tuple[str, Study]] = []
    names = {file.path: file.shown for file in stored}
    left_out = [file for file in stored if file.sort == "other"]
    for folder, files in by_folder.items():
        of_sort = {sort: [file for file in files if file.sort == sort] for sort in _IMAGES}
        if of_sort["dicom"]:
            studies.append(_as_one(root, folder or "DICOM files", of_sort["dicom"], names))
            if folder:
                left_out += [*of_sort["volume"], *of_sort["picture"]]
                continue
        if folder and len(of_sort["picture"]) > 1:
            studies.append(_as_one(root, folder, of_sort["picture"], names))
            of_sort["picture"] = []
        singles = [file for file in files if file in of_sort["volume"] or file in of_sort["picture"]]
        studies += [(file.shown.rpartition("/")[2], Study(root=root, path=file.path)) for file in singles]
    if not studies:
        raise DataError(next((file.fault for file in left_out if file.fault), "the upload holds no file: choose an image or a folder"))
    return SortedFiles(studies=tuple(studies), names=names, notes=_tell(left_out))


def _as_one(root: Path, shown: str, files: Sequence[StoredFile], names: dict[str, str]) -> tuple[str, Study]:
    """The study of all these files; its path gets a name."""
    if len(files) == 1:
        return files[0].shown.rpartition("/")[2], Study(root=root, path=files[0].path)
    group = files[0].path.partition("/")[0]
    names[group] = shown
    return shown, Study(root=root, path=group)


def _tell(left_out: Sequence[StoredFile]) -> tuple[str, ...]:
    told = [f"{file.shown} is left out: it is no image, or lies beside DICOM files" for file in left_out[:_MAX_TOLD]]
    return (*told, *([f"{len(left_out) - _MAX_TOLD} other files are left out"] if len(left_out) > _MAX_TOLD else []))
