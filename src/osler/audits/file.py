"""An audit as a file: what `osler audit --save` writes and `osler report` reads back."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, NoReturn

from osler.audits.baselines import BASELINES, Blind
from osler.audits.findings import ALL, LEAK_TITLES, Audit, AxisAudit, Recovered
from osler.audits.leaks import Leak
from osler.audits.quality import FAULTS, LetterBalance, Quality
from osler.audits.redrawn import DomainItems
from osler.data.answer_options import Distractors
from osler.errors import DataError
from osler.files import read_text, write_json
from osler.metrics.estimates import Estimate, wilson
from osler.taxonomy import AXES, Axis
from osler.types import LETTERS

MAX_BYTES: Final = 64 << 20


def save_audit(report: Mapping[str, Any], path: Path) -> None:
    """Write the JSON of an audit in one step. Raises DataError."""
    try:
        write_json(path, report)
    except OSError as error:
        raise DataError(f"cannot write {path} ({error.strerror}): choose another --save") from None


def read_audit(path: Path) -> Audit:
    """The audit of a file that `osler audit --save` wrote, or that holds what `--json` printed. Raises DataError in one line."""
    text = read_text(path, MAX_BYTES, "name the file that `osler audit --save` wrote")
    try:
        return audit_from_json(_parse(text))
    except (KeyError, ValueError, TypeError, AttributeError, ArithmeticError, RecursionError):
        raise DataError(f"{path} holds no audit that this version of Osler wrote: make one with `osler audit .. --save FILE`") from None


def _parse(text: str) -> Any:
    """The JSON of a whole file or, behind other lines, of its last one."""
    try:
        return json.loads(text, parse_constant=_refuse)
    except ValueError:
        return json.loads(text.strip().rpartition("\n")[2], parse_constant=_refuse)


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no share")


def audit_from_json(values: Mapping[str, Any]) -> Audit:
    """What `Audit.to_json` came from, but for the ids of faulty rows that it does not list.

    Raises KeyError, ValueError, TypeError, AttributeError or ArithmeticError for anything else.
    """
    images = values["images"]
    axes = {axis: _read_axis(axis, values["by_axis"][axis]) for axis in AXES if axis in values["by_axis"]}
    axis = AXES[AXES.index(values["axis"])]
    if axis not in axes:
        raise ValueError("the main axis is absent")
    return Audit(
        reader=str(values["reader"]),
        title=str(values["title"]),
        axis=axis,
        axes=axes,
        images=str(images["compared"]),
        shared_images=Leak(shared=_count(images["in_train"]), total=_count(images["test"])),
        cases={str(name): _leak(found["share"], _count(found["rows"])) for name, found in values["cases_by_source"].items()},
        across_axes={
            str(row): {str(column): _leak(share, _num_test(axes[column])) for column, share in cells.items()}
            for row, cells in values["across_axes"].items()
        },
        quality=_read_quality(values["quality"]),
        notes=tuple(map(str, values["notes"])),
        reasons=tuple(map(str, values["reasons"])),
        items=tuple(_read_items(str(domain), found) for domain, found in values["items"].items()),
    )


def _read_axis(axis: Axis, values: Mapping[str, Any]) -> AxisAudit:
    train, test = ({str(name): _count(rows) for name, rows in values["rows"][side].items()} for side in ("train", "test"))
    asked = {name: _count(values["questions"][name]) for name in test}
    recovered = None
    for domain, found in values.get("recovered", {}).items():
        blind = {name: _blind(found[name], asked[domain]) for name in BASELINES}
        recovered = Recovered(domain=str(domain), num_rows=_count(found["rows"]), blind=blind)
    return AxisAudit(
        axis=axis,
        train=train,
        test=test,
        chance={name: _share(values["chance"][name]) for name in test},
        blind={
            name: {row: {column: _blind(values["blind"][name][row][column], asked[column]) for column in test} for row in train}
            for name in BASELINES
        },
        leaks={
            _known(kind): {row: {column: _leak(matrix[row][column], test[column] if train[row] else 0) for column in test} for row in train}
            for kind, matrix in values["leaks"].items()
        },
        label_in_path={name: _leak(values["label_in_path"][name], asked[name]) for name in test},
        recovered=recovered,
    )


def _known(kind: str) -> str:
    if kind not in LEAK_TITLES:
        raise ValueError(f"{kind!r} is no kind of leak")
    return kind


def _num_test(found: AxisAudit) -> int:
    return sum(rows for domain, rows in found.test.items() if domain != ALL)


def _read_items(domain: str, values: Mapping[str, Any]) -> DomainItems:
    return DomainItems(
        domain=domain,
        num_test=_count(values["rows"]),
        num_redrawn=_count(values["redrawn_rows"]),
        num_clusters=_count(values["clusters"]),
        chance=_share(values["chance"]),
        original=_estimate(values["original"]),
        redrawn=_estimate(values["redrawn"]),
        difference=_estimate(values["difference"], lowest=-1.0),
        whole_original=_share(values["all_rows"]["original"]),
        whole_redrawn=_share(values["all_rows"]["redrawn"]),
        counts={Distractors(name): _count(count) for name, count in values["counts"].items()},
    )


def _read_quality(values: Mapping[str, Any]) -> Quality:
    listed = {name: tuple(map(str, values[name]["ids"])) for name in FAULTS}
    return Quality(
        num_rows=_count(values["rows"]),
        num_closed=_count(values["closed"]),
        letters=tuple(_read_letters(int(num), found) for num, found in values["letters"].items()),
        refused={str(reason): _count(count) for reason, count in values["refused"].items()},
        unlisted={name: _count(values[name]["rows"]) - len(ids) for name, ids in listed.items()},
        **listed,
    )


def _read_letters(num_choices: int, values: Mapping[str, Any]) -> LetterBalance:
    total = _count(values["questions"])
    if not total:
        raise ValueError("letters of no question")
    counts = tuple(round(values[letter] * total) for letter in LETTERS[:num_choices])
    return LetterBalance(num_choices=num_choices, counts=counts, p_value=float(values["p_value"]))


def _count(value: Any) -> int:
    if not isinstance(value, int) or value < 0:
        raise ValueError(f"{value!r} is no count")
    return value


def _share(value: Any, *, lowest: float = 0.0) -> float | None:
    if value is None:
        return None
    if not lowest <= value <= 1:
        raise ValueError(f"{value!r} is no share")
    return float(value)


def _estimate(values: Mapping[str, Any], *, lowest: float = 0.0) -> Estimate:
    value, low, high = (_share(values[name], lowest=lowest) for name in ("value", "low", "high"))
    return Estimate(value=value, low=low, high=high)


def _blind(value: Any, total: int) -> Blind:
    share = _share(value)
    if share is None:
        return Blind(value=None, low=None, high=None, total=0)
    low, high = wilson(share, total)
    return Blind(value=share, low=low, high=high, total=total)


def _leak(value: Any, total: int) -> Leak:
    share = _share(value)
    return Leak(shared=0, total=0) if share is None else Leak(shared=round(share * total), total=total)
