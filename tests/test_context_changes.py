"""What each change of a patient context does, which patient gives it, and what is left out."""

from __future__ import annotations

from dataclasses import replace

import pytest
from small_runs import solid_sample

from osler.context import Context
from osler.evaluation.context_changes import ContextChange, change_context
from osler.evaluation.contradictions import change_words, contradict, contradict_indication
from osler.evaluation.votes import grade_completion
from osler.prompts import render
from osler.taxonomy import Modality, QuestionType
from osler.types import Completion, FinishReason, Sample


def question(
    number: int,
    context: Context | str | None,
    answer: str = "cyst",
    modality: Modality | None = Modality.CT,
    *,
    asks: str = "What?",
    subject: str | None = None,
) -> Sample:
    return replace(
        solid_sample((number, 56)),
        id=f"test/{number}",
        question=asks,
        choices=(answer, "other"),
        modality=modality,
        question_type=QuestionType.DISEASE_DIAGNOSIS,
        subject_id=subject,
        context=context,
    )


MAN = Context(age=63, sex="M", indication="cough", laterality="L")
COUGHS = [
    question(number, replace(MAN, age=f"{60 + number} years"), answer) for number, answer in enumerate(["cyst", "cyst", "mass", "scar"])
]
BARE = question(9, None)
PLACED = question(8, Context(prior_findings="<image> a cyst"))


@pytest.mark.parametrize("change", ContextChange)
def test_only_the_context_changes(change: ContextChange) -> None:
    found = change_context([*COUGHS, BARE], change, seed=1)
    assert [replace(after, context=None, metadata={}) for after in found.samples] == [replace(one, context=None) for one in COUGHS]
    assert found.left_out == {"no patient context": 1}
    assert found == change_context([*COUGHS, BARE], change, seed=1)
    for before, after in zip(COUGHS, found.samples, strict=True):
        assert after.metadata["ablation"] == change
        assert after.metadata["own_image_uris"] == tuple(image.uri for image in before.images)
        assert after.context != before.context
        assert before.context is not None
        own, other = before.context, after.context or Context()
        assert after.metadata["context_changes"] == tuple(name for name in own.values if getattr(own, name) != getattr(other, name))


def test_no_context_is_none() -> None:
    found = change_context(COUGHS, ContextChange.NONE)
    assert {sample.context for sample in found.samples} == {None}
    assert "Patient" not in render(found.samples[0], "think").text


@pytest.mark.parametrize("seed", range(5))
def test_another_patient_gives_its_context(seed: int) -> None:
    others = [question(20 + number, f"patient {number}", modality=Modality.MRI) for number in range(2)]
    found = change_context([*COUGHS, *others], ContextChange.SHUFFLED, seed=seed)
    donors = [next(one for one in (*COUGHS, *others) if one.context == after.context) for after in found.samples]
    for before, donor in zip([*COUGHS, *others], donors, strict=True):
        assert donor.modality is before.modality
        assert donor.target_text != before.target_text or before.modality is Modality.MRI
    assert found.num_same_target == len(others)


OWN = question(0, "own", "a", subject="s0")
PREFERRED: list[tuple[str, list[Sample], int | None]] = [
    ("the same question", [question(1, "x", "b", asks="Else?"), question(2, "y", "b"), question(3, "z", "a")], 2),
    ("the same type of question", [question(1, "x", "b", asks="Else?"), question(3, "z", "a")], 1),
    ("the same modality", [question(1, "x", "a"), question(2, "y", "b", Modality.MRI)], 1),
    ("any modality", [question(2, "y", "a", Modality.MRI)], 2),
    ("another patient", [question(1, "x", "b", subject="s0"), question(2, "y", "a", subject="s1")], 2),
    ("never the same patient", [question(1, "x", "b", subject="s0")], None),
    ("never the same image", [replace(question(1, "x", "b"), images=OWN.images)], None),
    ("never the same context", [question(1, "own", "b")], None),
    ("no other patient", [BARE], None),
]


@pytest.mark.parametrize(("name", "others", "expected"), PREFERRED, ids=[row[0] for row in PREFERRED])
def test_the_best_donor_is_taken(name: str, others: list[Sample], expected: int | None) -> None:
    found = change_context([OWN, *others], ContextChange.SHUFFLED)
    taken = [one.context for one in found.samples if one.id == OWN.id]
    assert taken == ([] if expected is None else [next(one.context for one in others if one.id == f"test/{expected}")])
    assert expected is not None or found.left_out["no context to swap with"] > 0


OPPOSITES = [
    (Context(age=63), Context(age=6), ("age",)),
    (Context(age="3 months", sex="F"), Context(age=75, sex="M"), ("age", "sex")),
    (Context(age="elderly"), Context(age=6), ("age",)),
    (MAN, Context(age=6, sex="F", indication="no cough", laterality="R"), ("age", "sex", "indication", "laterality")),
    (Context(sex="O", laterality="B", history="asthma"), None, ()),
    (Context(text="67-year-old man, pain in the left knee"), Context(text="6-year-old woman, pain in the right knee"), ("text",)),
    (Context(history="LEFT mass", indication="rule out PE"), Context(history="RIGHT mass", indication="no PE"), ("indication", "history")),
    (Context(prior_findings="<image> left cyst"), Context(prior_findings="<image> right cyst"), ("prior_findings",)),
    (Context(text="63岁男性，左侧胸痛"), Context(text="6岁女性，右侧胸痛"), ("text",)),
]  # fmt: skip


@pytest.mark.parametrize(("own", "opposite", "fields"), OPPOSITES)
def test_a_contradiction_says_the_opposite(own: Context, opposite: Context | None, fields: tuple[str, ...]) -> None:
    found = change_context([question(1, own)], ContextChange.CONTRADICTORY)
    if opposite is None:
        assert found.left_out == {"nothing in the context has an opposite": 1}
        assert contradict(own) == own
    else:
        assert [(one.context, one.metadata["context_changes"]) for one in found.samples] == [(opposite, fields)]


@pytest.mark.parametrize(
    ("text", "opposite"),
    [
        ("cough", "no cough"),
        ("Cough.", "no cough."),
        ("No cough", "cough"),
        ("no evidence of fracture", "fracture"),
        ("denies fever", "fever"),
        ("Not in pain", "in pain"),
        ("Evaluate for pneumonia", "no pneumonia"),
        ("r/o PE", "no PE"),
        ("? fracture", "no fracture"),
        ("cough, fever", "none of the following: cough, fever"),
        ("cough and fever", "none of the following: cough and fever"),
        ("pain in the left knee and fever", "pain in the right knee and fever"),
        ("normal", "abnormal"),
        ("<image> follow-up", "none of the following: <image> follow-up"),
    ],
)
def test_an_indication_is_denied_or_moved(text: str, opposite: str) -> None:
    assert contradict_indication(text) == opposite


@pytest.mark.parametrize(
    ("text", "changed"),
    [
        ("45 y/o", "6 y/o"),
        ("a 5 year old boy", "a 75 year old girl"),
        ("Left-sided pain", "Right-sided pain"),
        ("The wound was left untreated", "The wound was left untreated"),
        ("right-handed", "right-handed"),
        ("bright, manly, theme", "bright, manly, theme"),
        ("60岁左右", "6岁左右"),
        ("cough for 3 years, 12 lesions", "cough for 3 years, 12 lesions"),
        ("Aged 60. Age: 7", "Aged 6. Age: 75"),
        ("63 year male", "6 year female"),
        ("45 y/o F with cough", "6 y/o M with cough"),
        ("Seen: 45yo M", "Seen: 6yo F"),
        ("45F, cough", "6M, cough"),
        ("fever of 101 F", "fever of 101 F"),
        ("", ""),
    ],
)
def test_words_are_changed_whole(text: str, changed: str) -> None:
    assert change_words(text) == changed


def test_what_would_move_an_image_is_left_out() -> None:
    for change in (ContextChange.NONE, ContextChange.SHUFFLED):
        assert change_context([PLACED], change).left_out == {"an image within the context": 1}


@pytest.mark.parametrize("change", ContextChange)
def test_a_record_keeps_what_was_shown(change: ContextChange) -> None:
    done = Completion(text="<answer>A</answer>", token_ids=(1,), finish_reason=FinishReason.STOP)
    (sample, *_) = change_context(COUGHS, change).samples
    record = grade_completion(render(sample, "think"), done, "tiny")
    assert (record.ablation, record.context_changes) == (change.value, sample.metadata["context_changes"])
    assert ("Patient: " in record.prompt) == (change is not ContextChange.NONE)
    assert grade_completion(render(COUGHS[0], "think"), done, "tiny").context_changes is None
