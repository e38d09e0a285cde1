"""How a statement is compared with the facts of its image."""

from __future__ import annotations

import pytest

from osler.facts import Fact, Facts, Kind, Truth
from osler.grading import check, read_statements


def known(*facts: Fact, closed: tuple[Kind, ...] = ()) -> Facts:
    return Facts(facts=facts, closed=closed)


def fact(kind: Kind, value: str, about: str | None = None, holds: bool = True) -> Fact:
    return Fact(kind=kind, value=value, about=about, holds=holds)


MRI = known(fact(Kind.MODALITY, "mri"), closed=(Kind.MODALITY,))
LIVER = known(fact(Kind.SIDE, "left", "liver"), fact(Kind.SIDE, "right", "liver", holds=False), fact(Kind.SIZE, "large", "tumour"))
UPPER_LEFT = known(fact(Kind.POSITION, "upper left"), fact(Kind.SIDE, "left"), closed=(Kind.POSITION, Kind.SIDE))
HALVES = known(fact(Kind.POSITION, "upper", "cyst"), fact(Kind.SIDE, "left", "cyst"), fact(Kind.SIDE, "right", "cyst", holds=False))
EFFUSION = known(fact(Kind.PRESENCE, "pleural effusion"), fact(Kind.PRESENCE, "fracture", holds=False))
TUMOUR = known(fact(Kind.PRESENCE, "tumour"), closed=(Kind.PRESENCE,))
NORMAL = known(fact(Kind.PRESENCE, "normal"), fact(Kind.PRESENCE, "lesion", holds=False), closed=(Kind.PRESENCE,))
CHEST = known(fact(Kind.ANATOMY, "chest"), closed=(Kind.ANATOMY,))
TWO_SIDES = known(fact(Kind.SIDE, "left", "cyst"), fact(Kind.SIDE, "right", "nodule"))
T, F, N = Truth.TRUE, Truth.FALSE, Truth.NOT_CHECKABLE

CHECKS: list[tuple[str, Facts, list[Truth]]] = [
    ("An MRI.", MRI, [T]),
    ("A CT.", MRI, [F]),
    ("An MRI.", known(fact(Kind.MODALITY, "MR"), closed=(Kind.MODALITY,)), [T]),
    ("An X-ray.", known(fact(Kind.MODALITY, "X-ray"), closed=(Kind.MODALITY,)), [T]),
    ("A CT.", known(fact(Kind.MODALITY, "computed tomography"), closed=(Kind.MODALITY,)), [T]),
    ("Bleeding is seen.", known(fact(Kind.PRESENCE, "hemorrhage")), [T]),
    ("This is not a CT.", MRI, [T]),
    ("This is not an MRI.", MRI, [F]),
    ("An axial section.", MRI, [N]),
    ("Axial.", known(closed=(Kind.PLANE,)), [F]),
    ("A contrast-enhanced scan.", known(fact(Kind.TECHNIQUE, "contrast-enhanced T1-weighted MRI"), closed=(Kind.TECHNIQUE,)), [T]),
    ("The liver is on the left.", LIVER, [N, T]),
    ("The liver is on the right.", LIVER, [N, F]),
    ("The liver is not on the right.", LIVER, [N, T]),
    ("The spleen is on the left.", LIVER, [N, N]),
    ("It is on the left.", LIVER, [N]),  # the lesion is not the liver
    ("The lesion is large.", LIVER, [T]),
    ("The lesion is on the left.", UPPER_LEFT, [T]),
    ("The tumour is on the left.", UPPER_LEFT, [N, T]),
    ("The left lung.", UPPER_LEFT, [N, N]),
    ("In the upper half.", UPPER_LEFT, [T]),
    ("In the lower half.", UPPER_LEFT, [F]),
    ("In the upper right.", UPPER_LEFT, [F]),
    ("The cyst is upper left.", HALVES, [N, T]),
    ("The cyst is upper right.", HALVES, [N, F]),
    ("The cyst is lower left.", HALVES, [N, N]),
    ("The cyst is left.", known(fact(Kind.SIDE, "bilateral", "cyst")), [N, T]),
    ("The lesion is left.", TWO_SIDES, [N]),  # one finding is left, the other right
    ("An effusion.", EFFUSION, [T]),
    ("No effusion.", EFFUSION, [F]),
    ("No fracture.", EFFUSION, [T]),
    ("A fracture.", EFFUSION, [F]),
    ("A cyst.", EFFUSION, [N]),
    ("A lesion is present.", EFFUSION, [T]),
    ("There is no abnormality.", EFFUSION, [F]),
    ("A cyst.", TUMOUR, [F]),
    ("No cyst.", TUMOUR, [T]),
    ("No tumour in the liver.", TUMOUR, [N, N]),
    ("No cyst in the liver.", TUMOUR, [T, N]),
    ("An opacity.", TUMOUR, [N]),
    ("An opacity.", NORMAL, [F]),
    ("There is no lesion.", NORMAL, [T]),
    ("The lung.", CHEST, [N]),
    ("The thorax.", CHEST, [T]),
    ("The brain.", CHEST, [F]),
    ("The abdomen.", known(fact(Kind.ANATOMY, "liver"), closed=(Kind.ANATOMY,)), [T]),
    ("The abdomen.", known(fact(Kind.ANATOMY, "spine"), fact(Kind.ANATOMY, "abdomen", holds=False)), [F]),
    ("The upper abdomen.", known(fact(Kind.ANATOMY, "kidney level"), closed=(Kind.ANATOMY,)), [F]),
    ("The head.", known(fact(Kind.ANATOMY, "femoral head")), [N]),
    ("The brain.", known(fact(Kind.ANATOMY, "axial brain")), [T]),
    ("A tumour.", known(fact(Kind.PRESENCE, "non-enhancing tumour")), [T]),
    ("The heart is enlarged.", known(fact(Kind.PRESENCE, "cardiomegaly", holds=False)), [N, F]),
    ("The heart is normal in size.", known(fact(Kind.PRESENCE, "cardiomegaly")), [N, F]),
    ("The heart is not enlarged.", known(fact(Kind.PRESENCE, "cardiomegaly", holds=False)), [N, T]),
    ("Two kidneys.", known(fact(Kind.COUNT, "2", "kidneys")), [T, N]),
    ("Three kidneys.", known(fact(Kind.COUNT, "2", "kidney"), closed=(Kind.COUNT,)), [F, N]),
    ("Three nodules.", known(fact(Kind.COUNT, "2", "kidney"), closed=(Kind.COUNT,)), [N, N]),
]  # fmt: skip


@pytest.mark.parametrize(("text", "facts", "expected"), CHECKS, ids=[f"{row[0]} {number}" for number, row in enumerate(CHECKS)])
def test_statements_are_checked(text: str, facts: Facts, expected: list[Truth]) -> None:
    assert [check(statement, facts) for statement in read_statements(text)] == expected


def test_contradicting_facts_decide_nothing() -> None:
    (statement,) = read_statements("An MRI.")
    assert check(statement, known(fact(Kind.MODALITY, "mri"), fact(Kind.MODALITY, "mri", holds=False))) is N
