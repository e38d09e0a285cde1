"""De-identify the DICOM files of a folder into another one, under keyed names; a run that was stopped goes on where it was."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from osler.data.privacy.deidentify import DeidentifyOptions, deidentify, pseudonym
from osler.data.privacy.values import text_of
from osler.errors import ConfigError, DataError
from osler.files import digest_file, read_json_object, write_json, write_whole
from osler.images.burned_in import find_text, header_signs
from osler.images.dicom_header import NO_MARK, DicomError, has_dicom_mark, lacks_mark, naming_damage, read_header
from osler.images.dicom_pixels import read_picture
from osler.images.limits import MAX_BYTES

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

BurnedIn = Literal["leave_out", "keep"]
BURNED_IN: Final[tuple[BurnedIn, ...]] = ("leave_out", "keep")
SETTINGS: Final = "deidentified.json"
"""The file of the output folder that holds the settings; it names no file and no patient."""

_SUFFIXES: Final = (".dcm", ".dicom", ".ima")  # of names that say that a file is of DICOM


@dataclass(frozen=True, slots=True, kw_only=True)
class Deidentified:
    """What `deidentify_folder` did. Only `failures` name files of the input, for the eyes of who ran it."""

    out: Path
    num_written: int
    num_present: int  # written by an earlier run, or twice in the input
    num_others: int  # files of other kinds
    left_out: dict[str, int]  # reason -> number of files
    flagged: dict[str, int]  # sign of text in the pixels -> number of files
    failures: tuple[str, ...] = field(repr=False)  # "path: reason"


def deidentify_folder(
    root: Path, out: Path, options: DeidentifyOptions, *, burned_in: BurnedIn = "leave_out", has_progress: bool = False
) -> Deidentified:
    """Write OUT/patient/study/series/file.dcm for every DICOM file with pixels below `root`.

    Files with signs of text in their pixels are left out, or kept and counted; where pixels are blackened they are kept, and the blackened
    pixels are looked at. Raises ConfigError where the folders contain each other or `out` was written with other settings or another key,
    DataError for a folder that cannot be read or written, and MissingExtra without the extra "medical".
    """
    from tqdm import tqdm

    _check_folders(root, out)
    _check_settings(out, options, burned_in)
    paths = [path for path in sorted(root.rglob("*")) if path.is_file()]
    counts: Counter[str] = Counter()
    left_out: Counter[str] = Counter()
    flagged: Counter[str] = Counter()
    failures: list[str] = []
    for path in tqdm(paths, unit="file", desc="de-identify", disable=not has_progress):
        try:
            outcome, signs = _deidentify_file(path, root, out, options, burned_in)
            counts[outcome] += 1
            flagged.update(signs)
            if outcome == "left out":
                raise DicomError(f"shows signs of text in its pixels ({', '.join(signs)})")
        except (DicomError, DataError) as error:
            reason = str(error) if isinstance(error, DicomError) else "cannot be read"
            reason = reason.removesuffix(", or remove the row").removesuffix(": remove the row")  # here no row names the file
            left_out[reason] += 1
            failures.append(f"{path}: {reason if isinstance(error, DicomError) else error}")
    return Deidentified(
        out=out,
        num_written=counts["written"],
        num_present=counts["present"],
        num_others=counts["other"],
        left_out=dict(left_out.most_common()),
        flagged=dict(flagged.most_common()),
        failures=tuple(failures),
    )


def _deidentify_file(
    path: Path, root: Path, out: Path, options: DeidentifyOptions, burned_in: BurnedIn
) -> tuple[Literal["written", "present", "other", "left out"], Sequence[str]]:
    """What was done, and the signs of text in the pixels."""
    from pydicom import dcmread

    try:
        with path.open("rb") as stream:
            if not has_dicom_mark(stream):
                if lacks_mark(stream):
                    raise DicomError(NO_MARK)
                if path.suffix.lower() in _SUFFIXES:
                    raise DicomError("is no DICOM file, though its name ends as that of one: fetch it again")
                return "other", ()
            if path.stat().st_size > MAX_BYTES:
                raise DicomError(f"has more than {MAX_BYTES:,} bytes: store a smaller copy")
            read_header(stream)  # bounds what is read, and refuses what Osler does not show
            stream.seek(0)
            with naming_damage("a damaged header"):
                dataset = dcmread(stream)
            target = _target(path, root, out, dataset, options)
            if target.exists():
                return "present", ()
            is_blackened = bool(options.boxes or options.outside_regions)
            signs = () if is_blackened else header_signs(dataset)
            cleaned = deidentify(dataset, options)
        content = io.BytesIO()
        with naming_damage("a damaged header"):
            cleaned.save_as(content, enforce_file_format=True, implicit_vr=False, little_endian=True)
        signs = (*signs, *_text_signs(content, int(cleaned.get("NumberOfFrames") or 1)))
        if signs and burned_in == "leave_out":
            return "left out", signs
        write_whole(target, content.getvalue())
    except OSError as error:
        raise DataError(f"cannot be read or written ({error.strerror}): check the file, its permissions and the disk") from None
    return "written", signs


def _text_signs(content: io.BytesIO, num_frames: int) -> tuple[str, ...]:
    """A sign where the first, the middle or the last frame shows text. Raises DicomError for a file that cannot be shown."""
    found = any(find_text(read_picture(content, frame)) for frame in sorted({0, num_frames // 2, num_frames - 1}))
    return ("text found in the pixels",) if found else ()


def _target(path: Path, root: Path, out: Path, dataset: Dataset, options: DeidentifyOptions) -> Path:
    """Where the new file goes: its name is the keyed hash of the old file's content, so that an equal copy has the same one."""
    key, parent = options.key, path.parent.relative_to(root).as_posix()
    study = key.name("study", text_of(dataset, "StudyInstanceUID") or parent)
    series = key.name("series", text_of(dataset, "SeriesInstanceUID") or parent)
    return out / pseudonym(dataset, key) / study / series / f"{key.name('file', digest_file(path))}.dcm"


def _check_folders(root: Path, out: Path) -> None:
    if not root.is_dir():
        raise DataError(f"{str(root)!r} is no folder: check the path")
    if not any(root.iterdir()):
        raise DataError(f"{str(root)!r} is empty: check the path")
    inner, outer = out.resolve(), root.resolve()
    if inner.is_relative_to(outer) or outer.is_relative_to(inner):
        raise ConfigError(f"{out} and {root} lie in each other: write de-identified files to a folder of their own")
    if out.exists() and not out.is_dir():
        raise ConfigError(f"{out} is a file: give a folder")


def _check_settings(out: Path, options: DeidentifyOptions, burned_in: BurnedIn) -> None:
    """Write the settings into the output folder, or compare them with those of the run that began it."""
    settings: dict[str, Any] = {
        "dates": options.dates,
        "clean_descriptors": options.clean_descriptors,
        "patient_characteristics": options.patient_characteristics,
        "boxes": [list(box) for box in options.boxes],
        "outside_regions": options.outside_regions,
        "burned_in": burned_in,
        "key": options.key.name("settings", ""),
    }
    before = read_json_object(out / SETTINGS)
    if before and before != settings:
        changed = next(name for name in settings if before.get(name) != settings[name])
        raise ConfigError(f"{out} was written with another {changed}: give another folder, or the settings in {SETTINGS} there")
    if not before and out.is_dir() and any(out.iterdir()):
        raise ConfigError(f"{out} holds other files: give a new folder")
    try:
        write_json(out / SETTINGS, settings)
    except OSError as error:
        raise DataError(f"{out} cannot be written ({error.strerror}): give another folder") from None


def parse_boxes(texts: Sequence[str]) -> tuple[tuple[int, int, int, int], ...]:
    """["0,0,512,40"] -> ((0, 0, 512, 40),). Raises ConfigError for anything but four whole numbers in order."""
    return tuple(_parse_boxes(texts))


def _parse_boxes(texts: Sequence[str]) -> Iterator[tuple[int, int, int, int]]:
    for text in texts:
        try:
            left, top, right, bottom = (int(part) for part in text.split(","))
        except ValueError:
            raise ConfigError(f"the box {text!r} is not left,top,right,bottom in pixels: give four whole numbers") from None
        if min(left, top) < 0 or left >= right or top >= bottom:
            raise ConfigError(f"the box {text!r} is empty: left must be smaller than right, and top than bottom")
        yield left, top, right, bottom
