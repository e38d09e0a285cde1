"""A reasoning cut into parts for display, each with the mark of what it states."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final, Literal

from osler.facts import Facts, Statement, Truth
from osler.types import Record

Mark = Literal["true", "false", "not_checkable", "answer", ""]
"""What a part of a reasoning states: something true, false or not checkable, the answer itself, or nothing."""

MAX_SHOWN: Final = 700
"""The most characters of a reasoning on a card."""

MAX_CORRECTIONS: Final = 3

_ELLIPSIS: Final = "\N{HORIZONTAL ELLIPSIS}"
_STRONGEST_FIRST: Final[tuple[Mark, ...]] = ("false", "true", "not_checkable", "answer")


@dataclass(frozen=True, slots=True, kw_only=True)
class MarkedPart:
    """One part of a reasoning."""

    text: str
    mark: Mark
    hint: str = ""  # "sign: false. Known: an evenly bright area"


def mark_reasoning(record: Record, max_shown: int = MAX_SHOWN) -> tuple[MarkedPart, ...]:
    """The reasoning of a record in parts, cut after `max_shown` characters; () without a reasoning.

    Where statements overlap, as in "T2-weighted MRI", the characters get the first mark of false, true, not checkable, answer.
    """
    text = record.reasoning or ""
    shown = min(len(text), max_shown)
    statements = [statement for statement in record.statements or () if statement.begin < min(statement.end, shown)]
    cuts = {0, shown, *(place for part in statements for place in (part.begin, part.end) if 0 < place < shown)}
    parts: list[MarkedPart] = []
    covered: list[frozenset[int]] = []  # of each part, the statements that cover it
    for begin, end in pairwise(sorted(cuts)):
        over = frozenset(number for number, part in enumerate(statements) if part.begin <= begin and end <= part.end)
        mark = _strongest([statements[number] for number in over])
        if parts and parts[-1].mark == mark and (covered[-1] & over or not mark):
            begin -= len(parts.pop().text)
            over |= covered.pop()
        hint = "; ".join(_describe(statements[number], record.facts) for number in sorted(over) if mark_of(statements[number]) == mark)
        parts.append(MarkedPart(text=text[begin:end], mark=mark, hint=hint))
        covered.append(over)
    if shown < len(text):
        parts.append(MarkedPart(text=_ELLIPSIS, mark=""))
    return tuple(parts)


def mark_of(statement: Statement) -> Mark:
    """The mark of one statement."""
    if statement.repeats_answer:
        return "answer"
    return statement.truth.value


def _strongest(statements: Sequence[Statement]) -> Mark:
    marks = set(map(mark_of, statements))
    return next((mark for mark in _STRONGEST_FIRST if mark in marks), "")


def _describe(statement: Statement, facts: Facts | None) -> str:
    """ "sign: false. Known: an evenly bright area"; what is known only where the statement is false."""
    if statement.repeats_answer:
        return "repeats the answer"
    text = f"{statement.kind.value}: {statement.truth.value.replace('_', ' ')}"
    known = known_values(statement, facts) if statement.truth is Truth.FALSE else ()
    return f"{text}. Known: {', '.join(known)}" if known else text


def known_values(statement: Statement, facts: Facts | None) -> tuple[str, ...]:
    """What is known about the image of the same kind as the statement, e.g. ("lower right",) for one that says "upper left".

    A value that is a part of another one, such as "lower" beside "lower right", is left out.
    """
    if facts is None:
        return ()
    same = [fact for fact in facts.facts if fact.kind is statement.kind and (fact.about is None or statement.about in (None, fact.about))]
    values = [fact.value if fact.holds else f"no {fact.value}" for fact in same]
    return tuple(value for value in values if not any(f" {value} " in f" {other} " for other in values if other != value))


def correct_reasoning(record: Record) -> tuple[tuple[str, str], ...]:
    """The first MAX_CORRECTIONS false statements, in the words of the reasoning, each with what is known of that kind."""
    false = [part for part in record.statements or () if part.truth is Truth.FALSE and not part.repeats_answer]
    known = {(record.reasoning or "")[part.begin : part.end]: ", ".join(known_values(part, record.facts)) for part in false}
    return tuple((words, values) for words, values in known.items() if words and values)[:MAX_CORRECTIONS]
