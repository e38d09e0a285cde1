"""The types that every reader uses, and helpers that read one field of a row."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, ParamSpec, TypeVar

from osler.errors import ConfigError, DataError
from osler.images.files import ImageFile
from osler.text import fold_label
from osler.types import Sample

TRAIN_TEST: Final = ("train", "test")
"""The splits of datasets without a validation split."""

_LARGEST: Final = 1e30  # a longer number is no text that anyone wrote; comparisons with NaN are false
MAX_EXAMPLES: Final = 3
"""Rows that are named for each irregularity."""

Label = TypeVar("Label")
P = ParamSpec("P")


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """A row that could not become a sample."""

    row: str  # "med_r1/ct/test/17"
    reason: str  # "option letters are not A, B, C in order"


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadReport:
    """The samples of a dataset, the rows that were refused, and how often each known irregularity was handled."""

    samples: tuple[Sample, ...]
    refused: tuple[Refusal, ...] = ()
    notes: Mapping[str, int] = field(default_factory=dict)  # {"mojibake repaired": 3}
    examples: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # a note -> up to MAX_EXAMPLES of the rows that it counts
    splits: tuple[str, ...] = ()  # the splits that were read, where the dataset has several


@dataclass(frozen=True, slots=True, kw_only=True)
class ReaderCard:
    """The description of a dataset, quoted by reports and error messages."""

    title: str
    source: str
    licence: str
    counts: str  # as published, e.g. "1,579 questions"
    layout: str  # the files that the root folder must contain
    options: Mapping[str, str]  # option -> help text; `split` and `seed` are not listed


@dataclass(frozen=True, slots=True, kw_only=True)
class Reader:
    """The reader of one dataset layout. `read(root, split=, seed=, **options)` returns a ReadReport and accepts the card's options."""

    card: ReaderCard
    read: Callable[..., ReadReport]
    needs_root: bool = True


class Notes(Counter[str]):
    """How often each known irregularity was handled, with a few of the rows that held it."""

    def __init__(self) -> None:
        super().__init__()
        self.row = ""  # the row that is being read
        self.examples: defaultdict[str, list[str]] = defaultdict(list)

    def __setitem__(self, note: str, count: int) -> None:
        known = self.examples[note]
        if self.row and self.row not in known and len(known) < MAX_EXAMPLES:
            known.append(self.row)
        super().__setitem__(note, count)

    def __reduce__(self) -> tuple[Any, ...]:
        """How another process sends them: a Counter's own way would count through `__init__`, which takes none here."""
        return Notes, (), {"row": self.row, "examples": self.examples}, None, iter(self.items())

    def absorb(self, other: Notes) -> None:
        """Add what another reading noted after this one."""
        for note, count in other.items():
            known = self.examples[note]
            known += [row for row in other.examples[note] if row not in known][: MAX_EXAMPLES - len(known)]
            super().__setitem__(note, self[note] + count)


class Rows:
    """Collects the samples, refusals and notes of one dataset."""

    def __init__(self, remedy: str = "") -> None:
        """`remedy` ends the reason of a row whose id was used before."""
        self._remedy = remedy
        self._samples: dict[str, Sample] = {}  # by id
        self._refused: list[Refusal] = []
        self.notes = Notes()

    def add(self, row_id: str, make: Callable[P, Sample], *args: P.args, **kwargs: P.kwargs) -> None:
        """Add the sample that `make(*args, **kwargs)` returns; a DataError, or an id that was added before, refuses the row."""
        self.notes.row = row_id
        try:
            sample = make(*args, **kwargs)
            if sample.id in self._samples:
                raise DataError(f"the id {sample.id!r} was used by an earlier row{self._remedy}")
            _check_texts(sample)
            self._samples[sample.id] = sample
        except DataError as error:
            self.refuse(row_id, error)
        self.notes.row = ""

    def put(self, sample: Sample) -> bool:
        """Add a sample whose texts need no check, and noted nothing; False, and nothing is added, where its id was added before."""
        return self._samples.setdefault(sample.id, sample) is sample

    def refuse(self, row_id: str, error: DataError) -> None:
        """Record that a row was refused, and why."""
        self._refused.append(Refusal(row=row_id, reason=str(error)))

    def report(
        self, finish: Callable[[Sequence[Sample], Counter[str]], Sequence[Sample]] | None = None, *, splits: Sequence[str] = ()
    ) -> ReadReport:
        """Everything collected so far. `finish(samples, notes)` returns the samples with what is known only after all rows were read."""
        samples = tuple(self._samples.values())
        samples = tuple(finish(samples, self.notes)) if finish else samples
        notes = dict(sorted(self.notes.items()))
        examples = {note: tuple(self.notes.examples[note]) for note in notes if self.notes.examples[note]}
        return ReadReport(samples=samples, refused=tuple(self._refused), notes=notes, examples=examples, splits=tuple(splits))


def _others(sample: Sample) -> tuple[str, ...]:
    return (sample.subject_id or "", sample.rationale or "", *(image.uri for image in sample.images))


def _check_texts(sample: Sample) -> None:
    """Raise DataError for a text that no file can hold, as JSON may give half of a surrogate pair, and for a chat token in a prompt."""
    contexts = sample.context.texts if sample.context is not None else ()
    joined = "".join((sample.id, sample.dataset, sample.question, *sample.choices, sample.target, *contexts, *_others(sample)))
    if "<|" not in joined and joined.isascii():
        return
    if any("<|" in text and "|>" in text for text in (sample.question, *sample.choices, *contexts)):
        raise DataError("a text holds a chat token (<|..|>), which a processor takes for a control token: remove it")
    texts = (
        sample.id,
        sample.dataset,
        sample.question,
        *sample.choices,
        sample.target,
        sample.subject_id,
        *contexts,
        sample.rationale,
    )
    texts = (*texts, *(image.uri for image in sample.images))
    for text in texts:
        if text is not None and not text.isascii():
            try:
                text.encode()
            except UnicodeEncodeError as error:
                raise DataError(
                    f"{text[:60].encode('ascii', 'backslashreplace').decode()!r} holds half a character: {error.reason}"
                ) from None


def check_choice(option: str, value: Any, allowed: Iterable[str]) -> None:
    """Raise ConfigError unless `value`, the value of the option of that name, is None or one of `allowed`."""
    names = tuple(allowed)
    if value is not None and value not in names:
        raise ConfigError(f"unknown {option} {value!r}: use one of {', '.join(names)}")


def check_test_only(name: str, split: str | None) -> None:
    """Raise ConfigError for a split other than "test" (or None, every split) of a dataset that has only a test split."""
    if split not in (None, "test"):
        raise ConfigError(f'{name} is one benchmark without a {split} split: set split = "test" in [data.train] too, with a limit')


def parse_names(names: Iterable[str], parse: Callable[[str], Label]) -> list[Label]:
    """The labels that a reader's option lists, e.g. modalities. Raises ConfigError for an unknown label."""
    try:
        return [parse(name) for name in names]
    except DataError as error:
        raise ConfigError(str(error)) from error


def check_object(value: Any, what: str = "the row") -> dict[str, Any]:
    """The value itself. Raises DataError, which names it `what`, unless it is a JSON object."""
    if not isinstance(value, dict):
        raise DataError(f"{what} is not an object")
    return value


def published_columns(row: Mapping[str, Any], names: Iterable[str]) -> dict[str, Any]:
    """The columns of a row of a table by their published names, where the file writes them in another case or with other signs."""
    published = {fold_label(name): name for name in names}
    return {published[key]: value for name, value in row.items() if (key := fold_label(name)) in published}


def get_text(row: Mapping[str, Any], key: str, notes: Counter[str] | None = None) -> str:
    """The stripped text under `key`; a number becomes text. Both changes are counted in `notes`. Raises DataError for no text."""
    notes = Counter() if notes is None else notes
    value = number_to_text(row.get(key), f"in {key!r}", notes)
    if not isinstance(value, str):
        raise DataError(f"{key!r} is missing" if value is None else f"{key!r} is {type(value).__name__}, not text")
    if not (stripped := value.strip()):
        raise DataError(f"{key!r} is empty")
    if stripped != value:
        notes[f"white space around {key!r}"] += 1
    return stripped


def number_to_text(value: Any, where: str, notes: Counter[str]) -> Any:
    """A number as text, without a fraction of zero: 2.0 -> "2"; `notes` counts it. NaN is None; any other value is returned unchanged."""
    if not isinstance(value, (int, float)) or isinstance(value, bool) or abs(value) > _LARGEST:
        return value
    if not math.isfinite(value):
        return None if math.isnan(value) else value
    notes[f"number instead of text {where}"] += 1
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def image_files(paths: Any, root: Path, what: str) -> tuple[ImageFile, ...]:
    """The images of a row: one path, or a list of paths, relative to `root`. Raises DataError, which names the field `what`, otherwise."""
    paths = [paths] if isinstance(paths, str) else paths
    if not isinstance(paths, list) or not paths or not all(isinstance(path, str) for path in paths):
        raise DataError(f"{what} is not a path or a list of paths")
    return tuple(ImageFile(root=root, path=path) for path in paths)
