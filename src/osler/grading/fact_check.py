"""Compare a statement with the facts of its image. The rules are described in docs/statements.md."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Final

from osler.facts import Fact, Facts, Kind, Statement, Truth
from osler.grading.mentions import ATTRIBUTES
from osler.grading.terms import LESION, PARTS, VAGUE_FINDINGS, Phrase, findings, fold_term, fold_value, organs

_INCLUSIVE: Final = frozenset({Kind.TECHNIQUE, Kind.PRESENCE, Kind.POSITION, Kind.SIDE})
_ANATOMY_QUALIFIERS: Final = frozenset({"axial", "sagittal", "coronal", "left", "right", "upper", "level", "peripheral"})
_HEART_SIZES: Final = {"enlarged": True, "normal-sized": False}
"""Whether a heart of that size has cardiomegaly."""


def check(statement: Statement, facts: Facts) -> Truth:
    """Whether a statement is true by the facts; NOT_CHECKABLE where they say nothing, or different things about several findings."""
    if statement.kind is Kind.SIZE and statement.about == "heart" and statement.value in _HEART_SIZES:
        holds = statement.holds is _HEART_SIZES[statement.value]
        as_finding = check(replace(statement, kind=Kind.PRESENCE, value="cardiomegaly", about=None, holds=holds), facts)
        if as_finding is not Truth.NOT_CHECKABLE:
            return as_finding
    kinds = (Kind.SIDE, Kind.POSITION) if statement.kind is Kind.SIDE else (statement.kind,)  # "upper left" is left
    related = [fact for fact in facts.facts if fact.kind in kinds and _is_related(fact, statement, facts)]
    stated = fold_value(statement.kind, statement.value)
    same = [fact for fact in related if fold_value(fact.kind, fact.value) == stated and _settles(fact, statement)]
    agreements = {fact.holds == statement.holds for fact in same or related if _settles(fact, statement)}
    subjects = {fact.about for fact in related}
    if statement.kind in ATTRIBUTES and statement.about is None and None not in subjects and len(subjects) > 1:
        truths = {check(replace(statement, about=about), facts) for about in subjects}
        return truths.pop() if len(truths) == 1 else Truth.NOT_CHECKABLE
    if agreements:
        return _truth(agreements.pop()) if len(agreements) == 1 else Truth.NOT_CHECKABLE
    if statement.kind is Kind.POSITION and (parts := _check_parts(statement, facts)) is not None:
        return parts
    is_unknown = not related and any(fact.kind is statement.kind for fact in facts.facts)
    if statement.kind not in facts.closed or is_unknown or _may_hold_too(statement, related):
        return Truth.NOT_CHECKABLE
    return _truth(not statement.holds)


def _truth(is_true: bool) -> Truth:
    return Truth.TRUE if is_true else Truth.FALSE


def _is_related(fact: Fact, statement: Statement, facts: Facts) -> bool:
    """Whether a fact of the statement's kind is about the same thing. None is the only lesion: any finding, but no organ."""
    if statement.kind not in ATTRIBUTES or fact.about == statement.about:
        return True
    own, other = fold_term(fact.about or ""), fold_term(statement.about or "")
    if not other:
        return tuple(word for word in own if word not in ("left", "right")) not in organs()
    if not own:
        return other in findings() or any(fold_term(known.value) == other for known in facts.facts if known.kind is Kind.PRESENCE)
    return set(own) <= set(other) or set(other) <= set(own)


def _settles(fact: Fact, statement: Statement) -> bool:
    """Whether a statement with the fact's stance is true by it: of the same value, or of one that follows from it.

    From "pleural effusion" follows "effusion", from "upper left" "left", from "kidney" "abdomen", and from "no effusion" "no pleural
    effusion". "No mass in the liver" follows from "no mass", but is not false where there is a mass.
    """
    known, stated = fold_value(fact.kind, fact.value), fold_value(statement.kind, statement.value)
    if statement.kind is Kind.PRESENCE and statement.about is not None and fact.about is None and fact.holds:
        return False
    if known == stated:
        return True
    if _includes(statement.kind, *((stated, known) if fact.holds else (known, stated))):
        return True
    if not fact.holds:
        return False
    return (
        (statement.kind is Kind.ANATOMY and fact.value in PARTS.get(statement.value, ()))
        or (statement.kind is Kind.SIDE and fact.value == "bilateral" and statement.value in ("left", "right"))
        or (statement.kind is Kind.PRESENCE and statement.value == LESION and fact.value not in (LESION, "normal"))
    )


def _includes(kind: Kind, shorter: Phrase, longer: Phrase) -> bool:
    """Whether a name includes the same name with more words: an effusion is any effusion, but a head is no femoral head."""
    if not set(shorter) < set(longer):
        return False
    if kind is Kind.ANATOMY:
        return set(longer) - set(shorter) <= _ANATOMY_QUALIFIERS
    denied = {after for word, after in pairwise(longer) if word == "non"}
    return kind in _INCLUSIVE and denied.isdisjoint(shorter)


def _check_parts(statement: Statement, facts: Facts) -> Truth | None:
    """Check "upper left" as "upper" and "left"; None where that does not decide it."""
    vertical, _, side = statement.value.partition(" ")
    if vertical not in ("upper", "lower") or side not in ("left", "right"):
        return None
    parts = {
        check(replace(statement, value=vertical, holds=True), facts),
        check(replace(statement, kind=Kind.SIDE, value=side, holds=True), facts),
    }
    if Truth.FALSE in parts:
        return _truth(not statement.holds)
    return _truth(statement.holds) if parts == {Truth.TRUE} else None


def _may_hold_too(statement: Statement, related: Sequence[Fact]) -> bool:
    """Whether a value that is not listed can hold beside a listed one: a lung on an image of the chest, an opacity that is a tumour."""
    holding = [fact for fact in related if fact.holds]
    if statement.kind is Kind.ANATOMY:
        return any(statement.value in PARTS.get(fact.value, ()) for fact in holding)
    if statement.kind is not Kind.PRESENCE:
        return False
    if not statement.holds and statement.about is not None:
        return any(fold_term(fact.value) == fold_term(statement.value) for fact in holding)
    return statement.value in VAGUE_FINDINGS and any(fact.value != "normal" for fact in holding)
