"""What the header of a DICOM file says about where each of its frames lies, and to which series it belongs. Pixels are not read."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import PurePosixPath
from typing import IO, TYPE_CHECKING, Any, BinaryIO, Final, cast

from osler.images.dicom import DicomFrame
from osler.images.dicom_header import (
    DicomError,
    count_frames,
    damage_errors,
    find_data_set,
    integer,
    is_deflated,
    naming_damage,
    numbers,
)
from osler.images.dicom_values import functional_group
from osler.images.geometry import AS_STORED, Turn, orient

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from pydicom.dataset import Dataset

_KEYWORDS: Final = (
    "ImageType", "SOPInstanceUID", "AcquisitionDateTime", "AcquisitionTime", "Modality", "EchoTime", "EchoNumbers", "TriggerTime",
    "DiffusionBValue", "SeriesInstanceUID", "SeriesNumber", "FrameOfReferenceUID", "AcquisitionNumber", "InstanceNumber",
    "ImagePositionPatient", "ImageOrientationPatient", "TemporalPositionIdentifier", "StackID", "NumberOfFrames", "Rows", "Columns",
    "PixelSpacing", "GridFrameOffsetVector", "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence",
    "PatientID", "PatientName", "PatientBirthDate", "StudyInstanceUID", "StudyDate",
)  # fmt: skip
# What tells files apart that name no series, and what a finding calls it.
_STAND_INS: Final = {
    "StudyInstanceUID": "study", "PatientID": "patient ID", "PatientName": "patient's name", "PatientBirthDate": "birth date",
    "StudyDate": "study date", "FrameOfReferenceUID": "frame of reference", "SeriesNumber": "series number", "Modality": "modality",
    "Rows": "rows", "Columns": "columns",
}  # fmt: skip
_NAMES: Final = ("PatientID", "PatientName")
# Words that stand where a name or number was removed or never given, alone or several of them: "Anonymous^Patient".
_PLACEHOLDERS: Final = {
    "anon", "anonym", "anonymous", "anonymised", "anonymized", "anonymise", "anonymize", "applicable", "available", "blank",
    "confidential", "de", "default", "deidentified", "dummy", "empty", "hidden", "id", "identified", "missing",
    "na", "name", "nil", "no", "none", "noname", "not", "null", "patient", "redacted",
    "removed", "subject", "undefined", "unidentified", "unknown", "unnamed", "unspecified", "withheld",
}  # fmt: skip
_HEAD_BYTES: Final = 1 << 16
_IMPLICIT: Final = "1.2.840.10008.1.2"  # the others of the standard begin so too; all are in explicit little endian but for
_OTHERS: Final = ("1.2.840.10008.1.2.2", "1.2.840.10008.1.2.1.99")  # big endian and deflated
_EXPLICIT: Final = "1.2.840.10008.1.2.1"
_ITEM_BYTES: Final = 8  # before the bytes of a compressed frame
_LAST_TAG: Final = 0x52009230  # of these: what follows is not read
_SAME_PLACE: Final = 0.01  # millimetres


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FrameHeader:
    """One frame, by its header."""

    image: DicomFrame
    uid: str  # of its series; empty as some anonymizers leave it
    patient: str  # Patient ID, else Patient's Name, a placeholder only where neither is more; empty where the file has neither
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
    def series(self) -> tuple[Hashable, ...]:
        """What files of one series have in common: its UID and the patient; without a UID the folder and all that tells files apart."""
        if self.uid:
            return self.uid, self.patient
        spacing = tuple(round(value, 4) for value in self.pixel_spacing)
        return PurePosixPath(self.image.path).parent.as_posix(), spacing, *(self.text(keyword) for keyword in _STAND_INS)

    @property
    def stand_ins(self) -> tuple[str, ...]:
        """The names of the elements by which a file without a series UID is put to others, of those that it has."""
        told = tuple(
            name
            for keyword, name in _STAND_INS.items()
            if self.text(keyword) and not (keyword in _NAMES and _is_placeholder(self.text(keyword)))
        )
        return (*told, *(["spacing"] if self.pixel_spacing else []))

    @property
    def names_patient(self) -> bool:
        """Whether it says who the patient is, by more than a placeholder such as "anonymous"."""
        return not _is_placeholder(self.patient)

    @property
    def is_anonymous(self) -> bool:
        """Whether nothing says that two such files are of one patient."""
        return not (self.uid or self.names_patient or self.text("StudyInstanceUID"))

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
        return self.text("AcquisitionDateTime") or self.text("AcquisitionTime")

    def text(self, keyword: str) -> str:
        """An element as text, without spaces around it; "" where it is missing or damaged."""
        return _text(self.dataset, keyword)

    @property
    def height(self) -> float:
        """The position along the normal, in millimetres."""
        assert self.position is not None
        assert self.normal is not None
        return float(self.position @ self.normal)


def read_frame_headers(stream: IO[bytes], image: DicomFrame) -> list[FrameHeader]:
    """Every frame of an open DICOM file, which is that of `image`. Raises DicomError for a file without pixels or with a damaged header."""
    with naming_damage("a damaged header"):
        dataset = _read_head(stream)
        if dataset is None or "Rows" not in dataset:
            raise DicomError("is a DICOM file without pixels: remove the row")
        num_frames = count_frames(dataset)
        _check_length(stream, dataset, num_frames)
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
    head = io.BytesIO(stream.read(_HEAD_BYTES))
    for source in (stream,) if is_deflated(stream) else (head, stream):
        ends: list[int] = []
        dataset = _read_elements(
            source,
            lambda tag, _vr, _length, ends=ends: int(tag) > _LAST_TAG and not ends.append(1),  # type: ignore[misc]
        )
        if ends:
            return dataset
    return None


def _check_length(stream: IO[bytes], dataset: Dataset, num_frames: int) -> None:
    """Raise DicomError where a file is too short for the frames of its header, each of which would be looked at before a pixel is missed.

    The least length is taken: one bit for each pixel, or the header of a compressed frame. Deflated files are not looked at.
    """
    syntax = find_data_set(stream)[1]
    if syntax in _OTHERS[1:]:
        return
    is_native = syntax in (_IMPLICIT, _EXPLICIT, *_OTHERS)
    least = max(_ITEM_BYTES, integer(dataset, "Rows") * integer(dataset, "Columns", 0) // 8) if is_native else _ITEM_BYTES
    if num_frames > 1 and num_frames * least > stream.seek(0, io.SEEK_END):
        raise DicomError(f"has {num_frames:,} frames by its header, more than the file can hold: fetch it again")


def _read_elements(stream: IO[bytes], stop_when: Callable[[Any, str | None, int], bool]) -> Dataset:
    """The elements of `_KEYWORDS` up to the one at which it stops.

    The file meta information is skipped by its length where it has one; reading its elements would take a third of the time.
    """
    from pydicom.filereader import read_dataset, read_partial

    start, syntax = find_data_set(stream)
    stream.seek(start)
    first = stream.read(6)  # group 0008 begins nearly every data set: otherwise the length may be wrong
    is_plain = syntax.startswith(_IMPLICIT) and syntax not in _OTHERS and first.startswith(b"\x08\0")
    is_plain = is_plain and (syntax == _IMPLICIT or first[4:].isalpha())
    stream.seek(start if is_plain else 0)
    source = cast(BinaryIO, stream)
    if is_plain:
        return read_dataset(source, syntax == _IMPLICIT, True, stop_when=stop_when, specific_tags=_tags())
    return read_partial(source, stop_when=stop_when, specific_tags=_tags())


@lru_cache(maxsize=64)
def _orient(cosines: tuple[float, ...]) -> tuple[NDArray[np.float64], Turn] | None:
    import numpy as np

    return orient(np.array(cosines[:3]), np.array(cosines[3:]))


def _text(dataset: Dataset, keyword: str) -> str:
    try:
        value = dataset.get(keyword)
        return "" if value is None else str(value).strip()
    except damage_errors():
        return ""


def _patient(dataset: Dataset) -> str:
    """Patient ID, else Patient's Name; what is more than a placeholder goes first."""
    given = [text for keyword in _NAMES if (text := _text(dataset, keyword))]
    return next((text for text in given if not _is_placeholder(text)), next(iter(given), ""))


def _is_placeholder(text: str) -> bool:
    """Whether a Patient ID or name is the same for any patient: "", "Anonymous", "NO^NAME", "0"."""
    words = re.findall(r"[^\W_]+", text.casefold())
    whole = "".join(words)
    return whole.strip("0x") == "" or whole in _PLACEHOLDERS or _PLACEHOLDERS.issuperset(words)


def _read_slice(dataset: Dataset, image: DicomFrame, frame: int) -> FrameHeader:
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
    return FrameHeader(
        image=DicomFrame(root=image.root, path=image.path, frame=frame, window=image.window),
        uid=str(dataset.get("SeriesInstanceUID") or ""),
        patient=_patient(dataset),
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
    if offsets[0] == 0:  # distances from the first frame, along the normal
        return first + np.cross(cosines[:3], cosines[3:]) * offsets[frame]
    if abs(offsets[0] - first[2]) < _SAME_PLACE:  # positions from the feet to the head, the first one that of the first frame
        return np.array([*first[:2], offsets[frame]])
    return None
