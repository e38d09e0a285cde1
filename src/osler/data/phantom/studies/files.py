"""Write phantom studies as files that a hospital's tools read: DICOM series and frames, or NIfTI volumes.

::

    out/<kind>/<aspect>/<split>/<seed>-<index>/001.dcm ..      a volume, one file for each slice
    out/<kind>/<aspect>/<split>/<seed>-<index>/cine.dcm        a cine, one file of several frames
    out/<kind>/<aspect>/<split>/<seed>-<index>/frontal.dcm ..  views, prior and current
    out/<kind>/<aspect>/<split>/<seed>-<index>.nii.gz          a volume as NIfTI
    out/phantom_study.jsonl                                    one line for each question

The values are the drawn ones, in Hounsfield units for CT, so that files read back show the same pictures.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np
from tqdm import tqdm

from osler.data.phantom.canvas import Difficulty
from osler.data.phantom.leftovers import check_leftovers
from osler.data.phantom.studies.questions import build_studies
from osler.data.phantom.studies.sheet import contact_sheet
from osler.data.phantom.studies.source import DEFAULT_SIZE, PhantomStudy, StudyPicture
from osler.data.phantom.studies.truth import ASPECTS, StudyKind
from osler.errors import DataError, MissingExtra
from osler.facts import Facts, Term
from osler.files import write_json_lines, write_whole
from osler.images.windows import Window, parse_windows
from osler.taxonomy import Split
from osler.types import Sample

if TYPE_CHECKING:
    from pydicom.dataset import Dataset
    from pydicom.uid import UID

FileFormat = Literal["dicom", "nifti"]
WIDTHS: Final = {StudyKind.CT_VOLUME: 400.0, StudyKind.MRI_VOLUME: 220.0, StudyKind.XRAY_VIEWS: 400.0, StudyKind.FOLLOW_UP: 400.0}
"""Millimetres across a picture."""

LENGTHS: Final = {StudyKind.CT_VOLUME: 300.0, StudyKind.MRI_VOLUME: 110.0}
"""Millimetres from the lower to the upper end of a volume."""

_FRAME_TIME: Final = 100.0  # milliseconds
_FILE_NAMES: Final = {StudyKind.XRAY_VIEWS: ("frontal", "lateral"), StudyKind.FOLLOW_UP: ("prior", "current")}
_PATTERNS: Final = [f"{kind}/*/*/[0-9]*-[0-9]*{end}" for kind in StudyKind for end in (".nii.gz", "/*.dcm")]
"""Of all files of studies."""

_STORAGE: Final = {  # SOP class
    StudyKind.CT_VOLUME: "1.2.840.10008.5.1.4.1.1.2",
    StudyKind.MRI_VOLUME: "1.2.840.10008.5.1.4.1.1.4",
    StudyKind.ULTRASOUND_CINE: "1.2.840.10008.5.1.4.1.1.3.1",
    StudyKind.XRAY_VIEWS: "1.2.840.10008.5.1.4.1.1.1",
    StudyKind.FOLLOW_UP: "1.2.840.10008.5.1.4.1.1.1",
}
_CODES: Final = {
    StudyKind.CT_VOLUME: "CT",
    StudyKind.MRI_VOLUME: "MR",
    StudyKind.ULTRASOUND_CINE: "US",
    StudyKind.XRAY_VIEWS: "CR",
    StudyKind.FOLLOW_UP: "CR",
}


def spacing_of(study: PhantomStudy) -> tuple[float, float]:
    """Millimetres between the pixels and between the slices of a volume; slices are farther apart than pixels."""
    pixel = WIDTHS[study.kind] / study.size
    return pixel, max(LENGTHS[study.kind] / study.num_slices, 1.2 * pixel)


def write_phantom_studies(
    out: Path,
    *,
    num_questions: Mapping[Split, int],
    kinds: Sequence[StudyKind],
    file_format: FileFormat,
    seed: int,
    size: int | None,
    num_slices: int,
    difficulty: Difficulty,
    shortcut: float = 0.0,
) -> int:
    """Write `num_questions` studies of each kind for each split ({"train": 100}) with `write_studies`, and `contact_sheet.png`."""
    pixels = DEFAULT_SIZE if size is None else size
    samples = [
        sample
        for split, number in num_questions.items()
        for kind in kinds
        for sample in build_studies(
            kind=kind,
            split=split,
            seed=seed,
            num_questions=number,
            size=pixels,
            num_slices=num_slices,
            difficulty=difficulty,
            shortcut=shortcut,
        )
    ]
    num_studies = write_studies(out, samples=samples, file_format=file_format)
    rows = [(kind, aspect) for kind in kinds for aspect in ASPECTS[kind]]
    contact_sheet(seed=seed, rows=rows, size=pixels, difficulty=difficulty).save(out / "contact_sheet.png")
    return num_studies


def write_studies(out: Path, *, samples: Sequence[Sample], file_format: FileFormat) -> int:
    """Write the studies of `phantom_study` questions below `out`, and `phantom_study.jsonl`, which the `jsonl` reader reads.

    Returns the number of studies. Files are written to a folder beside those that they replace and moved at the end, so that an interrupted
    run mixes no studies of two sizes; while they are moved there is no `phantom_study.jsonl`.

    Raises DataError for samples that are not such questions with all pictures, for a study that is no volume where NIfTI is asked for, and
    for a folder with files of studies that these do not replace; MissingExtra without the extra "medical".
    """
    studies = [_study_of(sample) for sample in samples]
    check_leftovers(out, {path for study in studies for path in _paths(study, file_format)}, _PATTERNS)
    rows: list[dict[str, Any]] = []
    written: set[tuple[Term, ...]] = set()  # the reader gives the terms of one row to all
    table = out / "phantom_study.jsonl"
    out.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=out, prefix=".phantom_study.") as draft:
        for sample, study in zip(tqdm(samples, unit="study", desc="phantom"), studies, strict=True):
            rows.append(
                _row(sample, study, write_study(Path(draft), study, file_format))
                | ({} if sample.terms in written else {"terms": _terms(sample)})
            )
            written.add(sample.terms)
        table.unlink(missing_ok=True)
        for path in dict.fromkeys(path for study in studies for path in _paths(study, file_format)):
            (out / path).parent.mkdir(parents=True, exist_ok=True)
            Path(draft, path).replace(out / path)
    write_json_lines(table, rows)
    return len(rows)


def write_study(out: Path, study: PhantomStudy, file_format: FileFormat) -> list[Any]:
    """Write the files of one study below `out`; returns its images as a row of `jsonl` gives them.

    Raises DataError for a study that is no volume where NIfTI is asked for, and MissingExtra without the extra "medical".
    """
    return _write_nifti(out, study) if file_format == "nifti" else _write_dicom(out, study)


def _study_of(sample: Sample) -> PhantomStudy:
    first = sample.images[0]
    if not isinstance(first, StudyPicture) or len(sample.images) != first.study.num_pictures:
        raise DataError(f"{sample.id} is not a question about a whole phantom study: write only samples of the reader phantom_study")
    return first.study


def _row(sample: Sample, study: PhantomStudy, images: list[Any]) -> dict[str, Any]:
    assert isinstance(sample.facts, Facts)
    facts = [{key: value for key, value in asdict(fact).items() if value not in (None, True)} for fact in sample.facts.facts]
    keys = ("id", "dataset", "question", "choices", "target", "modality", "question_type", "subject_id", "rationale")
    return {
        **{key: getattr(sample, key) for key in keys},
        "split": study.split,
        "images": images,
        "facts": {"facts": facts, "closed": sample.facts.closed},
        "metadata": dict(sample.metadata),
    }


def _terms(sample: Sample) -> list[dict[str, str]]:
    return [{key: value for key, value in asdict(term).items() if value is not None} for term in sample.terms]


def _folder(study: PhantomStudy) -> str:
    return f"{study.kind}/{study.aspect}/{study.split}/{study.seed}-{study.index:06d}"


def _paths(study: PhantomStudy, file_format: FileFormat) -> list[str]:
    """The files of a study, below the output folder."""
    folder = _folder(study)
    if file_format == "nifti":
        return [f"{folder}.nii.gz"]
    if study.kind is StudyKind.ULTRASOUND_CINE:
        return [f"{folder}/cine.dcm"]
    names = _FILE_NAMES.get(study.kind) or [f"{number:03d}" for number in range(1, study.num_pictures + 1)]
    return [f"{folder}/{name}.dcm" for name in names]


def _write_nifti(out: Path, study: PhantomStudy) -> list[Any]:
    """A volume as `.nii.gz`: columns run to the patient's left, rows to the back, slices to the head."""
    try:
        import nibabel
    except ImportError:
        raise MissingExtra("nibabel", "medical") from None

    if not study.kind.is_volume:
        raise DataError(f"{study.kind} is no volume, which NIfTI needs: write it as dicom, or leave the kind out")
    pixel, step = spacing_of(study)
    values = np.stack([study.values(number).T for number in range(1, study.num_slices + 1)], axis=2)
    centre = pixel * (study.size - 1) / 2
    affine = np.array([[-pixel, 0, 0, centre], [0, -pixel, 0, centre], [0, 0, step, 0], [0, 0, 0, 1]])
    image = nibabel.Nifti1Image(values, affine)
    image.header.set_xyzt_units("mm")
    (path,) = _paths(study, "nifti")
    (out / path).parent.mkdir(parents=True, exist_ok=True)
    image.to_filename(out / path)
    return [{"path": path, "window": study.window, "plane": "axial"}]


def _write_dicom(out: Path, study: PhantomStudy) -> list[Any]:
    """The files of one study; a folder is one image of the row, and so is each view."""
    paths = _paths(study, "dicom")
    if study.kind is StudyKind.ULTRASOUND_CINE:
        _write(out / paths[0], _cine(study))
        return paths
    for number, path in enumerate(paths, start=1):
        _write(out / path, _single_frame(study, number))
    return paths if study.kind in _FILE_NAMES else [_folder(study)]


def _write(path: Path, dataset: Dataset) -> None:
    stream = io.BytesIO()
    dataset.save_as(stream, enforce_file_format=True)
    write_whole(path, stream.getvalue())


def _uid(*parts: object) -> UID:
    """A UID below 2.25 from a name (PS3.5, B.2), so that the same study has the same files."""
    from pydicom.uid import UID

    return UID(f"2.25.{int.from_bytes(hashlib.sha256('/'.join(map(str, parts)).encode()).digest()[:16], 'big')}")


def _base(study: PhantomStudy, number: int, values: np.ndarray[Any, Any]) -> Dataset:
    """What every file has: patient, study, series, equipment and pixels of type 1 and 2."""
    try:
        from pydicom.dataset import Dataset, FileMetaDataset
        from pydicom.uid import UID, ExplicitVRLittleEndian
    except ImportError:
        raise MissingExtra("pydicom", "medical") from None

    is_late = study.kind is StudyKind.FOLLOW_UP and number == 2
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID = UID(_STORAGE[study.kind])
    uid = _uid(study.name, study.size, study.num_slices, study.difficulty, number)
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID = uid
    dataset.SpecificCharacterSet = "ISO_IR 192"
    dataset.ImageType = ["DERIVED", "PRIMARY"] + (["AXIAL"] if study.kind is StudyKind.CT_VOLUME else [])
    dataset.StudyDate = dataset.ContentDate = "20200701" if is_late else "20200101"
    dataset.StudyTime = dataset.ContentTime = "120000"
    dataset.AccessionNumber = dataset.ReferringPhysicianName = ""
    dataset.Modality = _CODES[study.kind]
    dataset.Manufacturer = "Osler phantom"
    dataset.PatientName, dataset.PatientID = "Phantom", hashlib.sha256(study.name.encode()).hexdigest()[:16]
    dataset.PatientBirthDate = dataset.PatientSex = ""
    dataset.StudyInstanceUID = _uid(study.name, "study", is_late)
    dataset.SeriesInstanceUID = _uid(study.name, "series", number if study.kind.has_views else 0)
    dataset.StudyID, dataset.SeriesNumber, dataset.InstanceNumber = "1", number if study.kind.has_views else 1, number
    dataset.PatientOrientation = ""
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.Rows = dataset.Columns = study.size
    is_signed = bool(values.dtype.kind == "i")
    dataset.BitsAllocated = dataset.BitsStored = 8 * values.dtype.itemsize
    dataset.HighBit, dataset.PixelRepresentation = dataset.BitsStored - 1, int(is_signed)
    content = values.tobytes()
    dataset.PixelData = content + b"\0" * (len(content) % 2)
    dataset["PixelData"].VR = "OB" if dataset.BitsAllocated == 8 else "OW"
    return dataset


def _single_frame(study: PhantomStudy, number: int) -> Dataset:
    """A slice of a volume with its place in the patient, or a radiograph."""
    values = study.values(number)
    dataset = _base(study, number, values if study.kind is StudyKind.CT_VOLUME else values.astype(np.uint16))
    (window,) = parse_windows(study.window)
    assert isinstance(window, Window)
    dataset.WindowCenter, dataset.WindowWidth = window.center, window.width
    pixel = WIDTHS[study.kind] / study.size
    if not study.kind.is_volume:
        dataset.BodyPartExamined = "CHEST"
        is_lateral = study.kind is StudyKind.XRAY_VIEWS and number == 2
        dataset.ViewPosition = "LL" if is_lateral else "PA"
        dataset.PatientOrientation = ["P", "F"] if is_lateral else ["L", "F"]
        dataset.ImagerPixelSpacing = [pixel, pixel]
        return dataset
    pixel, step = spacing_of(study)
    corner = -pixel * (study.size - 1) / 2
    dataset.FrameOfReferenceUID, dataset.PositionReferenceIndicator = _uid(study.name, "frame of reference"), ""
    dataset.ImagePositionPatient = [round(corner, 4), round(corner, 4), round(step * (number - 1), 4)]
    dataset.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]  # to the patient's left, to the back
    dataset.PixelSpacing, dataset.SliceThickness = [round(pixel, 4)] * 2, round(step, 4)
    for keyword, value in _acquisition(study.kind):
        setattr(dataset, keyword, value)
    return dataset


def _acquisition(kind: StudyKind) -> Iterator[tuple[str, Any]]:
    """The elements that CT and MR images must have."""
    if kind is StudyKind.CT_VOLUME:
        yield from {"RescaleIntercept": 0, "RescaleSlope": 1, "RescaleType": "HU", "KVP": 120, "AcquisitionNumber": 1}.items()
    else:
        yield from {"ScanningSequence": "SE", "SequenceVariant": "NONE", "ScanOptions": "", "MRAcquisitionType": "2D"}.items()
        yield from {"RepetitionTime": 4000, "EchoTime": 100, "EchoTrainLength": 1}.items()


def _cine(study: PhantomStudy) -> Dataset:
    """All frames in one file of 8 bits, whose tones are shown as they are."""
    from pydicom.tag import Tag

    frames = np.stack([study.values(number) for number in range(1, study.num_slices + 1)])
    dataset = _base(study, 1, frames.clip(0, 255).astype(np.uint8))
    dataset.NumberOfFrames, dataset.FrameTime = len(frames), _FRAME_TIME
    dataset.FrameIncrementPointer = Tag("FrameTime")
    return dataset
