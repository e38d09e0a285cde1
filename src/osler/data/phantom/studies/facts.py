"""The facts of a study, taken from the truth that it was drawn with, and the phrases that state them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import lru_cache
from types import MappingProxyType
from typing import Final

from osler.data.phantom.atlas import LOCATIONS, NORMAL
from osler.data.phantom.facts import EXTENTS
from osler.data.phantom.images import ATLASES
from osler.data.phantom.studies.truth import ASPECTS, DISEASES, GRADE_RADII, LEVELS, Aspect, Mark, Spot, StudyKind, Truth, level_of, pool_of
from osler.facts import Fact, Facts, Kind, Term

ANSWER_SIGNS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "to the left": "further left on the last frame",
        "to the right": "further right on the last frame",
        "upwards": "higher on the last frame",
        "downwards": "deeper on the last frame",
        "strongly": "a wall that moves far",
        "weakly": "a wall that moves little",
        "not at all": "a wall that stands still",
        "anterior": "in front of the heart",
        "posterior": "behind the heart",
        "larger": "a bigger area on the current image",
        "smaller": "a bigger area on the prior image",
        "unchanged": "an equal area on both images",
        "new": "no area on the prior image",
        "resolved": "no area on the current image",
    }
)
"""How a motion, a depth or a change looks, when pictures are compared."""

_SIGN_OF: Final = {
    Aspect.MOTION: Kind.MOTION,
    Aspect.CONTRACTION: Kind.MOTION,
    Aspect.SITE: Kind.POSITION,
    Aspect.CHANGE: Kind.CHANGE,
    Aspect.DIAGNOSIS: Kind.PRESENCE,
}
_DEPTHS: Final = ("anterior", "posterior")
_PLANES: Final = {kind: "axial" for kind in StudyKind if kind.is_volume}
_ANATOMIES: Final = {StudyKind.MRI_VOLUME: "brain", StudyKind.XRAY_VIEWS: "chest", StudyKind.FOLLOW_UP: "chest"}


def slices_phrase(pictures: tuple[int, ...]) -> str:
    """The slices of one lesion, given from 0: "slice 5", "slices 5 to 6"."""
    first, last = pictures[0] + 1, pictures[-1] + 1
    return f"slice {first}" if first == last else f"slices {first} to {last}"


def sign_of_lesion(kind: StudyKind, name: str) -> str:
    """How a lesion, or its absence, looks: "a round dark area without a wall"."""
    return ATLASES[kind.modality].disease_signs[name]


def size_of(spot: Spot) -> str:
    """The size of a mass on a radiograph, in words."""
    nearest = min(range(len(GRADE_RADII)), key=lambda grade: abs(spot.radius - GRADE_RADII[grade]))
    return list(EXTENTS.values())[nearest]


def facts_of(truth: Truth) -> Facts:
    """Everything that the drawing shows of the question's aspect and of the lesions. Sides are the patient's."""
    kind = truth.kind
    facts = [Fact(kind=Kind.MODALITY, value=kind.modality.value)]
    closed = [Kind.MODALITY]
    if kind in _PLANES:
        facts.append(Fact(kind=Kind.PLANE, value=_PLANES[kind]))
        closed.append(Kind.PLANE)
    if kind in _ANATOMIES:
        facts.append(Fact(kind=Kind.ANATOMY, value=_ANATOMIES[kind]))
    if kind is StudyKind.ULTRASOUND_CINE:
        facts += [Fact(kind=Kind.MOTION, value=truth.answer), Fact(kind=Kind.SIGN, value=ANSWER_SIGNS[truth.answer])]
        return Facts(facts=tuple(facts), closed=(*closed, Kind.MOTION, Kind.SIGN))
    facts += _lesion_facts(truth)
    closed += [Kind.PRESENCE, Kind.SIGN, Kind.SIDE, Kind.POSITION, Kind.COUNT]
    if kind.is_volume:
        closed += [Kind.LEVEL, Kind.SLICES]
    if truth.aspect is Aspect.CHANGE:
        facts += [Fact(kind=Kind.CHANGE, value=truth.answer), Fact(kind=Kind.SIGN, value=ANSWER_SIGNS[truth.answer])]
        closed += [Kind.CHANGE, Kind.SIZE]
    return Facts(facts=tuple(dict.fromkeys(facts)), closed=tuple(closed))


def _lesion_facts(truth: Truth) -> Iterator[Fact]:
    yield Fact(kind=Kind.PRESENCE, value="lesion", holds=bool(truth.marks))
    for name in sorted({mark.name for mark in truth.marks}) or [NORMAL]:
        yield Fact(kind=Kind.PRESENCE, value=name)
        yield Fact(kind=Kind.SIGN, value=sign_of_lesion(truth.kind, name))
    if truth.marks:
        yield Fact(kind=Kind.COUNT, value=str(len(truth.marks)))
    for mark in truth.marks:
        yield from _place_facts(truth, mark)


def _place_facts(truth: Truth, mark: Mark) -> Iterator[Fact]:
    """Where one lesion is: on the picture, in depth and along the volume."""
    spots = [spot for spot in mark.spots if spot is not None]
    yield Fact(kind=Kind.SIDE, value=spots[0].side)
    if truth.kind.is_volume:
        yield Fact(kind=Kind.POSITION, value=_DEPTHS[spots[0].y > 0])
        for first in mark.pictures:
            yield Fact(kind=Kind.LEVEL, value=level_of(first, truth.num_pictures))
            for last in mark.pictures:
                if first <= last:  # "slice 5" is true of a lesion on slices 5 to 6
                    yield Fact(kind=Kind.SLICES, value=slices_phrase((first, last)))
        return
    yield Fact(kind=Kind.POSITION, value=spots[0].height)
    if truth.kind is StudyKind.XRAY_VIEWS:
        depth = _DEPTHS[spots[1].x > 0]
        yield Fact(kind=Kind.POSITION, value=depth)
        yield Fact(kind=Kind.SIGN, value=ANSWER_SIGNS[depth])
        return
    yield Fact(kind=Kind.POSITION, value=f"{spots[0].height} {spots[0].side}")
    if truth.aspect is Aspect.CHANGE:
        for spot in spots:
            yield Fact(kind=Kind.SIZE, value=size_of(spot))


@lru_cache(maxsize=64)
def study_terms(kind: StudyKind, num_pictures: int) -> tuple[Term, ...]:
    """The phrases that state a value about any study of a kind, so that a false one is read, and found false."""
    modality = ATLASES[kind.modality]
    lesions = (*DISEASES.get(kind, ()), NORMAL) if kind is not StudyKind.ULTRASOUND_CINE else ()
    terms = {Term(phrase=name, kind=Kind.PRESENCE, value=name) for name in lesions}
    terms |= {
        Term(phrase=modality.disease_signs[name], kind=Kind.SIGN, value=modality.disease_signs[name], sign_of=Kind.PRESENCE)
        for name in lesions
    }
    for aspect in ASPECTS[kind]:
        values = _DEPTHS if aspect is Aspect.SITE else pool_of(kind, aspect)
        of = _SIGN_OF.get(aspect)
        terms |= {
            Term(phrase=ANSWER_SIGNS[value], kind=Kind.SIGN, value=ANSWER_SIGNS[value], sign_of=of)
            for value in values
            if value in ANSWER_SIGNS
        }
        if of in (Kind.MOTION, Kind.CHANGE):
            terms |= {Term(phrase=value, kind=of, value=value) for value in values}
    if kind.is_volume:
        terms |= {
            Term(phrase=phrase, kind=Kind.LEVEL, value=level)
            for level in LEVELS
            for phrase in (level, f"{level} third", f"{level} part of the volume")
        }
        terms |= set(_slice_terms(num_pictures))
        terms |= {Term(phrase=depth, kind=Kind.POSITION, value=depth) for depth in _DEPTHS}
    elif kind.has_views:
        terms |= {Term(phrase=place, kind=Kind.POSITION, value=place) for place in (*LOCATIONS, *_DEPTHS)}
    return tuple(sorted(terms, key=lambda term: (term.phrase, term.kind)))


def _slice_terms(num_slices: int) -> Iterator[Term]:
    for first in range(num_slices):
        yield Term(phrase=f"slice {first + 1}", kind=Kind.SLICES, value=f"slice {first + 1}")
        for last in range(first + 1, num_slices):
            value = slices_phrase((first, last))
            joins = ("to", "-", "and") if last == first + 1 else ("to", "-")
            for join in joins:
                yield Term(phrase=f"slices {first + 1} {join} {last + 1}", kind=Kind.SLICES, value=value)
