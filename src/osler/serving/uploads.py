"""Images that clients sent: kept in a private folder for a while, shown and put into prompts by the code that reads studies everywhere.

    uploads = Uploads(study=StudyConfig(slices=8))
    upload = uploads.add([ReceivedFile(name="ct/1.dcm", stream=stream)])
    uploads.sources(upload.id, StudySettings(window="lung"))    # what a prompt shows of it

A folder of the system's temporary directory, which only the user of the process can read, holds them; `close` and the end of the process
remove it. Nothing else is stored, and no name that a client gave is the name of a file.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import shutil
import threading
import time
import weakref
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory, gettempdir
from typing import Final

from osler.config import StudyConfig
from osler.errors import DataError
from osler.files import locking
from osler.images.geometry import Series
from osler.images.slices import ShownStudy, choose_pictures, find_hidden
from osler.images.study import Study, find_series, read_series
from osler.serving.errors import ApiError
from osler.serving.generation import QueueFull
from osler.serving.received_files import ReceivedFile, SortedFiles, reword, sort_files, store_files
from osler.serving.study_settings import StudySettings
from osler.types import ImageSource

MAX_IMAGES: Final = 64
"""The most images of an upload; further series are left out."""

_PREFIX: Final = "osler-uploads-"
_LOCK: Final = "lock"
_SWEEP_SECONDS: Final = 30.0
_BUSY_SECONDS: Final = 5.0  # after which there may be room for another upload


@dataclass(frozen=True, slots=True, kw_only=True)
class UploadLimits:
    """How much is kept, and for how long. Where an upload does not fit beside the others, the one that was used longest ago is removed.

    One that a question waits for is never removed.
    """

    max_files: int = 2000  # of one upload
    max_uploads: int = 32
    max_bytes: int = 1024**3  # of all uploads, as they were sent
    max_volume_bytes: int = 256 * 1024**2  # of one volume, unpacked
    idle_seconds: float = 1800.0  # since the last use of an upload


@dataclass(frozen=True, slots=True, kw_only=True)
class UploadedImage:
    """A picture, a DICOM file, a volume or a series of an upload."""

    name: str  # what its user calls it
    study: Study
    is_selected: bool  # whether a prompt shows it where a request names no images
    notes: tuple[str, ...] = ()


class Lease:
    """Who has one uses an upload: its files stay while the lease is referred to, whatever room others need."""

    __slots__ = ("__weakref__",)


@dataclass(slots=True, kw_only=True)
class Upload:
    """The images of one upload."""

    id: str
    folder: Path
    images: tuple[UploadedImage, ...]
    names: Mapping[str, str]  # path below the folder -> what its user calls it
    num_bytes: int
    notes: tuple[str, ...]
    used: float = field(default=0.0)  # by a monotonic clock
    leases: weakref.WeakSet[Lease] = field(default_factory=weakref.WeakSet)

    @contextmanager
    def naming(self) -> Iterator[None]:
        """Name files in errors as their user does, with a remedy that fits an upload. Raises ApiError (404) where it was removed."""
        try:
            yield
        except DataError as error:
            if str(self.folder) in str(error) or not self.folder.is_dir():  # what a reader finds missing it names by its path
                raise _gone() from None
            raise DataError(reword(str(error), self.names)) from None

    def lease(self) -> Lease:
        """A new lease."""
        lease = Lease()
        self.leases.add(lease)
        return lease

    def image(self, index: int) -> UploadedImage:
        """One of its images. Raises ApiError (404)."""
        if not 0 <= index < len(self.images):
            raise ApiError(404, f"the upload has no image {index}: it has {len(self.images)}, counted from 0")
        return self.images[index]

    def show(self, index: int, config: StudyConfig, indices: tuple[int, ...] | None = None) -> ShownStudy:
        """What a prompt shows of one of its images. Raises DataError and ConfigError as `choose_pictures` does, ApiError (404)."""
        image = self.image(index)
        with self.naming():
            return choose_pictures(image.study, config, indices)

    def hidden(self, index: int, shown: ShownStudy) -> tuple[str, ...]:
        """What the pictures that are shown of an image hide. Decodes its slices once."""
        with self.naming():
            return find_hidden(self.image(index).study, shown)


class Uploads:
    """All uploads of a server. Safe to use from several threads."""

    def __init__(
        self,
        *,
        study: StudyConfig = StudyConfig(),  # noqa: B008 # frozen
        limits: UploadLimits = UploadLimits(),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.study = study
        self.limits = limits
        self._clock = clock
        self._lock = threading.Lock()
        self._root: TemporaryDirectory[str] | None = None
        self._hold = ExitStack()  # the lock of that folder, by which others know that this process lives
        self._uploads: OrderedDict[str, Upload] = OrderedDict()

    def add(self, files: Sequence[ReceivedFile]) -> Upload:
        """Keep files as an upload, after a look at all of them; the pictures that a prompt shows by default are decoded.

        Raises DataError for what cannot be read, ApiError (413) for more than the limits take, and QueueFull where questions that wait
        need all the uploads that are here.
        """
        if len(files) > self.limits.max_files:
            raise ApiError(413, f"{len(files)} files are more than {self.limits.max_files}: send the folder of one series")
        folder = self._make_folder()
        try:
            upload = self._read(folder, files)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        with self._lock:
            if not self._make_room(upload.num_bytes):
                shutil.rmtree(folder, ignore_errors=True)
                raise QueueFull(_BUSY_SECONDS)
            upload.used = self._clock()
            self._uploads[upload.id] = upload
        return upload

    def find(self, upload_id: str) -> Upload:
        """An upload, which is in use now. Raises ApiError (404)."""
        self.sweep()
        with self._lock:
            upload = self._uploads.get(upload_id)
            if upload is None:
                raise _gone()
            upload.used = self._clock()
            self._uploads.move_to_end(upload_id)
            return upload

    def sources(self, upload_id: str, settings: StudySettings) -> tuple[ImageSource, ...]:
        """The pictures that a prompt shows of an upload, in the order of its images, as they go to the image processor.

        Raises ApiError (404) for an upload or image that is not here, DataError and ConfigError for settings that do not fit.
        """
        return tuple(picture for shown in self.shown(upload_id, settings) for picture in shown.pictures)

    def shown(self, upload_id: str, settings: StudySettings) -> tuple[ShownStudy, ...]:
        """What a prompt shows of each image of an upload: see `sources`."""
        upload = self.find(upload_id)
        config = settings.to_config(self.study)
        asked = settings.images
        if asked is None:
            asked = tuple(index for index, image in enumerate(upload.images) if image.is_selected)
        if not asked:
            raise DataError("no image of the upload is chosen: choose one")
        if settings.exact is not None and len(asked) != 1:
            raise DataError(f"the slices of {len(asked)} images cannot be named one by one: choose one image")
        shown = {index: upload.show(index, config, settings.exact) for index in asked}
        why = {index: upload.image(index).notes if settings.images is None else () for index in shown}
        return tuple(replace(one, notes=(*why[index], *one.notes, *upload.hidden(index, one))) for index, one in shown.items())

    def remove(self, upload_id: str) -> None:
        """Remove an upload with its files. Raises ApiError (404)."""
        with self._lock:
            if upload_id not in self._uploads:  # another thread may have removed it just now
                raise _gone()
            self._drop(upload_id)

    def sweep(self) -> None:
        """Remove what was not used for a while."""
        with self._lock:
            oldest = self._clock() - self.limits.idle_seconds
            for upload_id in [key for key, upload in self._uploads.items() if upload.used < oldest]:
                self._drop(upload_id)

    def close(self) -> None:
        """Remove everything."""
        with self._lock:
            self._uploads.clear()
            if self._root is not None:
                self._root.cleanup()
                self._hold.close()
                self._root = None

    @asynccontextmanager
    async def life(self) -> AsyncIterator[None]:
        """Open while a server runs: removes what killed ones left, what is idle, and everything at the end."""
        await asyncio.to_thread(remove_abandoned)

        async def sweep_for_ever() -> None:
            while True:
                await asyncio.sleep(_SWEEP_SECONDS)
                await asyncio.to_thread(self.sweep)

        task = asyncio.create_task(sweep_for_ever())
        try:
            yield
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
            self.close()

    @property
    def folders(self) -> list[Path]:
        """The folders of all uploads on disk."""
        return [] if self._root is None else sorted(path for path in Path(self._root.name).iterdir() if path.is_dir())

    def _make_folder(self) -> Path:
        """A new folder for one upload; that of all uploads is made with the first one."""
        with self._lock:
            if self._root is None:
                remove_abandoned()
                self._root = TemporaryDirectory(prefix=_PREFIX)  # mode 0700, removed at the end of the process
                self._hold = ExitStack()
                self._hold.enter_context(locking(Path(self._root.name) / _LOCK))
            folder = Path(self._root.name) / secrets.token_hex(8)
            folder.mkdir(mode=0o700)
            return folder

    def _read(self, folder: Path, files: Sequence[ReceivedFile]) -> Upload:
        stored = store_files(folder, files, max_volume_bytes=self.limits.max_volume_bytes)
        num_bytes = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        if num_bytes > self.limits.max_bytes:
            raise ApiError(413, f"the files have more than {self.limits.max_bytes // 1024**2} MiB: send fewer")
        parts = sort_files(folder, stored)
        upload = Upload(
            id=f"u_{secrets.token_hex(16)}", folder=folder, images=(), names=parts.names, num_bytes=num_bytes, notes=parts.notes
        )
        with upload.naming():
            images, num_left_out = _list_images(parts)
        upload.images = images
        if num_left_out:
            upload.notes += (f"{num_left_out} further images are left out: an upload has at most {MAX_IMAGES}",)
        for index, image in enumerate(images):
            if image.is_selected:
                shown = upload.show(index, self.study)
                with upload.naming():
                    for picture in shown.slices:
                        picture.load()
        return upload

    def _make_room(self, num_bytes: int) -> bool:
        """Remove uploads that no question waits for until one more of so many bytes fits. False where it cannot fit."""
        limits = self.limits
        while len(self._uploads) >= limits.max_uploads or num_bytes + self._num_bytes() > limits.max_bytes:
            unused = next((key for key, upload in self._uploads.items() if not upload.leases), None)
            if unused is None:
                return False
            self._drop(unused)
        return True

    def _num_bytes(self) -> int:
        return sum(upload.num_bytes for upload in self._uploads.values())

    def _drop(self, upload_id: str) -> None:
        folder = self._uploads.pop(upload_id).folder
        dropped = folder.with_name(f"{folder.name}.dropped")
        with suppress(FileNotFoundError):  # a system that tidies its temporary files was faster
            folder.rename(dropped)  # at once: whoever reads it finds no half of it
            shutil.rmtree(dropped, ignore_errors=True)


def remove_abandoned() -> None:
    """Remove the uploads of servers that were killed: folders of this user whose lock nobody holds."""
    if not hasattr(os, "getuid"):  # Windows has no such locks
        return
    for folder in Path(gettempdir()).glob(f"{_PREFIX}*"):
        with suppress(OSError):  # of another user
            if not (folder / _LOCK).is_file() or folder.is_symlink() or folder.stat().st_uid != os.getuid():
                continue
            with locking(folder / _LOCK) as is_abandoned:
                if is_abandoned:
                    shutil.rmtree(folder, ignore_errors=True)


def _gone() -> ApiError:
    return ApiError(404, "the upload is no longer here: send the files again", code="upload_gone")


def _list_images(parts: SortedFiles) -> tuple[tuple[UploadedImage, ...], int]:
    """The images of an upload, a series each, and how many are left out."""
    images: list[UploadedImage] = []
    for name, study in parts.studies:
        found = read_series(study)
        if len(found) == 1:
            images.append(UploadedImage(name=name, study=study, is_selected=True))
            continue
        chosen, notes = _choose(study, found)
        for number in range(1, len(found) + 1):
            own = replace(study, series=number)
            images.append(UploadedImage(name=f"{name}, series {number}", study=own, is_selected=number in chosen, notes=notes))
    return tuple(images[:MAX_IMAGES]), max(0, len(images) - MAX_IMAGES)


def _choose(study: Study, found: Sequence[Series]) -> tuple[tuple[int, ...], tuple[str, ...]]:
    """The numbers of the series that a prompt shows of a study by default, by the rule of `find_series`, and why."""
    try:
        picked = find_series(study)
    except DataError as error:  # pictures of several patients: one of them is never shown beside another one
        return (1,), (str(error),)
    chosen = tuple(number for number, series in enumerate(found, start=1) if series == picked.series)
    return chosen or tuple(range(1, len(found) + 1)), picked.notes
