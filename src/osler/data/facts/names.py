"""Names in annotations as values of the general vocabulary, and what a value implies."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache
from typing import Final

from osler.facts import Fact, Kind
from osler.grading.terms import LESION, LESION_WORDS, fold_term, general_terms
from osler.text import fold_words

# Misspellings in the annotations of SLAKE and VQA-RAD, and names that the general vocabulary lacks.
_ALIASES: Final = {"brian": "brain", "spine cord": "spinal cord", "saggital": "sagittal", "cardiomega": "cardiomegaly",
                   "cardiomegal": "cardiomegaly", "noudle": "nodule", "intestines": "bowel", "pulmonary bronchus": "bronchus",
                   "bleed": "haemorrhage", "cranium": "skull"}  # fmt: skip
OWN_ORGANS: Final = ("parotid", "ear", "humerus head")
_QUALIFIER: Final = re.compile(r"(?:pulmonary|lung|brain|brian|liver|hepatic|kidney|renal|non enhancing|enhancing) ")
_SIDE: Final = re.compile(r"(?:left|right|both) ")

_KIND_OF: Final = {"enhancing tumour": "tumour", "non-enhancing tumour": "tumour", "pleural effusion": "effusion"}

_FAR_APART: Final = {
    "head": ("chest", "abdomen", "pelvis"),
    "brain": ("chest", "abdomen", "pelvis"),
    "neck": ("abdomen", "pelvis"),
    "chest": ("head", "brain", "pelvis"),
    "abdomen": ("head", "brain"),
    "pelvis": ("head", "brain", "neck", "chest"),
}
"""Body regions that an image of a region does not show."""


@lru_cache(maxsize=4096)
def value_of(name: str, kind: Kind) -> str | None:
    """The value of a kind that a whole name states: ("Brain Tumors", PRESENCE) -> None, ("Tumors", PRESENCE) -> "tumour"."""
    folded = fold_words(name)
    words = fold_term(_ALIASES.get(folded, folded))
    found = general_terms().match(words, 0) if words else None
    if found is None or found[0] != len(words):
        own = " ".join(words)
        return own if kind is Kind.ANATOMY and own in OWN_ORGANS else None
    return next((value for stated, value in found[1] if stated is kind), None)


@lru_cache(maxsize=4096)
def organ_of(name: str) -> str | None:
    """The organ or body region that a name states, without its side: "Left Lungs" -> "lung"."""
    return value_of(_SIDE.sub("", fold_words(name)), Kind.ANATOMY)


@lru_cache(maxsize=4096)
def finding_of(name: str) -> str | None:
    """The finding that a name states, without its organ: "Brain Edema" -> "oedema"; "lesion" for an abnormality in general."""
    folded = fold_words(name)
    value = value_of(folded, Kind.PRESENCE) or value_of(_QUALIFIER.sub("", folded), Kind.PRESENCE)
    return LESION if value in LESION_WORDS else value


def is_qualified(name: str) -> bool:
    """Whether a name says more than the finding: "right pleural effusion", "brain tumour"."""
    return value_of(name, Kind.PRESENCE) is None


def finding_facts(finding: str) -> Iterator[Fact]:
    """A finding is present, and so are what it is a kind of and a lesion."""
    for value in (finding, _KIND_OF.get(finding), LESION if finding != LESION else None):
        if value is not None:
            yield Fact(kind=Kind.PRESENCE, value=value)


def anatomy_facts(organ: str) -> Iterator[Fact]:
    """The image shows an organ or region, and none of the regions far from it."""
    yield Fact(kind=Kind.ANATOMY, value=organ)
    for other in _FAR_APART.get(organ, ()):
        yield Fact(kind=Kind.ANATOMY, value=other, holds=False)
