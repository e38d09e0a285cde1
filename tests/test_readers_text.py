"""Problem texts are taken apart, answers matched and open questions closed without a guess."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from osler.data.readers.make_choices import Answered, AnswerPool, parse_content_type
from osler.data.readers.text import letter_of, repair_mojibake, split_problem
from osler.data.readers.vqa_rad import name_modality
from osler.errors import DataError
from osler.taxonomy import Modality, QuestionType
from osler.types import LETTERS

# Options in a problem text


@pytest.mark.parametrize(
    ("problem", "question", "choices"),
    [
        ("Which? A)x, B)y", "Which?", ("x", "y")),
        ("Which? A) x, B) y, C) z", "Which?", ("x", "y", "z")),
        ("Which? A)a, b, B)c, d", "Which?", ("a, b", "c, d")),
        ("Which stain? A)Eosin (H&E), B)Silver", "Which stain?", ("Eosin (H&E)", "Silver")),
        ("Which? A)vitamins (B, C), B)vitamin D", "Which?", ("vitamins (B, C)", "vitamin D")),
        ("Which? A)hepatitis (type A), B)hepatitis (type B), C)neither", "Which?", ("hepatitis (type A)", "hepatitis (type B)", "neither")),
        ("What does (panel A) show? A)x, B)y", "What does (panel A) show?", ("x", "y")),
        ("Is A) right? A)x, B)y", "Is A) right?", ("x", "y")),
        ("Which? A)1.5 cm, B)2, C)3.0", "Which?", ("1.5 cm", "2", "3.0")),
        ("Which?\nA) x\nB) y", "Which?", ("x", "y")),
        ("Which?\n(A) x, B)\n(B) y", "Which?", ("x, B)", "y")),
        ("Which?\nA. x\nB. y\nC. z", "Which?", ("x", "y", "z")),
        ("Two\nlines?\nA: x\nB: y", "Two\nlines?", ("x", "y")),
    ],
)
def test_split_problem(problem, question, choices):
    parts = split_problem(problem)
    assert (parts.question, parts.choices) == (question, choices)


@pytest.mark.parametrize(
    ("problem", "reason"),
    [
        ("Which?", "no options"),
        ("Which? A)x", "no options"),
        ("A)x, B)y", "no question"),
        ("Which? A)x, B)y, D)z", "option D where C was expected"),
        ("Which? A)x, B)y, B)z", "option B where C was expected"),
        ("Which?\nA) x\nC) y", "not A, B, C in order"),
        ("Which?\nA) x\nB) y\nAnswer with a letter.", "several lines"),
    ],
)
def test_split_problem_refuses_what_it_could_tear(problem, reason):
    with pytest.raises(DataError, match=reason):
        split_problem(problem)


@given(
    st.lists(
        st.text(st.characters(codec="ascii", categories=("Lu", "Ll", "Nd", "Zs")), min_size=1).filter(str.strip), min_size=2, max_size=26
    )
)
def test_options_in_a_row_or_in_lines_come_back(choices):
    marked = [f"{letter}){choice}" for letter, choice in zip(LETTERS, choices, strict=False)]
    expected = tuple(choice.strip() for choice in choices)
    assert split_problem("Which? " + ", ".join(marked)).choices == expected
    assert split_problem("Which?\n" + "\n".join(marked)).choices == expected


@pytest.mark.parametrize(
    ("answer", "choices", "kind", "letter"),
    [
        ("B", ("x", "y"), "letter", "B"),
        ("b.", ("x", "y"), "letter", "B"),
        ("(A)", ("x", "y"), "either", "A"),
        ("y", ("x", "y"), "text", "B"),
        ("MRI ", ("CT", "mri."), "text", "B"),
        ("T1+", ("T1-", "T1+"), "text", "B"),
        ("A", ("B", "A"), "letter", "A"),
        ("A", ("B", "A"), "text", "B"),
        ("A", ("B", "A"), "either", None),
        ("C", ("x", "y"), "letter", None),
        ("C", ("x", "y"), "text", None),
        ("T1+", ("T1-", "T2"), "text", None),
        ("x", ("x", "X"), "text", None),
        ("A", ("x", "x "), "letter", None),
    ],
)
def test_letter_of(answer, choices, kind, letter):
    if letter is None:
        with pytest.raises(DataError, match="right answer"):
            letter_of(answer, choices, Counter(), kind=kind)
    else:
        assert letter_of(answer, choices, Counter(), kind=kind) == letter


@pytest.mark.parametrize(
    ("text", "expected", "note"),
    [
        ("plain", "plain", None),
        ("40Â°", "40°", "mojibake repaired"),
        ("MÃ©niÃ¨re", "Ménière", "mojibake repaired"),
        ("Crohnâ€™s", "Crohn’s", "mojibake repaired"),
        ("pâle, 40°", "pâle, 40°", None),
        ("SÃO", "SÃO", None),
        ("肝脏", "肝脏", None),
        ("lost \ufffd", "lost \ufffd", "mojibake left as it is"),
    ],
)
def test_repair_mojibake(text, expected, note):
    notes = Counter()
    assert repair_mojibake(text, notes) == expected
    assert list(notes) == ([note] if note else [])


# Closing open questions


@pytest.mark.parametrize(
    ("question", "answer", "known", "expected"),
    [
        ("Which is bigger in this image, kidney or liver?", "Liver", ("Kidney",), {"Kidney", "Liver"}),
        ("Which is the biggest in this image,lung,liver or heart?", "Heart", ("Lung", "Liver"), {"Lung", "Liver", "Heart"}),
        ("Which is bigger, liver or small bowel?", "Liver", ("Small Bowel",), {"Liver", "Small Bowel"}),
        ("Is this a T1 weighted or T2 weighted MRI image?", "T1", ("T1", "T2", "MRI"), {"T1", "T2"}),
        ("Is this a T1 weighted, T2 weighted, or FLAIR image?", "FLAIR", (), {"T1", "T2", "FLAIR"}),
        ("Is the lesion on the left or right?", "On the right", (), {"Left", "Right"}),
        ("Is it on the left, right, or both sides?", "Both", (), {"Left", "Right", "Both"}),
        ("Is this patient male or female?", "Female", (), {"Male", "Female"}),
        ("Is this an AP or PA film?", "PA", ("AP",), {"AP", "PA"}),
        ("横断面还是冠状面?", "冠状面", ("横断面",), {"横断面", "冠状面"}),
        ("Is this normal?", "Normal", ("Abnormal",), set()),
        ("Is the mass hard or soft to the touch?", "Not sure", (), set()),
        ("Is there one or more?", "Several", ("One",), set()),
    ],
)
def test_named_alternatives(question, answer, known, expected):
    rows = [
        Answered(id=text, question=question, answer=text, content_type="Position", answer_type="CLOSED", modality=None)
        for text in (answer, *known)
    ]
    notes = Counter()
    assert set(AnswerPool(rows, seed=0).close(rows[0], notes).choices) == expected
    assert list(notes) == [f"CLOSED question made {'a choice of the alternatives that it names' if expected else 'open-ended'}"]


@pytest.mark.parametrize(
    ("raw", "question_type"),
    [
        ("Modality", QuestionType.MODALITY_RECOGNITION),
        ("PLANE", QuestionType.ANATOMY_IDENTIFICATION),
        ("PRSE", QuestionType.DISEASE_DIAGNOSIS),
        ("PRES, ABN", QuestionType.DISEASE_DIAGNOSIS),
        ("POS, PRES", None),
        ("Weather", None),
    ],
)
def test_parse_content_type(raw, question_type):
    assert parse_content_type(raw) is question_type


@pytest.mark.parametrize(
    ("question", "answer", "modality"),
    [
        ("What imaging is this?", "MRI - DWI", Modality.MRI),
        ("What type of image is this?", "Chest X-ray", Modality.XRAY),
        ("What modality is this?", "PA Xray", Modality.XRAY),
        ("What kind of scan is this?", "CT with contrast", Modality.CT),
        ("Is this a CT image?", "yes", Modality.CT),
        ("Is this a T2 weighted image?", "Yes", Modality.MRI),
        ("Is this a CT image?", "no", None),
        ("Can CT be used to assess soft tissues?", "yes", None),
        ("What type of imaging does this not represent?", "ultrasound", None),
        ("Is this an MRI or a CT scan?", "MRI", Modality.MRI),
        ("Is this an MRI or a CT scan?", "yes", None),
        ("How was this image taken?", "With contrast", None),
    ],
)
def test_vqa_rad_names_a_modality_only_where_the_data_do(question, answer, modality):
    assert name_modality(question, answer) is modality
