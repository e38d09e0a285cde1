"""The facts of a phantom image, taken from the findings that it was drawn with, and the phrases that state them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from types import MappingProxyType
from typing import Final

from osler.data.phantom.atlas import GRADES, LOCATIONS, NORMAL, Atlas, Findings
from osler.data.phantom.images import ATLASES
from osler.facts import Fact, Facts, Kind, Term

EXTENTS: Final[Mapping[str, str]] = MappingProxyType(dict(zip(GRADES, ("tiny", "small", "medium-sized", "large"), strict=True)))
"""The size of the lesion at each grade."""

_PLANES: Final = ("axial", "sagittal", "coronal")
_OTHER_KINDS: Final = {"location": Kind.POSITION, "side": Kind.POSITION, "colour": Kind.COLOUR, "density": Kind.COUNT}
_ALWAYS_KNOWN: Final = (
    Kind.MODALITY,
    Kind.TECHNIQUE,
    Kind.PLANE,
    Kind.ANATOMY,
    Kind.PRESENCE,
    Kind.SIGN,
    Kind.SIZE,
    Kind.SEVERITY,
)


@lru_cache(maxsize=4096)
def facts_of(findings: Findings) -> Facts:
    """Everything that the drawing shows. A lesion's place or colour is open in the modalities whose findings do not say it."""
    atlas = ATLASES[findings.modality]
    facts = [
        Fact(kind=Kind.MODALITY, value=findings.modality.value),
        Fact(kind=Kind.TECHNIQUE, value=findings.technique),
        *_anatomy_facts(findings.anatomy),
        Fact(kind=Kind.PRESENCE, value=findings.disease),
        Fact(kind=Kind.PRESENCE, value="lesion", holds=findings.disease != NORMAL),
        *(Fact(kind=Kind.SIGN, value=sign) for sign in _signs(atlas, findings)),
    ]
    if findings.grade is not None:
        facts.append(Fact(kind=Kind.SEVERITY, value=findings.grade))
        facts.append(Fact(kind=Kind.SIZE, value=EXTENTS[findings.grade]))
    facts += _other_facts(atlas, findings)
    return Facts(facts=tuple(facts), closed=(*_ALWAYS_KNOWN, *_closed_by_other(atlas, findings)))


def _anatomy_facts(anatomy: str) -> Iterator[Fact]:
    """ "axial brain" is an axial plane, a brain and itself; "right macula" is a macula and itself."""
    yield Fact(kind=Kind.ANATOMY, value=anatomy)
    first, _, rest = anatomy.partition(" ")
    if first in _PLANES:
        yield Fact(kind=Kind.PLANE, value=first)
    if first in (*_PLANES, "left", "right"):
        yield Fact(kind=Kind.ANATOMY, value=rest)


def _signs(atlas: Atlas, findings: Findings) -> Iterable[str]:
    values = (findings.technique, findings.anatomy, findings.disease, findings.other)
    return (atlas.signs[value] for value in values if value in atlas.signs)


def _other_facts(atlas: Atlas, findings: Findings) -> Iterator[Fact]:
    if findings.other is None:
        return
    yield Fact(kind=_OTHER_KINDS[atlas.other_kind], value=findings.other, about="cells" if atlas.other_kind == "density" else None)
    if findings.other in LOCATIONS:
        half, side = findings.other.split()
        yield Fact(kind=Kind.POSITION, value=half)
        yield Fact(kind=Kind.SIDE, value=side)
    elif atlas.other_kind == "side":
        yield Fact(kind=Kind.SIDE, value="left" if "left" in findings.other else "right")


def _closed_by_other(atlas: Atlas, findings: Findings) -> tuple[Kind, ...]:
    """The kinds that the other attribute decides. A lesion without a location, such as glaucoma, leaves the position open."""
    if findings.other is None and findings.disease != NORMAL:
        return ()
    kind = _OTHER_KINDS[atlas.other_kind]
    return (kind, Kind.SIDE) if kind is Kind.POSITION else (kind,)


@lru_cache(maxsize=1)
def phantom_terms() -> tuple[Term, ...]:
    """The phrases of all modalities that state a value, so that the sign of another modality is read, and found false."""
    terms = {
        *(Term(phrase=grade, kind=Kind.SEVERITY, value=grade) for grade in GRADES),
        *(Term(phrase=extent, kind=Kind.SIZE, value=extent) for extent in EXTENTS.values()),
    }
    for atlas in ATLASES.values():
        other = _OTHER_KINDS[atlas.other_kind]
        for kind, phrases in (
            (Kind.TECHNIQUE, atlas.techniques),
            (Kind.ANATOMY, atlas.anatomies),
            (Kind.PRESENCE, atlas.diseases),
            (other, atlas.others),
        ):
            terms.update(Term(phrase=phrase, kind=kind, value=phrase) for phrase in phrases)
            signs = [atlas.signs[phrase] for phrase in phrases if phrase in atlas.signs]
            terms.update(Term(phrase=sign, kind=Kind.SIGN, value=sign, sign_of=kind) for sign in signs)
    return tuple(sorted(terms, key=lambda term: (term.phrase, term.kind)))
