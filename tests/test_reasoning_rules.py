"""What each rule reads in a reasoning, and how reasoning is cut, shuffled and replaced."""

import random
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from osler.evaluation.interventions import Intervention, cut, intervene, shuffle
from osler.evaluation.reasoning_rules import RULES, check_reasoning, summarize_reasoning
from osler.types import Record

SIDES = ("left lung", "right lung", "both lungs")
FINDINGS = ("cyst", "renal cyst", "tumour", "normal")


def record(
    reasoning: str | None, *, choices: tuple[str, ...] = FINDINGS, answer: str | None = "A", modality: str | None = "ct", number: int = 0
) -> Record:
    return Record(
        sample_id=f"test/{number}", dataset="test", modality=modality, question_type="disease_diagnosis", subject_id=None,
        image_uris=(f"{number}.png",), strategy="think", policy="me", prompt="What is it?\nA) cyst", num_tokens=9, finish_reason="stop",
        completion=f"<think>{reasoning}</think><answer>{answer}</answer>", choices=choices, target="A", answer=answer, reasoning=reasoning,
        is_well_formed=True, outcome="correct", rule="answer_tag.letter",
    )  # fmt: skip


def stated(found: Record, rule: str) -> str | None:
    return next((finding.stated for finding in check_reasoning(found) if finding.rule == rule), None)


MODALITY: list[tuple[str, str | None]] = [
    ("This is a CT of the abdomen.", "ct"),
    ("The computed tomography shows a ring.", "ct"),
    ("An X-ray of the chest.", "xray"),
    ("A chest radiograph.", "xray"),
    ("A T2-weighted image.", "mri"),
    ("On MRI there is no oedema.", "mri"),
    ("No shift is seen on CT.", "ct"),
    ("Optical coherence tomography of the macula.", "oct"),
    ("A colour fundus image.", "fundus"),
    ("The gastric fundus is normal.", None),
    ("This is not CT.", None),
    ("This is not a CT but an MRI.", "mri"),
    ("It isn't an MRI.", None),
    ("Unlike CT, the bone is dark.", None),
    ("CT is unlikely here.", None),
    ("CT can be ruled out.", None),
    ("CT or MRI.", None),
    ("Either CT or MRI, hard to say.", None),
    ("If this were MRI, fluid would be bright.", None),
    ("A CT, whereas an MRI shows more.", None),
    ("Octopus and section.", None),
    ("A ring enhances.", None),
    ("", None),
]


@pytest.mark.parametrize(("reasoning", "expected"), MODALITY)
def test_modalities(reasoning: str, expected: str | None) -> None:
    assert stated(record(reasoning), "modality") == expected


SIDE: list[tuple[str, str | None]] = [
    ("The opacity is in the left lung.", "left"),
    ("A left-sided effusion.", "left"),
    ("The lesion lies on the right.", "right"),
    ("Not on the left, but on the right.", "right"),
    ("There is nothing on the left or right.", None),
    ("No effusion in the left lung.", None),
    ("The left is normal, the right is dense.", None),
    ("The right answer is clear.", None),
    ("The opacity is on the left of the image.", None),
    ("The opacity is on the left side of the picture.", None),
    ("It was left untreated.", None),
    ("The left is not affected.", None),
    ("It could be left.", None),
    ("Bright.", None),
]


@pytest.mark.parametrize(("reasoning", "expected"), SIDE)
def test_sides(reasoning: str, expected: str | None) -> None:
    assert stated(record(reasoning, choices=SIDES), "side") == expected


OPTION: list[tuple[str, str | None]] = [
    ("With a bright ring, the finding is tumour", "C"),
    ("It may look like a tumour. The wall is thin, so this is a renal cyst.", "B"),
    ("The answer is C.", "C"),
    ("A ring is not a tumour. The finding is normal.", "D"),
    ("It is a cyst. It is not a tumour.", "A"),
    ("It is a cyst or a tumour.", None),
    ("Cyst, tumour, normal.", None),
    ("Not a cyst.", None),
    ("A tumour-like mass.", None),
    ("The kidney is large.", None),
]


@pytest.mark.parametrize(("reasoning", "expected"), OPTION)
def test_options(reasoning: str, expected: str | None) -> None:
    assert stated(record(reasoning), "option") == expected


CHECKS: list[tuple[str, Record, dict[str, bool]]] = [
    ("modality agrees", record("A CT."), {"modality": True}),
    ("modality contradicts the sample", record("An MRI."), {"modality": False}),
    ("no modality to compare with", record("An MRI.", modality=None), {}),
    ("side agrees with the answer", record("On the left.", choices=SIDES, answer="A"), {"side": True}),
    ("side contradicts the answer", record("On the left.", choices=SIDES, answer="B"), {"side": False}),
    ("the answer has no side", record("On the left.", choices=SIDES, answer="C"), {}),
    ("the question has one", replace(record("On the left."), prompt="What is in the right lung?\nA) cyst"), {"side": False}),
    ("a side among the options is not the question's", replace(record("On the left."), prompt="What?\nA) cyst\nB) right"), {}),
    ("option agrees", record("A tumour", answer="C"), {"option": True}),
    ("option contradicts", record("A tumour", answer="A"), {"option": False}),
    ("no answer", record("A tumour on the left in this CT.", answer=None), {"modality": True}),
    ("a letter beyond the options", record("A tumour", answer="F"), {}),
    ("no reasoning", record(None), {}),
    ("open-ended", record("On the left.", choices=(), answer="the right lung"), {"side": False}),
]


@pytest.mark.parametrize(("name", "found", "expected"), CHECKS, ids=[row[0] for row in CHECKS])
def test_contradictions(name: str, found: Record, expected: dict[str, bool]) -> None:
    assert {finding.rule: finding.agrees for finding in check_reasoning(found)} == expected


def test_summaries_count_what_was_read() -> None:
    records = [record("A tumour", answer="C"), record("A tumour", number=1), record("Large.", number=2), record(None, number=3)]
    (option,) = [summary for summary in summarize_reasoning(records) if summary.rule == "option"]
    assert (option.agreement.correct, option.agreement.total, option.num_reasonings) == (1, 2, 3)
    assert option.contradictions == ("test/1",)
    assert [summary.agreement.value for summary in summarize_reasoning([])] == [None] * len(RULES)


WORDS = ["the", "left", "right", "CT", "not", "or", ".", ",", "cyst", "tumour", "is", "no", "A", "C"]


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=80) | st.lists(st.sampled_from(WORDS), max_size=12).map(" ".join))
def test_no_reasoning_breaks_a_rule(text: str) -> None:
    for finding in check_reasoning(record(text, choices=("left cyst", "right tumour"))):
        assert finding.stated
    for changed in (cut(text), shuffle(text, random.Random(0))):
        assert changed is None or changed != text or not text.strip()


# Interventions


CUTS = [("one two three four", "one two"), ("one two three", "one"), ("one two", "one"), ("ab", "a"), ("a", None), ("", None)]


@pytest.mark.parametrize(("text", "expected"), CUTS)
def test_cut(text: str, expected: str | None) -> None:
    assert cut(text) == expected


SHUFFLES: list[tuple[str, str | None]] = [
    ("One. Two.", "Two. One."),
    ("One two", "two One"),
    ("A line\nanother", "another A line"),
    ("same same", None),
    ("Same. Same.", None),
    ("one", None),
]


@pytest.mark.parametrize(("text", "expected"), SHUFFLES)
def test_shuffle(text: str, expected: str | None) -> None:
    assert shuffle(text, random.Random(0)) == expected


RECORDS = [
    record("It is a cyst", answer="A"),
    record("It is a tumour", answer="C", number=1),
    replace(record("It is normal", answer="D", number=2), modality="mri"),
]
LEFT_OUT: list[tuple[str, Record]] = [
    ("no answer", record("It is", answer=None, number=9)),
    ("no reasoning", replace(record(None, number=9), completion="<answer>A</answer>")),
    ("reasoning after the answer", replace(record("x y", number=9), completion="<answer>A</answer><think>x y</think>")),
    ("a chat token", record("see <|image_pad|> here", number=9)),
    ("tags inside", record("<think> again", number=9)),
    ("nothing inside", replace(record(None, number=9), completion="<think></think><answer>A</answer>")),
]


def test_completions_begin_with_other_reasoning() -> None:
    spaced = replace(RECORDS[0], completion="<think>\nIt is a cyst\n</think>\n<answer>A</answer>")
    assert intervene([spaced], Intervention.CUT).prefixes == {"test/0": "<think>\nIt is\n</think>\n<answer>"}
    replaced = intervene(RECORDS, Intervention.REPLACED)
    assert replaced.prefixes["test/0"] == "<think>It is a tumour</think><answer>"
    assert replaced.prefixes["test/2"] in {f"<think>It is a {name}</think><answer>" for name in ("cyst", "tumour")}
    assert replaced == intervene(RECORDS, Intervention.REPLACED)


@pytest.mark.parametrize(("name", "found"), LEFT_OUT, ids=[row[0] for row in LEFT_OUT])
def test_what_cannot_be_changed_is_left_out(name: str, found: Record) -> None:
    for intervention in Intervention:
        assert intervene([found], intervention).prefixes == {}
        assert sum(intervene([found], intervention).left_out.values()) == 1
    assert found.sample_id not in intervene([*RECORDS, found], Intervention.REPLACED).prefixes


def test_no_donor_of_reasoning() -> None:
    assert intervene([RECORDS[0], replace(RECORDS[0], sample_id="test/7")], Intervention.REPLACED).left_out == {"nothing to change": 2}
    assert intervene([], Intervention.CUT).prefixes == {}
