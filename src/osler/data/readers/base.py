"""What a reader is, and what it hands back."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from osler.errors import ConfigError, DataError
from osler.types import Sample

SPLITS: Final = ("train", "validation", "test")


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """A row that no sample was made of."""

    row: str  # "med_r1/ct/test/17"
    reason: str  # "option letters are not A, B, C in order"


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadReport:
    """The samples of a source, the rows that were refused, and how often each known trap was met and handled."""

    samples: tuple[Sample, ...]
    refused: tuple[Refusal, ...] = ()
    notes: Mapping[str, int] = field(default_factory=dict)  # {"integer answer": 3}


@dataclass(frozen=True, slots=True, kw_only=True)
class ReaderCard:
    """What a person should know before using a dataset."""

    title: str
    source: str
    licence: str
    counts: str  # as published, e.g. "1,579 questions"
    layout: str  # what the root has to hold
    options: Mapping[str, str]  # option -> help; what `read` accepts on top of `split` and `seed`


@dataclass(frozen=True, slots=True, kw_only=True)
class Reader:
    """One dataset layout. `read(root, split=.., seed=.., **options)` gives a ReadReport; only options on the card may be passed."""

    name: str
    card: ReaderCard
    read: Callable[..., ReadReport]
    needs_root: bool = True


class Rows:
    """Collects what became of the rows of a source: samples, refusals and notes."""

    def __init__(self) -> None:
        self._samples: list[Sample] = []
        self._refused: list[Refusal] = []
        self._seen: set[str] = set()
        self.notes: Counter[str] = Counter()

    def add(self, row_id: str, make: Callable[[], Sample]) -> None:
        """Keep the sample that `make` gives, or the reason of the DataError that it raises."""
        try:
            sample = make()
            if sample.id in self._seen:
                raise DataError(f"the id {sample.id!r} was used by an earlier row")
        except DataError as error:
            self.refuse(row_id, error)
        else:
            self._seen.add(sample.id)
            self._samples.append(sample)

    def refuse(self, row_id: str, error: DataError) -> None:
        """Note why no sample was made of a row."""
        self._refused.append(Refusal(row=row_id, reason=str(error)))

    def report(self) -> ReadReport:
        """Everything collected so far."""
        return ReadReport(samples=tuple(self._samples), refused=tuple(self._refused), notes=dict(sorted(self.notes.items())))


def check_choice(option: str, value: Any, allowed: Iterable[str]) -> None:
    """Raise ConfigError unless `value`, the value of the option of that name, is None or one of `allowed`."""
    names = tuple(allowed)
    if value is not None and value not in names:
        raise ConfigError(f"unknown {option} {value!r}: use one of {', '.join(names)}")


def check_test_only(name: str, split: str | None) -> None:
    """Raise ConfigError for any split but "test" of a benchmark that has no other; None means everything too."""
    if split not in (None, "test"):
        raise ConfigError(f'{name} is one benchmark without a {split} split: set split = "test" in [data.train] too, with a limit')


def get_text(row: Mapping[str, Any], key: str, notes: Counter[str] | None = None) -> str:
    """The text under `key`, without outer white space. Numbers become text, and are counted. Raises DataError if it is absent or empty."""
    value = row.get(key)
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        if notes is not None:
            notes[f"number instead of text in {key!r}"] += 1
        value = format_number(value)
    if not isinstance(value, str):
        raise DataError(f"{key!r} is missing" if value is None else f"{key!r} is {type(value).__name__}, not text")
    if not (stripped := value.strip()):
        raise DataError(f"{key!r} is empty")
    if notes is not None and stripped != value:
        notes[f"white space around {key!r}"] += 1
    return stripped


def format_number(value: float) -> str:
    """A number as a person writes it: 2.0 -> "2"."""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)
