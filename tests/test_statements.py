"""What the grammar reads in a reasoning, and how a statement is compared with facts. The sections are those of docs/statements.md."""

from __future__ import annotations

import os
import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from osler.data.phantom.atlas import GRADES
from osler.data.phantom.facts import EXTENTS, phantom_terms
from osler.data.phantom.images import ATLASES
from osler.data.phantom.questions import build_samples
from osler.data.readers import read
from osler.facts import Fact, Facts, Kind, Statement, Term, Truth
from osler.grading import check, judge, read_statements
from osler.grading.terms import fold_term, fold_word
from osler.taxonomy import Modality
from osler.text import MAX_LENGTH
from osler.types import Sample

TERMS = (
    Term(phrase="a bright ring with a dark core", kind=Kind.SIGN, value="a bright ring with a dark core"),
    Term(phrase="a round dark area without a wall", kind=Kind.SIGN, value="a round dark area without a wall"),
    Term(phrase="no focal lesion in any part", kind=Kind.SIGN, value="no focal lesion in any part"),
    Term(phrase="bone window CT", kind=Kind.TECHNIQUE, value="bone window CT"),
    Term(phrase="fluid", kind=Kind.PRESENCE, value="fluid"),
    Term(phrase="large", kind=Kind.SIZE, value="large"),
    Term(phrase="few", kind=Kind.COUNT, value="few"),
)


def shown(statement: Statement) -> str:
    """ "not side left of liver"."""
    about = f" of {statement.about}" if statement.about else ""
    return f"{'' if statement.holds else 'not '}{statement.kind} {statement.value}{about}"


ROWS: list[tuple[str, list[str]]] = [
    # modality, technique, plane
    ("A CT of the chest.", ["modality ct", "anatomy chest"]),
    ("A chest radiograph.", ["anatomy chest", "modality xray"]),
    ("This is an MR image.", ["modality mri"]),
    ("T2-weighted axial image.", ["technique t2-weighted", "modality mri", "plane axial"]),
    ("The image is T1.", ["technique t1-weighted"]),
    ("FLAIR.", ["technique flair", "modality mri"]),
    ("Non-contrast CT.", ["technique non-contrast", "modality ct"]),
    ("A CT without contrast.", ["modality ct", "technique non-contrast"]),
    ("The technique is bone window CT.", ["technique bone window CT", "modality ct"]),
    ("A transverse plane.", ["plane axial"]),
    ("A coronal and a sagittal section.", ["plane coronal", "plane sagittal"]),
    # organs and body regions
    ("The image shows the kidneys.", ["anatomy kidney"]),
    ("The large intestine and the windpipe.", ["anatomy colon", "anatomy trachea"]),
    ("The pelvic cavity.", ["anatomy pelvis"]),
    # sides
    ("The liver is on the left.", ["anatomy liver", "side left of liver"]),
    ("The left kidney is visible.", ["side left of kidney", "anatomy kidney"]),
    ("A left-sided effusion.", ["side left of effusion", "presence effusion"]),
    ("The mass is in the left lung.", ["presence mass", "side left of mass", "anatomy lung"]),
    ("The lesion is on the right.", ["side right"]),
    ("It lies on the left of the image.", ["side left"]),
    ("Bilateral infiltrates.", ["side bilateral of infiltration", "presence infiltration"]),
    ("The right answer is clear.", []),
    ("It was left untreated.", []),
    ("The lesion is to the left of the heart.", ["anatomy heart"]),
    ("A mass in the left lobe of the liver.", ["presence mass", "anatomy liver"]),
    # positions
    ("The lesion lies in the upper half, on the left.", ["position upper", "side left"]),
    ("The cyst is in the lower right corner.", ["presence cyst", "position lower right of cyst"]),
    ("The spleen is top right.", ["anatomy spleen", "position upper right of spleen"]),
    ("The lesion lies above and to the left of the centre.", ["position upper", "side left"]),
    ("Above the diaphragm.", ["anatomy diaphragm"]),
    ("The lesion is in the center of the image.", ["position central"]),
    ("An anterior mass.", ["position anterior of mass", "presence mass"]),
    ("Pneumonia in the lower left lung.", ["presence pneumonia", "position lower left of pneumonia", "anatomy lung"]),
    ("The lower left lung is dark.", ["anatomy lung"]),
    ("The upper pole of the kidney.", ["anatomy kidney"]),
    # presence and absence
    ("There is a fracture.", ["presence fracture"]),
    ("Pneumonia is present.", ["presence pneumonia"]),
    ("Tumors and a hemorrhage.", ["presence tumour", "presence haemorrhage"]),
    ("There is no fracture.", ["not presence fracture"]),
    ("No evidence of acute edema.", ["not presence oedema"]),
    ("Without effusion.", ["not presence effusion"]),
    ("An effusion is absent.", ["not presence effusion"]),
    ("Effusions are not seen.", ["not presence effusion"]),
    ("This rules out a stroke.", ["not presence infarction"]),
    ("No fracture or effusion.", ["not presence fracture", "not presence effusion"]),
    ("No fracture, effusion or pneumothorax.", ["not presence fracture", "not presence effusion", "not presence pneumothorax"]),
    ("No oedema, but a cyst.", ["not presence oedema", "presence cyst"]),
    ("There is no oedema and the cyst is small.", ["not presence oedema", "presence cyst", "size small of cyst"]),
    ("There is no abnormality.", ["not presence lesion"]),
    ("A lesion is present.", ["presence lesion"]),
    ("The lesion is small.", ["size small"]),
    ("No mass in the liver.", ["not presence mass of liver", "anatomy liver"]),
    ("No mass on the left.", []),
    ("No large effusion.", ["not size large of effusion"]),
    ("No other abnormality.", []),
    ("There is a large, well-defined dark lesion.", ["size large", "presence lesion"]),
    ("Neither the liver nor the spleen is enlarged.", ["not size enlarged of spleen"]),
    ("No shift on CT.", ["modality ct"]),
    ("Bright fluid.", []),
    ("The fluid is dark.", []),
    ("Fluid under the retina.", ["presence fluid", "anatomy retina"]),
    # signs are phrases of the dataset
    ("A bright ring with a dark core.", ["sign a bright ring with a dark core"]),
    ("I see the bright rings with dark cores.", ["sign a bright ring with a dark core"]),
    ("A bright ring.", []),
    ("No bright ring with a dark core.", ["not sign a bright ring with a dark core"]),
    ("No focal lesion in any part.", ["sign no focal lesion in any part"]),
    ("A round dark area without a wall in the upper left.", ["sign a round dark area without a wall", "position upper left"]),
    # size, count, severity, colour
    ("A large cyst.", ["size large of cyst", "presence cyst"]),
    ("The kidneys are enlarged.", ["anatomy kidney", "size enlarged of kidney"]),
    ("The heart is normal in size.", ["anatomy heart", "size normal-sized of heart"]),
    ("The lesion is not large.", ["not size large"]),
    ("Two kidneys.", ["count 2 of kidney", "anatomy kidney"]),
    ("3 small nodules.", ["count 3 of nodule", "size small of nodule", "presence nodule"]),
    ("One of the kidneys.", ["anatomy kidney"]),
    ("A 2 cm cyst.", ["presence cyst"]),
    ("Few cells.", ["count few of cell"]),
    ("Severe oedema of the brain.", ["severity severe of oedema", "presence oedema", "anatomy brain"]),
    ("The disease is mild.", ["severity mild"]),
    ("The lesion is gray.", ["colour grey"]),
    ("The lung is black and the heart is white.", ["anatomy lung", "colour black of lung", "anatomy heart", "colour white of heart"]),
    ("A white dot.", ["colour white of dot"]),
    # change
    ("The tumour is larger than before.", ["presence tumour", "change larger of tumour"]),
    ("The cyst is unchanged.", ["presence cyst", "change unchanged of cyst"]),
    ("A new effusion since the prior image.", ["change new of effusion", "presence effusion"]),
    ("The lesion is larger than the kidney.", []),
    # what is not stated
    ("It could be a tumour.", []),
    ("CT or MRI.", []),
    ("I consider CT, MRI and X-ray.", []),
    ("MRI would show more.", []),
    ("The patient's right side.", []),
    ("Is it a tumour? It is a cyst.", ["presence cyst"]),
    ("If this were MRI, it would be bright.", []),
    ("Unlike CT, MRI shows more.", ["modality mri"]),
    ("It isn't an MRI.", ["not modality mri"]),
    ("Not on the left, but on the right.", ["not side left", "side right"]),
    ("A tumour is unlikely.", []),
    ("The tumour cannot be excluded.", []),
    ("A tumour-like mass.", ["presence mass"]),
    ("A history of cancer.", []),
    ("", []),
]  # fmt: skip


@pytest.mark.parametrize(("text", "expected"), ROWS, ids=[row[0] for row in ROWS])
def test_the_grammar(text: str, expected: list[str]) -> None:
    assert [shown(statement) for statement in read_statements(text, TERMS)] == expected


WORDS = [
    ("tumors", "tumour"), ("gray", "grey"), ("hemorrhages", "haemorrhage"), ("hemisphere", "hemisphere"), ("abscess", "abscess"),
    ("pelvis", "pelvis"), ("thrombus", "thrombus"), ("ovaries", "ovary"), ("masses", "mass"), ("centers", "centre"), ("gas", "gas"),
]  # fmt: skip


@pytest.mark.parametrize(("word", "expected"), WORDS)
def test_words_are_folded(word: str, expected: str) -> None:
    assert fold_word(word) == expected


@pytest.mark.parametrize(
    ("text", "quotes"),
    [
        ("The **left** kidney isn't red.", ["left", "kidney", "red"]),
        ("  Two   kidneys", ["Two", "kidneys"]),
        ("ﬁne “liver” — T2‐weighted", ["liver", "T2‐weighted", "T2‐weighted"]),
        ("x " * MAX_LENGTH + "liver", ["liver"]),
    ],
)
def test_spans_quote_the_text(text: str, quotes: list[str]) -> None:
    assert [text[statement.begin : statement.end] for statement in read_statements(text)] == quotes


# Checking


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


REPEATS: list[tuple[str, str | None, list[bool]]] = [
    ("A bright ring with a dark core. Diagnosis: tumour", "Tumor", [False, True]),
    ("A bright ring with a dark core. Diagnosis: cyst", "tumour", [False, False]),
    ("Not a tumour.", "tumour", [False]),
    ("The lesion lies in the upper half, on the left. Location: upper left", "upper left", [False, False, True]),
    ("An MRI. Technique: T2-weighted MRI", "T2-weighted MRI", [False, True, True]),
    ("The left lung is dark. Left lung.", "left lung", [True, True, True, True]),
    ("A transverse section.", "Axial", [True]),
    ("An axial section.", "Transverse  Plane", [True]),
    ("A tumour.", None, [False]),
    ("A tumour.", "?", [False]),
]


@pytest.mark.parametrize(("text", "answer", "expected"), REPEATS)
def test_the_conclusion_is_no_evidence(text: str, answer: str | None, expected: list[bool]) -> None:
    judged = judge(text, facts=MRI, terms=TERMS, answer_text=answer)
    assert [statement.repeats_answer for statement in judged] == expected


# Any text

PIECES = "the|left|upper|liver|no|not|or|,|.|?|\n|two|is|a cyst|bright|lesion|of|**|’|T2|MRI".split("|")  # noqa: SIM905
texts = st.text(max_size=120) | st.lists(st.sampled_from(PIECES), max_size=40).map(" ".join)


@settings(max_examples=150, deadline=None)
@given(texts, st.none() | st.text(max_size=20))
def test_any_text_can_be_read(text: str, answer: str | None) -> None:
    judged = judge(text, facts=UPPER_LEFT, terms=TERMS, answer_text=answer)
    assert judged == judge(text, facts=UPPER_LEFT, terms=TERMS, answer_text=answer)
    ends: dict[tuple[Kind, str], int] = {}
    for statement in judged:
        assert ends.get((statement.kind, statement.value), 0) <= statement.begin <= statement.end <= len(text)
        ends[statement.kind, statement.value] = statement.end


@pytest.mark.parametrize("piece", ["left ", "no ", "two two ", "the liver is not ", "a,", "no cyst, ", "\\mathrm ", "ﬁ", "in left "])
def test_a_long_text_is_read_up_to_the_limit(piece: str) -> None:
    """Reading twice as much gives the same, because only the end is read."""
    longest = piece * (MAX_LENGTH // len(piece) + 1)
    assert len(read_statements(longest + longest)) == len(read_statements(longest * 3))


# Planted falsehoods


def replaced(sample: Sample, rng: random.Random) -> Iterator[tuple[str, str]]:
    """The rationale of a phantom with one fact made false: what was changed, and the text."""
    text, atlas = sample.rationale or "", ATLASES[Modality(str(sample.modality))]
    text = text[: text.rindex(":")].rpartition(" ")[0]  # without the conclusion
    for name, values in {
        "half": ("upper half", "lower half"),
        "side": ("on the left.", "on the right."),
        "size": tuple(f"area is {extent}" for extent in EXTENTS.values()),
        "sign of a technique": tuple(atlas.technique_signs.values()),
        "sign of a disease": tuple(atlas.disease_signs.values()),
        "sign of an anatomy": tuple(atlas.anatomy_signs.values()),
    }.items():
        for value in values:
            start = text.lower().find(value.lower())
            if start >= 0:
                other = rng.choice([other for other in values if other != value])
                yield name, text[:start] + other + text[start + len(value) :]
    other = rng.choice([title for title in ("CT", "MRI", "X-ray", "ultrasound") if title.lower().replace("-", "") != sample.modality])
    yield "modality", f"This is a {other} image. {text}"
    severities = [grade for grade in GRADES if fact(Kind.SEVERITY, grade) not in (sample.facts or known()).facts]
    yield "grade", f"{text} The disease is {rng.choice(severities)}."


def test_planted_falsehoods_are_found() -> None:
    """At least 95 % of them; and every statement of the unchanged rationales is true."""
    rng, found, planted = random.Random(0), Counter[str](), Counter[str]()
    for modality in Modality:
        for sample in build_samples(modality=modality, split="test", seed=5, num_questions=40):
            assert sample.facts is not None
            assert {statement.truth for statement in judge(sample.rationale or "", facts=sample.facts, terms=sample.terms)} == {T}
            for name, text in replaced(sample, rng):
                planted[name] += 1
                found[name] += any(statement.truth is F for statement in judge(text, facts=sample.facts, terms=sample.terms))
    print({name: f"{found[name]}/{number}" for name, number in planted.items()})  # noqa: T201
    assert len(planted) == 8
    assert found.total() >= 0.95 * planted.total()
    assert planted.total() > 900


SENTENCES = {
    Kind.MODALITY: "This is a {value} image.",
    Kind.PLANE: "The plane is {value}.",
    Kind.SIDE: "The {about} is on the {value}.",
    Kind.POSITION: "The {about} lies in the {value} part of the image.",
    Kind.COUNT: "The image shows {value} {about}.",
}
OTHERS = (("left", "right"), ("upper", "lower"), ("ct", "mri"), ("axial", "coronal"), ("1", "2"))
MIRRORED = {word: other for pair in OTHERS for word, other in (pair, pair[::-1])}


def test_planted_falsehoods_about_slake_are_found() -> None:
    if not (folder := os.environ.get("OSLER_TEST_DATA")):
        pytest.skip("OSLER_TEST_DATA does not name the folder of real annotation files")
    first = {sample.images[0].uri: sample for sample in read("slake", Path(folder) / "slake") if sample.facts is not None}
    rows = {(sample.facts, sample.terms, one) for sample in first.values() for one in sample.facts.facts if one.holds}
    found, planted = Counter[bool](), Counter[Kind]()
    for facts, terms, one in sorted(rows, key=str):
        value = " ".join(MIRRORED.get(word, "") for word in one.value.split())
        if one.kind not in SENTENCES or not value.strip() or (one.about is None and one.kind in (Kind.SIDE, Kind.POSITION)):
            continue
        for text_value, truth in ((one.value, T), (value, F)):
            text = SENTENCES[one.kind].format(value=text_value, about=one.about)
            found[any(statement.truth is truth for statement in judge(text, facts=facts, terms=terms))] += 1
        planted[one.kind] += 1
    print(planted, found)  # noqa: T201
    assert len(planted) == len(SENTENCES)
    assert found[True] >= 0.95 * found.total() > 2000


def test_every_term_of_the_phantoms_is_read() -> None:
    for term in phantom_terms():
        read = read_statements(f"I see {term.phrase}.", phantom_terms())
        assert (term.kind, fold_term(term.value), True) in {(part.kind, fold_term(part.value), part.holds) for part in read}
