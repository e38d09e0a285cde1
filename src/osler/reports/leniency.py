"""How much of an accuracy may come from the reader: answers that only lenient rules read, and open answers that no rule decides."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from osler.grading.grade import is_undecided
from osler.grading.lenient import is_lenient
from osler.metrics import mean, percent
from osler.types import Record


def lenient_share(records: Collection[Record]) -> float | None:
    """The share of records, in [0, 1], whose answer was read from a sentence that no reward pays for; None without records."""
    return mean([is_lenient(record.rule) for record in records])


def describe_leniency(shares: Mapping[str, float | None]) -> str:
    """A line about rows, by their titles: "Answers read from sentences, which no reward pays for: base 12.3 %; others none." """
    return f"Answers read from sentences, which no reward pays for: {_list_shares(shares, 'answers') or 'none'}."


def undecided_share(records: Collection[Record]) -> float | None:
    """The share of the open questions, in [0, 1], whose answer no rule decides; None without open questions."""
    return mean([is_undecided(record.rule) for record in records if not record.choices])


def describe_undecided(shares: Mapping[str, float | None]) -> str | None:
    """One line about the rows of a table, by their titles; None where no row has open questions."""
    asked = {title: share for title, share in shares.items() if share is not None}
    if not asked:
        return None
    return f"Undecided open answers, which count as not correct: {_list_shares(asked, 'open questions') or 'none'}."


def _list_shares(shares: Mapping[str, float | None], what: str) -> str:
    """ "base 12.3 % of the answers; others none"; empty where every share is 0 or unknown."""
    some = [f"{title} {percent(share)} %" for title, share in shares.items() if share]
    if not some:
        return ""
    others = "" if len(some) == sum(share is not None for share in shares.values()) else "; others none"
    return f"{', '.join(some)} of the {what}{others}"


def open_blind(records: Collection[Record], blind: Mapping[str, Mapping[str, float]]) -> float | None:
    """The accuracy of the best blind baseline on the open questions of some records; None where no baseline answered all of them.

    `blind` maps the title of a baseline to its credits by sample id.
    """
    asked = {record.sample_id for record in records if not record.choices}
    values = [mean([by_sample[name] for name in asked]) for by_sample in blind.values() if asked <= by_sample.keys()]
    return max((value for value in values if value is not None), default=None)
