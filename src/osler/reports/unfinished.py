"""A matrix whose jobs have not all ended: `osler matrix` leaves its plan in the folder until then, and a page shows what is there."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any, Final

from pydantic import TypeAdapter

from osler.audits.baselines import ALL_BASELINES
from osler.audits.credits import credits_file, read_credits
from osler.errors import DataError
from osler.evaluation.records import read_records
from osler.files import read_json_object, read_text
from osler.metrics.estimates import Count
from osler.metrics.matrices import Cell
from osler.reports.matrices import (
    MAX_BYTES,
    ROW_TITLES,
    AxisMatrices,
    Credits,
    MatrixRecords,
    MatrixReport,
    Row,
    build_matrix,
    compare_all,
    strategy_title,
)
from osler.reports.tables import group_title
from osler.run_folder import FINISHED_JOBS
from osler.taxonomy import Axis
from osler.types import Record

PLAN_FILE: Final = "matrix_plan.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedPolicy:
    """A policy of a matrix: a job that makes its records."""

    name: str  # "modality/grpo-ct-think", its folder
    records: str  # "modality/grpo-ct-think/records/grpo-ct-think.jsonl"
    row: Row
    strategy: str | None  # None for the blind baseline
    domain: str | None  # of the training questions; None for zero-shot
    given: str | None = None  # the folder of a policy that the command names
    state: list[list[str]] | None = None  # what the file of finished jobs holds once it has ended


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedAxis:
    """The policies and questions of one axis."""

    axis: Axis
    domains: tuple[str, ...]
    num_train: dict[str, Count]
    num_test: dict[str, Count]
    notes: tuple[str, ...]
    policies: tuple[PlannedPolicy, ...]

    def __post_init__(self) -> None:
        if any(table.keys() != set(self.domains) for table in (self.num_train, self.num_test)):
            raise ValueError("a table lacks a domain")
        if any(PurePosixPath(path).is_absolute() or ".." in path for one in self.policies for path in (one.name, one.records)):
            raise ValueError("a path leaves the folder")

    @property
    def num_questions(self) -> int:
        """Test questions that every policy answers."""
        return sum(self.num_test.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class MatrixPlan:
    """The content of `matrix_plan.json`."""

    recipe: str
    axes: tuple[PlannedAxis, ...]

    def to_json(self) -> dict[str, Any]:
        """As the file holds it."""
        values: dict[str, Any] = _ADAPTER.dump_python(self, mode="json")
        return values


_ADAPTER: Final = TypeAdapter(MatrixPlan)


def assemble(plan: PlannedAxis, answered: Mapping[str, Sequence[Record]], blind: Credits) -> AxisMatrices:
    """The matrices of an axis from the records of policies by name. Policies without any have empty cells."""
    policies_of: dict[tuple[Row, str | None], list[PlannedPolicy]] = {}
    for policy in plan.policies:
        policies_of.setdefault((policy.row, policy.strategy), []).append(policy)
    parts = [
        _records_of_matrix(plan, policies, answered)
        for policies in policies_of.values()
        if any(policy.name in answered for policy in policies)
    ]
    return AxisMatrices(
        axis=plan.axis,
        domains=plan.domains,
        num_train=plan.num_train,
        num_test=plan.num_test,
        notes=plan.notes,
        matrices={part.name: build_matrix(part, blind) for part in sorted(parts, key=lambda part: list(ROW_TITLES).index(part.row))},
        differences=compare_all(plan.axis, parts),
    )


def _records_of_matrix(plan: PlannedAxis, policies: Sequence[PlannedPolicy], answered: Mapping[str, Sequence[Record]]) -> MatrixRecords:
    """The records of one matrix, by train and test domain."""
    records = {policy.domain: answered.get(policy.name, ()) for policy in policies}
    cells: dict[Cell, Sequence[Record]] = {}
    for train in plan.domains:
        row = records.get(train, records.get(None, ()))  # zero-shot has no train domain
        for test in plan.domains:
            cells[train, test] = [record for record in row if getattr(record, plan.axis) == test]
    given = {policy.domain: Path(policy.given) for policy in policies if policy.domain is not None and policy.given is not None}
    return MatrixRecords(row=policies[0].row, strategy=policies[0].strategy, cells=cells, given=given)


def read_unfinished(folder: Path) -> MatrixReport:
    """What has been answered of the matrix that is planned in a folder. Raises DataError in one line for a damaged file."""
    path = folder / PLAN_FILE
    try:
        plan = _ADAPTER.validate_json(read_text(path, MAX_BYTES, "run the same `osler matrix` command again"), strict=True)
    except ValueError:
        raise DataError(f"{path} does not hold the plan of a matrix: run the same `osler matrix` command again") from None
    finished = read_json_object(folder / FINISHED_JOBS)
    return MatrixReport(recipe=plan.recipe, axes={axis.axis: _read_axis(folder, axis, finished) for axis in plan.axes})


def _read_axis(folder: Path, plan: PlannedAxis, finished: Mapping[str, Any]) -> AxisMatrices:
    """The matrices of the policies that have answered everything, and notes on all others."""
    answered: dict[str, Sequence[Record]] = {}
    blind: dict[str, Mapping[str, Mapping[str, float]]] = {}
    missing: list[tuple[PlannedPolicy, int]] = []
    names = {baseline.title: name for name, baseline in ALL_BASELINES.items()}
    for policy in plan.policies:
        path = folder / policy.records
        records = read_records(path) if path.is_file() else ()
        is_whole = len({record.sample_id for record in records}) == len(records) == plan.num_questions and credits_file(path).is_file()
        if not is_whole or finished.get(policy.name) != policy.state:
            missing.append((policy, len(records)))
            continue
        answered[policy.name] = records
        if policy.domain is not None and policy.domain not in blind:
            earned = read_credits(path)
            blind[policy.domain] = {names[title]: by_sample for title, by_sample in earned.items() if title in names}
    notes = (*plan.notes, *_describe_missing(plan, missing, blind))
    return assemble(replace(plan, notes=notes), answered, blind)


def _describe_missing(plan: PlannedAxis, missing: Sequence[tuple[PlannedPolicy, int]], blind: Credits) -> Iterator[str]:
    if missing:
        number = f"{len(missing)} of {len(plan.policies)} policies"
        yield (
            f"Unfinished: {number} are not tested to the end. Their cells are dashes, as are means over them, or their whole matrix is "
            "absent; the same `osler matrix` command goes on with them."
        )
    by_matrix: dict[str, list[str]] = {}
    for policy, number_answered in missing:
        title = ", ".join(filter(None, (ROW_TITLES[policy.row], strategy_title(policy.strategy))))
        where = "every cell" if policy.domain is None else f"trained on {group_title(policy.domain)}"
        state = f"{number_answered:,} of {plan.num_questions:,} questions answered" if number_answered else "none answered"
        if number_answered >= plan.num_questions:
            state = "answered, and the job has not ended"
        by_matrix.setdefault(title, []).append(f"{where} ({state})")
    for title, cells in by_matrix.items():
        yield f"Missing cells of {title}: {'; '.join(cells)}."
    without = [group_title(name) for name in plan.domains if plan.num_train.get(name) and name not in blind]
    if without and any(policy.row == "zero_shot" for policy in plan.policies):
        yield f"No policy of {', '.join(without)} has ended, so the image gain of zero-shot in that row is over guessing alone."
