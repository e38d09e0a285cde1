"""Train x test matrices as numbers: accuracy, image gain, the differences between two of them, and all of it as JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any, Final

from osler import metrics
from osler.metrics import Estimate, ImageGain, MatrixDifference, MatrixGains, MatrixMeans, Proportion
from osler.metrics.matrices import Cell, CellDifference
from osler.prompts import Format, find_strategy
from osler.reports.published import NO_THINK_MINUS_THINK
from osler.taxonomy import Axis
from osler.types import Record

Row = str
"""What was done before testing: "zero_shot", "sft", "grpo", "given" for policies that came with the command, "blind"."""

ROW_TITLES: Final[Mapping[Row, str]] = {
    "zero_shot": "Zero-shot",
    "sft": "SFT",
    "grpo": "GRPO",
    "given": "Given policies",
    "blind": "Blind: option prior",
}
TRAINED: Final = ("grpo", "given", "sft")
"""The rows that hold a policy for each domain, the one a reader came for first."""

Credits = Mapping[str, Mapping[str, Mapping[str, float]]]
"""Train domain -> blind baseline fitted there -> sample id -> its credit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores:
    """One matrix. Zero-shot has the same records in every row of its matrix: nothing was trained."""

    row: Row
    strategy: str | None  # "think"; None for the blind baseline, which is not asked
    cells: Mapping[Cell, Sequence[Record]]  # every pair of domains; no records where there is nothing to show
    accuracy: Mapping[Cell, Proportion]
    means: MatrixMeans
    train_means: Mapping[str, Estimate]  # of a policy over all test domains
    test_means: Mapping[str, Estimate]  # of a test domain over all policies
    gains: MatrixGains | None  # over the best blind baseline of each cell; None for the blind baseline
    given: Mapping[str, Path]  # train domain -> the folder its policy came in; empty where none was given

    @property
    def name(self) -> str:
        """Its key in the JSON: "grpo-no_think", "blind"."""
        return self.row if self.strategy is None else f"{self.row}-{self.strategy}"

    @property
    def title(self) -> str:
        """What a person reads: "GRPO, No-Think"."""
        return scores_title(self.row, self.strategy)


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """One matrix minus another, on the questions of each cell."""

    after: Scores
    before: Scores
    found: MatrixDifference
    published: Mapping[Cell, float] | None = None  # what a paper reports for the same cells

    @property
    def name(self) -> str:
        """Its key in the JSON: "grpo-no_think minus grpo-think"."""
        return f"{self.after.name} minus {self.before.name}"

    @property
    def title(self) -> str:
        """What a person reads: "GRPO: No-Think minus Think"; "No-Think: GRPO minus zero-shot"."""
        return comparison_title((self.after.row, self.after.strategy), (self.before.row, self.before.strategy))


@dataclass(frozen=True, slots=True, kw_only=True)
class AxisMatrices:
    """All matrices of one axis."""

    axis: Axis
    domains: tuple[str, ...]
    num_train: Mapping[str, int]  # training questions of each domain, 0 where there are none
    num_test: Mapping[str, int]
    scores: tuple[Scores, ...]
    comparisons: tuple[Comparison, ...]
    notes: tuple[str, ...]  # what is missing, and why

    @property
    def title(self) -> str:
        """What a person reads: "question type"."""
        return self.axis.replace("_", " ")


def strategy_title(name: str | None) -> str:
    """What a person reads for a strategy: "no_think" -> "No-Think"."""
    return (name or "").replace("_", "-").title()


def scores_title(row: Row, strategy: str | None) -> str:
    """What a person reads for a matrix: "GRPO, No-Think"; "Blind: option prior"."""
    return ROW_TITLES[row] if strategy is None else f"{ROW_TITLES[row]}, {strategy_title(strategy)}"


def comparison_title(after: tuple[Row, str | None], before: tuple[Row, str | None]) -> str:
    """What a person reads for a difference: "GRPO: No-Think minus Think"; "No-Think: GRPO minus zero-shot"."""
    (after_row, after_strategy), (before_row, before_strategy) = after, before
    if after_row == before_row:
        return f"{ROW_TITLES[after_row]}: {strategy_title(after_strategy)} minus {strategy_title(before_strategy)}"
    rows = f"{ROW_TITLES[after_row]} minus {'zero-shot' if before_row == 'zero_shot' else ROW_TITLES[before_row]}"
    return rows if before_strategy is None else f"{strategy_title(after_strategy)}: {rows}"


def build_scores(
    row: Row, strategy: str | None, cells: Mapping[Cell, Sequence[Record]], credits_: Credits, given: Mapping[str, Path] | None = None
) -> Scores:
    """The figures of one matrix. Raises DataError when a cell holds a sample twice."""
    blind = {cell: credits_.get(cell[0], {}) for cell in cells}
    return Scores(
        row=row,
        strategy=strategy,
        cells=cells,
        accuracy={cell: metrics.accuracy(records, "subject") for cell, records in cells.items()},
        means=metrics.matrix_means(cells),
        train_means=_line_means(cells, 0),
        test_means=_line_means(cells, 1),
        gains=None if row == "blind" else metrics.matrix_gains(cells, blind),
        given=given or {},
    )


def _line_means(cells: Mapping[Cell, Sequence[Record]], side: int) -> dict[str, Estimate]:
    names = dict.fromkeys(cell[side] for cell in cells)
    return {name: metrics.matrix_means({cell: part for cell, part in cells.items() if cell[side] == name}).everything for name in names}


def compare_all(axis: Axis, scores: Sequence[Scores]) -> tuple[Comparison, ...]:
    """What a reader asks: each way of training between strategies, GRPO against SFT, and training against none, most asked first."""
    pairs = []
    for row in TRAINED:
        asked = [part for part in scores if part.row == row]
        pairs += [_order_by_reasoning(first, second) for first, second in combinations(asked, 2)]
    of_name = {part.name: part for part in scores}
    for after_row, before_row in (("grpo", "zero_shot"), ("given", "zero_shot"), ("grpo", "sft"), ("sft", "zero_shot")):
        for after in scores:
            before = of_name.get(f"{before_row}-{after.strategy}")
            if after.row == after_row and before is not None:
                pairs.append((after, before))
    return tuple(_compare(axis, after, before) for after, before in pairs)


def _order_by_reasoning(first: Scores, second: Scores) -> tuple[Scores, Scores]:
    """After and before: the one that reasons first comes before, as in the papers' No-Think minus Think."""
    reasons = [find_strategy(part.strategy or "").format is Format.THINK_ANSWER for part in (first, second)]
    return (first, second) if reasons == [False, True] else (second, first)


def _compare(axis: Axis, after: Scores, before: Scores) -> Comparison:
    found = metrics.matrix_difference(before.cells, after.cells)
    return Comparison(after=after, before=before, found=found, published=_find_published(axis, after, before))


def _find_published(axis: Axis, after: Scores, before: Scores) -> Mapping[Cell, float] | None:
    """Med-R1's matrix where this is one of No-Think minus Think by GRPO, the cells that have a difference here.

    Not the row of one given policy that was asked both ways: Med-R1 trained one for each.
    """
    if after.row != before.row or after.row not in ("grpo", "given"):
        return None
    formats = tuple(find_strategy(part.strategy or "").format for part in (after, before))
    if formats != (Format.ANSWER, Format.THINK_ANSWER):
        return None
    alike = {domain for domain, folder in after.given.items() if before.given.get(domain) == folder}
    published = NO_THINK_MINUS_THINK[axis]
    ours = [cell for cell, records in after.cells.items() if records and before.cells.get(cell) and cell[0] not in alike]
    return {cell: published[cell] for cell in ours if cell in published} or None


def published_means(comparison: Comparison) -> tuple[float | None, float | None, float | None]:
    """Diagonal, off-diagonal and all of the published cells that are shown; None where there are none."""
    cells = comparison.published or {}
    chosen = ([v for (a, b), v in cells.items() if a == b], [v for (a, b), v in cells.items() if a != b], list(cells.values()))
    diagonal, rest, everything = (sum(values) / len(values) if values else None for values in chosen)
    return diagonal, rest, everything


def axis_to_json(found: AxisMatrices) -> dict[str, Any]:
    """One axis as JSON: shares of one, None where there is nothing to measure. Cells are matrices[name].cells[train][test]."""
    return {
        "domains": list(found.domains),
        "train_questions": dict(found.num_train),
        "test_questions": dict(found.num_test),
        "notes": list(found.notes),
        "matrices": {part.name: _scores_to_json(part) for part in found.scores},
        "differences": {part.name: _comparison_to_json(part) for part in found.comparisons},
    }


def _scores_to_json(part: Scores) -> dict[str, Any]:
    gains = part.gains
    cells: dict[str, dict[str, Any]] = {}
    for (train, test), accuracy in part.accuracy.items():
        cell: dict[str, Any] = {**accuracy.to_json(), "questions": accuracy.total}
        if gains is not None:
            cell["image_gain"] = _gain(gains.cells[train, test])
        cells.setdefault(train, {})[test] = cell
    values: dict[str, Any] = {
        "row": part.row,
        "strategy": part.strategy,
        "means": _means(part.means),
        "train_means": {name: value.to_json() for name, value in part.train_means.items()},
        "test_means": {name: value.to_json() for name, value in part.test_means.items()},
        "cells": cells,
    }
    return values if gains is None else {**values, "image_gain_means": _means(gains.means)}


def _comparison_to_json(part: Comparison) -> dict[str, Any]:
    cells: dict[str, dict[str, Any]] = {}
    for (train, test), cell in part.found.cells.items():
        own = _difference(cell)
        if part.published is not None:
            own["published"] = part.published.get((train, test))
        cells.setdefault(train, {})[test] = own
    values: dict[str, Any] = {"after": part.after.name, "before": part.before.name, "means": _means(part.found.means), "cells": cells}
    if part.published is not None:
        values["published_means"] = dict(zip(("diagonal", "off_diagonal", "all"), published_means(part), strict=True))
    return values


def _difference(cell: CellDifference) -> dict[str, Any]:
    return {
        **cell.change.difference.to_json(),
        "questions": cell.change.num_samples,
        "gained": cell.change.gained,
        "lost": cell.change.lost,
        "p": cell.change.p_value,
        "adjusted_p": cell.adjusted_p,
        "is_significant": cell.is_significant,
    }


def _gain(gain: ImageGain) -> dict[str, Any]:
    return {**gain.gain.to_json(), "baseline": gain.baseline, "blind": gain.blind, "p": gain.p_value}


def _means(means: MatrixMeans) -> dict[str, Any]:
    return {"diagonal": means.diagonal.to_json(), "off_diagonal": means.off_diagonal.to_json(), "all": means.everything.to_json()}
