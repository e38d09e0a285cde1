"""What the server says of an upload: its images with their slices, planes, windows and letters at the edges; no identifier."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final, Literal

from pydantic import BaseModel

from osler.data.privacy.context import header_contexts
from osler.errors import DataError
from osler.images.dicom import DicomFrame
from osler.images.files import ImageFile
from osler.images.fingerprints import digest_image
from osler.images.geometry import EDGES, PLANES, HasShownWindow, Series, unturned
from osler.images.reslice import CutSlice
from osler.images.sizes import size_of
from osler.images.slices import ShownStudy
from osler.images.study import PickedSeries, dress_series, find_series, fits_window
from osler.images.windows import AUTO, PRESETS, Window
from osler.serving.study_settings import FILE, read_window_name
from osler.serving.uploads import Upload, Uploads
from osler.taxonomy import Plane
from osler.types import ImageSource

_SIDES: Final[Mapping[str, Literal["L", "R", "B"]]] = {"left": "L", "right": "R", "bilateral": "B"}
_MAX_FILE_WINDOWS: Final = 8


class Marks(BaseModel):
    """The letters at the edges of a picture: right, left, anterior, posterior, head, foot of the patient."""

    left: str
    right: str
    top: str
    bottom: str


class ImageReply(BaseModel):
    """One image of an upload."""

    index: int
    name: str  # what its user calls it
    kind: Literal["picture", "dicom", "volume", "series"]
    selected: bool  # whether a prompt shows it where a request names no images
    modality: str | None  # as DICOM says it: "CT"
    num_slices: int
    width: int  # of its first slice, in pixels
    height: int
    plane: Plane | None
    planes: list[Plane]  # that may be asked for; empty for pictures
    spacing: float | None  # millimetres from slice to slice
    windows: list[str]  # that may be asked for beside "40/400" and the like; empty for pictures
    window: str | None  # without one in the request
    marks: Marks | None
    laterality: Literal["L", "R", "B"] | None
    notes: list[str]  # what is unusual, in words


class UploadReply(BaseModel):
    """An upload."""

    upload: str
    images: list[ImageReply]
    notes: list[str]  # what is left out, in words
    expires_in: float  # seconds after its last use


class PictureSize(BaseModel):
    """A picture as it goes to the image processor."""

    width: int
    height: int
    marks: Marks | None
    digest: str | None  # SHA-256 of what determines its pixels: equal pictures of equal files have one


class ShownReply(BaseModel):
    """What a prompt shows of an image."""

    slice_numbers: list[int]  # in the series, from 1
    slices: list[int]  # the same, from 0
    num_slices: int
    pictures: list[PictureSize]  # one for each slice, or one montage or clip of them
    notes: list[str]
    hidden: list[str]  # what the pictures do not show: values that are no numbers, or that all become one tone


def describe_upload(upload: Upload, uploads: Uploads) -> UploadReply:
    """All its images. Raises DataError where one cannot be read."""
    images = [describe_image(upload, uploads, index) for index in range(len(upload.images))]
    return UploadReply(upload=upload.id, images=images, notes=list(upload.notes), expires_in=uploads.limits.idle_seconds)


def describe_image(upload: Upload, uploads: Uploads, index: int, plane: Plane | None = None) -> ImageReply:
    """One image, in its own plane or another one."""
    image = upload.image(index)
    picked = pick(upload, uploads, index, None, plane)
    series = picked.series
    with upload.naming():
        width, height = size_of(series.slices[0])
        windows = _list_windows(series)
        source = unturned(series.slices[0])
        kind: Literal["picture", "dicom", "volume", "series"] = (
            "volume" if _is_volume(source) else "series" if len(series.slices) > 1 else "dicom" if _frame_of(source) else "picture"
        )
        return ImageReply(
            index=index,
            name=image.name,
            kind=kind,
            selected=image.is_selected,
            modality=series.modality,
            num_slices=len(series.slices),
            width=width,
            height=height,
            plane=series.plane,
            planes=list(reversed(PLANES)) if series.plane and series.spacing and len(series.slices) > 1 else [],
            spacing=series.spacing[0] if series.spacing else None,
            windows=windows,
            window=(uploads.study.window or FILE) if windows else None,
            marks=marks_of(series.plane, series.slices[0]),
            laterality=_find_side(series.slices[0]),
            notes=list(dict.fromkeys((*image.notes, *picked.notes))),
        )


def describe_shown(shown: ShownStudy, hidden: Sequence[str]) -> ShownReply:
    """What a prompt shows of an image, and hides. Raises DataError where a picture cannot be read."""
    each = [marks_of(shown.plane, source) for source in shown.slices]
    if len(shown.pictures) < len(each):  # a montage or a clip
        each = [each[0] if all(marks == each[0] for marks in each) else None]
    return ShownReply(
        slice_numbers=list(shown.slice_numbers),
        slices=list(shown.indices),
        num_slices=shown.num_slices,
        pictures=[
            PictureSize(width=width, height=height, marks=marks, digest=digest_image(picture))
            for picture, marks in zip(shown.pictures, each, strict=True)
            for width, height in [size_of(picture)]
        ],
        notes=list(shown.notes),
        hidden=list(hidden),
    )


def pick(upload: Upload, uploads: Uploads, index: int, window: str | None, plane: Plane | None) -> PickedSeries:
    """The slices of an image, with a window and in a plane. Raises ApiError (404), DataError and ConfigError."""
    study = replace(upload.image(index).study, plane=plane or uploads.study.plane)
    usual = uploads.study.window if window is None else read_window_name(window)
    with upload.naming():
        return dress_series(study, find_series(study), usual)


def marks_of(plane: str | None, source: ImageSource) -> Marks | None:
    """The letters at the edges of a slice: by its plane, else by what its file says of its rows and columns."""
    edges: tuple[str, ...] = tuple(EDGES[plane]) if plane is not None else ()
    own = unturned(source)
    if not edges and isinstance(own, DicomFrame):
        edges = own.read_edges()
    return Marks(left=edges[0], right=edges[1], top=edges[2], bottom=edges[3]) if edges else None


def level_of(source: ImageSource) -> Window | None:
    """The window by which a slice is shown; None for colours, pictures and lookup tables."""
    own = unturned(source)
    return own.read_window() if isinstance(own, HasShownWindow) else None


def _list_windows(series: Series) -> list[str]:
    """The names of the windows that fit a series."""
    if not fits_window(series, AUTO):
        return []
    frame = _frame_of(unturned(series.slices[0]))
    in_file = 0 if frame is None else _count_file_windows(frame)
    own = [FILE, *(f"{FILE}:{number}" for number in range(2, min(in_file, _MAX_FILE_WINDOWS) + 1)), AUTO]
    return [*own, *(name for name in PRESETS if fits_window(series, name))]


def _count_file_windows(frame: DicomFrame) -> int:
    widths = frame.read_elements(("WindowWidth",)).get("WindowWidth")
    return 0 if widths is None else 1 if isinstance(widths, str | float | int) else len(widths)


def _frame_of(source: ImageSource) -> DicomFrame | None:
    """The DICOM frame that a slice is, or is cut from."""
    if isinstance(source, CutSlice):
        return _frame_of(unturned(source.stack.slices[0]))
    return source if isinstance(source, DicomFrame) else None


def _is_volume(source: ImageSource) -> bool:
    if isinstance(source, CutSlice):
        return _is_volume(unturned(source.stack.slices[0]))
    return not isinstance(source, DicomFrame | ImageFile)


def _find_side(source: ImageSource) -> Literal["L", "R", "B"] | None:
    """The side that the header of a DICOM file says."""
    try:
        sides = {context.laterality for context in header_contexts(source)}
    except DataError:
        return None
    return _SIDES.get(sides.pop() or "") if len(sides) == 1 else None
