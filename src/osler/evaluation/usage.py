"""What the answers of an endpoint took: seconds, tokens and money, one line for each request, in `usage/` beside the records.

They are apart from the records, which are equal for equal answers however long these took: records/eval.jsonl -> records/usage/eval.jsonl.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from pydantic import TypeAdapter, ValidationError

from osler.errors import DataError
from osler.evaluation.records import append_lines
from osler.files import read_json_lines

PER: Final = 1_000_000
"""Tokens of a price."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestUsage:
    """One answered request. None is what the endpoint does not say."""

    sample_id: str
    number: int  # which completion of the question, from 0
    seconds: float  # of the attempt that succeeded
    attempts: int
    first_text: float | None  # seconds until the first text of a stream
    prompt_tokens: int | None
    completion_tokens: int | None
    cost: float | None  # in the currency of the prices
    model: str | None  # as the endpoint calls it
    fingerprint: str | None  # of the endpoint's configuration
    finish_reason: str
    refusal: str | None  # the model's or the provider's words; the completion is then empty


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageSummary:
    """All requests of one label. A sum is None where no request has the number."""

    num_requests: int
    num_repeated: int  # that took more than one attempt
    num_refused: int
    median_seconds: float
    slow_seconds: float  # the 95th percentile
    prompt_tokens: int | None
    completion_tokens: int | None
    num_uncounted: int  # requests without numbers of tokens
    cost: float | None
    models: Mapping[str, int]  # as the endpoint calls them -> requests
    fingerprints: Mapping[str, int]

    def to_json(self) -> dict[str, Any]:
        """The fields as JSON values."""
        return asdict(self)


def usage_file(records: Path) -> Path:
    """The file of the usage of a records file."""
    return records.parent / "usage" / records.name


def cost_of(prompt_tokens: int | None, completion_tokens: int | None, price_in: float | None, price_out: float | None) -> float | None:
    """The cost of a request by prices of a million tokens; None where a price or a number of tokens is not known."""
    if prompt_tokens is None or completion_tokens is None or price_in is None or price_out is None:
        return None
    return (prompt_tokens * price_in + completion_tokens * price_out) / PER


def append_usage(path: Path, rows: Iterable[RequestUsage]) -> None:
    """Append lines; the file and its folder are made when absent."""
    append_lines(path, [json.dumps(asdict(row)) for row in rows])


def read_usage(path: Path) -> tuple[RequestUsage, ...]:
    """The lines of a file, () without one. Raises DataError, with the number of the entry, for a line that is none."""
    rows = []
    for number, row in enumerate(read_json_lines(path), start=1):
        try:
            rows.append(_ADAPTER.validate_python(row, extra="forbid"))
        except ValidationError as error:
            fault = error.errors()[0]
            name = ".".join(map(str, fault["loc"]))
            raise DataError(f"{path}, entry {number}, is no usage of a request ({name}: {fault['msg']}): delete the file") from None
    return tuple(rows)


def summarize_usage(rows: Sequence[RequestUsage]) -> UsageSummary | None:
    """The sums and the latencies; None without requests."""
    if not rows:
        return None
    seconds = sorted(row.seconds for row in rows)
    costs = [row.cost for row in rows if row.cost is not None]
    return UsageSummary(
        num_requests=len(rows),
        num_repeated=sum(row.attempts > 1 for row in rows),
        num_refused=sum(row.refusal is not None for row in rows),
        median_seconds=seconds[(len(seconds) - 1) // 2],
        slow_seconds=seconds[math.ceil(0.95 * len(seconds)) - 1],
        prompt_tokens=_sum(row.prompt_tokens for row in rows),
        completion_tokens=_sum(row.completion_tokens for row in rows),
        num_uncounted=sum(row.prompt_tokens is None or row.completion_tokens is None for row in rows),
        cost=math.fsum(costs) if costs else None,
        models=dict(Counter(row.model for row in rows if row.model is not None)),
        fingerprints=dict(Counter(row.fingerprint for row in rows if row.fingerprint is not None)),
    )


def _sum(numbers: Iterable[int | None]) -> int | None:
    known = [number for number in numbers if number is not None]
    return sum(known) if known else None


_ADAPTER: Final = TypeAdapter(RequestUsage)
