"""`osler data view`: a contact sheet of exactly what a policy sees of questions or of a study, as one HTML file.

Each picture is shown at the size that the policy's processor gives it, with its image tokens, its slice and the letters of the patient's
orientation at its edges.
"""

from __future__ import annotations

import base64
import io
import random
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from osler.config import StudyConfig
from osler.context import Context
from osler.data.privacy.private import expand
from osler.data.studies import is_study_source, pictures_of, show_study
from osler.errors import ConfigError, DataError, first_line
from osler.files import HTML, check_replaceable, write_whole
from osler.images.clip import count_frames
from osler.images.dicom import DicomFrame
from osler.images.geometry import EDGES
from osler.images.slices import ShownStudy, choose_pictures
from osler.images.study import Study, read_series
from osler.images.values import find_hidden_values
from osler.reports.render import render
from osler.types import LETTERS, PLACE, ImageSource, Sample

if TYPE_CHECKING:
    from PIL.Image import Image

    from osler.images.geometry import Series

MAX_VIEWED: Final = 500
MAX_SIDE: Final = 1024
"""The longest side of a picture on the page, in pixels; a larger one is shown smaller."""

_QUALITY: Final = 90
Measure = Callable[["Image"], tuple[tuple[int, int], int]]
"""From a picture to the size at which a policy sees it, and its image tokens."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """One picture as a policy sees it."""

    uri: str
    where: str  # in its series, "slice 8 of 20, -812.5 mm"; empty for a picture that is not of a series
    edges: tuple[str, ...]  # the letters at the left, right, upper and lower edge: R, L, A, P; empty where they are not known
    jpeg: str = ""  # base64
    size: tuple[int, int] = (0, 0)  # width and height in pixels
    tokens: int | None = None
    error: str | None = None  # why it cannot be read
    caption: str = ""  # the text before its place in the question, for the first picture of an image


@dataclass(frozen=True, slots=True, kw_only=True)
class SeriesRow:
    """A series of a study, as the page lists it."""

    number: int
    modality: str
    plane: str
    num_slices: int
    spacing: str  # between slices, rows and columns, in millimetres
    findings: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """A question, or a study without one, and what a policy sees of it."""

    pictures: tuple[Seen, ...]
    notes: tuple[str, ...] = ()
    sample: Sample | None = None

    @property
    def num_tokens(self) -> int | None:
        """The image tokens of all pictures; None where they are not known."""
        counts = [picture.tokens for picture in self.pictures]
        return None if None in counts else sum(count for count in counts if count is not None)


def measure_with(processor: Any) -> Measure:
    """The function that asks the image processor of a policy."""
    image_processor = processor.image_processor
    patch, merge = int(image_processor.patch_size), int(image_processor.merge_size)

    def measure(picture: Image) -> tuple[tuple[int, int], int]:
        times, rows, columns = image_processor(images=[picture], return_tensors="pt")["image_grid_thw"][0].tolist()
        return (columns * patch, count_frames(picture) * rows * patch), times * rows * columns // merge**2

    return measure


def view_samples(
    samples: Sequence[Sample],
    out: Path,
    study: StudyConfig = StudyConfig(),  # noqa: B008 # frozen
    measure: Measure | None = None,
    *,
    num: int = 48,
    seed: int = 0,
    note: str = "",
) -> Path:
    """Write an HTML page of `num` random samples, in dataset order, with what a policy sees of them; returns its path.

    The samples hold studies as their reader gave them. A picture that cannot be read is replaced by its error message. Raises ConfigError
    for `num` out of range, and DataError when there are no samples or the file cannot be written.
    """
    if not 1 <= num <= MAX_VIEWED:
        raise ConfigError(f"cannot view {num} samples: choose 1 to {MAX_VIEWED}")
    if not samples:
        raise DataError("there are no samples to view: check the split and the options")
    picked = [samples[index] for index in sorted(random.Random(seed).sample(range(len(samples)), min(num, len(samples))))]
    cards = [_card(sample.images, study, measure, replace(sample, context=_context(sample, study))) for sample in picked]
    return _write(out, title=f"{samples[0].dataset}: {len(picked)} of {len(samples)} samples", cards=cards, series=(), note=note)


def view_study(
    source: Study,
    out: Path,
    study: StudyConfig = StudyConfig(),  # noqa: B008 # frozen
    measure: Measure | None = None,
    *,
    note: str = "",
) -> Path:
    """Write an HTML page of the series of a study and of what a policy sees of it; returns its path. Raises DataError for no study."""
    rows = [_row(number, series) for number, series in enumerate(read_series(source), start=1)]
    choose_pictures(source, study)  # an error of the whole study is one of the command
    card = _card((source,), study, measure)
    if all(picture.error is not None for picture in card.pictures):
        raise DataError(card.pictures[0].error or "nothing is shown")
    note = f"{describe_settings(study)} {note}"
    return _write(out, title=f"What a policy sees of {source.uri}", cards=[card], series=rows, note=note)


def _context(sample: Sample, study: StudyConfig) -> Context | None:
    """The patient context of the prompt; that of the row where a study cannot be read."""
    with suppress(DataError):
        return show_study(sample, study).context
    return sample.context


def describe_settings(study: StudyConfig) -> str:
    """The settings of `[data.study]` in a sentence: "Up to 8 slices (even), window lung, at most 768 tokens."."""
    plane = f", {study.plane}" if study.plane is not None else ""
    layout = {"images": "", "montage": ", as one montage", "video": ", as one clip, its frames below each other"}[study.layout]
    tokens = f", at most {study.max_tokens} tokens" if study.max_tokens else ""
    return f"Up to {study.slices} slices ({study.choice}){plane}, window {study.window or 'of the file'}{layout}{tokens}."


def _card(sources: Sequence[ImageSource], study: StudyConfig, measure: Measure | None, sample: Sample | None = None) -> Card:
    pictures: list[Seen] = []
    notes: list[str] = []
    for source, caption in zip(sources, _captions(sample, len(sources)), strict=True):
        begin = len(pictures)
        try:
            if is_study_source(source):
                look = _look_at_study(source, study, measure)
                notes += look.notes
                pictures += look.pictures
            else:
                pictures += [_look(picture, "", (), measure) for picture in pictures_of(source, study)]
        except (DataError, ConfigError) as error:
            pictures.append(Seen(uri=source.uri, where="", edges=(), error=str(error)))
        pictures[begin] = replace(pictures[begin], caption=caption)
    return Card(pictures=tuple(pictures), notes=tuple(notes), sample=sample)


def _captions(sample: Sample | None, number: int) -> list[str]:
    """For each image the words of its line before its place: "Prior, 2021" of "Prior, 2021: <image>"."""
    pieces = sample.question.split(PLACE) if sample is not None else []
    if len(pieces) != number + 1:
        return [""] * number
    return [piece.rpartition("\n")[2].strip(" ,.;:") for piece in pieces[:-1]]


def _look_at_study(source: ImageSource, study: StudyConfig, measure: Measure | None) -> Card:
    """What a policy sees of a study. Of a private one pictures have keyed names, and notes and positions, which may tell it apart, are left
    out; the number of a slice and the letters at its edges say nothing of the patient."""
    is_private = not isinstance(source, Study)
    told: list[tuple[ShownStudy, list[tuple[str, ...]], tuple[str, ...]]] = []

    def show(own: ImageSource) -> tuple[ImageSource, ...]:
        assert isinstance(own, Study)
        shown = choose_pictures(own, study)
        told.append((shown, [_edges(shown, picture) for picture in shown.slices], find_hidden_values(shown.slices)))
        return shown.pictures

    pictures = expand(source, show)
    ((shown, edges, hidden),) = told
    places = [_place(shown, number, has_position=not is_private) for number in range(len(shown.indices))]
    if len(pictures) < len(places):  # a montage or a clip
        places = ["; ".join(places)]
        edges = [edges[0] if len(set(edges)) == 1 else ()]
    seen = tuple(_look(*picture, measure) for picture in zip(pictures, places, edges, strict=True))
    notes = (*(() if is_private else shown.notes), *hidden)
    taken = sum(picture.tokens or 0 for picture in seen)
    if shown.num_slices > 1 and 0 < study.max_tokens < taken:
        notes += (f"it takes {taken} image tokens, more than max_tokens = {study.max_tokens}, and the policy refuses it",)
    return Card(pictures=seen, notes=notes)


def _edges(shown: ShownStudy, picture: ImageSource) -> tuple[str, ...]:
    """The letters at the left, right, upper and lower edge: by the plane, else by what a file says of its rows and columns."""
    if shown.plane is not None:
        return tuple(EDGES[shown.plane])
    with suppress(DataError):
        return picture.read_edges() if isinstance(picture, DicomFrame) else ()
    return ()


def _place(shown: ShownStudy, number: int, *, has_position: bool) -> str:
    """Where the slice of this number among those that are shown lies in its series."""
    if shown.num_slices == 1:
        return ""
    position = f", {shown.positions[number]:.1f} mm" if shown.positions is not None and has_position else ""
    return f"{'slice' if shown.positions is not None else 'picture'} {shown.indices[number] + 1} of {shown.num_slices}{position}"


def _look(source: ImageSource, where: str, edges: tuple[str, ...], measure: Measure | None) -> Seen:
    try:
        picture = source.load()
        size, tokens = measure(picture) if measure is not None else (picture.size, None)
    except (DataError, ValueError) as error:  # ValueError: an image that no processor takes
        return Seen(uri=source.uri, where=where, edges=edges, error=first_line(error))
    shown = picture if picture.size == size else picture.resize(size)
    shown.thumbnail((MAX_SIDE, MAX_SIDE * count_frames(picture)))
    stream = io.BytesIO()
    shown.save(stream, "JPEG", quality=_QUALITY)
    jpeg = base64.b64encode(stream.getvalue()).decode("ascii")
    return Seen(uri=source.uri, where=where, edges=edges, jpeg=jpeg, size=size, tokens=tokens)


def _row(number: int, series: Series) -> SeriesRow:
    return SeriesRow(
        number=number,
        modality=series.modality or "unknown",
        plane=series.plane or "unknown",
        num_slices=len(series.slices),
        spacing=" x ".join(f"{step:g}" for step in series.spacing) if series.spacing is not None else "unknown",
        findings=series.findings,
    )


def _write(out: Path, **content: Any) -> Path:
    check_replaceable(out, HTML, "page")
    try:
        write_whole(out, render("contact_sheet.html.j2", letters=LETTERS, **content).encode("utf-8", "surrogatepass"))
    except OSError as error:
        raise DataError(f"{out} cannot be written ({error.strerror}): choose another place") from error
    return out
