"""Grading: one table of completions and verdicts."""

from __future__ import annotations

import pytest

from osler.errors import ConfigError, DataError
from osler.grading import REWARDS, Source, grade, parse
from osler.prompts import STRATEGIES, target_completion
from osler.types import Outcome, Sample

MODALITIES = ("CT", "MRI", "X-ray", "Ultrasound")  # the target is always B
NESTED = ("CT", "CT angiography", "Angiography", "CT and MRI")
HEPATITIS = ("Hepatitis C", "Hepatitis B", "Vitamin A deficiency", "A cyst")
YES_NO = ("No", "Yes")
TWINS = ("Tumour", "Cyst", "Cyst", "Normal")
BLOOD = ("B", "A", "AB", "O")
GRADES = ("I", "II", "III", "IV")
SIZES = ("<5 mm", ">5 mm", "5 mm", "-5 mm")
CHINESE = ("计算机断层扫描", "磁共振", "X光", "超声")
STARS = ("T2", "T2*", "1.5 T", "5 T")

C, W, N, A = Outcome.CORRECT, Outcome.INCORRECT, Outcome.NO_ANSWER, Outcome.AMBIGUOUS

VERDICTS: list[tuple[tuple[str, ...], str, Outcome, str]] = [
    # letters
    (MODALITIES, "<answer>B</answer>", C, "answer_tag.letter"),
    (MODALITIES, "<answer> b </answer>", C, "answer_tag.letter"),
    (MODALITIES, "<answer>A</answer>", W, "answer_tag.letter"),
    (MODALITIES, "<answer>(B)</answer>", C, "answer_tag.letter"),
    (MODALITIES, "<answer>B)</answer>", C, "answer_tag.letter"),
    (MODALITIES, "<answer>B.</answer>", C, "answer_tag.letter"),
    (MODALITIES, "<answer>[B]</answer>", C, "answer_tag.letter"),
    (MODALITIES, "<answer>**B**</answer>", C, "answer_tag.letter"),
    (MODALITIES, "<answer>*B*</answer>", C, "answer_tag.letter"),
    (MODALITIES, '<answer>"B"</answer>', C, "answer_tag.letter"),
    (MODALITIES, "<answer>`B`</answer>", C, "answer_tag.letter"),
    (MODALITIES, "<answer>Option B</answer>", C, "answer_tag.letter"),
    (MODALITIES, "<answer>choice (B)</answer>", C, "answer_tag.letter"),
    (MODALITIES, "<answer>\nB\n</answer>", C, "answer_tag.letter"),
    (MODALITIES, "<answer>The answer is B</answer>", C, "answer_tag.letter"),
    (MODALITIES, "<answer>B, B</answer>", C, "answer_tag.letter"),
    (MODALITIES, "<answer>B because the skull is dark</answer>", C, "answer_tag.letter"),
    (MODALITIES, "<answer>B) because A and C show no ring</answer>", C, "answer_tag.letter"),
    (MODALITIES, "<answer>E</answer>", W, "answer_tag.letter_out_of_range"),
    (MODALITIES, "<answer>E) None of these</answer>", W, "answer_tag.letter_out_of_range"),
    (MODALITIES, "<ANSWER>B</ANSWER>", C, "answer_tag.letter"),
    (MODALITIES, "< answer >B</ answer >", C, "answer_tag.letter"),
    # letter with text, option text
    (MODALITIES, "<answer>B) MRI</answer>", C, "answer_tag.letter_and_text"),
    (MODALITIES, "<answer>B)MRI</answer>", C, "answer_tag.letter_and_text"),
    (MODALITIES, "<answer>B. mri.</answer>", C, "answer_tag.letter_and_text"),
    (MODALITIES, "<answer>B.MRI</answer>", C, "answer_tag.letter_and_text"),
    (MODALITIES, "<answer>B: MRI</answer>", C, "answer_tag.letter_and_text"),
    (MODALITIES, "<answer>B - MRI</answer>", C, "answer_tag.letter_and_text"),
    (MODALITIES, "<answer>B MRI</answer>", C, "answer_tag.letter_and_text"),
    (MODALITIES, "<answer>B (MRI)</answer>", C, "answer_tag.letter_and_text"),
    (MODALITIES, "<answer>MRI (B)</answer>", C, "answer_tag.letter_and_text"),
    (MODALITIES, "<answer>MRI</answer>", C, "answer_tag.text"),
    (MODALITIES, "<answer>an mri.</answer>", C, "answer_tag.text"),
    (MODALITIES, "<answer>x ray</answer>", W, "answer_tag.text"),
    (MODALITIES, "<answer>X‑RAY</answer>", W, "answer_tag.text"),
    (MODALITIES, "<answer>B) CT</answer>", A, "answer_tag.disagreement"),
    (MODALITIES, "<answer>B) CT scan</answer>", A, "answer_tag.disagreement"),
    (MODALITIES, "<answer>B: the CT</answer>", A, "answer_tag.disagreement"),
    (MODALITIES, "<answer>MRI (A)</answer>", A, "answer_tag.disagreement"),
    (MODALITIES, "<answer>B) CT</answer> The answer is B", A, "answer_tag.disagreement"),
    (MODALITIES, "B) CT. The answer is B.", A, "statement.disagreement"),
    # never a substring, never the nearest
    (MODALITIES, "<answer>MRI scan</answer>", N, "answer_tag.not_an_option"),
    (MODALITIES, "<answer>MR</answer>", N, "answer_tag.not_an_option"),
    (MODALITIES, "<answer>MRII</answer>", N, "answer_tag.not_an_option"),
    (MODALITIES, "<answer>PET</answer>", N, "answer_tag.not_an_option"),
    (MODALITIES, "<answer>I see a brain</answer>", N, "answer_tag.not_an_option"),
    (MODALITIES, "<answer>a brain</answer>", N, "answer_tag.not_an_option"),
    (MODALITIES, "<answer>A brain</answer>", N, "answer_tag.not_an_option"),
    (MODALITIES, "<answer>B-cell lymphoma</answer>", N, "answer_tag.not_an_option"),
    (MODALITIES, "<answer>C. difficile</answer>", N, "answer_tag.not_an_option"),
    (MODALITIES, "<answer>E.coli</answer>", N, "answer_tag.not_an_option"),
    (MODALITIES, "<answer>Hepatitis B</answer>", N, "answer_tag.not_an_option"),
    (MODALITIES, "<answer>N/A</answer>", N, "answer_tag.not_an_option"),
    (MODALITIES, "This picture was taken with MRI at night.", N, "statement.not_an_option"),
    (MODALITIES, "I cannot tell from this image.", N, "statement.not_an_option"),
    (MODALITIES, "Is the answer B?", N, "statement.not_an_option"),
    (MODALITIES, "If the answer is B, then the ring is bright.", N, "statement.not_an_option"),
    (MODALITIES, "The answer could be B.", N, "statement.not_an_option"),
    # nested option texts and letters inside texts
    (NESTED, "<answer>CT angiography</answer>", C, "answer_tag.text"),
    (NESTED, "<answer>CT-angiography</answer>", C, "answer_tag.text"),
    (NESTED, "<answer>CT</answer>", W, "answer_tag.text"),
    (NESTED, "<answer>B) CT angiography</answer>", C, "answer_tag.letter_and_text"),
    (NESTED, "<answer>B) CT</answer>", A, "answer_tag.disagreement"),
    (NESTED, "<answer>A) CT angiography</answer>", A, "answer_tag.disagreement"),
    (NESTED, "<answer>CT and MRI</answer>", W, "answer_tag.text"),
    (NESTED, "<answer>CT or angiography</answer>", A, "answer_tag.several"),
    (NESTED, "<answer>CT perfusion</answer>", N, "answer_tag.not_an_option"),
    (HEPATITIS, "<answer>Hepatitis C</answer>", W, "answer_tag.text"),
    (HEPATITIS, "<answer>Hepatitis B</answer>", C, "answer_tag.text"),
    (HEPATITIS, "The answer is hepatitis B.", C, "statement.text"),
    (HEPATITIS, "<answer>B) Hepatitis B</answer>", C, "answer_tag.letter_and_text"),
    (HEPATITIS, "<answer>C) Hepatitis C</answer>", A, "answer_tag.disagreement"),
    (HEPATITIS, "<answer>Vitamin A deficiency</answer>", W, "answer_tag.text"),
    (HEPATITIS, "<answer>Vitamin A</answer>", N, "answer_tag.not_an_option"),
    (HEPATITIS, "<answer>A cyst</answer>", W, "answer_tag.text"),
    (HEPATITIS, "<answer>cyst</answer>", W, "answer_tag.text"),
    (YES_NO, "<answer>Yes</answer>", C, "answer_tag.text"),
    (YES_NO, "Yes, there is a nodule.", C, "statement.text"),
    (YES_NO, "There is no nodule.", N, "statement.not_an_option"),
    (YES_NO, "Nodule", N, "statement.not_an_option"),
    (TWINS, "<answer>Cyst</answer>", A, "answer_tag.duplicate_text"),
    (TWINS, "<answer>B) Cyst</answer>", C, "answer_tag.letter_and_text"),
    (TWINS, "<answer>Tumour</answer>", W, "answer_tag.text"),
    (BLOOD, "<answer>B</answer>", C, "answer_tag.letter"),
    (BLOOD, "<answer>B) A</answer>", C, "answer_tag.letter"),
    (BLOOD, "<answer>AB</answer>", W, "answer_tag.text"),
    (GRADES, "<answer>II</answer>", C, "answer_tag.text"),
    (GRADES, "<answer>I</answer>", W, "answer_tag.text"),
    (SIZES, "<answer>>5 mm</answer>", C, "answer_tag.text"),
    (SIZES, "<answer>-5 mm</answer>", W, "answer_tag.text"),
    (SIZES, "<answer>15 mm</answer>", N, "answer_tag.not_an_option"),
    (STARS, "<answer>T2*</answer>", C, "answer_tag.text"),
    (STARS, "<answer>**T2**</answer>", W, "answer_tag.text"),
    (STARS, "<answer>1.5 T</answer>", W, "answer_tag.text"),
    # several, denied
    (MODALITIES, "<answer>A or B</answer>", A, "answer_tag.several"),
    (MODALITIES, "<answer>B and C</answer>", A, "answer_tag.several"),
    (MODALITIES, "<answer>A, B</answer>", A, "answer_tag.several"),
    (MODALITIES, "<answer>B/C</answer>", A, "answer_tag.several"),
    (MODALITIES, "<answer>both A and B</answer>", A, "answer_tag.several"),
    (MODALITIES, "<answer>MRI or CT</answer>", A, "answer_tag.several"),
    (MODALITIES, "<answer>B, CT</answer>", A, "answer_tag.several"),
    (MODALITIES, "<answer>A) CT B) MRI C) X-ray D) Ultrasound</answer>", A, "answer_tag.several"),
    (MODALITIES, "The answer is A. Wait, the answer is B.", A, "statement.several"),
    (MODALITIES, "A\nB", A, "statement.several"),
    (MODALITIES, "<answer>B, not A</answer>", C, "answer_tag.letter"),
    (MODALITIES, "<answer>B. Not A.</answer>", C, "answer_tag.letter"),
    (MODALITIES, "<answer>A, not B</answer>", W, "answer_tag.letter"),
    (MODALITIES, "<answer>not A but B</answer>", C, "answer_tag.letter"),
    (MODALITIES, "<answer>B rather than A</answer>", C, "answer_tag.letter"),
    (MODALITIES, "<answer>MRI, not CT</answer>", C, "answer_tag.text"),
    (MODALITIES, "<answer>not B</answer>", N, "answer_tag.negated"),
    (MODALITIES, "<answer>neither A nor B</answer>", N, "answer_tag.negated"),
    (MODALITIES, "The answer isn't B.", N, "statement.negated"),
    (MODALITIES, "I don't think the answer is B.", N, "statement.negated"),
    (YES_NO, "The answer is not No.", N, "statement.negated"),
    (MODALITIES, "A is wrong. B is correct.", C, "statement.letter"),
    (MODALITIES, "B is not the correct answer.", N, "statement.negated"),
    # statements
    (MODALITIES, "B", C, "statement.letter"),
    (MODALITIES, "MRI", C, "statement.text"),
    (MODALITIES, "B. The ring is bright.", C, "statement.letter"),
    (MODALITIES, "The correct answer is: (B) MRI.", C, "statement.letter_and_text"),
    (MODALITIES, "**Answer:** B", C, "statement.letter"),
    (MODALITIES, "The skull is dark.\n\nB", C, "statement.letter"),
    (MODALITIES, "A) CT\nB) MRI\nC) X-ray\nSo the answer is B.", C, "statement.letter"),
    (MODALITIES, "This is an MRI.", C, "statement.text"),
    (MODALITIES, "It's B", C, "statement.letter"),
    (MODALITIES, "I choose option B.", C, "statement.letter"),
    (MODALITIES, "The answer is B, as A would show bone", C, "statement.letter"),
    (MODALITIES, "<think>A</think> The answer is B", C, "statement.letter"),
    (MODALITIES, "B</answer>", C, "statement.letter"),
    (MODALITIES, "B<|im_end|>", C, "statement.letter"),
    (MODALITIES, "The answer is B.</s>", C, "statement.letter"),
    # JSON, LaTeX
    (MODALITIES, '{"answer": "B"}', C, "statement.letter"),
    (MODALITIES, '{"answer": "MRI", "why": "not A"}', C, "statement.text"),
    (MODALITIES, '```json\n{"answer": "B"}\n```', C, "statement.letter"),
    (MODALITIES, '<answer>{"answer": "B"}</answer>', C, "answer_tag.letter"),
    (MODALITIES, '{"answer": "B", "final_answer": "A"}', A, "statement.several"),
    (MODALITIES, "\\boxed{B}", C, "statement.letter"),
    (MODALITIES, "The final answer is $\\boxed{\\text{B}}$.", C, "statement.letter"),
    (MODALITIES, "\\boxed{\\text{MRI}}", C, "statement.text"),
    (MODALITIES, "\\[\\boxed{A}\\]", W, "statement.letter"),
    # Unicode and other languages
    (MODALITIES, "<answer>Ｂ</answer>", C, "answer_tag.letter"),
    (MODALITIES, "<answer>（Ｂ）</answer>", C, "answer_tag.letter"),
    (MODALITIES, "<answer>\u200bB\u200d</answer>", C, "answer_tag.letter"),
    (MODALITIES, "<ans\u200bwer>B</answer>", C, "answer_tag.letter"),
    (MODALITIES, "＜answer＞B＜／answer＞", C, "answer_tag.letter"),
    (MODALITIES, "<answer>\u0412</answer>", N, "answer_tag.not_an_option"),  # a Cyrillic letter
    (MODALITIES, "答案是B", C, "statement.letter"),
    (MODALITIES, "正确答案为：Ｂ。", C, "statement.letter"),
    (MODALITIES, "答案是B因为颅骨是暗的", C, "statement.letter"),
    (MODALITIES, "选项B", C, "statement.letter"),
    (MODALITIES, "答案是A或B", A, "statement.several"),
    (MODALITIES, "答案不是B", N, "statement.negated"),
    (MODALITIES, "选择B项", C, "statement.letter"),
    (MODALITIES, "B是正确的", C, "statement.letter"),
    (MODALITIES, "B不正确", N, "statement.negated"),
    (CHINESE, "答案是磁共振。", C, "statement.text"),
    (CHINESE, "<answer>B、磁共振</answer>", C, "answer_tag.letter"),
    (MODALITIES, "La réponse est B.", C, "statement.letter"),
    (MODALITIES, "Die richtige Antwort ist B, nicht A.", C, "statement.letter"),
    (MODALITIES, "La respuesta correcta es B.", C, "statement.letter"),
    (MODALITIES, "Ответ: B", C, "statement.letter"),
    # think, several tags, cut-off text, nothing
    (MODALITIES, "<think>so A</think><answer>B</answer>", C, "answer_tag.letter"),
    (MODALITIES, "<think><answer>A</answer></think><answer>B</answer>", C, "answer_tag.letter"),
    (MODALITIES, "<think><answer>B</answer></think>", N, "think_only"),
    (MODALITIES, "<think>The answer is B</think>", N, "think_only"),
    (MODALITIES, "<think>The answer is B", N, "unclosed_think"),
    (MODALITIES, "<think>x <answer>B</answer>", N, "unclosed_think"),
    (MODALITIES, "The answer is B. <think>wait", N, "unclosed_think"),
    (MODALITIES, "<answer>B</answer><think>the skull", C, "answer_tag.letter"),
    (MODALITIES, "so A <answer>A</answer></think><answer>B</answer>", C, "answer_tag.letter"),
    (MODALITIES, "so <answer>B</answer></think>", N, "think_only"),
    (MODALITIES, "<answer>A</answer> no, <answer>B</answer>", C, "answer_tag.letter"),
    (MODALITIES, "<answer>A <answer>B</answer>", C, "answer_tag.letter"),
    (MODALITIES, "<answer><think>A</think>B</answer>", C, "answer_tag.letter"),
    (MODALITIES, "<answer>B</answer><answer></answer>", N, "answer_tag.empty"),
    (MODALITIES, "B <answer> </answer>", N, "answer_tag.empty"),
    (MODALITIES, "<think>x</think><answer>B", C, "open_answer_tag.letter"),
    (MODALITIES, "<think>x</think><answer>B) M", C, "open_answer_tag.letter"),
    (MODALITIES, "<think>x</think><answer>MRI", N, "open_answer_tag.cut_off_text"),
    (MODALITIES, "The answer is B <answer>", C, "statement.letter"),
    (MODALITIES, "", N, "empty"),
    (MODALITIES, " \n\u200b", N, "empty"),
    (MODALITIES, "<think></think><answer></answer>", N, "answer_tag.empty"),
    (MODALITIES, "<answer>", N, "empty"),
    (MODALITIES, "</think>", N, "think_only"),
]


@pytest.mark.parametrize(("choices", "text", "outcome", "rule"), VERDICTS)
def test_grade(choices: tuple[str, ...], text: str, outcome: Outcome, rule: str) -> None:
    verdict = grade(text, choices=choices, target="B", strategy="think")
    assert (verdict.outcome, verdict.rule) == (outcome, rule)
    assert (verdict.answer is None) == (outcome in (N, A))
    assert (verdict.answer == "B") == (outcome is C)


OPEN_VERDICTS = [
    ("Spleen", "<answer>spleen.</answer>", C, "answer_tag.text.exact"),
    ("Spleen", "<answer>The spleen</answer>", C, "answer_tag.text.exact"),
    ("Spleen", "Spleen", C, "statement.text.exact"),
    ("Spleen", "The answer is the spleen. It is large.", C, "statement.claim.exact"),
    ("Spleen", "<answer>The answer is spleen.</answer>", C, "answer_tag.claim.exact"),
    ("Spleen", "<answer>liver</answer>", W, "answer_tag.text.different"),
    ("Spleen", "<answer>spleen and liver</answer>", W, "answer_tag.text.set"),
    ("Spleen", "<answer>accessory spleen</answer>", W, "answer_tag.text.undecided"),
    ("Spleen", "The answer is spleen. The answer is liver.", A, "statement.several"),
    ("Spleen", "The organ is large.\nIt looks like a spleen.", N, "statement.not_committed"),
    ("Spleen", "<think>Spleen</think>", N, "think_only"),
    ("Spleen", "<think>Spleen", N, "unclosed_think"),
    ("Spleen", "<answer>Spleen", N, "open_answer_tag.cut_off_text"),
    ("Spleen", "", N, "empty"),
    ("Spleen", "<answer>.</answer>", W, "answer_tag.text.empty"),
    ("Disease of the lung", "<answer>disease of lung</answer>", C, "answer_tag.text.exact"),
    ("Vitamin A deficiency", "<answer>vitamin deficiency</answer>", W, "answer_tag.text.undecided"),
    ("yes", "<answer>Yes.</answer>", C, "answer_tag.text.exact"),
    ("yes", "<answer>True</answer>", C, "answer_tag.text.exact"),
    ("yes", "<answer>是的</answer>", C, "answer_tag.text.exact"),
    ("no", "<answer>nodule</answer>", W, "answer_tag.text.yes_no"),
    ("no", "<answer>No, there is none</answer>", C, "answer_tag.text.yes_no"),
    ("X-Ray", "<answer>x ray</answer>", C, "answer_tag.text.exact"),
    ("B", "<answer>A</answer>", W, "answer_tag.text.different"),
    ("2", "<answer>２</answer>", C, "answer_tag.text.exact"),
    ("2", "\\boxed{2}", C, "statement.claim.exact"),
    ("肝脏", "答案是肝脏。", C, "statement.claim.exact"),
    ("", "<answer>?</answer>", W, "answer_tag.text.empty"),
]


@pytest.mark.parametrize(("target", "text", "outcome", "rule"), OPEN_VERDICTS)
def test_grade_open(target: str, text: str, outcome: Outcome, rule: str) -> None:
    verdict = grade(text, choices=(), target=target, strategy="think")
    assert (verdict.outcome, verdict.rule) == (outcome, rule)


@pytest.mark.parametrize(
    ("strategy", "text", "outcome"),
    [
        ("think_after", "B <think>A</think>", C),
        ("think_after", "B <think>cut", C),
        ("think_after", "<think>x</think>B", C),
        ("think_after", "<answer>B</answer> A is dark</think>", C),
        ("think", "B <think>A</think>", N),
        ("think", "<answer>B</answer> A is dark</think>", N),
        ("zero_shot", "B", C),
        ("med_r1_think", "<answer>B</answer>", C),
    ],
)
def test_where_the_statement_lies_follows_the_strategy(strategy: str, text: str, outcome: Outcome) -> None:
    assert grade(text, choices=MODALITIES, target="B", strategy=strategy).outcome is outcome


WELL_FORMED = [
    ("think", "<think>x</think><answer>B</answer>", True),
    ("think", "<think>x</think>\n\n<answer>B) MRI</answer>\n", True),
    ("think", "<think> </think><answer>B</answer>", False),
    ("think", "<think>x</think><answer> </answer>", False),
    ("think", "<think>x</think>so<answer>B</answer>", False),
    ("think", "x<think>x</think><answer>B</answer>", False),
    ("think", "<think>x</think><answer>B</answer>x", False),
    ("think", "<think>x<think>y</think><answer>B</answer>", False),
    ("think", "<think>x</think><answer>B</answer><answer>B</answer>", False),
    ("think", "<THINK>x</THINK><answer>B</answer>", False),
    ("think", "<answer>B</answer><think>x</think>", False),
    ("think", "<answer>B</answer>", False),
    ("no_think", "<answer>B</answer>", True),
    ("no_think", "B", False),
    ("no_think", "<think>x</think><answer>B</answer>", False),
    ("think_after", "<answer>B</answer> <think>x</think>", True),
    ("think_after", "<think>x</think><answer>B</answer>", False),
    ("zero_shot", "B", True),
    ("zero_shot", "<answer>B</answer>", True),
    ("zero_shot", " ", False),
    ("zero_shot", "<answer></answer>", False),
    ("zero_shot", "<think>cut", False),
    ("medvlm_r1", "<think>x</think>\n<answer>B</answer>", True),
    ("med_r1_no_think", "<answer>B</answer>", True),
]


@pytest.mark.parametrize(("strategy", "text", "is_well_formed"), WELL_FORMED)
def test_well_formed(strategy: str, text: str, is_well_formed: bool) -> None:
    assert parse(text, strategy=strategy).is_well_formed is is_well_formed
    assert grade(text, choices=MODALITIES, target="B", strategy=strategy).is_well_formed is is_well_formed
    assert REWARDS["format"]([None], [text], strategy=[strategy]) == [float(is_well_formed)]


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize(("choices", "target"), [(MODALITIES, "B"), ((), "Spleen")])
def test_what_sft_teaches_is_correct_and_well_formed(strategy: str, choices: tuple[str, ...], target: str) -> None:
    sample = Sample(
        id="toy/1",
        dataset="toy",
        images=(),
        question="Which?",
        choices=choices,
        target=target,
        modality=None,
        question_type=None,
        rationale="The answer is A.",
    )
    verdict = grade(target_completion(sample, strategy), choices=choices, target=target, strategy=strategy)
    assert verdict.outcome is C
    assert verdict.is_well_formed


def test_parse_takes_a_completion_apart() -> None:
    parsed = parse("<think> one </think><answer>A</answer><think>two</think> <answer>B</answer>", strategy="zero_shot")
    assert parsed.content == "B"
    assert parsed.source is Source.ANSWER_TAG
    assert parsed.reasoning == "one\ntwo"


@pytest.mark.parametrize(
    ("target", "strategy", "error", "match"),
    [
        ("E", "think", DataError, "letter from A to D"),
        ("MRI", "think", DataError, "none of the 4"),
        ("", "think", DataError, "letter"),
        ("B", "cot", ConfigError, "use one of"),
    ],
)
def test_grade_refuses(target: str, strategy: str, error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        grade("B", choices=MODALITIES, target=target, strategy=strategy)
