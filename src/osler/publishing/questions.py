"""Which questions a policy was trained on and tested on: dataset, split, and how many of the tested ones were trained on.

A run keeps a hash of the ids of its training questions. They are read again by the recipe of the run, and count as known where the hash is
the same; the records of an evaluation hold the ids of its questions.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from osler.config import Config, DataConfig, build_config
from osler.data.readers import GENERAL_READERS, READERS, Reader
from osler.data.select import NONE, digest_ids, load_split
from osler.data.splits.manifest import Manifest, load_manifest
from osler.errors import ConfigError, DataError, OslerError
from osler.files import read_json_object
from osler.publishing.finished import FinishedRun
from osler.reports.load_runs import Evaluation
from osler.types import Record, Sample, answer_text

DRAWN: Final = ("phantom", "phantom_study")
"""Names of datasets whose images are drawings made by a program."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A dataset as a card names it."""

    title: str  # "Phantom"; the name in the records where it has no reader of its own
    source: str | None  # "drawn by Osler (osler.data.phantom)"; None where nothing is known
    licence: str | None
    is_of_training: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """The training questions."""

    names: tuple[str, ...]  # of datasets, as samples name them; the name of the reader where they cannot be read
    split: str  # "train"
    num_questions: int | None  # None where the run does not hold it
    by_id: Mapping[str, Sample] | None  # of this run and those that it started from; None where they cannot be read as they were

    @property
    def title(self) -> str:
        """ "Phantom"."""
        return title_of(self.names)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tested:
    """The questions of one evaluation."""

    titles: tuple[str, ...]  # of the evaluation; of several where they asked the same questions
    names: tuple[str, ...]  # of datasets, as records name them: ("phantom",)
    split: str | None  # None where the folder of the evaluation does not say
    num_questions: int
    is_of_training: bool  # whether they are of the dataset that was trained on
    is_checked: bool  # whether they were compared with the training questions
    split_digest: str | None  # of a manifest of `osler split` that assigned training and test questions; None where they have not the same
    max_distance: int | None  # of near-duplicates that this manifest keeps together
    ids_sha256: str  # hash of the ids in order, as in the manifest of a run
    cells: Mapping[str, Mapping[str, int]]  # modality -> question type -> questions

    @property
    def title(self) -> str:
        """ "Phantom"."""
        return title_of(self.names)

    @property
    def place(self) -> str:
        """ "Phantom, split test"."""
        return f"{self.title}, split {self.split}" if self.split is not None else f"{self.title}, split not known"

    @property
    def is_drawn(self) -> bool:
        """Whether the images are drawings made by a program."""
        return set(self.names) <= set(DRAWN)


def find_reader(name: str) -> Reader | None:
    """The reader of that name; None for one that is not registered here, and for a file of its own, which is not imported."""
    return READERS[name] if ":" not in name and name in READERS else None


def title_of(names: Sequence[str]) -> str:
    """The titles of datasets: "Phantom", "Phantom and hospital"."""
    return " and ".join(_title(name) for name in names)


def _title(name: str) -> str:
    if name in GENERAL_READERS:
        return f"data read with {name}"
    reader = find_reader(name)
    return reader.card.title if reader is not None else name


def describe_source(name: str, *, is_of_training: bool) -> Source:
    """A dataset by the name that its samples have."""
    reader = find_reader(name) if name not in GENERAL_READERS else None
    return Source(
        title=_title(name),
        source=reader.card.source if reader is not None else None,
        licence=reader.card.licence if reader is not None else None,
        is_of_training=is_of_training,
    )


def read_trained(finished: FinishedRun) -> Trained:
    """The training questions of a run, and of those that it started from."""
    part = finished.run.manifest.get("train")
    number = part.get("num_samples") if isinstance(part, dict) else None
    own = _read_again(finished.folder.root)
    before = [_read_again(folder) for folder in finished.base.folders]
    by_id: dict[str, Sample] | None = {}
    for samples in (*before, own):
        by_id = None if samples is None or by_id is None else {**by_id, **{sample.id: sample for sample in samples}}
    names = tuple(sorted({sample.dataset for sample in own})) if own is not None else (finished.config.data.reader,)
    return Trained(
        names=names,
        split=finished.config.data.train.split,
        num_questions=number if isinstance(number, int) else None,
        by_id=by_id,
    )


def _read_again(folder: Path) -> list[Sample] | None:
    """The training questions of a run; None where they cannot be read, or are no longer those of the training."""
    trained = read_json_object(folder / "manifest.json").get("train")
    config = read_config(read_json_object(folder / "config.json"))
    if not isinstance(trained, dict) or config is None or find_reader(config.data.reader) is None:
        return None
    key_file = config.data.key_file
    if config.data.private and (key_file is None or not Path(key_file).expanduser().is_file()):
        return None  # reading would make a new key
    try:
        samples = load_split(config.data, "train")
    except OslerError:  # the data are elsewhere now, or were changed
        return None
    return samples if digest_ids(sample.id for sample in samples) == trained.get("ids_sha256") else None


def read_config(values: Mapping[str, Any]) -> Config | None:
    """The recipe of a run; None for a folder without one, and for one of another version."""
    try:
        return build_config(dict(values)) if values else None
    except ConfigError:
        return None


def describe_tested(finished: FinishedRun, trained: Trained, row: Evaluation) -> Tested:
    """The questions of an evaluation, which need not be one of the published policy."""
    config = read_config(next((run.config for run in finished.runs if run.name == row.run), {}))
    names = tuple(sorted({record.dataset for record in row.records}))
    manifest = _shared_manifest(finished.config.data, config.data) if config is not None else None
    cells: dict[str, Counter[str]] = {}
    for record in row.records:
        cells.setdefault(record.modality or NONE, Counter())[record.question_type or NONE] += 1
    return Tested(
        titles=(row.title,),
        names=names,
        split=config.data.test.split if config is not None else None,
        num_questions=len(row.records),
        is_of_training=bool(set(names) & set(trained.names))
        or (config is not None and _has_same_source(finished.config.data, config.data)),
        is_checked=trained.by_id is not None,
        split_digest=manifest.digest() if manifest is not None else None,
        max_distance=manifest.max_distance if manifest is not None else None,
        ids_sha256=digest_ids(record.sample_id for record in row.records),
        cells=cells,
    )


def _shared_manifest(trained: DataConfig, tested: DataConfig) -> Manifest | None:
    """The manifest of `osler split` by which both chose their questions; None for none, two, and one that is elsewhere now."""
    if trained.manifest is None or tested.manifest is None:
        return None
    try:
        first, second = load_manifest(trained.manifest), load_manifest(tested.manifest)
    except DataError:
        return None
    return first if first.digest() == second.digest() else None


def _has_same_source(trained: DataConfig, tested: DataConfig) -> bool:
    """Whether two recipes read the same files."""
    if trained.reader != tested.reader:
        return False
    roots = [Path(data.root).expanduser().resolve() if data.root is not None else None for data in (trained, tested)]
    return roots[0] == roots[1]


def check_overlap(finished: FinishedRun, trained: Trained) -> None:
    """Raise OslerError where an evaluation of the policy asked questions that it was trained on."""
    for row in finished.own:
        config = read_config(next((run.config for run in finished.runs if run.name == row.run), {}))
        is_same = config is not None and _has_same_source(finished.config.data, config.data)
        number = _count_trained(finished, trained, row, is_same_source=is_same)
        if not number:
            continue
        folder = finished.folders[row.run]
        file = folder / "records" / f"{row.label}.jsonl"
        remedy = f"leave out --with {folder}" if folder != finished.folder.root else "move its files out of the run"
        asked = f" (it asked --data.test.split={config.data.test.split})" if config is not None else ""
        raise OslerError(
            f"{file}: {number:,} of its {len(row.records):,} questions were trained on, so it is no test of the policy: {remedy}, "
            f"and evaluate on questions that were not trained on{asked}"
        )


def _count_trained(finished: FinishedRun, trained: Trained, row: Evaluation, *, is_same_source: bool) -> int:
    """How many questions of an evaluation are known to be among the trained ones."""
    if trained.by_id is not None:
        pairs = ((record, trained.by_id.get(record.sample_id)) for record in row.records)
        return sum(sample is not None and (is_same_source or _is_same(record, sample)) for record, sample in pairs)
    part = finished.run.manifest.get("train")
    known = part if isinstance(part, dict) else {}
    terms = read_json_object(finished.folders[row.run] / "records" / f"{row.label}.terms.json")
    has_same_content = known.get("content_sha256") is not None and known.get("content_sha256") == terms.get("content")
    has_same_ids = known.get("ids_sha256") == digest_ids(record.sample_id for record in row.records)
    return len(row.records) if has_same_content or (has_same_ids and is_same_source) else 0


def _is_same(record: Record, sample: Sample) -> bool:
    """Whether a record answers the sample of the same id. Two files of rows that are only numbered may use one id for two questions."""
    target = answer_text(sample.target, sample.choices)
    return answer_text(record.target, record.choices) == target and sample.question in record.prompt


def merge_equal(tested: Iterable[Tested]) -> tuple[Tested, ...]:
    """One for all evaluations of the same questions."""
    merged: dict[tuple[Any, ...], Tested] = {}
    for one in tested:
        key = (one.names, one.split, one.ids_sha256)
        merged[key] = replace(merged[key], titles=(*merged[key].titles, *one.titles)) if key in merged else one
    return tuple(merged.values())
