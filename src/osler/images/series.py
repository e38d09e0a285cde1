"""From a folder of DICOM files to series of slices in order. Headers are read, pixels are not.

Files are grouped by their series UID, and a series is split where it holds more than one volume: by orientation and size, localizers,
stacks, time points and echoes. Slices are sorted by their position along the normal, never by a file's name or Instance Number. Every frame
of a multi-frame file is a slice.
"""

from __future__ import annotations

import io
import math
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path, PurePosixPath
from typing import IO, TYPE_CHECKING, Any, BinaryIO, Final, cast

from osler.errors import DataError
from osler.images.dicom import DicomFrame
from osler.images.dicom_header import DicomError, count_frames, damage_errors, has_dicom_mark, integer, naming_damage, numbers
from osler.images.dicom_values import functional_group
from osler.images.files import ImageFile
from osler.images.geometry import AS_STORED, Series, Turn, measure_steps, orient, turned

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from pydicom.dataset import Dataset

MAX_TILT: Final = 0.5
"""Degrees between the normal and the line of the slices' positions from which on a gantry tilt is named."""

_DIRECTION_DIGITS: Final = 3  # of direction cosines that are equal within one orientation
_SAME_PLACE: Final = 0.01  # millimetres
_KEYWORDS: Final = (
    "ImageType", "SOPInstanceUID", "AcquisitionDateTime", "AcquisitionTime", "Modality", "EchoTime", "EchoNumbers", "TriggerTime",
    "DiffusionBValue", "SeriesInstanceUID", "SeriesNumber", "FrameOfReferenceUID", "AcquisitionNumber", "InstanceNumber",
    "ImagePositionPatient", "ImageOrientationPatient", "TemporalPositionIdentifier", "StackID", "NumberOfFrames", "Rows", "Columns",
    "PixelSpacing", "GridFrameOffsetVector", "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence",
)  # fmt: skip
_VARIANTS: Final = ("EchoTime", "DiffusionBValue", "TriggerTime", "ImageType", "AcquisitionNumber")
_HEAD_BYTES: Final = 1 << 16
_LAST_TAG: Final = 0x52009230  # of these: what follows is not read


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Slice:
    """One frame, by its header."""

    image: DicomFrame
    series: tuple[str, ...]  # its UID; where it is empty, as some anonymizers leave it: folder, frame of reference and number
    instance: tuple[str, int]  # the UID of the object, and the frame
    dataset: Dataset  # its elements are converted when they are asked for
    modality: str | None
    size: tuple[int, int]
    is_localizer: bool
    volume: tuple[Hashable, ...]  # stack, time point and echo, as the file names them
    position: NDArray[np.float64] | None
    normal: NDArray[np.float64] | None
    turn: Turn
    pixel_spacing: tuple[float, ...]

    @property
    def number(self) -> int:
        """Instance Number, the last resort; 0 where it is damaged."""
        errors: tuple[type[Exception], ...] = (DicomError, *damage_errors())
        try:
            return integer(self.dataset, "InstanceNumber", 0)
        except errors:
            return 0

    @property
    def time(self) -> str:
        """When it was acquired, as text that sorts."""
        return self.variant("AcquisitionDateTime") or self.variant("AcquisitionTime")

    def variant(self, keyword: str) -> str:
        """An element that may tell slices at one position apart, as text; "" where it is missing or damaged."""
        try:
            return str(self.dataset.get(keyword) or "")
        except damage_errors():
            return ""

    @property
    def height(self) -> float:
        """The position along the normal, in millimetres."""
        assert self.position is not None
        assert self.normal is not None
        return float(self.position @ self.normal)


@dataclass(frozen=True, slots=True, kw_only=True)
class SeriesFolder:
    """What a folder holds."""

    series: tuple[Series, ...]
    refused: tuple[str, ...]  # one line for each DICOM file that is no image, with its reason
    num_others: int  # files of other kinds


def read_dicom_series(root: Path, paths: Iterable[str] | None = None, *, window: str | None = None) -> SeriesFolder:
    """The series of the DICOM files below `root`, or of these paths below it; a slice is shown with `window` (see `windows`).

    Raises DataError where a folder or path cannot be read, and MissingExtra without the extra "medical". Files that are no DICOM files are
    counted, DICOM files that are no images are refused one by one.
    """
    if paths is None:
        if not root.is_dir():
            raise DataError(f"{str(root)!r} is no folder: check the path")
        paths = sorted(path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file())
    slices: list[_Slice] = []
    refused: list[str] = []
    num_others = 0
    for path in paths:
        try:
            with ImageFile(root=root, path=path).open() as stream:
                if not has_dicom_mark(stream):
                    num_others += 1
                    continue
                slices += _read_slices(stream, DicomFrame(root=root, path=path, window=window))
        except DicomError as error:
            refused.append(f"image {path!r} {error}")
    groups: defaultdict[Hashable, list[_Slice]] = defaultdict(list)
    for member in slices:
        groups[member.series].append(member)
    with naming_damage("a damaged header"):
        series = tuple(volume for members in groups.values() for volume in _split(members))
    return SeriesFolder(series=series, refused=tuple(refused), num_others=num_others)


def _read_slices(stream: IO[bytes], image: DicomFrame) -> list[_Slice]:
    with naming_damage("a damaged header"):
        dataset = _read_head(stream)
        if dataset is None or "Rows" not in dataset:
            raise DicomError("is a DICOM file without pixels: remove the row")
        num_frames = count_frames(dataset)
        if num_frames > len(dataset.get("PerFrameFunctionalGroupsSequence") or ()) > 0:
            raise DicomError("has fewer functional groups than frames: fetch it again")
        return [_read_slice(dataset, image, frame) for frame in range(num_frames)]


@cache
def _tags() -> list[Any]:
    from pydicom.tag import Tag

    return [Tag(keyword) for keyword in _KEYWORDS]


def _read_head(stream: IO[bytes]) -> Dataset | None:
    """The elements of `_KEYWORDS`; None where nothing follows them, and so no pixels.

    The first bytes are enough for most files, and reading elements from memory takes half the time.
    """
    from pydicom.filereader import read_partial

    for source in (io.BytesIO(stream.read(_HEAD_BYTES)), stream):
        ends: list[int] = []
        source.seek(0)
        dataset = read_partial(
            cast(BinaryIO, source),
            stop_when=lambda tag, _vr, _length, ends=ends: int(tag) > _LAST_TAG and not ends.append(1),  # type: ignore[misc]
            specific_tags=_tags(),
        )
        if ends:
            return dataset
    return None


@lru_cache(maxsize=64)
def _orient(cosines: tuple[float, ...]) -> tuple[NDArray[np.float64], Turn] | None:
    import numpy as np

    return orient(np.array(cosines[:3]), np.array(cosines[3:]))


def _read_slice(dataset: Dataset, image: DicomFrame, frame: int) -> _Slice:
    """One frame, whose geometry stands in its functional groups or in the data set."""
    import numpy as np

    is_enhanced = "PerFrameFunctionalGroupsSequence" in dataset or "SharedFunctionalGroupsSequence" in dataset
    content, plane, direction, measures, echo = (
        (functional_group(dataset, frame, f"{name}Sequence") if is_enhanced else None) or dataset
        for name in ("FrameContent", "PlanePosition", "PlaneOrientation", "PixelMeasures", "MREcho")
    )
    cosines = numbers(direction, "ImageOrientationPatient")
    oriented = _orient(cosines) if len(cosines) == 6 else None
    place = numbers(plane, "ImagePositionPatient")
    position = np.array(place) if len(place) == 3 and oriented is not None else None
    if position is not None and plane is dataset and count_frames(dataset) > 1:
        position = _place_dose(position, numbers(dataset, "GridFrameOffsetVector"), cosines, frame)
    kind = [str(word) for word in dataset.get("ImageType") or ()]
    return _Slice(
        image=DicomFrame(root=image.root, path=image.path, frame=frame, window=image.window),
        series=(uid,) if (uid := str(dataset.get("SeriesInstanceUID") or "")) else (
            PurePosixPath(image.path).parent.as_posix(),
            *(str(dataset.get(keyword) or "") for keyword in ("FrameOfReferenceUID", "SeriesNumber", "Modality")),
        ),
        instance=(str(dataset.get("SOPInstanceUID") or image.path), frame),
        modality=str(dataset.get("Modality", "")).strip() or None,
        size=(integer(dataset, "Rows"), integer(dataset, "Columns", 0)),
        is_localizer="LOCALIZER" in kind,
        volume=tuple(str(value or "") for value in (
            content.get("StackID"), content.get("TemporalPositionIndex") or dataset.get("TemporalPositionIdentifier"),
            dataset.get("EchoNumbers") or echo.get("EffectiveEchoTime"),
        )),
        dataset=dataset,
        position=position,
        normal=oriented[0] if oriented else None,
        turn=oriented[1] if oriented else AS_STORED,
        pixel_spacing=numbers(measures, "PixelSpacing"),
    )  # fmt: skip


def _place_dose(
    first: NDArray[np.float64], offsets: tuple[float, ...], cosines: tuple[float, ...], frame: int
) -> NDArray[np.float64] | None:
    """The position of a frame of a dose (PS3.3, C.8.8.3.2); None for other frames of which only the first position is known."""
    import numpy as np

    if frame >= len(offsets):
        return None
    if offsets[0] == 0:  # from the first frame, along the normal
        return first + np.cross(cosines[:3], cosines[3:]) * offsets[frame]
    return np.array([*first[:2], offsets[frame]])  # positions from the feet to the head, which the first frame has too


def _split(members: list[_Slice]) -> Iterator[Series]:
    """The series that one series UID holds: one for each orientation and size, stack, time point and echo."""
    distinct = list({(member.instance, *_place_key(member)): member for member in reversed(members)}.values())[::-1]
    findings = (
        ["the files name no series: one folder, frame of reference and number is taken for one"] if len(members[0].series) > 1 else []
    )
    if len(distinct) < len(members):
        findings.append(_count(len(members) - len(distinct), "file holds a slice that another file holds: it is left out"))
    parts = _group(distinct, lambda member: (_orientation(member), member.size, member.is_localizer))
    if len(parts) > 1:
        findings.append(f"its series holds slices of {len(parts)} orientations or sizes (localizers among them), which are put apart")
    for part in parts:
        if part[0].position is None:
            yield _unplaced(part, findings)
            continue
        volumes = _group(part, lambda member: member.volume)
        told = [*findings, f"one of {len(volumes)} stacks, time points or echoes of its series"] if len(volumes) > 1 else findings
        for volume in volumes:
            yield from _place(volume, told)


def _place_key(member: _Slice) -> tuple[float, ...]:
    """Beside the UID, because some anonymizers give one UID to all slices."""
    return () if member.position is None else tuple(member.position.tolist())


def _group(members: Sequence[_Slice], key: Callable[[_Slice], Hashable]) -> list[list[_Slice]]:
    groups: defaultdict[Hashable, list[_Slice]] = defaultdict(list)
    for member in members:
        groups[key(member)].append(member)
    return list(groups.values())


def _orientation(member: _Slice) -> Hashable:
    if member.normal is None or member.position is None:
        return None
    return (*(round(float(value), _DIRECTION_DIGITS) + 0.0 for value in member.normal), member.turn)


def _place(members: list[_Slice], findings: list[str]) -> Iterator[Series]:
    """The volumes of slices of one orientation: several where each position is there several times, e.g. once for each time point."""
    places = Counter(_place_of(member) for member in members)
    repeats = set(places.values())
    if max(repeats) > 1:
        for keyword in _VARIANTS:
            parts = _group(members, lambda member, keyword=keyword: member.variant(keyword))  # type: ignore[misc]
            if len(parts) > 1 and all(len({_place_of(member) for member in part}) == len(part) for part in parts):
                for part in parts:
                    yield _sorted(part, [*findings, f"one of {len(parts)} volumes of its series at the same positions"])
                return
    if len(repeats) == 1 and max(repeats) > 1 and len(places) > 1:  # no element tells them apart: by their time
        ordered = sorted(members, key=lambda member: (member.time, member.number))
        seen: Counter[int] = Counter()
        volumes: defaultdict[int, list[_Slice]] = defaultdict(list)
        for member in ordered:
            place = _place_of(member)
            volumes[seen[place]].append(member)
            seen[place] += 1
        for part in volumes.values():
            yield _sorted(part, [*findings, f"one of {len(volumes)} volumes at the same positions, told apart by their time alone"])
        return
    first: dict[int, _Slice] = {}
    for member in sorted(members, key=lambda member: (member.number, member.image.path)):
        first.setdefault(_place_of(member), member)
    if len(first) < len(members):
        findings = [*findings, _count(len(members) - len(first), "slice lies where another one lies: it is left out")]
    yield _sorted(list(first.values()), findings)


def _place_of(member: _Slice) -> int:
    return round(member.height / _SAME_PLACE)


def _sorted(members: list[_Slice], findings: list[str]) -> Series:
    """The series of slices with different positions, in their order."""
    members = sorted(members, key=lambda member: member.height)
    normal = members[0].normal
    assert normal is not None
    steps = measure_steps([member.height for member in members])
    shapes = Counter(tuple(round(value, 4) for value in member.pixel_spacing) for member in members)
    told = [*findings, *steps.findings, *_tilt(members)]
    if len(shapes) > 1:
        told.append(f"the slices have {len(shapes)} pixel spacings")
    usual = members[0].pixel_spacing
    has_spacing = len(shapes) == 1 and len(usual) == 2 and steps.spacing is not None
    return Series(
        slices=tuple(turned(member.image, member.turn) for member in members),
        positions=tuple(member.height for member in members),
        spacing=(steps.spacing or 0.0, usual[0], usual[1]) if has_spacing else None,
        normal=(float(normal[0]), float(normal[1]), float(normal[2])),
        modality=members[0].modality,
        findings=tuple(told),
    )


def _tilt(members: list[_Slice]) -> list[str]:
    """A finding where the slices are shifted against each other along their plane, as with a tilted gantry."""
    import numpy as np

    first, last, normal = members[0].position, members[-1].position, members[0].normal
    assert first is not None
    assert last is not None
    assert normal is not None
    line = last - first
    length = float(np.linalg.norm(line))
    if len(members) < 2 or length < _SAME_PLACE:
        return []
    angle = math.degrees(math.acos(min(1.0, abs(float(line @ normal)) / length)))
    return [f"a gantry tilt of {angle:.1f} degrees: the slices are shifted against each other"] if angle > MAX_TILT else []


def _unplaced(members: list[_Slice], findings: list[str]) -> Series:
    """Frames without a position, such as a cine, an X-ray study or a photograph, in the order of Instance Number and frame."""
    members = sorted(members, key=lambda member: (member.number, member.instance[1]))
    told = [*findings, "the files give no positions: the order is that of Instance Number and frame"] if len(members) > 1 else findings
    return Series(
        slices=tuple(member.image for member in members),
        positions=None,
        spacing=None,
        normal=None,
        modality=members[0].modality,
        findings=tuple(told),
    )


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} times a {what}"
