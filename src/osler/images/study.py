"""A study as an image source: a folder of DICOM files or of pictures, a NIfTI or NRRD volume, a file of several frames, or one picture.

    Study(root=folder, path="patient1/ct")          the slices of the series in the folder
    Study(root=folder, path="body.nii.gz", plane="coronal", window="lung")

`slices.choose_pictures` says which of its slices a prompt shows; `load(path)` gives them all as pictures.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, get_args

from osler.errors import ConfigError, DataError
from osler.images.dicom import DicomFrame
from osler.images.dicom_header import has_dicom_mark
from osler.images.files import MORE_PICTURES, ImageFile
from osler.images.geometry import Series, unturned, with_window
from osler.images.labels import read_label
from osler.images.limits import MAX_SLICES
from osler.images.montage import Montage, check_headers
from osler.images.reslice import cut
from osler.images.series import read_dicom_series
from osler.images.values import find_window
from osler.images.volumes import read_volume
from osler.images.windows import AUTO, FileWindow, Preset, parse_windows
from osler.taxonomy import Plane
from osler.types import ImageSource

if TYPE_CHECKING:
    from PIL.Image import Image

VOLUME_SUFFIXES: Final = (".nii", ".nii.gz", ".nrrd", ".nhdr")
PICTURE_SUFFIXES: Final = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".gif", ".webp", ".bmp")
SETTINGS: Final[Mapping[str, tuple[type, ...]]] = MappingProxyType(
    {"window": (str,), "plane": (str,), "series": (int,), "position": (int, float), "label": (str,), "label_value": (int, str)}
)
"""The fields of a study beside its path, and their types."""

_PLANES: Final[tuple[str, ...]] = get_args(Plane)
_OF_PAGES: Final = (".tif", ".tiff", ".gif", ".webp")  # of these pictures a file may hold several
_MAX_TOLD: Final = 3  # files that are refused, by name
_MONTAGE: Final = 9  # slices that `Study.load` shows
_DIGITS: Final = re.compile(r"(\d+)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Study:
    """A study below the folder `root`; implements `ImageSource` and `HasDigest`.

    The constructor raises DataError for a path that leaves the root, and ConfigError for an unknown window or plane or a series below 1; it
    opens no file. Every later failure is a DataError of one line, or MissingExtra without the extra "medical".
    """

    root: Path
    path: str  # relative, with forward slashes: a folder or a file
    window: str | None = None  # "lung", "40/400", "auto": see `windows`; None for that of the files
    plane: Plane | None = None  # None for the plane in which the slices were taken
    series: int | None = None  # from 1, in the order in which `read_series` gives them; None: see `pick_series`
    position: float | None = None  # in millimetres along the normal, of what the question is about
    label: str | None = None  # path below the root of a label volume or a DICOM segmentation, of what the question is about
    label_value: int | str | None = None  # of the label, or the name of a segment; None for all of them
    _file: ImageFile = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_file", ImageFile(root=self.root, path=self.path))
        if self.label is not None:
            ImageFile(root=self.root, path=self.label)
        if self.window != AUTO:
            parse_windows(self.window)
        if self.plane is not None and self.plane not in _PLANES:
            raise ConfigError(f"unknown plane {self.plane!r}: use {', '.join(_PLANES)}")
        if self.series is not None and self.series < 1:
            raise ConfigError(f"series {self.series}: the first series of a study has the number 1")

    @property
    def uri(self) -> str:
        """The relative path, with the settings that are given: "patient1/ct?window=lung"."""
        given = [f"{name}={value}" for name in SETTINGS if (value := getattr(self, name)) is not None]
        return self._file.uri + ("?" + "&".join(given) if given else "")

    def load(self) -> Image:
        """One picture of the study, in mode RGB: itself where it is one, else a montage of up to nine evenly spaced slices."""
        slices = pick_series(self).series.slices
        chosen = [slices[index] for index in spread(len(slices), _MONTAGE)]
        return chosen[0].load() if len(chosen) == 1 else Montage(sources=tuple(chosen)).load()

    def check_header(self) -> None:
        """Raise DataError where the study is missing or holds no picture, or where the file of a slice cannot be read."""
        picked = pick_series(self)
        if self.label is not None and not picked.is_cut:
            slices_with_label(self, picked.series)
        check_headers(picked.series.slices[:1] if picked.is_cut else _one_of_each_file(picked.series.slices))  # a cut checks all files

    def digest(self) -> str:
        """The SHA-256 of all files of the study in their order, of its label and of its settings."""
        state = hashlib.sha256(repr([getattr(self, name) for name in SETTINGS if name != "label"]).encode())
        for path in sorted(_list_files(self), key=natural_key):
            state.update(ImageFile(root=self.root, path=path).digest().encode())
        if self.label is not None:
            state.update(f"label {ImageFile(root=self.root, path=self.label).digest()}".encode())
        return state.hexdigest()

    def file_state(self) -> int:
        """A number that changes with the names, sizes and times of the files of the study and its label. Raises DataError for none."""
        root = self.root.resolve()
        paths = (*_list_files(self), *([self.label] if self.label is not None else []))
        try:
            found = [(path, status.st_mtime_ns, status.st_size) for path in paths for status in [(root / path).stat()]]
        except OSError:
            raise DataError(f"study {self.path!r} has a file or a label that does not exist: check the paths") from None
        return hash(tuple(found))


@dataclass(frozen=True, slots=True, kw_only=True)
class PickedSeries:
    """The series of a study that is shown."""

    series: Series
    notes: tuple[str, ...]  # why this one, and what is unusual about it, in words
    is_cut: bool = False  # whether its slices are cut from those of the files, in another plane


def is_study(path: str) -> bool:
    """Whether a path is that of a study rather than of a picture, by its name."""
    return not path.lower().endswith(PICTURE_SUFFIXES)


def load(path: str | Path, *, window: str | None = None, plane: Plane | None = None, series: int | None = None) -> list[Image]:
    """Every slice of a file, a folder with DICOM files or pictures, or a volume, in order, as pictures in mode RGB.

    `window` is "lung", "40/400" or another one of `osler.images.windows`; `plane` is "axial", "coronal" or "sagittal". All slices are in
    memory; `Study` reads them one by one. Raises DataError for what cannot be read, ConfigError for an unknown window or plane, and
    MissingExtra without the extra "medical".
    """
    study = replace(study_at(path), window=window, plane=plane, series=series)
    return [source.load() for source in pick_series(study).series.slices]


def study_at(path: str | Path) -> Study:
    """The study of a path that a user names: a link may lead anywhere, as the user sees where."""
    full = Path(os.path.abspath(path))  # noqa: PTH100 # as named: a link keeps its own suffix
    try:
        root = Path(os.path.commonpath([full.parent, full.resolve().parent]))
    except (OSError, RuntimeError):
        raise DataError(f"{str(path)!r} is a link that leads nowhere: check the path") from None
    return Study(root=root, path=full.relative_to(root).as_posix())


def pick_series(study: Study, usual_window: str | None = None) -> PickedSeries:
    """The series that is shown: `find_series` with `dress_series`."""
    return dress_series(study, find_series(study), usual_window)


def find_series(study: Study) -> PickedSeries:
    """The series that the study names by its number, else the longest of those whose slices have positions, as its files give it.

    Where no slice has a position: the longest series, or, where each holds one picture (the views of an X-ray study), all of them together.
    """
    found, refused = _read(study)
    notes = tuple(f"{reason}: left out" for reason in refused[:_MAX_TOLD])
    notes += (f"{len(refused) - _MAX_TOLD} other files are left out",) * (len(refused) > _MAX_TOLD)
    if study.series is not None:
        if study.series > len(found):
            raise DataError(f"study {study.path!r} has no series {study.series}: it has {len(found)}, counted from 1")
        chosen = found[study.series - 1]
    elif max(len(series.slices) for series in found) == 1 and all(series.positions is None for series in found):
        if (num_patients := len({series.patient for series in found} - {None})) > 1:
            raise DataError(f"study {study.path!r} holds pictures of {num_patients} patients: name the file of one, or its series")
        views = tuple(picture for series in found for picture in series.slices)
        told = found[0].findings if isinstance(views[0], ImageFile) else ()  # what DICOM files say of a series means nothing for views
        chosen = Series(slices=views, positions=None, spacing=None, normal=None, modality=found[0].modality, findings=told)
    else:
        chosen = max(found, key=lambda series: (series.positions is not None, len(series.slices)))
        if len(found) > 1:
            notes += (_explain(found, chosen),)
    return PickedSeries(series=chosen, notes=notes)


def dress_series(study: Study, found: PickedSeries, usual_window: str | None = None) -> PickedSeries:
    """A found series with a window, cut in the plane of the study.

    `usual_window` is that of a study without one, where it fits: a preset for what the header says is no CT does not, nor a window of the
    file for a volume.
    """
    chosen, notes = found.series, found.notes
    asked = study.window if study.window == AUTO else usual_window if study.window is None else None
    if asked is not None and (study.window == AUTO or fits_window(chosen, asked)):
        if asked == AUTO:
            found_window = find_window(chosen.slices, study.file_state())
            asked, notes = found_window.window, (*notes, found_window.note)
        if asked is not None:
            chosen = replace(chosen, slices=tuple(with_window(source, asked) for source in chosen.slices))
    elif asked is not None:
        notes += (f"the window {asked} does not fit and is left out",)
    is_cut = study.plane is not None and study.plane != chosen.plane
    if study.plane is not None and is_cut:
        chosen = cut(chosen, study.plane, study.uri, study.file_state())
    return PickedSeries(series=chosen, notes=(*notes, *chosen.findings), is_cut=is_cut)


def slices_with_label(study: Study, series: Series) -> tuple[int, ...]:
    """The numbers of the slices of a series that hold the label of the study, at least one. Raises DataError for none."""
    assert study.label is not None
    try:
        inside = read_label(study.root, study.label).slices_of(series, study.label_value)
    except ConfigError as error:
        raise DataError(f"study {study.path!r}, label {study.label!r}: {error}") from None
    if not inside:
        raise DataError(f"study {study.path!r} has no slice with its label {study.label!r}: check the label and its value")
    return inside


def _explain(found: Sequence[Series], chosen: Series) -> str:
    """Why one of several series is shown."""
    rivals = [series for series in found if (series.positions is None) == (chosen.positions is None)]
    equal = sum(len(series.slices) == len(chosen.slices) for series in rivals)
    why = f"the first of {equal} equally long ones" if equal > 1 else "the longest"
    kind = " whose slices have positions" if chosen.positions is not None else ""
    patients = len({series.patient for series in found} - {None})
    kind += f"; they are of {patients} patients" * (patients > 1)
    return f"{len(found)} series: number {found.index(chosen) + 1} is shown, {why}{kind}"


def fits_window(series: Series, window: str) -> bool:
    """Whether the window of a recipe is for such a series. Raises ConfigError for an unknown one."""
    if any(isinstance(source, ImageFile) or _has_colours(unturned(source)) for source in series.slices[:1]):
        return False  # a picture has no values
    if window == AUTO:
        return True
    choices = parse_windows(window)
    if any(isinstance(choice, Preset) for choice in choices) and series.modality not in ("CT", None):
        return False
    is_dicom = series.modality is not None or series.positions is None
    return is_dicom or not any(isinstance(choice, FileWindow) for choice in choices)


def _has_colours(source: ImageSource) -> bool:
    if not isinstance(source, DicomFrame):
        return False
    kind = str(source.read_elements(("PhotometricInterpretation",)).get("PhotometricInterpretation") or "")
    return bool(kind) and not kind.startswith("MONOCHROME")


def read_series(study: Study) -> tuple[Series, ...]:
    """All series of a study, in the order of the names of their files. Raises DataError where it has none."""
    return _read(study)[0]


def _read(study: Study) -> tuple[tuple[Series, ...], tuple[str, ...]]:
    """The series of a study, and its DICOM files that are refused, each with its reason."""
    own = replace(study, series=None, position=None, label=None, label_value=None)
    return _read_once(own, own.file_state())


@lru_cache(maxsize=8)  # the series of a folder are often looked at one after the other
def _read_once(study: Study, _state: int) -> tuple[tuple[Series, ...], tuple[str, ...]]:
    paths = _list_files(study)
    if _folder_of(study) is None:
        return _read_file(study), ()
    window = _file_window(study)
    found = read_dicom_series(study.root, paths, window=window)
    if found.series:
        others = f"{found.num_others} other file{'s' * (found.num_others > 1)}"
        refused = (reason for reason in found.refused if "without pixels" not in reason)  # a report is no picture
        return found.series, (*refused, *([others] if found.num_others else []))
    if found.refused:
        raise DataError(found.refused[0])
    volumes = [path for path in paths if path.lower().endswith(VOLUME_SUFFIXES)]
    if len(volumes) == 1:
        return read_volume(study.root, volumes[0], plane=study.plane, window=window), ()
    if volumes:
        raise DataError(f"study {study.path!r} holds {len(volumes)} volumes: name the file of one of them, such as {volumes[0]!r}")
    pictures = sorted((path for path in paths if path.lower().endswith(PICTURE_SUFFIXES)), key=natural_key)
    if not pictures:
        if not paths:
            raise DataError(f"study {study.path!r} is an empty folder: check the path")
        some = f"{len(paths)} other file{'s' * (len(paths) > 1)}, such as {', '.join(map(repr, paths[:_MAX_TOLD]))}"
        raise DataError(f"study {study.path!r} holds no picture, DICOM file or volume, but {some}: check the path")
    return (_unplaced(study, [ImageFile(root=study.root, path=path) for path in pictures]),), ()


def _file_window(study: Study) -> str | None:
    """The window with which the files are read; one that is found in their values comes later."""
    return None if study.window == AUTO else study.window


def _one_of_each_file(slices: Sequence[ImageSource]) -> list[ImageSource]:
    """The first slice of each file: the header of a file of many frames or slices is checked once."""
    return list({getattr(unturned(source), "path", source): source for source in reversed(slices)}.values())


def _read_file(study: Study) -> tuple[Series, ...]:
    if study.path.lower().endswith(VOLUME_SUFFIXES):
        return read_volume(study.root, study.path, plane=study.plane, window=_file_window(study))
    source = ImageFile(root=study.root, path=study.path)
    with source.open() as stream:
        is_dicom = has_dicom_mark(stream)
    if not is_dicom:
        return (_unplaced(study, [source]),)
    found = read_dicom_series(study.root, [study.path], window=_file_window(study))
    if not found.series:
        raise DataError(found.refused[0])
    return found.series


def _unplaced(study: Study, pictures: Sequence[ImageFile]) -> Series:
    """Pictures without a header that says what they are, in their order."""
    if study.window is not None:
        raise DataError(f"study {study.path!r} is of pictures, which have no values for a window: leave the window out")
    suspects = pictures if len(pictures) == 1 else [picture for picture in pictures if picture.path.lower().endswith(_OF_PAGES)]
    number = sum(map(_has_more, suspects))
    who = "the file" if len(pictures) == 1 else f"{number} of {len(pictures)} files"
    findings = (f"{who} {MORE_PICTURES}",) if number else ()
    return Series(slices=tuple(pictures), positions=None, spacing=None, normal=None, modality=None, findings=findings)


def _has_more(picture: ImageFile) -> bool:
    """Whether a file holds more pictures than are shown of it; False for a damaged one, which is told of where it is shown."""
    try:
        return picture.has_more()
    except DataError:
        return False


def _folder_of(study: Study) -> Path | None:
    """The folder of a study, None for a file. Raises DataError where nothing is there, or where a link leaves the root."""
    try:
        root = study.root.resolve(strict=True)
        full = (root / study.path).resolve(strict=True)
    except (OSError, RuntimeError, ValueError):
        raise DataError(f"study {study.path!r} does not exist under {study.root}: check the image root") from None
    if not full.is_relative_to(root):
        raise DataError(f"study {study.path!r} is a link that leaves the image root: make the folder that it points to the root")
    return full if full.is_dir() else None


def _list_files(study: Study) -> list[str]:
    """The files of a study, relative to its root, sorted; hidden ones, and those in hidden folders, are left out."""
    folder = _folder_of(study)
    if folder is None:
        return [study.path]
    root = study.root.resolve()
    paths = []
    for path in _walk(folder):
        paths.append(path.relative_to(root).as_posix())
        if len(paths) > MAX_SLICES:
            raise DataError(f"study {study.path!r} holds more than {MAX_SLICES:,} files: name a folder within it")
    return sorted(paths)


def _walk(folder: Path) -> Iterator[Path]:
    for path in folder.iterdir():
        if path.name.startswith("."):
            continue
        if path.is_dir() and not path.is_symlink():
            yield from _walk(path)
        elif path.is_file():
            yield path


def natural_key(path: str) -> list[tuple[int, str]]:
    """A key that sorts "2.png" before "10.png"."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in _DIGITS.split(path)]


@lru_cache(maxsize=1024)
def spread(number: int, count: int) -> tuple[int, ...]:
    """The middles of `count` equal parts of `number` slices, as indices from 0; all slices where they are no more."""
    return tuple(range(number)) if number <= count else tuple((2 * part + 1) * number // (2 * count) for part in range(count))
