"""From a folder of DICOM files to series of slices in order. Headers are read, pixels are not.

Files are grouped by their series UID and patient, without a UID by all else that tells them apart. Files that name two patients are never
one series; files that name no patient, series or study are refused where their positions look like those of several patients. A series is
split where it holds more than one volume: by orientation and size, localizers, stacks, time points and echoes. Slices are sorted by their
position along the normal, never by a file's name or Instance Number. Every frame of a multi-frame file is a slice.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Final

from osler.errors import DataError
from osler.images.dicom import DicomFrame
from osler.images.dicom_header import DicomError, has_dicom_mark, naming_damage
from osler.images.files import ImageFile
from osler.images.frame_headers import FrameHeader, read_frame_headers
from osler.images.geometry import Series, Steps, measure_steps, turned

MAX_TILT: Final = 0.5
"""Degrees between the normal and the line of the slices' positions from which on a gantry tilt is named."""

_DIRECTION_DIGITS: Final = 3  # of direction cosines that are equal within one orientation
_SAME_PLACE: Final = 0.01  # millimetres
_FAR: Final = 5  # times the usual distance of slices: a wider gap parts blocks
_UNKNOWN: Final = "they name no series, study or patient and lie {}, maybe of several patients: make one folder for each {}"
_VARIANTS: Final = ("EchoTime", "DiffusionBValue", "TriggerTime", "ImageType", "AcquisitionNumber")


@dataclass(frozen=True, slots=True, kw_only=True)
class SeriesFolder:
    """What a folder holds."""

    series: tuple[Series, ...]
    refused: tuple[str, ...]  # one line for each DICOM file that is no image, or that cannot be told from others, with its reason
    num_others: int  # files of other kinds


def read_dicom_series(root: Path, paths: Iterable[str] | None = None, *, window: str | None = None) -> SeriesFolder:
    """The series of the DICOM files below `root`, or of these paths below it; a slice is shown with `window` (see `windows`).

    Raises DataError where a folder or path cannot be read, and MissingExtra without the extra "medical". Files that are no DICOM files are
    counted, DICOM files that are no images are refused one by one, and those that may be of several patients together.
    """
    if paths is None:
        if not root.is_dir():
            raise DataError(f"{str(root)!r} is no folder: check the path")
        paths = sorted(path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file())
    slices: list[FrameHeader] = []
    refused: list[str] = []
    num_others = 0
    for path in paths:
        try:
            with ImageFile(root=root, path=path).open() as stream:
                if not has_dicom_mark(stream):
                    num_others += 1
                    continue
                slices += read_frame_headers(stream, DicomFrame(root=root, path=path, window=window))
        except DicomError as error:
            refused.append(f"image {path!r} {error}")
    patients = list(dict.fromkeys(member.patient for member in slices if member.patient))
    named = {uid: {member.patient for member in members} - {""} for uid, members in _by(slices, lambda member: member.uid).items()}
    groups = _by((_with_patient(member, named[member.uid]) for member in slices), lambda member: member.series)
    series: list[Series] = []
    with naming_damage("a damaged header"):
        for members in groups.values():
            first = members[0]
            patient = patients.index(first.patient) if first.patient else None
            try:
                series += [replace(volume, patient=patient) for volume in _split(members, _describe(members, len(named[first.uid])))]
            except DicomError as error:
                refused.append(f"image {first.image.path!r} and {len(members) - 1} more: {error}")
    return SeriesFolder(series=tuple(series), refused=tuple(refused), num_others=num_others)


def _with_patient(member: FrameHeader, named: set[str]) -> FrameHeader:
    """A slice that says nothing of the patient, with the only one whom others of its series UID name."""
    return replace(member, patient=min(named)) if member.uid and not member.patient and len(named) == 1 else member


def _describe(members: list[FrameHeader], num_patients: int) -> list[str]:
    """Findings on what the files of a series have in common."""
    first = members[0]
    if not first.uid:
        whom = "" if first.names_patient else " and no patient"
        return [f"the files name no series{whom}: those of one folder with one {', '.join(first.stand_ins)} are taken for one"]
    if num_patients > 1:
        return [f"its series UID stands in files that name {num_patients} different patients: they are put apart"]
    if len({member.text("PatientID") or member.text("PatientName") for member in members} & {"", first.patient}) > 1:
        return ["some of its files name no patient: by their series UID they are taken for those of the patient whom the others name"]
    return []


def _split(members: list[FrameHeader], told: list[str]) -> Iterator[Series]:
    """The series that one series UID holds: one for each orientation and size, stack, time point and echo.

    Raises DicomError where files of several patients may be among them.
    """
    distinct = _without_copies(members)
    findings = [*told]
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
        parted = [f"one of {len(volumes)} stacks, time points or echoes of its series"] if len(volumes) > 1 else []
        for volume in volumes:
            yield from _place(volume, [*findings, *parted])


def _without_copies(members: list[FrameHeader]) -> list[FrameHeader]:
    """The slices without those that an earlier file holds: of one UID and position, or, where nothing identifies files, in equal files."""
    if not members[0].is_anonymous:
        return list({(member.instance, *_place_key(member)): member for member in reversed(members)}.values())[::-1]
    paths = defaultdict[tuple[float, ...], set[str]](set)
    for member in members:
        paths[_place_key(member)].add(member.image.path)
    crowded = set[str]().union(*(those for those in paths.values() if len(those) > 1))
    contents = {path: ImageFile(root=members[0].image.root, path=path).digest() for path in crowded}
    keys = [(contents.get(member.image.path, member.image.path), member.image.frame) for member in members]
    return list(dict(zip(keys[::-1], members[::-1], strict=True)).values())[::-1]


def _place_key(member: FrameHeader) -> tuple[float, ...]:
    """Beside the UID, because some anonymizers give one UID to all slices."""
    return () if member.position is None else tuple(member.position.tolist())


def _group(members: Sequence[FrameHeader], key: Callable[[FrameHeader], Hashable]) -> list[list[FrameHeader]]:
    return list(_by(members, key).values())


def _by(members: Iterable[FrameHeader], key: Callable[[FrameHeader], Hashable]) -> dict[Hashable, list[FrameHeader]]:
    groups: defaultdict[Hashable, list[FrameHeader]] = defaultdict(list)
    for member in members:
        groups[key(member)].append(member)
    return groups


def _orientation(member: FrameHeader) -> Hashable:
    if member.normal is None or member.position is None:
        return None
    return (*(round(float(value), _DIRECTION_DIGITS) + 0.0 for value in member.normal), member.turn)


def _place(members: list[FrameHeader], findings: list[str]) -> Iterator[Series]:
    """The volumes of slices of one orientation: several where each position is there several times, e.g. once for each time point."""
    places = Counter(_place_of(member) for member in members)
    repeats = set(places.values())
    if max(repeats) > 1:
        for keyword in _VARIANTS:
            parts = _group(members, lambda member, keyword=keyword: member.text(keyword))  # type: ignore[misc]
            if len(parts) > 1 and all(len({_place_of(member) for member in part}) == len(part) for part in parts):
                for part in parts:
                    yield _sorted(part, [*findings, f"one of {len(parts)} volumes of its series at the same positions"])
                return
        if members[0].is_anonymous and len({member.image.path for member in members}) > 1:
            raise DicomError(_UNKNOWN.format("at the same positions", "patient"))
    if len(repeats) == 1 and max(repeats) > 1 and len(places) > 1:  # no element tells them apart: by their time
        ordered = sorted(members, key=lambda member: (member.time, member.number))
        seen: Counter[int] = Counter()
        volumes: defaultdict[int, list[FrameHeader]] = defaultdict(list)
        for member in ordered:
            place = _place_of(member)
            volumes[seen[place]].append(member)
            seen[place] += 1
        what = "time" if any(member.time for member in members) else "Instance Number"
        for part in volumes.values():
            yield _sorted(part, [*findings, f"one of {len(volumes)} volumes at the same positions, told apart by their {what} alone"])
        return
    first: dict[int, FrameHeader] = {}
    for member in sorted(members, key=lambda member: (member.number, member.image.path)):
        first.setdefault(_place_of(member), member)
    if len(first) < len(members):
        findings = [*findings, _count(len(members) - len(first), "slice lies where another one lies: it is left out")]
    yield _sorted(list(first.values()), findings)


def _place_of(member: FrameHeader) -> int:
    return round(member.height / _SAME_PLACE)


def _sorted(members: list[FrameHeader], findings: list[str]) -> Series:
    """The series of slices with different positions, in their order. Raises DicomError for files without a name in blocks far apart."""
    members = sorted(members, key=lambda member: member.height)
    normal = members[0].normal
    assert normal is not None
    steps = measure_steps([member.height for member in members])
    if members[0].is_anonymous and len({member.image.path for member in members}) > 1 and (num_blocks := _count_blocks(members, steps)) > 1:
        raise DicomError(_UNKNOWN.format(f"in {num_blocks} blocks far apart", "block"))
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


def _count_blocks(members: list[FrameHeader], steps: Steps) -> int:
    """How many blocks slices in order form, between which more than a few are missing."""
    return 1 + sum(after.height - before.height > _FAR * (steps.spacing or 0) for before, after in pairwise(members))


def _tilt(members: list[FrameHeader]) -> list[str]:
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


def _unplaced(members: list[FrameHeader], findings: list[str]) -> Series:
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
