"""Faults of rows: what counts as equal, as a synonym, as a contradiction."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare
from test_audit_leaks import sample

from osler.audits.quality import assess, name_concept


@pytest.mark.parametrize(
    ("one", "other", "is_same"),
    [
        ("MRI", "Magnetic Resonance Imaging (MRI)", True),
        ("CT scan", "Computed tomography (CT)", True),
        ("PET scan", "Positron emission tomography (PET)", True),
        ("X-ray", "Radiography", True),
        ("x ray", "X-Ray.", True),
        ("Oedema", "edema", True),
        ("Haematoma", "Hematoma", True),
        ("Diabetic retinopathy", "Diabetic Retinopathy (DR)", True),
        ("The kidneys", "Kidney", True),
        ("CT", "PET/CT", False),
        ("MRI", "Ultrasound", False),
        ("Digital radiography (DR)", "Diabetic Retinopathy (DR)", False),
        ("DR", "Diabetic retinopathy", False),  # also digital radiography
        ("T1+", "T1-", False),
        ("Left lung", "Right lung", False),
        ("No", "Normal", False),
        ("Stage IIIa", "Stage IIIb", False),
        ("Melanoma (skin)", "Melanoma (eye)", False),
    ],
)
def test_concepts(one: str, other: str, is_same: bool) -> None:
    assert (name_concept(one) == name_concept(other)) is is_same


@settings(deadline=None)
@given(st.text(min_size=1))
def test_concepts_of_any_text_are_stable(text: str) -> None:
    assert name_concept(text) == name_concept(f"  {text} ") or not text.strip()


@pytest.mark.parametrize(
    ("choices", "target", "duplicate", "synonym", "repeated"),
    [
        (("CT", "MRI"), "A", False, False, False),
        (("Thyroid Gland", "Thyroid gland", "aorta"), "C", True, False, False),
        (("Testis", "Testicle", "aorta"), "C", False, True, False),
        (("Testis", "Testicle", "aorta"), "B", False, True, True),
        (("CT", "ct", "Computed tomography"), "B", True, True, True),
    ],
)
def test_options(choices: tuple[str, ...], target: str, duplicate: bool, synonym: bool, repeated: bool) -> None:
    quality = assess([sample("a.png", choices=choices, target=target)])
    faults = (quality.duplicate_options, quality.synonymous_options, quality.synonyms_of_target)
    assert [fault.num_rows for fault in faults] == [duplicate, synonym, repeated]


def test_contradictions() -> None:
    rows = [
        sample("a.png", number=0, choices=("CNV", "DME"), target="A"),
        sample("a.png", number=1, choices=("CNV", "DME"), target="B"),
        sample("a.png", number=2, choices=("Drusen", "Normal"), target="A"),
        sample("b.png", number=3, choices=("CT", "MRI"), target="A"),
        sample("b.png", number=4, choices=("Computed tomography (CT)", "MRI"), target="A"),
        sample("c.png", number=5, choices=("CT", "MRI"), target="A"),
        sample("c.png", number=6, choices=("CT", "MRI"), target="A"),
    ]
    found = assess(rows, ["too long", "too long", "empty"])
    assert found.contradictory_golds.ids == ("test/0", "test/1", "test/2")
    assert found.contradicted_by_option.ids == ("test/0", "test/1")
    assert found.num_rows == 6  # the last row stands there twice
    assert (found.refused, found.num_refused) == ({"too long": 2, "empty": 1}, 3)


def test_letters_against_scipy() -> None:
    rows = [sample(f"{number}.png", choices=("a", "b", "c"), target="AAABC"[number % 5]) for number in range(40)]
    ((size, found),) = assess([*rows, sample("open.png", choices=(), target="liver")]).letters.items()
    assert (size, found.questions) == (3, 40)
    assert found.shares == pytest.approx({"A": 0.6, "B": 0.2, "C": 0.2})
    assert found.p_value == pytest.approx(chisquare([24, 8, 8]).pvalue)


def test_nothing_to_assess() -> None:
    found = assess([])
    assert (found.num_rows, found.letters, found.num_refused) == (0, {}, 0)
    assert not any(fault.num_rows for fault in found.faults.values())
