"""Open answers compared with a reference: right, wrong, or cannot decide."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from line_counts import count_lines

from osler.grading.answer_items import read_items
from osler.grading.answer_terms import OPPOSITES, answer_terms, own_phrases
from osler.grading.comparison import _are_related, _is_related, _read_phrase, compare
from osler.grading.quantities import Quantity, is_same_quantity, take_quantities
from osler.grading.terms import fold_term, general_terms

R, W, U = True, False, None

ROWS = [
    # reference, answer, is it right, rule
    ("Liver", "liver.", R, "exact"),
    ("Liver", "**The Liver**", R, "exact"),
    ("Liver", "?", W, "empty"),
    ("Liver", "the", W, "empty"),
    ("Liver", "The organ is the liver.", R, "rephrased"),
    ("Liver", "It's probably the liver", R, "rephrased"),
    ("Liver", "It is most likely the liver.", R, "rephrased"),
    ("Liver", "The liver is clearly shown in this image.", R, "rephrased"),
    ("Liver", "The liver in the image", R, "rephrased"),
    ("Liver", "liver, because it is large and brown", R, "rephrased"),
    ("Pneumonia", "The patient has pneumonia.", R, "rephrased"),
    ("Kidney", "kidneys", R, "rephrased"),
    ("Liver", "The organ shown in this CT scan is the liver.", R, "rephrased"),
    ("Liver", "Based on the image, the organ is the liver.", R, "rephrased"),
    ("Black", "The color of the lung is black.", R, "rephrased"),
    ("MRI", "The image was acquired with magnetic resonance", R, "synonym"),
    ("Right lung", "lung on the right side", R, "synonym"),
    ("CT", "CT (computed tomography)", R, "synonym"),
    ("Chest", "the chest region", R, "synonym"),
    ("Brain Edema", "brain oedema", R, "rephrased"),
    ("Hypoxic ischemic injury", "hypoxic ischaemic injury", R, "rephrased"),
    ("On the left", "left", R, "rephrased"),
    ("R frontal lobe", "right frontal lobe", R, "rephrased"),
    ("Upper left", "left upper", R, "rephrased"),
    ("CSF is white", "CSF is white in the image", R, "rephrased"),
    ("Not seen", "not seen in the image", R, "rephrased"),
    # synonyms
    ("X-Ray", "plain radiograph", R, "synonym"),
    ("CT", "a CT scan", R, "synonym"),
    ("Transverse Plane", "axial", R, "synonym"),
    ("Chest X-ray", "CXR", R, "synonym"),
    ("Right lobe of the liver", "right hepatic lobe", R, "synonym"),
    ("Pulmonary Nodule", "lung nodules", R, "synonym"),
    ("MR - T2 weighted", "T2-weighted MRI", R, "synonym"),
    ("Gray", "It is grey in color.", R, "synonym"),
    ("Both Lung", "left and right lung", R, "synonym"),
    ("Left and Top", "upper left", R, "synonym"),
    ("Center", "in the middle", R, "synonym"),
    ("PA", "posterior-anterior", R, "synonym"),
    ("Right lung, left lung", "both lungs", R, "synonym"),
    ("Both lungs", "left lung and right lung", R, "synonym"),
    ("Left upper lung, right lower lung", "both lungs", W, "side"),
    ("Left kidney, right lung", "bilateral lungs", W, "side"),
    ("1st rib", "first rib", R, "synonym"),
    ("10th rib", "11th rib", W, "number"),
    ("10th rib", "10th thoracic rib", U, "undecided"),
    ("Hyperdense", "hyper-dense", R, "synonym"),
    ("Right", "rt", R, "synonym"),
    ("R", "right", R, "rephrased"),
    ("R", "left", W, "side"),
    ("Not seen", "not visible", R, "synonym"),
    ("Normal", "no abnormality", U, "undecided"),
    ("3 x 4 cm", "3x4 cm", R, "number"),
    ("3 x 4 cm", "3x5 cm", W, "number"),
    ("< 1 cm", "0.5 cm", U, "undecided"),
    ("< 1 cm", "2 cm", W, "number"),
    ("yes", "Yes it is", R, "yes_no"),
    ("no", "No there is not", R, "yes_no"),
    ("no", "no mass", W, "yes_no"),
    ("Liver", "liver, not spleen", U, "undecided"),
    ("Liver", "spleen, not liver", W, "set"),
    ("Liver, no spleen", "liver, not kidney", W, "set"),
    # Chinese
    ("肝脏", "这是肝脏。", R, "rephrased"),
    ("肝脏", "图像显示的是肝。", R, "synonym"),
    ("肝脏", "liver", R, "synonym"),
    ("X光", "X线片", R, "synonym"),
    ("左下肺", "左肺下部", R, "synonym"),
    ("双侧", "左和右", R, "synonym"),
    ("脑水肿,增强型脑肿瘤", "增强型脑瘤和脑水肿", R, "set"),
    ("2", "两个", R, "number"),
    ("无", "是无", R, "number"),
    ("肺", "肺不张", W, "different"),
    ("气管下部", "气管下方", U, "undecided"),
    ("左侧", "在图像的左侧", R, "rephrased"),
    ("黑色", "肺的颜色是黑色", R, "rephrased"),
    ("2", "有两个肾脏", R, "number"),
    ("左肺", "右肺", W, "side"),
    ("水肿", "没有水肿", W, "negation"),
    ("增强型脑肿瘤", "非增强型脑肿瘤", W, "opposite"),
    ("肝脏", "肝硬化结节", W, "different"),
    # numbers
    ("2", "two", R, "number"),
    ("2", "There are two kidneys.", R, "number"),
    ("2", "12", W, "number"),
    ("2", "2 is wrong", W, "negation"),
    ("2", "two (2)", R, "number"),
    ("2", "2.5", W, "number"),
    ("2", "2 or 3", W, "extra"),
    ("2", "1 2 3 4", W, "extra"),
    ("0", "none", R, "number"),
    ("None", "No abnormality", R, "number"),
    ("2 cm", "20 mm", R, "number"),
    ("2 cm", "2.0cm", R, "number"),
    ("2 cm", "about 2 centimeters", R, "number"),
    ("2 cm", "2 mm", W, "number"),
    ("2 cm", "2 kg", W, "number"),
    ("2 cm", "1-100 cm", W, "number"),
    ("2 cm", "2", U, "undecided"),
    ("2 cm", "< 2 cm", U, "undecided"),
    ("2-3 cm", "20 to 30 mm", R, "number"),
    ("2-3 cm", "2.5 cm", U, "undecided"),
    ("2-3 cm", "5 cm", W, "number"),
    ("2 cm mass", "2 cm nodule", U, "undecided"),
    ("5%", "5 percent", R, "number"),
    ("4th ventricle", "fourth ventricle", R, "synonym"),
    ("L4", "L5", W, "different"),
    # yes and no
    ("yes", "Yes.", R, "exact"),
    ("no", "No, it is clear", R, "yes_no"),
    ("no", "Yes, it is", W, "yes_no"),
    ("yes", "yes, no", W, "yes_no"),
    ("yes", "Yes, there is no effusion", U, "undecided"),
    ("no", "nodule", W, "yes_no"),
    ("no", "none", W, "yes_no"),
    ("Liver", "yes", W, "yes_no"),
    # sides, heights, negations and opposites
    ("Left lung", "right lung", W, "side"),
    ("Left lung", "both lungs", W, "side"),
    ("Left", "left and right", W, "side"),
    ("Both", "left", W, "side"),
    ("Right upper lobe", "right lower lobe", W, "side"),
    ("Left Lung, Right", "Right Lung, Left", W, "side"),
    ("Effusion", "no effusion", W, "negation"),
    ("Effusion", "There is no evidence of effusion", W, "negation"),
    ("Effusion", "effusion is unlikely", W, "negation"),
    ("No effusion", "effusion", W, "negation"),
    ("Liver", "The liver is not shown", W, "negation"),
    ("Hypodense", "hyperdense", W, "opposite"),
    ("CT with contrast", "CT without contrast", W, "opposite"),
    ("Anterior mediastinum", "posterior mediastinum", W, "opposite"),
    # lists
    ("Liver, Heart", "heart and liver", R, "set"),
    ("Liver, Heart", "Heart; liver.", R, "set"),
    ("Liver, Heart", "liver", W, "set"),
    ("Liver, Heart", "liver, heart, spleen", W, "set"),
    ("Liver", "liver, liver", R, "rephrased"),
    ("Liver", "liver or spleen", W, "extra"),
    ("Liver", "liver spleen", W, "extra"),
    ("Liver", "liver, spleen, heart, kidney", W, "set"),
    ("Liver", "either liver or spleen", W, "extra"),
    ("Atelectasis, Effusion", "pleural effusion and atelectasis", U, "undecided"),
    # other things, and what the rules cannot decide
    ("Liver", "spleen", W, "different"),
    ("T1", "T2", W, "different"),
    ("Brain mass", "lung mass", W, "different"),
    ("Pleural effusion", "small pleural effusion", U, "undecided"),
    ("Chest X-ray", "x-ray", U, "undecided"),
    ("T2", "MRI", U, "undecided"),
    ("Lung", "chest", U, "undecided"),
    ("Tumor", "glioma", U, "undecided"),
    ("Vitamin A deficiency", "vitamin deficiency", U, "undecided"),
    ("Spleen", "accessory spleen", U, "undecided"),
    ("Liver", "Is it the liver?", U, "undecided"),
    ("Liver", "Liver. Spleen.", U, "undecided"),
    ("Liver", "an organ other than the liver", U, "undecided"),
    ("Sinusitis vs. haemorrhage", "sinusitis vs. haemorrhage or something else", W, "set"),
    ("Sinusitis vs. haemorrhage", "It is sinusitis vs. haemorrhage.", R, "set"),
    ("Sinusitis? Surgery?", "sinusitis? surgery? is absent", U, "undecided"),
    ("Anterior to the colon", "colon anterior to", U, "undecided"),
    ("Left of the right lung", "right of the left lung", U, "undecided"),
    ("Most of the lung", "lung", U, "undecided"),
]


@pytest.mark.parametrize(("reference", "answer", "is_right", "rule"), ROWS)
def test_compare(reference: str, answer: str, is_right: bool | None, rule: str) -> None:
    found = compare(answer, reference)
    assert (found.is_right, found.rule) == (is_right, rule)


REFERENCES = sorted({row[0] for row in ROWS})
words = st.sampled_from(
    [
        "left",
        "right",
        "no",
        "not",
        "liver",
        "lung",
        "and",
        "or",
        ",",
        ".",
        "2",
        "2 cm",
        "is",
        "the",
        "It is",
        "肝脏",
        "左",
        "是",
        "-",
        "T2",
        "MRI",
    ]
)
texts = st.one_of(st.text(max_size=40), st.lists(words, max_size=10).map(" ".join))


@settings(max_examples=300, deadline=None)
@given(answer=texts, reference=st.one_of(texts, st.sampled_from(REFERENCES)))
def test_no_text_raises_and_every_text_equals_itself(answer: str, reference: str) -> None:
    found = compare(answer, reference)
    assert (found.is_right is None) == (found.rule == "undecided")
    assert compare(answer, answer).is_right or compare(answer, answer).rule == "empty"
    read_items(answer)


@settings(max_examples=200, deadline=None)
@given(reference=st.sampled_from(REFERENCES), side=st.sampled_from(["left", "right"]), noun=st.sampled_from(["lung", "kidney", "lobe"]))
def test_another_side_is_never_right(reference: str, side: str, noun: str) -> None:
    other = {"left": "right", "right": "left"}[side]
    assert compare(f"It is the {other} {noun}.", f"{side} {noun}").is_right is False
    assert compare(f"{noun} on the {other} side", f"{side} {noun}").is_right is not True
    assert compare(f"no {reference}", reference).is_right is not True


@pytest.mark.parametrize(
    ("text", "quantity"),
    [
        ("5.6cm", Quantity(low=0.056, high=0.056, dimension="length")),
        ("3 - 4 mm", Quantity(low=0.003, high=0.004, dimension="length")),
        ("40 HU", Quantity(low=40, high=40, dimension="attenuation")),
        ("2个", Quantity(low=2, high=2)),
        ("是2", Quantity(low=2, high=2)),
        ("3 weeks", Quantity(low=1814400, high=1814400, dimension="time")),
    ],
)
def test_take_quantities(text: str, quantity: Quantity) -> None:
    (found,) = take_quantities(text)[1]
    assert is_same_quantity(found, quantity)
    assert found.dimension == quantity.dimension


@pytest.mark.parametrize("text", ["T2", "L4", "B12", "x2y", "1.2.3"])
def test_numbers_inside_names_are_no_quantities(text: str) -> None:
    assert take_quantities(text)[1] == []


def test_the_own_table_repeats_nothing_that_the_table_of_statements_has() -> None:
    general = {
        phrase: {fold_term(value) for _, value in values}
        for entries in general_terms().by_first_word.values()
        for phrase, values in entries
    }
    for phrase, (_, canonical) in own_phrases().items():
        is_canonical = phrase == fold_term(" ".join(canonical))
        assert is_canonical or fold_term(" ".join(canonical)) not in general.get(phrase, ()), phrase


def test_opposites_are_pairs_of_different_words() -> None:
    for word, other in OPPOSITES.items():
        assert word != other
        assert (match := answer_terms().match([word], 0)) is None or match[1] == (word,), word


@pytest.mark.parametrize("piece", ["liver, ", "2 cm ", "2-", "left and ", "is ", "no ", "or ", "肝", "在", "2 cm to ", "the image is "])
@pytest.mark.parametrize("reference", ["Liver", "Liver, Heart", "2 cm"])
def test_cost_is_linear_in_the_answer(piece: str, reference: str) -> None:
    compare("left lung, 2 cm", reference)  # builds the indexes
    read_items.cache_clear()
    short, long = (piece * (size // len(piece)) for size in (2_000, 4_000))
    assert count_lines(compare.__wrapped__, long, reference) <= 3 * count_lines(compare.__wrapped__, short, reference) + 1_000


WORDS = st.lists(
    st.sampled_from(
        ["lung", "chest", "left", "right", "no", "pleural effusion", "effusion", "mri", "t2", "11th", "10th", "normal", "mass"]
    ),
    max_size=4,
).map(tuple)


@settings(deadline=None)
@given(WORDS, WORDS)
def test_phrases_are_related_where_their_words_are(one: tuple[str, ...], other: tuple[str, ...]) -> None:
    first, second = _read_phrase(one), _read_phrase(other)
    assert _are_related(first, second) == _is_related(first.bare, second.bare)
