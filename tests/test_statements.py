"""What the grammar reads in a reasoning. The sections are those of docs/statements.md."""

from __future__ import annotations

import os
import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_fact_check import MRI, UPPER_LEFT, F, N, T, fact, known

from osler.data.phantom.atlas import GRADES
from osler.data.phantom.facts import EXTENTS, phantom_terms
from osler.data.phantom.images import ATLASES
from osler.data.phantom.questions import build_samples
from osler.data.readers import read
from osler.facts import Kind, Statement, Term, Truth
from osler.grading import judge, read_statements
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
    ("An intra-axial lesion.", ["presence lesion"]),
    ("The transverse diameter of the heart.", ["anatomy heart"]),
    ("The transverse colon.", ["anatomy colon"]),
    ("In a coronal image the spine would be seen.", []),
    ("On T1 they'd be dark, so it is T2.", ["technique t2-weighted"]),
    ("I compare T1 with T2.", []),
    # organs and body regions
    ("The image shows the kidneys.", ["anatomy kidney"]),
    ("The large intestine and the windpipe.", ["anatomy colon", "anatomy trachea"]),
    ("The pelvic cavity.", ["anatomy pelvis"]),
    ("The pancreatic head.", []),
    ("The head of the pancreas.", ["anatomy pancreas"]),
    ("The left-hand side.", ["side left"]),
    ("Heart failure.", []),
    ("A kidney-shaped mass.", ["presence mass"]),
    ("Below the level of the lungs.", []),
    ("At the level of the lungs.", ["anatomy lung"]),
    ("The slice is too low for the heart.", []),
    ("The heart is in the chest, far above this level.", []),
    ("The liver is out of the field of view.", []),
    ("Ears are part of the head.", []),
    ("The kidneys filter blood.", []),
    ("I see the kidneys, which filter blood.", ["anatomy kidney"]),
    # sides
    ("The liver is on the left.", ["anatomy liver", "side left of liver"]),
    ("The left kidney is visible.", ["side left of kidney", "anatomy kidney"]),
    ("The right and left lungs.", ["side right of lung", "side left of lung", "anatomy lung"]),
    ("The left kidney is not visible.", ["not anatomy kidney"]),
    ("The left side is clear.", []),
    ("The gastric bubble is on the left.", ["side left of bubble"]),
    ("A nodule and some gas on the left.", ["presence nodule", "side left of gas"]),
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
    ("Above the diaphragm.", []),
    ("The lesion is in the center of the image.", ["position central"]),
    ("An anterior mass.", ["position anterior of mass", "presence mass"]),
    ("Pneumonia in the lower left lung.", ["presence pneumonia", "position lower left of pneumonia", "anatomy lung"]),
    ("The lower left lung is dark.", ["anatomy lung"]),
    ("The upper pole of the kidney.", ["anatomy kidney"]),
    ("The lower poles of the kidneys.", ["anatomy kidney"]),
    ("The upper and lower lobes.", []),
    ("The right middle lobe.", []),
    ("The inferior margin of the liver.", ["anatomy liver"]),
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
    ("Lung and brain are not in the slice.", ["not anatomy lung", "not anatomy brain"]),
    ("Brain, liver and colon are not visible.", ["not anatomy brain", "not anatomy liver", "not anatomy colon"]),
    ("I see the lung and the liver and kidney are not visible.", ["not anatomy kidney"]),
    ("The liver can't be seen.", ["not anatomy liver"]),
    ("The liver does not appear in it.", []),
    ("The heart, which is not visible.", ["not anatomy heart"]),
    ("A mass that may be malignant.", ["presence mass"]),
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
    ("A small part of the spleen.", ["size small of part", "anatomy spleen"]),
    ("A lung similar to the liver is gray.", ["anatomy lung", "anatomy liver", "colour grey of lung"]),
    ("A moderate T1 signal.", ["severity moderate of signal", "technique t1-weighted"]),
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
    ("A large tumour is unlikely.", []),
    ("There might be a thin and faint dark line that is a small cyst.", []),
    ("This favours a tumour over an infarct.", ["presence tumour"]),
    ("Colon versus rectum.", []),
    ("An X-ray can't show a fracture.", []),
    ("I cannot see a fracture.", ["not presence fracture"]),
    ("The effusion has resolved.", ["change resolved of effusion"]),
    ("The tumour cannot be excluded.", []),
    ("A tumour-like mass.", ["presence mass"]),
    ("A history of cancer.", []),
    # what holds for many images, and the options
    ("Simple cysts are common in adults.", []),
    ("The options include normal, cyst and mass.", []),
    ("The possible sites are the knee and the chest.", []),
    ("A common cyst is seen.", ["presence cyst"]),
    # other ways to deny, and to leave open
    ("Negative for pneumothorax.", ["not presence pneumothorax"]),
    ("The pleural space is free of effusion.", ["not presence effusion"]),
    ("I fail to see a fracture.", ["not presence fracture"]),
    ("Pneumothorax: none.", ["not presence pneumothorax"]),
    ("Effusion - negative", ["not presence effusion"]),
    ("A fracture - no effusion.", ["presence fracture", "not presence effusion"]),
    ("We can exclude pneumothorax.", ["not presence pneumothorax"]),
    ("There is zero effusion.", ["not presence effusion"]),
    ("I cannot rule out a pneumothorax.", []),
    ("A fracture was denied.", []),
    ("Rule out a fracture.", []),
    ("A doubtful fracture.", []),
    ("We look for effusion.", []),
    ("Free air under the diaphragm.", ["presence free air", "anatomy diaphragm"]),
    ("A spot with no visible wall towards the top left.", []),
    ("The collection is large.", ["size large"]),
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


def test_the_terms_of_a_list_are_read_like_those_of_a_tuple() -> None:
    """A tuple is indexed once and then known by identity; a list can change."""
    terms = list(phantom_terms())
    text = " ".join(term.phrase for term in terms)
    assert read_statements(text, terms) == read_statements(text, tuple(terms)) == read_statements(text, phantom_terms())
    terms.clear()
    assert read_statements(text, terms) == read_statements(text)


HAND = known(
    *(fact(Kind.ANATOMY, "hand"), fact(Kind.SIZE, "tiny"), fact(Kind.POSITION, "upper left"), fact(Kind.SIDE, "left")),
    closed=(Kind.ANATOMY, Kind.SIZE, Kind.POSITION, Kind.SIDE, Kind.COUNT),
)
UNLISTED = [
    ("The chest.", [F]),
    ("The trachea.", [N]),  # no phantom is one of the trachea
    ("A large lesion.", [F]),
    ("An enlarged lesion.", [N]),
    ("The lesion is in the lower half.", [F]),  # "lower left" is known
    ("The lesion is posterior.", [N]),
    ("The lesion is on the right.", [F]),
    ("The lesion is in the midline.", [N]),
]


@pytest.mark.parametrize(("text", "truths"), UNLISTED)
def test_what_a_dataset_has_no_word_for_is_not_false(text: str, truths: list[Truth]) -> None:
    judged = judge(text, facts=HAND, terms=phantom_terms())
    assert [statement.truth for statement in judged if statement.kind is not Kind.PRESENCE] == truths


# Repeating the answer

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
    ("A bright ring with a dark core. Diagnosis: tumour", "tumour, as shown", [False, True]),
    ("An MRI. Technique: T2-weighted MRI, as shown.", "T2-weighted MRI, as shown", [False, True, True]),
    ("A tumour.", "tumour, upper left", [False]),
    ("A tumour.", ", as shown", [False]),
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


@pytest.mark.integration
def test_planted_falsehoods_about_slake_are_found() -> None:
    if not (folder := os.environ.get("OSLER_TEST_DATA")):
        pytest.skip("OSLER_TEST_DATA does not name the folder of real annotation files")
    first = {sample.images[0].uri: sample for sample in read("slake", Path(folder) / "slake", split="all") if sample.facts is not None}
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
