"""Train x test matrices: accuracy, image gain, and the differences between two matrices.

The dataclasses have the layout of `matrix.json`, so one pydantic adapter writes it and checks it when it is read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Annotated, Any, Final, Literal, TypeVar

from pydantic import Field, TypeAdapter

from osler import metrics
from osler.errors import DataError
from osler.evaluation.truth import measure_truth, reasoning_state, with_reasoning
from osler.files import read_text
from osler.metrics import Estimate, MatrixMeans, mean
from osler.metrics.estimates import Count, Difference, Share, ShareEstimate
from osler.metrics.matrices import Cell
from osler.prompts import Format, find_strategy
from osler.reports.leniency import lenient_share, undecided_share
from osler.reports.published import NO_THINK_MINUS_THINK
from osler.taxonomy import Axis
from osler.types import Record

MATRIX_FILE: Final = "matrix.json"
MAX_BYTES: Final = 256 << 20

Row = Literal["zero_shot", "sft", "given", "grpo", "blind"]
"""How the policies of a matrix were made; "given" for policies that the command names, "blind" for the option prior."""

ROW_TITLES: Final[Mapping[Row, str]] = {
    "zero_shot": "Zero-shot",
    "sft": "SFT",
    "given": "Given policies",
    "grpo": "GRPO",
    "blind": "Blind: option prior",
}
"""In the order of the JSON."""

TRAINED: Final[tuple[Row, ...]] = ("grpo", "given", "sft")
"""The rows that have a policy for each domain, in the order of a page."""

Credits = Mapping[str, Mapping[str, Mapping[str, float]]]
"""Train domain -> blind baseline fitted there -> sample id -> its credit."""

T = TypeVar("T")
Cells = Mapping[str, Mapping[str, T]]
"""Train domain -> test domain -> cell."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MatrixRecords:
    """The records of one matrix. Zero-shot has the same records in every row of cells, because nothing was trained."""

    row: Row
    strategy: str | None  # "think"; None for the blind baseline, which has no prompt
    cells: Mapping[Cell, Sequence[Record]]  # every pair of domains; no records where a policy or test questions are missing
    given: Mapping[str, Path] = field(default_factory=dict)  # train domain -> folder of its policy, where one was given

    @property
    def name(self) -> str:
        """Its key in the JSON: "grpo-no_think", "blind"."""
        return self.row if self.strategy is None else f"{self.row}-{self.strategy}"


@dataclass(frozen=True, slots=True, kw_only=True)
class CellGain(Estimate):
    """Accuracy minus that of the best blind baseline, in one cell."""

    baseline: str | None  # "majority_letter"
    blind: Share | None  # accuracy of the baseline
    p_value: Annotated[Share | None, Field(alias="p")]


@dataclass(frozen=True, slots=True, kw_only=True)
class TruthCell(Estimate):
    """The share of true reasonings in one cell."""

    value: Share | None
    num_reasonings: Annotated[Count, Field(alias="reasonings")]
    right_for_false_reason: ShareEstimate  # of the right answers


@dataclass(frozen=True, slots=True, kw_only=True)
class AccuracyCell(Estimate):
    """The accuracy in one cell of a matrix."""

    value: Share | None
    num_questions: Annotated[Count, Field(alias="questions")]
    image_gain: CellGain | None  # None for the blind baseline
    truth: TruthCell | None = None  # None without reasonings, and in files of an earlier version


@dataclass(frozen=True, slots=True, kw_only=True)
class DifferenceCell(Estimate):
    """One matrix minus another in one cell."""

    num_questions: Annotated[Count, Field(alias="questions")]
    gained: Count  # newly right
    lost: Count  # newly wrong
    p_value: Annotated[Share | None, Field(alias="p")]
    adjusted_p: Share | None  # Holm's, over the cells of the matrix
    is_significant: bool | None  # None for an empty cell
    published: Difference | None  # what a paper reports for the same cell


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedMeans:
    """Means of the published differences, over the cells that have one."""

    diagonal: Difference | None
    off_diagonal: Difference | None
    everything: Annotated[Difference | None, Field(alias="all")]


@dataclass(frozen=True, slots=True, kw_only=True)
class AccuracyMatrix:
    """A policy for each domain, each tested on all domains."""

    row: Row
    strategy: str | None
    means: MatrixMeans
    train_means: Mapping[str, ShareEstimate]  # of a policy over all test domains
    test_means: Mapping[str, ShareEstimate]  # of a test domain over all policies
    cells: Cells[AccuracyCell]
    image_gain_means: MatrixMeans | None  # None for the blind baseline
    truth_means: MatrixMeans | None = None  # true reasonings; None without reasonings, and in files of an earlier version
    right_for_false_reason_means: MatrixMeans | None = None
    lenient: float | None = None  # share of all answers that no reward pays for; None in files of an earlier version
    undecided: float | None = None  # share of the open questions whose answer no rule decides; None without any, and as above

    @property
    def title(self) -> str:
        """The title for display: "GRPO, No-Think"; "Blind: option prior"."""
        title = ROW_TITLES[self.row]
        return title if self.strategy is None else f"{title}, {strategy_title(self.strategy)}"


@dataclass(frozen=True, slots=True, kw_only=True)
class MatrixComparison:
    """One matrix minus another, on the questions of each cell."""

    after: str  # name of a matrix
    before: str
    means: MatrixMeans
    cells: Cells[DifferenceCell]
    published_means: PublishedMeans | None  # None without published cells


@dataclass(frozen=True, slots=True, kw_only=True)
class AxisMatrices:
    """All matrices of one axis. Raises ValueError where a cell, a mean or a matrix is missing."""

    axis: Axis
    domains: tuple[str, ...]
    num_train: Annotated[Mapping[str, Count], Field(alias="train_questions")]  # domain -> training questions, 0 where there are none
    num_test: Annotated[Mapping[str, Count], Field(alias="test_questions")]
    notes: tuple[str, ...]  # what is missing, and why
    matrices: Mapping[str, AccuracyMatrix]  # by name, "grpo-no_think"
    differences: Mapping[str, MatrixComparison]  # by name, "grpo-no_think minus grpo-think"

    def __post_init__(self) -> None:
        tables: list[Mapping[str, Any]] = [self.num_train, self.num_test]
        for part in self.matrices.values():
            tables += [part.train_means, part.test_means, part.cells, *part.cells.values()]
        for change in self.differences.values():
            tables += [change.cells, *change.cells.values()]
        if any(table.keys() != set(self.domains) for table in tables):
            raise ValueError("a table lacks a domain")
        if not self.matrices.keys() >= {name for change in self.differences.values() for name in (change.after, change.before)}:
            raise ValueError("a difference names a matrix that is absent")

    @property
    def title(self) -> str:
        """The title for display: "question type"."""
        return self.axis.replace("_", " ")


@dataclass(frozen=True, slots=True, kw_only=True)
class MatrixReport:
    """The content of `matrix.json`."""

    recipe: str
    axes: Mapping[Axis, AxisMatrices]

    def to_json(self) -> dict[str, Any]:
        """Shares between 0 and 1, None where there is nothing to measure. A cell is `axes[axis].matrices[name].cells[train][test]`."""
        values: dict[str, Any] = _ADAPTER.dump_python(self, mode="json", by_alias=True)
        return values


_ADAPTER: Final = TypeAdapter(MatrixReport)


def read_matrix(folder: Path) -> MatrixReport:
    """The matrices in a folder that `osler matrix` wrote. Raises DataError in one line, also for a file of an earlier version of Osler."""
    path = folder / MATRIX_FILE
    text = read_text(path, MAX_BYTES, "name the folder that `osler matrix` wrote")
    try:
        return _ADAPTER.validate_json(text, strict=True)
    except ValueError:
        raise DataError(f"{path} does not hold matrices: run the same `osler matrix` command again, which writes it anew") from None


def strategy_title(name: str | None) -> str:
    """The title of a strategy for display: "no_think" -> "No-Think"."""
    return (name or "").replace("_", "-").title()


def difference_title(after: MatrixRecords | AccuracyMatrix, before: MatrixRecords | AccuracyMatrix) -> str:
    """The title of a difference for display: "GRPO: No-Think minus Think"; "No-Think: GRPO minus zero-shot"."""
    if after.row == before.row:
        return f"{ROW_TITLES[after.row]}: {strategy_title(after.strategy)} minus {strategy_title(before.strategy)}"
    rows = f"{ROW_TITLES[after.row]} minus {'zero-shot' if before.row == 'zero_shot' else ROW_TITLES[before.row]}"
    return rows if before.strategy is None else f"{strategy_title(after.strategy)}: {rows}"


def build_matrix(records: MatrixRecords, blind: Credits) -> AccuracyMatrix:
    """The figures of one matrix. Raises DataError when a cell holds a sample twice."""
    cells = records.cells
    gains = None if records.row == "blind" else metrics.matrix_gains(cells, {cell: blind.get(cell[0], {}) for cell in cells})

    def build_cell(cell: Cell) -> AccuracyCell:
        accuracy, image_gain = metrics.accuracy(cells[cell], "subject"), None
        if gains is not None:
            gain = gains.cells[cell]
            image_gain = CellGain(**gain.gain.to_json(), baseline=gain.baseline, blind=gain.blind, p_value=gain.p_value)
        return AccuracyCell(**accuracy.to_json(), num_questions=accuracy.total, image_gain=image_gain, truth=_truth_cell(cells[cell]))

    true, right_for_false = _truth_means(cells)
    answered = [record for members in cells.values() for record in members]
    return AccuracyMatrix(
        row=records.row,
        strategy=records.strategy,
        means=metrics.matrix_means(cells),
        train_means=_line_means(cells, 0),
        test_means=_line_means(cells, 1),
        cells=_by_domain(cells, build_cell),
        image_gain_means=None if gains is None else gains.means,
        truth_means=true,
        right_for_false_reason_means=right_for_false,
        lenient=lenient_share(answered),
        undecided=undecided_share(answered),
    )


def _truth_cell(records: Sequence[Record]) -> TruthCell | None:
    if (found := measure_truth(records)) is None:
        return None
    false_reason = Estimate(**found.right_for_false_reason.to_json())
    return TruthCell(**found.true_reasonings.to_json(), num_reasonings=found.num_reasonings, right_for_false_reason=false_reason)


def _truth_means(cells: Mapping[Cell, Sequence[Record]]) -> tuple[MatrixMeans | None, MatrixMeans | None]:
    """The means of true reasonings, and of false reasonings of right answers; None where no cell has reasonings."""
    reasoned = {cell: with_reasoning(records) for cell, records in cells.items()}
    if not any(reasoned.values()):
        return None, None
    right = {cell: [record for record in records if metrics.is_correct(record)] for cell, records in reasoned.items()}
    return (
        metrics.matrix_means(reasoned, has=lambda record: reasoning_state(record) == "true"),
        metrics.matrix_means(right, has=lambda record: reasoning_state(record) == "false"),
    )


def _by_domain(cells: Iterable[Cell], build: Callable[[Cell], T]) -> dict[str, dict[str, T]]:
    nested: dict[str, dict[str, T]] = {}
    for train, test in cells:
        nested.setdefault(train, {})[test] = build((train, test))
    return nested


def _line_means(cells: Mapping[Cell, Sequence[Record]], side: int) -> dict[str, Estimate]:
    names = dict.fromkeys(cell[side] for cell in cells)
    return {name: metrics.matrix_means({cell: part for cell, part in cells.items() if cell[side] == name}).everything for name in names}


def compare_all(axis: Axis, matrices: Sequence[MatrixRecords]) -> dict[str, MatrixComparison]:
    """Name -> difference: each way of training between strategies, then GRPO against SFT, and training against none."""
    pairs = []
    for row in TRAINED:
        pairs += [_order_by_reasoning(*pair) for pair in combinations([part for part in matrices if part.row == row], 2)]
    by_name = {part.name: part for part in matrices}
    for after_row, before_row in (("grpo", "zero_shot"), ("given", "zero_shot"), ("grpo", "sft"), ("sft", "zero_shot")):
        for after in matrices:
            before = by_name.get(f"{before_row}-{after.strategy}")
            if after.row == after_row and before is not None:
                pairs.append((after, before))
    return {f"{after.name} minus {before.name}": _compare(axis, after, before) for after, before in pairs}


def _order_by_reasoning(first: MatrixRecords, second: MatrixRecords) -> tuple[MatrixRecords, MatrixRecords]:
    """After and before: the strategy with reasoning is before, as in the papers' No-Think minus Think."""
    reasons = [find_strategy(part.strategy or "").format is Format.THINK_ANSWER for part in (first, second)]
    return (first, second) if reasons == [False, True] else (second, first)


def _compare(axis: Axis, after: MatrixRecords, before: MatrixRecords) -> MatrixComparison:
    difference = metrics.matrix_difference(before.cells, after.cells)
    published = _find_published(axis, after, before)
    means = PublishedMeans(
        diagonal=mean([value for (train, test), value in published.items() if train == test]),
        off_diagonal=mean([value for (train, test), value in published.items() if train != test]),
        everything=mean(list(published.values())),
    )

    def build_cell(cell: Cell) -> DifferenceCell:
        part = difference.cells[cell]
        return DifferenceCell(
            **part.change.difference.to_json(),
            num_questions=part.change.num_samples,
            gained=part.change.gained,
            lost=part.change.lost,
            p_value=part.change.p_value,
            adjusted_p=part.adjusted_p,
            is_significant=part.is_significant,
            published=published.get(cell),
        )

    return MatrixComparison(
        after=after.name,
        before=before.name,
        means=difference.means,
        cells=_by_domain(difference.cells, build_cell),
        published_means=means if published else None,
    )


def _find_published(axis: Axis, after: MatrixRecords, before: MatrixRecords) -> dict[Cell, float]:
    """Med-R1's differences of No-Think minus Think by GRPO, in the cells that have a difference here; empty for other comparisons.

    A row of cells is left out where one given policy answers with both strategies: Med-R1 trained a policy for each.
    """
    formats = tuple(find_strategy(part.strategy or "").format for part in (after, before))
    if after.row != before.row or after.row not in ("grpo", "given") or formats != (Format.ANSWER, Format.THINK_ANSWER):
        return {}
    same_policy = {domain for domain, folder in after.given.items() if before.given.get(domain) == folder}
    cells = [cell for cell, records in after.cells.items() if records and before.cells.get(cell) and cell[0] not in same_policy]
    published = NO_THINK_MINUS_THINK[axis]
    return {cell: published[cell] for cell in cells if cell in published}
