"""Options that begin as a grammar would, and answers that evaluation reads but no reward pays for."""

import pytest

from osler.grading import REWARDS, grade
from osler.grading.lenient import is_lenient
from osler.types import LETTERS, Outcome

WHOLE = [
    ("Left", "Right", "Both"),
    ("Left lung", "Right lung", "Both lungs"),
    ("Clear", "Lungs", "Both lungs"),
    ("Left", "Right", "Neither"),
    ("Left side", "Right side", "Either side"),
    ("Enhanced", "Not enhanced"),
    ("Seen", "Not seen"),
    ("Always", "Never"),
    ("Lesion", "No lesion", "Except the lesion"),
    ("是的", "不是"),
    ("包含", "不包含"),
    ("正常", "不正常", "非正常"),
    ("CT", "MRI", "N/A"),
    ("CT\nscan", "MRI"),
    ("Yes", "No", "Not sure"),
]


@pytest.mark.parametrize("choices", WHOLE, ids=lambda choices: choices[-1].replace("\n", " "))
@pytest.mark.parametrize(
    "form", ["<answer>{text}</answer>", "<answer>{text}.</answer>", "{text}", "<answer>{letter}) {text}</answer>", "The answer is {text}."]
)
def test_the_whole_text_of_an_option_is_that_option(choices: tuple[str, ...], form: str) -> None:
    for letter, text in zip(LETTERS, choices, strict=False):
        if "\n" in text and form.startswith("The"):
            continue
        verdict = grade(form.format(text=text, letter=letter), choices=choices, target=letter, strategy="no_think", is_lenient=False)
        assert verdict.outcome is Outcome.CORRECT, (text, verdict)


@pytest.mark.parametrize("choices", [("CT", "MRI"), ("有", "没有"), ("是", "否")])
@pytest.mark.parametrize("text", ["答案是B", "答案是：B", "正确答案是B。", "答案应该是B", "答案为B", "答案：B", "选B"])
def test_a_chinese_cue_is_read_where_its_word_is_an_option(choices: tuple[str, ...], text: str) -> None:
    assert grade(text, choices=choices, target="B", strategy="no_think", is_lenient=False).outcome is Outcome.CORRECT


FINDINGS = ("Pneumothorax", "Pleural effusion", "Normal", "Left and right effusion")  # the target is always B
DISEASES = ("Liver", "Pneumonia", "Normal", "Tumour")
CHINESE = ("肺部", "肝脏", "心脏")
C, W, N, A = Outcome.CORRECT, Outcome.INCORRECT, Outcome.NO_ANSWER, Outcome.AMBIGUOUS
SENTENCES: list[tuple[tuple[str, ...], str, Outcome, str]] = [
    (FINDINGS, "This X-ray shows a pleural effusion.", C, "sentence"),
    (FINDINGS, "The image shows a pleural effusion on the left side.", C, "sentence"),
    (FINDINGS, "In this image, pleural effusion is present.", C, "sentence"),
    (FINDINGS, "I can see a pleural effusion here, which is large.", C, "sentence"),
    (FINDINGS, "This X-ray shows a pneumothorax.", W, "sentence"),
    (FINDINGS, "A pleural effusion is present (B)", C, "sentence_letter"),
    (FINDINGS, "A pleural effusion is present (A)", A, "disagreement"),
    (FINDINGS, "B B", C, "repeated_letter"),
    (FINDINGS, "(B) (B)", C, "letter"),
    (FINDINGS, "A A A", W, "repeated_letter"),
    (("T1", "t1"), "<answer>t1</answer>", C, "exact_text"),
    (("mg", "Mg"), "Mg.", C, "exact_text"),
    (CHINESE, "图中显示的是肝脏。", C, "sentence"),
    # what leaves it open, denies it or names two
    (FINDINGS, "This X-ray does not show a pleural effusion.", N, "not_an_option"),
    (FINDINGS, "There is no pleural effusion here.", N, "not_an_option"),
    (FINDINGS, "This may be a pleural effusion.", N, "not_an_option"),
    (FINDINGS, "I cannot say whether this is a pleural effusion.", N, "not_an_option"),
    (FINDINGS, "Is this a pleural effusion?", N, "not_an_option"),
    (FINDINGS, "This shows a pleural effusion, and a pneumothorax is seen.", N, "not_an_option"),
    (FINDINGS, "It is a pleural effusion, not a pneumothorax.", C, "text"),
    (FINDINGS, "This shows pleural effusion drainage.", N, "not_an_option"),
    (FINDINGS, "A post-pleural effusion state is seen.", N, "not_an_option"),
    (FINDINGS, "Pleural effusion drain", N, "not_an_option"),
    (FINDINGS, "The lungs are large.", N, "not_an_option"),
    (FINDINGS, "Sorry, I am unable to see a pleural effusion.", N, "not_an_option"),
    *(
        (DISEASES, text, N, "not_an_option")
        for text in (
            "Pneumonia is the least likely diagnosis.",
            "It is hardly pneumonia.",
            "This has none of the features of pneumonia.",
            "The image shows signs inconsistent with pneumonia.",
            "It shows the opposite of pneumonia.",
            "It has been suggested that this is pneumonia but that is false.",
            "The radiologist suspects pneumonia here, and is wrong.",
            "There is resolved pneumonia.",
            "Pneumonia was treated last year; the lungs are clear.",
            "Patient has been screened for pneumonia.",
            "The image has been taken to detect pneumonia.",
            "This image shows the chest. An X-ray is used to see pneumonia.",
            "Ruling out pneumonia is the main thing.",
            "The kidney is next to the liver.",
            "The lungs are normal.",
            "The heart is normal.",
            "A a a",
            "A-A",
        )
    ),
    (("Yes", "No"), "There is no fracture in this image.", N, "not_an_option"),
    (CHINESE, "图中没有显示肝脏。", N, "not_an_option"),
    (("是", "否"), "这是一个图像。", N, "not_an_option"),
    (("T1", "t1"), "<answer>T 1</answer>", N, "not_an_option"),
    (FINDINGS, "<answer>A</answer><answer>B</answer>", C, "letter"),
    (FINDINGS, "<answer>A</answer><answer>C</answer><answer>B</answer>", A, "many_answers"),
    (FINDINGS, "<answer>B</answer><answer>A</answer><answer>B</answer>", C, "letter"),
    (FINDINGS, "<answer>B</answer><answer>B.</answer><answer>B) Pleural effusion</answer>", C, "letter_and_text"),
    (FINDINGS, "<answer></answer><answer>A</answer><answer>B</answer>", C, "letter"),
]


@pytest.mark.parametrize(("choices", "text", "outcome", "kind"), SENTENCES)
def test_sentences_are_read_by_rules_of_their_own(choices: tuple[str, ...], text: str, outcome: Outcome, kind: str) -> None:
    verdict = grade(text, choices=choices, target="B", strategy="zero_shot")
    assert (verdict.outcome, verdict.rule.rpartition(".")[2]) == (outcome, kind)
    strict = grade(text, choices=choices, target="B", strategy="zero_shot", is_lenient=False)
    assert not is_lenient(strict.rule)
    assert strict.outcome is outcome or (is_lenient(verdict.rule) or kind == "disagreement")
    (paid,) = REWARDS["accuracy"](["?"], [text], choices=[choices], target=["B"], strategy=["zero_shot"])
    assert paid == (strict.outcome is C)
    assert not (is_lenient(verdict.rule) and paid)


@pytest.mark.parametrize("text", ["X-ray. or CT", "X-ray. / CT", "It is X-ray. or CT.", "图中显示肝脏和肺。"])
def test_a_full_stop_within_an_option_ends_no_list(text: str) -> None:
    choices = ("CT", "X-ray.", "肝脏", "肺")
    assert grade(text, choices=choices, target="B", strategy="zero_shot").answer is None
