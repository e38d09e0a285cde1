"""What an audit found, and its JSON."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from osler.audits.baselines import Blind
from osler.audits.leaks import Leak, Matrix
from osler.audits.quality import Quality
from osler.audits.redrawn import DomainItems
from osler.taxonomy import Axis

ALL: Final = "all"
"""The domains of an axis together."""

GATES: Final = ("leak", "shortcut")

LEAK_TITLES: Final[Mapping[str, str]] = {
    "same_row": "the same row",
    "same_image": "the same image",
    "near_duplicate": "a near-duplicate image",
    "same_case": "the same patient or case",
}

MAX_LISTED: Final = 20
"""Rows that the JSON names for each fault."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recovered:
    """A domain whose train file is absent, fitted on those of its train rows that files of the other axis hold."""

    domain: str
    num_rows: int
    blind: Mapping[str, Blind]  # baseline -> the domain's test set


@dataclass(frozen=True, slots=True, kw_only=True)
class AxisAudit:
    """One axis: every train domain against every test domain."""

    axis: Axis
    train: Mapping[str, int]  # domain -> rows, 0 where its train file is absent; "all" last
    test: Mapping[str, int]
    chance: Mapping[str, float | None]  # test domain -> what guessing gets
    blind: Mapping[str, Mapping[str, Mapping[str, Blind]]]  # baseline -> train -> test
    leaks: Mapping[str, Matrix]  # kind -> train -> test
    label_in_path: Mapping[str, Leak]  # test domain -> rows whose path names the right option
    recovered: Recovered | None = None

    def own(self, baseline: str, domain: str) -> Blind:
        """What a baseline gets on a test domain when fitted on the same domain's train rows."""
        return self.blind[baseline][domain][domain]

    def num_closed(self, domain: str) -> int:
        """The test questions with choices of a domain: all that a baseline without a fit answers."""
        return self.own("longest", domain).total

    def best(self, domain: str) -> tuple[str, Blind] | None:
        """The baseline that answers most of a test domain when fitted on the same domain; None where it has no questions with choices."""
        found = [(name, cell) for name in self.blind if (cell := self.own(name, domain)).value is not None]
        return max(found, key=lambda pair: pair[1].value or 0.0, default=None)

    def count_above_chance(self) -> tuple[int, int]:
        """How many of the in-domain results lie above guessing with their whole interval, and of how many; luck alone gives 2.5 %."""
        pairs = [
            (low, guessing)
            for domain, guessing in self.chance.items()
            for name in self.blind
            if domain != ALL and guessing is not None and (low := self.own(name, domain).low) is not None
        ]
        return sum(low > guessing for low, guessing in pairs), len(pairs)


@dataclass(frozen=True, slots=True, kw_only=True)
class Audit:
    """Everything that was found."""

    reader: str
    title: str
    axis: Axis  # the one that the data are split by, or that was asked for
    axes: Mapping[Axis, AxisAudit]
    images: str  # how images were compared, "by path"
    shared_images: Leak  # distinct test images that stand in train
    cases: Mapping[str, Leak]  # source -> test rows with a known case
    across_axes: Mapping[str, Mapping[str, Leak]]  # train axis -> test axis -> test rows of one that the other trains on
    quality: Quality
    notes: tuple[str, ...]
    reasons: tuple[str, ...]  # "leak: ..", "shortcut: .."
    items: tuple[DomainItems, ...] = ()  # by the main axis, where redrawn distractors were asked for

    @property
    def main(self) -> AxisAudit:
        """The axis that decides the reasons."""
        return self.axes[self.axis]

    def failures(self, gates: Iterable[str]) -> tuple[str, ...]:
        """The reasons of the named gates."""
        wanted = tuple(f"{gate}:" for gate in gates)
        return tuple(reason for reason in self.reasons if reason.startswith(wanted))

    def to_json(self) -> dict[str, Any]:
        """Shares of one as `blind.<baseline>.<train>.<test>` and `leaks.<kind>.<train>.<test>`, null where there is nothing to measure."""
        return {
            "reader": self.reader,
            "title": self.title,
            "axis": self.axis,
            **_axis_json(self.main),
            "by_axis": {name: _axis_json(found) for name, found in self.axes.items()},
            "images": {"compared": self.images, "test": self.shared_images.total, "in_train": self.shared_images.shared},
            "cases_by_source": {name: {"share": leak.value, "rows": leak.total} for name, leak in self.cases.items()},
            "across_axes": {row: {column: leak.value for column, leak in cells.items()} for row, cells in self.across_axes.items()},
            "quality": _quality_json(self.quality),
            "notes": list(self.notes),
            "reasons": list(self.reasons),
            "items": {found.domain: _items_json(found) for found in self.items},
        }


def _axis_json(found: AxisAudit) -> dict[str, Any]:
    above, results = found.count_above_chance()
    result: dict[str, Any] = {
        "blind": {
            name: {row: {column: cell.value for column, cell in cells.items()} for row, cells in matrix.items()}
            for name, matrix in found.blind.items()
        },
        "chance": dict(found.chance),
        "best": {
            domain: {"baseline": best[0], **best[1].to_json(), "questions": best[1].total}
            for domain in found.test
            if (best := found.best(domain)) is not None
        },
        "above_chance": {"results": above, "of": results},
        "leaks": {
            kind: {row: {column: leak.value for column, leak in cells.items()} for row, cells in matrix.items()}
            for kind, matrix in found.leaks.items()
        },
        "label_in_path": {name: leak.value for name, leak in found.label_in_path.items()},
        "rows": {"train": dict(found.train), "test": dict(found.test)},
        "questions": {domain: found.num_closed(domain) for domain in found.test},
    }
    if found.recovered is not None:
        values = {name: cell.value for name, cell in found.recovered.blind.items()}
        result["recovered"] = {found.recovered.domain: {"rows": found.recovered.num_rows, **values}}
    return result


def _items_json(found: DomainItems) -> dict[str, Any]:
    return {
        "rows": found.num_test,
        "redrawn_rows": found.num_redrawn,
        "clusters": found.num_clusters,
        "chance": found.chance,
        "original": found.original.to_json(),
        "redrawn": found.redrawn.to_json(),
        "difference": found.difference.to_json(),
        "all_rows": {"original": found.whole_original, "redrawn": found.whole_redrawn},
        "counts": {outcome.value: count for outcome, count in found.counts.items()},
    }


def _quality_json(found: Quality) -> dict[str, Any]:
    return {
        "rows": found.num_rows,
        "closed": found.num_closed,
        "refused": dict(found.refused),
        **{name: {"rows": found.count(name), "ids": list(ids[:MAX_LISTED])} for name, ids in found.faults.items()},
        "letters": {str(row.num_choices): {**row.shares, "p_value": row.p_value, "questions": sum(row.counts)} for row in found.letters},
    }
