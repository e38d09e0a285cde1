"""The audit of one axis, every train domain against every test domain, and what the files of one axis share with those of the other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final

from osler.audits.baselines import blind_matrix, chance
from osler.audits.findings import ALL, AxisAudit, LeakKind, RowCounts
from osler.audits.leaks import Leak, LeakKeys, leak_matrix, names_target
from osler.audits.numbering import SampleTable, number_parts
from osler.audits.open_baselines import OpenPart, OpenTable, open_matrices
from osler.audits.question_arrays import QuestionArrays, Vocabulary
from osler.audits.redrawn import domain_order
from osler.data.select import NONE
from osler.elsewhere import calling, calling_here, count_cores
from osler.taxonomy import AXES, Axis
from osler.types import Sample

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from osler.audits.numbering import Ints

    Domains = dict[str, Ints]


_MANY_OPEN: Final = 50_000
"""Open questions from which on another process is worth its start."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Splits:
    """The train and test samples of one axis, as places among all samples of the audit."""

    train: Ints
    test: Ints


@dataclass(frozen=True, slots=True, kw_only=True)
class Numbered:
    """All samples of an audit as arrays, N in all."""

    samples: Sequence[Sample]
    table: SampleTable
    keys: Mapping[LeakKind, LeakKeys]
    vocabulary: Vocabulary
    arrays: QuestionArrays  # of the samples with choices
    is_closed: NDArray[np.bool_]  # (N,) whether a sample has choices
    closed_rows: Ints  # (N,) the row of a sample with choices in `arrays`
    open_table: OpenTable
    names_target: NDArray[np.bool_]  # (N,) whether a path names the right option; of test samples only

    @classmethod
    def of(cls, samples: Sequence[Sample], table: SampleTable, keys: Mapping[LeakKind, LeakKeys], test: Ints) -> Numbered:
        """Number the texts of samples; `test` are the places of those that any axis tests on."""
        import numpy as np

        vocabulary = Vocabulary()
        arrays = vocabulary.encode(table)
        is_closed = table.is_closed
        naming = np.zeros(len(samples), dtype=bool)
        naming[test] = [names_target(samples[place]) for place in test.tolist()]
        return cls(
            samples=samples,
            table=table,
            keys=keys,
            vocabulary=vocabulary,
            arrays=arrays,
            is_closed=is_closed,
            closed_rows=np.cumsum(is_closed) - 1,
            open_table=OpenTable.of(samples, np.flatnonzero(~is_closed)),
            names_target=naming,
        )

    def closed(self, domains: Domains) -> Domains:
        """The rows in `arrays` of the samples with choices of each domain."""
        return {domain: self.closed_rows[places[self.is_closed[places]]] for domain, places in domains.items()}

    def open(self, domains: Domains) -> Domains:
        """The places of the samples without choices of each domain."""
        return {domain: places[~self.is_closed[places]] for domain, places in domains.items()}


def audit_axes(splits: Mapping[Axis, Splits], numbered: Numbered, *, can_recover: bool) -> dict[Axis, AxisAudit]:
    """The blind baselines and leaks of the axes; those of many open questions are computed by another process meanwhile.

    With `can_recover` the train rows of a domain without a train file are collected from the files of the other axis.
    """
    from tqdm import tqdm

    domains = {axis: _by_domain(axis, splits[axis], numbered.table) for axis in AXES if axis in splits}
    parts = {
        axis: OpenPart(train=numbered.open(train), test=numbered.open(test), has_contexts=_has_contexts(numbered.table, splits[axis]))
        for axis, (train, test) in domains.items()
    }
    begin = calling if len(numbered.open_table.places) >= _MANY_OPEN and count_cores() > 1 else calling_here
    with begin(open_matrices, numbered.open_table, parts) as find_open:
        axes = {
            axis: _audit_axis(axis, *domains[axis], splits, numbered, can_recover=can_recover)
            for axis in tqdm(domains, desc="audit", unit="axis", delay=2, disable=None)
        }
        matrices = find_open()
    return {
        axis: make(open_blind=matrices[axis], open_questions={domain: len(places) for domain, places in parts[axis].test.items()})
        for axis, make in axes.items()
    }


def _audit_axis(
    axis: Axis, train: Domains, test: Domains, splits: Mapping[Axis, Splits], numbered: Numbered, *, can_recover: bool
) -> partial[AxisAudit]:
    """The audit of an axis, which lacks what is said of open questions."""
    recovered = _recover(axis, splits, numbered) if can_recover and len(splits) > 1 else {}
    arrays, vocabulary = numbered.arrays, numbered.vocabulary
    train_rows, test_rows, recovered_rows = (numbered.closed(domains) for domains in (train, test, recovered))
    recovered_blind = blind_matrix(arrays, recovered_rows, {domain: test_rows[domain] for domain in recovered}, vocabulary)
    leaks = {kind: leak_matrix(keys, train, test) for kind, keys in numbered.keys.items()}
    naming = {domain: numbered.names_target[places[numbered.is_closed[places]]] for domain, places in test.items()}
    return partial(
        AxisAudit,
        axis=axis,
        rows=RowCounts(
            train={domain: len(places) for domain, places in train.items()},
            test={domain: len(places) for domain, places in test.items()},
            recovered={domain: len(rows) for domain, rows in recovered_rows.items()},
        ),
        questions={domain: len(rows) for domain, rows in test_rows.items()},
        chance={domain: chance(arrays.take(rows)) for domain, rows in test_rows.items()},
        blind=blind_matrix(arrays, train_rows, test_rows, vocabulary),
        leaks={
            kind: {row: {column: leak.value for column, leak in cells.items()} for row, cells in matrix.items()}
            for kind, matrix in leaks.items()
        },
        label_in_path={domain: Leak(shared=int(flags.sum()), total=len(flags)).value for domain, flags in naming.items()},
        recovered={domain: {name: grid[domain][domain] for name, grid in recovered_blind.items()} for domain in recovered_rows},
    )


def _has_contexts(table: SampleTable, splits: Splits) -> bool:
    import numpy as np

    numbers, contexts = table.number("context")
    has_context = np.array([context is not None for context in contexts], dtype=bool)[numbers]
    return any(bool(has_context[part].any()) for part in (splits.train, splits.test))


def _by_domain(axis: Axis, splits: Splits, table: SampleTable) -> tuple[Domains, Domains]:
    """Domain -> train places, domain -> test places, in the taxonomy's order; "all" last where there are several domains.

    Every domain is in the first mapping, without places where it has no train rows; the second holds domains with test rows only.
    """
    train, test = (_divide(axis, places, table) for places in (splits.train, splits.test))
    names = sorted(train.keys() | test.keys(), key=domain_order)
    train = {name: train.get(name, splits.train[:0]) for name in names}
    test = {name: test[name] for name in names if name in test}
    if len(names) > 1:
        train[ALL], test[ALL] = splits.train, splits.test
    return train, test


def _divide(axis: Axis, places: Ints, table: SampleTable) -> Domains:
    """Domain -> the places of its samples."""
    numbers, labels = table.number(axis)
    of_labels, names = number_parts([str(label or NONE) for label in labels])
    domains = of_labels[numbers[places]]
    found = {name: places[domains == number] for number, name in enumerate(names)}
    return {name: rows for name, rows in found.items() if len(rows)}


def _recover(axis: Axis, splits: Mapping[Axis, Splits], numbered: Numbered) -> Domains:
    """The train rows of the one domain without a train file: the rows that are only in files of the other axis.

    Empty where no domain lacks its file, or several do.
    """
    import numpy as np

    this, other = splits[axis], splits[other_axis(axis)]
    without_train = _domains_without_train(axis, this, numbered.samples)
    if len(without_train) != 1:
        return {}
    rows = numbered.keys["same_row"].table.numbers  # each sample has one key
    own, others = np.concatenate([this.train, this.test]), np.concatenate([other.train, other.test])
    others = others[~np.isin(rows[others], rows[own])]
    firsts = np.unique(rows[others], return_index=True)[1]
    lasts = len(others) - 1 - np.unique(rows[others][::-1], return_index=True)[1]
    return {str(without_train.pop()): others[lasts[np.argsort(firsts)]]}


def _domains_without_train(axis: Axis, splits: Splits, samples: Sequence[Sample]) -> set[str]:
    train, test = ({getattr(samples[place], axis) for place in places.tolist()} for places in (splits.train, splits.test))
    return test - train - {None}


def other_axis(axis: Axis) -> Axis:
    """Modality for question type and vice versa."""
    return AXES[axis == AXES[0]]


def compare_axes(splits: Mapping[Axis, Splits], numbered: Numbered) -> dict[Axis, dict[Axis, float | None]]:
    """Train axis -> test axis -> share of the test rows of the latter that are train rows of the former.

    Both axes divide the same rows. So where a train file of an axis is absent, a row that is in none of its files counts as a train row.
    """
    import numpy as np

    numbers = numbered.keys["same_row"].table.numbers
    shares: dict[Axis, dict[Axis, float | None]] = {}
    for axis in AXES if len(splits) > 1 else ():
        rows = numbers[splits[other_axis(axis)].test]
        is_shared = np.isin(rows, numbers[splits[axis].train])
        if _domains_without_train(axis, splits[axis], numbered.samples):
            is_shared |= ~np.isin(rows, numbers[splits[axis].test])
        shares[axis] = {other_axis(axis): int(is_shared.sum()) / len(rows) if len(rows) else None}
    return shares
