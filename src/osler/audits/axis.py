"""The audit of one axis, every train domain against every test domain, and what the files of one axis share with those of the other."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from osler.audits.baselines import Vocabulary, blind_matrix, chance
from osler.audits.findings import ALL, AxisAudit, LeakKind, RowCounts
from osler.audits.leaks import Keys, image_uris, leak_matrix, paths_naming_target
from osler.audits.open_baselines import open_matrix, open_questions
from osler.audits.redrawn import domain_order, group_by_domain
from osler.taxonomy import AXES, Axis
from osler.types import Sample

Domains = dict[str, list[Sample]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Splits:
    """The train and test samples of one axis."""

    train: tuple[Sample, ...]
    test: tuple[Sample, ...]


def audit_axis(
    axis: Axis, splits: Mapping[Axis, Splits], keys: Mapping[LeakKind, Keys], vocabulary: Vocabulary, *, can_recover: bool
) -> AxisAudit:
    """The blind baselines and leaks of an axis.

    With `can_recover` the train rows of a domain without a train file are collected from the files of the other axis.
    """
    train, test = _by_domain(axis, splits[axis])
    recovered = _recover(axis, splits, keys["same_row"]) if can_recover and len(splits) > 1 else {}
    # Encode everything before anything is fitted.
    train_arrays, test_arrays, recovered_arrays = (
        {domain: vocabulary.encode(samples) for domain, samples in domains.items()} for domains in (train, test, recovered)
    )
    recovered_blind = blind_matrix(recovered_arrays, {domain: test_arrays[domain] for domain in recovered_arrays}, vocabulary)
    leaks = {
        kind: leak_matrix(function, train, test, train_keys_of=image_uris if kind == "turned_copy" else None)
        for kind, function in keys.items()
    }
    return AxisAudit(
        axis=axis,
        rows=RowCounts(
            train={domain: len(samples) for domain, samples in train.items()},
            test={domain: len(samples) for domain, samples in test.items()},
            recovered={domain: len(arrays) for domain, arrays in recovered_arrays.items()},
        ),
        questions={domain: len(arrays) for domain, arrays in test_arrays.items()},
        chance={domain: chance(arrays) for domain, arrays in test_arrays.items()},
        blind=blind_matrix(train_arrays, test_arrays, vocabulary),
        leaks={
            kind: {row: {column: leak.value for column, leak in cells.items()} for row, cells in matrix.items()}
            for kind, matrix in leaks.items()
        },
        label_in_path={domain: paths_naming_target(samples).value for domain, samples in test.items()},
        open_questions={domain: len(open_questions(samples)) for domain, samples in test.items()},
        open_blind=open_matrix(train, test),
        recovered={domain: {name: grid[domain][domain] for name, grid in recovered_blind.items()} for domain in recovered_arrays},
    )


def _by_domain(axis: Axis, splits: Splits) -> tuple[Domains, Domains]:
    """Domain -> train rows, domain -> test rows, in the taxonomy's order; "all" last where there are several domains.

    Every domain is in the first mapping, without rows where it has no train rows; the second holds domains with test rows only.
    """
    train, test = group_by_domain(splits.train, axis), group_by_domain(splits.test, axis)
    names = sorted(train.keys() | test.keys(), key=domain_order)
    train = {name: train.get(name, []) for name in names}
    if len(names) > 1:
        train[ALL], test[ALL] = list(splits.train), list(splits.test)
    return train, test


def _recover(axis: Axis, splits: Mapping[Axis, Splits], keys: Keys) -> Domains:
    """The train rows of the one domain without a train file: the rows that are only in files of the other axis.

    Empty where no domain lacks its file, or several do.
    """
    this, other = splits[axis], splits[other_axis(axis)]
    without_train = _domains_without_train(axis, this)
    if len(without_train) != 1:
        return {}
    keys_of_this = {key for sample in (*this.train, *this.test) for key in keys(sample)}
    rows = {key: sample for sample in (*other.train, *other.test) for key in keys(sample) if key not in keys_of_this}
    return {without_train.pop(): list(rows.values())}


def _domains_without_train(axis: Axis, splits: Splits) -> set[str]:
    return {getattr(sample, axis) for sample in splits.test} - {getattr(sample, axis) for sample in splits.train} - {None}


def other_axis(axis: Axis) -> Axis:
    """Modality for question type and vice versa."""
    return AXES[axis == AXES[0]]


def compare_axes(splits: Mapping[Axis, Splits], keys: Keys) -> dict[Axis, dict[Axis, float | None]]:
    """Train axis -> test axis -> share of the test rows of the latter that are train rows of the former.

    Both axes divide the same rows. So where a train file of an axis is absent, a row that is in none of its files counts as a train row.
    """
    shares: dict[Axis, dict[Axis, float | None]] = {}
    for axis in AXES if len(splits) > 1 else ():
        train_keys, test_keys = ({key for sample in part for key in keys(sample)} for part in (splits[axis].train, splits[axis].test))
        is_incomplete = bool(_domains_without_train(axis, splits[axis]))
        rows = [key for sample in splits[other_axis(axis)].test for key in keys(sample)]
        shared = sum(row in train_keys or (is_incomplete and row not in test_keys) for row in rows)
        shares[axis] = {other_axis(axis): shared / len(rows) if rows else None}
    return shares
