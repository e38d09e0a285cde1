"""`osler data check` and `convert`: inspect a dataset before training, or write it as JSON Lines."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, Literal

from osler.config import StudyConfig
from osler.context import FIELDS
from osler.data.export.formats import encode_image
from osler.data.readers import READERS, ReadReport, Refusal, read_with_report
from osler.data.readers.layouts.draft import OWN_LAYOUT
from osler.data.select import counts
from osler.data.studies import find_hidden, is_study_source, pictures_of
from osler.errors import ConfigError, DataError
from osler.facts import Facts, Kind
from osler.files import write_whole
from osler.images.files import ImageFile, verify
from osler.images.study import SETTINGS, Study
from osler.metrics import taxonomy_order
from osler.types import ImageSource, Sample

ImageCheck = Literal["none", "header", "decode"]
IMAGE_CHECKS: Final[tuple[ImageCheck, ...]] = ("none", "header", "decode")


@dataclass(frozen=True, slots=True, kw_only=True)
class BadImage:
    """An image that cannot be read, and the first row that uses it."""

    row: str  # "slake/10513"
    uri: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class HiddenValues:
    """What the pictures of a study do not show, and the first row that uses it."""

    row: str
    uri: str
    finding: str  # "0.5 % of its values are no numbers: they are black"


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckReport:
    """Counts of a dataset's samples, and the rows and images that cannot be used."""

    reader: str
    title: str
    licence: str
    num_samples: int
    num_images: int
    num_subjects: int
    counts: Mapping[str, Mapping[str, int]]  # modality -> question type -> samples; "unknown" for unlabelled samples
    num_choices: Mapping[str, int]  # number of choices or "open-ended" -> samples
    num_images_with_facts: int
    facts: Mapping[str, int]  # kind of fact, "plane" -> images with one
    context: Mapping[str, int]  # field of the patient context, "age" -> samples with one
    targets: Mapping[str, int]  # correct letter, "A" -> multiple-choice samples
    notes: Mapping[str, int]  # what the reader corrected or brought to its form -> times
    examples: Mapping[str, tuple[str, ...]]  # note -> a few of its rows
    refused: tuple[Refusal, ...]
    image_check: ImageCheck
    bad_images: tuple[BadImage, ...]
    hidden: tuple[HiddenValues, ...]  # of the studies that can be read; looked for where images are decoded

    @property
    def is_clean(self) -> bool:
        """Whether there are questions, no row was refused and every checked image can be read."""
        return bool(self.num_samples) and not self.refused and not self.bad_images

    def to_json(self) -> str:
        """All fields and `is_clean`, as one line of JSON."""
        return json.dumps(asdict(self) | {"is_clean": self.is_clean}, ensure_ascii=False)


def check(reader: str, root: str | Path | None = None, /, *, look: ImageCheck = "header", **options: Any) -> CheckReport:
    """Read a whole dataset and count its samples; `look` says how each distinct image is checked: "none", "header" or "decode".

    `options` are the reader's. Raises ConfigError for an unknown reader, option or image check, and DataError for annotation files that
    cannot be read.
    """
    _check_look(look)
    return check_report(reader, read_with_report(reader, root, **options), look=look)


def _check_look(look: ImageCheck) -> None:
    if look not in IMAGE_CHECKS:
        raise ConfigError(f"unknown image check {look!r}: use one of {', '.join(IMAGE_CHECKS)}")


def check_report(reader: str, report: ReadReport, *, look: ImageCheck = "header", study: StudyConfig | None = None) -> CheckReport:
    """`check` of what a reader has returned already, e.g. under keyed names; with `study` also whether its studies can be shown so."""
    _check_look(look)
    first_row: dict[ImageSource, str] = {}
    for sample in report.samples:
        for source in sample.images:
            first_row.setdefault(source, sample.id)
    faults = {source: _find_fault(source, look, study) for source in first_row} if look != "none" else {}
    kinds = {source: set[Kind]() for source in first_row}
    for sample in report.samples:
        for source in sample.images:
            kinds[source].update(fact.kind for fact in (sample.facts.facts if sample.facts else ()))
    contexts = [sample.context.values for sample in report.samples if sample.context]
    card = READERS[reader].card
    return CheckReport(
        reader=reader,
        title=card.title,
        licence=card.licence,
        num_samples=len(report.samples),
        num_images=len(first_row),
        num_subjects=len({sample.subject_id for sample in report.samples} - {None}),
        counts=counts(report.samples, unknown="unknown", order=taxonomy_order),
        num_choices=_count(str(len(sample.choices)) if sample.choices else "open-ended" for sample in report.samples),
        num_images_with_facts=sum(map(bool, kinds.values())),
        facts={kind: num for kind in Kind if (num := sum(kind in own for own in kinds.values()))},
        context={name: num for name in FIELDS if (num := sum(name in known for known in contexts))},
        targets=_count(sample.target for sample in report.samples if sample.choices),
        notes=report.notes,
        examples=report.examples,
        refused=report.refused,
        image_check=look,
        bad_images=tuple(
            BadImage(row=first_row[source], uri=source.uri, reason=reason) for source, reason in faults.items() if reason is not None
        ),
        hidden=tuple(
            HiddenValues(row=first_row[source], uri=source.uri, finding=finding)
            for source, reason in faults.items()
            if look == "decode" and reason is None and study is not None
            for finding in find_hidden(source, study)
        ),
    )


def _find_fault(source: ImageSource, look: ImageCheck, study: StudyConfig | None) -> str | None:
    """Why an image, or what a prompt shows of a study, cannot be read; None where it can."""
    if (fault := verify(source, decode=look == "decode")) is not None or study is None or not is_study_source(source):
        return fault
    try:
        pictures = pictures_of(source, study)
    except (DataError, ConfigError) as error:
        return str(error)
    return next((fault for picture in pictures if (fault := verify(picture, decode=look == "decode")) is not None), None)


def _count(values: Iterator[str]) -> dict[str, int]:
    return dict(sorted(Counter(values).items()))


def convert(samples: Sequence[Sample], out: Path, *, splits: Mapping[str, str] = MappingProxyType({})) -> Path:
    """Write samples as JSON Lines, in the chat format of the `jsonl` reader. Returns the folder that the image paths are relative to.

    Image files of one root are not copied: their paths stay relative to it. Images without a file, and all images where they have several
    roots, are written to images/ beside `out`. `splits` names the split of a sample by its id. `osler.read("jsonl", out, images=folder)`
    reads the samples back, with the returned folder. Raises DataError when a file cannot be written.
    """
    sources = {source: None for sample in samples for source in sample.images}
    roots = {source.root if isinstance(source, ImageFile | Study) else out.parent for source in sources}
    paths: dict[ImageSource, str | dict[str, Any]] = {}
    for source in sources:
        if isinstance(source, ImageFile | Study) and len(roots) == 1:
            paths[source] = _to_object(source) if isinstance(source, Study) else source.uri
            continue
        if isinstance(source, Study):
            raise DataError(f"study {source.path!r} is not copied, and the images have several roots: convert them one by one")
        content, suffix = encode_image(source)
        name = f"images/{hashlib.sha256(content).hexdigest()[:20]}.{suffix}"
        paths[source] = name
        _write(out.parent / name, content)
    rows = [_to_row(sample, paths) | ({"split": splits[sample.id]} if sample.id in splits else {}) for sample in samples]
    if terms := tuple(dict.fromkeys(term for own in {sample.terms: None for sample in samples} for term in own)):
        rows[0]["terms"] = [asdict(term) for term in terms]  # the reader gives those of one row to every row
    _write(out, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    return roots.pop() if len(roots) == 1 else out.parent


def _to_object(study: Study) -> str | dict[str, Any]:
    """A study as a row gives it: its path, or an object with its settings."""
    settings = {name: value for name in SETTINGS if (value := getattr(study, name)) is not None}
    return {"path": study.path, **settings} if settings else study.path


def _to_row(sample: Sample, paths: Mapping[ImageSource, str | dict[str, Any]]) -> dict[str, Any]:
    keys = ("choices", "target", "modality", "question_type", "subject_id", "rationale")
    row: dict[str, Any] = {
        "layout": OWN_LAYOUT,
        "id": sample.id,
        "dataset": sample.dataset,
        "images": [paths[source] for source in sample.images],
        "messages": [{"role": "user", "content": sample.question}],
        **{key: getattr(sample, key) for key in keys},
        "context": sample.context.to_json() if sample.context else None,
        "facts": _facts_row(sample.facts) if sample.facts else None,
        "metadata": dict(sample.metadata),
    }
    return {key: value for key, value in row.items() if value not in (None, {}, [], ())}


def _facts_row(facts: Facts) -> dict[str, Any]:
    """The facts as JSON, without default values."""
    rows = ({"kind": fact.kind, "value": fact.value, "about": fact.about, "holds": fact.holds} for fact in facts.facts)
    return {"facts": [{key: row[key] for key in row if row[key] not in (None, True)} for row in rows], "closed": facts.closed}


def _write(path: Path, content: str | bytes) -> None:
    """`osler.files.write_whole`, with DataError for a file that cannot be written; lone surrogates are kept."""
    try:
        write_whole(path, content.encode("utf-8", "surrogatepass") if isinstance(content, str) else content)
    except OSError as error:
        raise DataError(f"{path} cannot be written ({error.strerror}): choose another place") from error
