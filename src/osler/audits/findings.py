"""What an audit finds, and the file of it: `osler audit --save` writes the file, `osler report` reads it.

The dataclasses have the layout of the JSON, so one pydantic adapter writes it and checks it when it is read.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import Field, TypeAdapter

from osler.audits.baselines import ALL_BASELINES, BASELINES, blind_accuracy
from osler.audits.context_prior import NAME as CONTEXT_PRIOR
from osler.audits.open_baselines import OPEN_BASELINES, OpenShares
from osler.audits.quality import Quality
from osler.audits.redrawn import RedrawnComparison
from osler.errors import DataError
from osler.files import check_replaceable, read_text, write_json
from osler.metrics.estimates import Count, Estimate, Share
from osler.taxonomy import Axis

ALL: Final = "all"
"""All domains of an axis together."""

GATES: Final = ("leak", "shortcut")

MAX_BYTES: Final = 64 << 20
"""The largest file of an audit that is read."""

LeakKind = Literal["same_row", "same_image", "near_duplicate", "turned_copy", "same_case"]
LEAK_TITLES: Final[Mapping[LeakKind, str]] = {
    "same_row": "the same row",
    "same_image": "the same image",
    "near_duplicate": "a near-duplicate image",
    "turned_copy": "a turned or mirrored copy of an image",
    "same_case": "the same patient or case",
}

Shares = Mapping[str, Share | None]
Grid = Mapping[str, Shares]
"""Train domain -> test domain -> share of the test rows; None where there is nothing to measure."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RowCounts:
    """Rows by domain, "all" last."""

    train: Mapping[str, Count]  # 0 where the train file is absent
    test: Mapping[str, Count]
    recovered: Mapping[str, Count]  # domain without a train file -> its train rows that stand in files of the other axis


@dataclass(frozen=True, slots=True, kw_only=True)
class AxisAudit:
    """One axis: every train domain against every test domain. Raises ValueError where a table lacks a baseline or a domain."""

    axis: Axis
    rows: RowCounts
    questions: Mapping[str, Count]  # test domain -> its questions with choices
    chance: Shares  # test domain -> accuracy of guessing
    blind: Mapping[str, Grid]  # baseline -> mean credit
    leaks: Mapping[LeakKind, Grid]
    label_in_path: Shares  # test domain -> share of the rows with choices that have a path that names the right option
    recovered: Mapping[str, Shares]  # domain without a train file -> baseline -> mean credit on the domain's test set
    open_questions: Mapping[str, Count]  # test domain -> its questions without choices
    open_blind: Mapping[str, Mapping[str, Mapping[str, OpenShares | None]]]  # baseline -> train -> test, over these questions

    def __post_init__(self) -> None:
        grids: list[Mapping[str, Mapping[str, Any]]] = [*self.blind.values(), *self.leaks.values(), *self.open_blind.values()]
        cells_of_grids = [cells for grid in grids for cells in grid.values()]
        tables: list[Mapping[str, Any]] = [self.questions, self.open_questions, self.chance, self.label_in_path, *cells_of_grids]
        blind = [(self.questions, cells) for grid in self.blind.values() for cells in grid.values()]
        answered = [(self.open_questions, cells) for grid in self.open_blind.values() for cells in grid.values()]
        if (
            any(not BASELINES.keys() <= table.keys() <= ALL_BASELINES.keys() for table in (self.blind, *self.recovered.values()))
            or not OPEN_BASELINES.keys() - {CONTEXT_PRIOR} <= self.open_blind.keys() <= OPEN_BASELINES.keys()
            or any(grid.keys() != self.rows.train.keys() for grid in grids)
            or any(cells.keys() != self.rows.test.keys() for cells in tables)
            or not self.rows.test.keys() <= self.rows.train.keys()
            or self.rows.recovered.keys() != self.recovered.keys()
            or any(share is not None and not totals[domain] for totals, cells in (*blind, *answered) for domain, share in cells.items())
        ):
            raise ValueError("a table lacks a baseline or a domain, or holds the accuracy of no questions")

    @property
    def title(self) -> str:
        """The title for display, "question type"."""
        return self.axis.replace("_", " ")

    def in_domain(self, baseline: str, domain: str) -> Estimate:
        """Accuracy of a baseline on a test domain, fitted on the train rows of the same domain."""
        return blind_accuracy(self.blind[baseline][domain][domain], self.questions[domain])

    def best(self, domain: str) -> tuple[str, Estimate] | None:
        """The most accurate baseline on a test domain, fitted on the same domain; None where the domain has no questions with choices."""
        accuracies = [(name, self.in_domain(name, domain)) for name in self.blind]
        return max((pair for pair in accuracies if pair[1].value is not None), key=lambda pair: pair[1].value or 0.0, default=None)

    def open_in_domain(self, baseline: str, domain: str) -> Estimate:
        """Accuracy of a baseline on the open questions of a test domain, fitted on the train rows of the same domain."""
        shares = self.open_blind[baseline][domain][domain]
        return blind_accuracy(None if shares is None else shares.right, self.open_questions[domain])

    def best_open(self, domain: str) -> tuple[str, Estimate] | None:
        """The most accurate baseline on the open questions of a test domain; None where train or test has none."""
        accuracies = [(name, self.open_in_domain(name, domain)) for name in self.open_blind]
        return max((pair for pair in accuracies if pair[1].value is not None), key=lambda pair: pair[1].value or 0.0, default=None)

    def count_above_chance(self) -> tuple[int, int]:
        """How many in-domain accuracies have an interval above guessing, and how many there are; 2.5 % are expected by chance."""
        pairs = [
            (low, guessing)
            for domain, guessing in self.chance.items()
            for name in self.blind
            if domain != ALL and guessing is not None and (low := self.in_domain(name, domain).low) is not None
        ]
        return sum(low > guessing for low, guessing in pairs), len(pairs)

    def derived_json(self) -> dict[str, Any]:
        """The parts of the JSON that follow from the others: the best baseline of every domain, and how many results are above chance."""
        above, total = self.count_above_chance()
        return {
            "best": {
                domain: {"baseline": best[0], **best[1].to_json(), "questions": self.questions[domain]}
                for domain in self.rows.test
                if (best := self.best(domain)) is not None
            },
            "best_open": {
                domain: {"baseline": best[0], **best[1].to_json(), "questions": self.open_questions[domain]}
                for domain in self.rows.test
                if (best := self.best_open(domain)) is not None
            },
            "above_chance": {"results": above, "of": total},
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class SharedImages:
    """The distinct test images, and those that are also train images."""

    compared: str  # "by path"
    num_test: Annotated[Count, Field(alias="test")]
    num_shared: Annotated[Count, Field(alias="in_train")]


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceCases:
    """Of the test rows of one source with a known patient or case, the share that has it in common with a train row."""

    share: Share | None
    num_rows: Annotated[Count, Field(alias="rows")]


@dataclass(frozen=True, slots=True, kw_only=True)
class Audit:
    """All results of an audit. Raises ValueError where an axis is absent."""

    reader: str
    title: str
    axis: Axis  # the main axis: `axis` of the reader's options, else modality
    axes: Annotated[Mapping[Axis, AxisAudit], Field(alias="by_axis")]
    images: SharedImages
    cases: Annotated[Mapping[str, SourceCases], Field(alias="cases_by_source")]
    across_axes: Mapping[Axis, Mapping[Axis, Share | None]]  # train axis -> test axis -> test rows of the latter that the former trains on
    quality: Quality
    notes: tuple[str, ...]
    reasons: tuple[str, ...]  # "leak: ..", "shortcut: .."
    items: Mapping[str, RedrawnComparison]  # by domain of the main axis; empty without `--redrawn`

    def __post_init__(self) -> None:
        if not {self.axis, *self.across_axes, *(test for cells in self.across_axes.values() for test in cells)} <= self.axes.keys():
            raise ValueError("an axis is absent")

    @property
    def main(self) -> AxisAudit:
        """The axis that the reasons are about."""
        return self.axes[self.axis]

    def failures(self, gates: Iterable[str]) -> tuple[str, ...]:
        """The reasons of the named gates."""
        return tuple(reason for reason in self.reasons if reason.startswith(tuple(f"{gate}:" for gate in gates)))

    def to_json(self) -> dict[str, Any]:
        """The audit as JSON. The tables of the main axis are repeated at the top: `blind.<baseline>.<train>.<test>` and so on.

        Shares are between 0 and 1, null where there is nothing to measure.
        """
        values: dict[str, Any] = ADAPTER.dump_python(self, mode="json", by_alias=True)
        for name, axis in self.axes.items():
            values["by_axis"][name] |= axis.derived_json()
        return {**values, **values["by_axis"][self.axis]}


ADAPTER: Final = TypeAdapter(Audit)
SAVED: Final = '{\n  "reader"'
"""What a saved audit begins with."""


def save_audit(report: Mapping[str, Any], path: Path) -> None:
    """Write the JSON of an audit; the file appears complete or not at all, and replaces only an audit. Raises DataError."""
    check_replaceable(path, SAVED, "audit")
    try:
        write_json(path, report)
    except OSError as error:
        raise DataError(f"cannot write {path} ({error.strerror}): choose another --save") from None


def read_audit(path: Path) -> Audit:
    """The audit in a file of `osler audit --save`, or in the output of `osler audit --json`: there it is the last line.

    Raises DataError in one line for any other file, one of an earlier version of Osler included.
    """
    text = read_text(path, MAX_BYTES, "name the file that `osler audit --save` wrote")
    for part in (text, text.strip().rpartition("\n")[2]):
        with suppress(ValueError):
            return ADAPTER.validate_json(part, strict=True)
    raise DataError(f"{path} holds no audit that this version of Osler wrote: make one with `osler audit .. --save FILE`")
