"""What is known about an image, and what a text states about it.

A fact is known from the image's source: the drawing of a phantom, or the annotation of a dataset. A statement is read from a reasoning by
`grading.statements`, and `grading.fact_check` compares the two.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Kind(StrEnum):
    """What a fact or a statement is about."""

    MODALITY = "modality"  # "mri"
    TECHNIQUE = "technique"  # "T2-weighted MRI"
    PLANE = "plane"  # "axial"
    ANATOMY = "anatomy"  # what the image shows: "liver"
    SIDE = "side"  # "left"
    POSITION = "position"  # "upper left"
    LEVEL = "level"  # the third of a volume along its slices: "lower"
    SLICES = "slices"  # those that show a finding: "slices 5 to 6"
    PRESENCE = "presence"  # "tumour"
    SIGN = "sign"  # how something looks: "a bright ring with a dark core"
    SIZE = "size"  # "small"
    COUNT = "count"  # "2"
    COLOUR = "colour"  # "brown"
    SEVERITY = "severity"  # "mild"
    CHANGE = "change"  # compared with the prior image: "larger"
    MOTION = "motion"  # over the frames of a cine: "to the left"


class Truth(StrEnum):
    """The result of comparing a statement with the facts of its image."""

    TRUE = "true"
    FALSE = "false"
    NOT_CHECKABLE = "not_checkable"


@dataclass(frozen=True, slots=True, kw_only=True)
class Fact:
    """One fact about an image."""

    kind: Kind
    value: str  # "left", folded as `Term.value`
    about: str | None = None  # an organ or finding, "liver"; None for the image as a whole or its only lesion
    holds: bool = True  # False for what is known not to be so: no fracture


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """Everything that is known about one image. Of the kinds in `closed` every value that holds is listed, so any other value is false."""

    facts: tuple[Fact, ...]
    closed: tuple[Kind, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Term:
    """A phrase of a dataset that states a value: "an evenly bright area" states that sign."""

    phrase: str
    kind: Kind
    value: str
    sign_of: Kind | None = None  # for a sign, what it is a sign of: the ring of a tumour is one of PRESENCE; None where that is not known


@dataclass(frozen=True, slots=True, kw_only=True)
class Statement:
    """What one part of a text states: characters `begin` to `end`."""

    kind: Kind
    value: str
    about: str | None = None
    holds: bool = True  # False for a negated statement: "no fracture"
    begin: int
    end: int
    repeats_answer: bool = False  # whether it is the chosen option itself: a conclusion, no evidence for it
    is_relevant: bool = True  # whether it bears on the question, as `grading.relevance` says
    truth: Truth = Truth.NOT_CHECKABLE
