"""How many answers only the lenient rules of the grader read: so much of an accuracy may come from the reader."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from osler.grading.lenient import is_lenient
from osler.metrics import mean, percent
from osler.types import Record


def lenient_share(records: Collection[Record]) -> float | None:
    """The share of records, in [0, 1], whose answer was read from a sentence that no reward pays for; None without records."""
    return mean([is_lenient(record.rule) for record in records])


def describe_leniency(shares: Mapping[str, float | None]) -> str:
    """One line about the rows of a table, by their titles: "Read from sentences, which no reward pays for: base 12.3 %; others none."."""
    some = [f"{title} {percent(share)} %" for title, share in shares.items() if share]
    if not some:
        return "Read from sentences, which no reward pays for: no answer."
    others = "" if len(some) == sum(share is not None for share in shares.values()) else "; others none"
    return f"Read from sentences, which no reward pays for: {', '.join(some)} of the answers{others}."
