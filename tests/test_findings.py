"""Reasoning for SFT, written from an annotation: natural sentences that the grader reads as true."""

import os
from pathlib import Path

import pytest

from osler.config import Config
from osler.data.facts.findings import add_findings, write_findings
from osler.data.readers import read
from osler.data.select import load_split
from osler.errors import DataError
from osler.facts import Fact, Facts, Kind, Truth
from osler.grading import judge
from osler.taxonomy import QuestionType
from osler.training.sft import sft_target
from osler.types import Sample

FIXTURES = Path(__file__).parent / "fixtures"


def asking(*facts: Fact, question: str = "Is this normal?", **changes) -> Sample:
    """A yes-no question, answered yes, about an image with these facts."""
    fields = {"id": "toy/1", "dataset": "toy", "images": (), "choices": ("Yes", "No"), "target": "A", "facts": Facts(facts=facts)}
    return Sample(**fields | {"question": question, "modality": None, "question_type": None} | changes)


def fact(kind: Kind, value: str, about: str | None = None, *, holds: bool = True) -> Fact:
    return Fact(kind=kind, value=value, about=about, holds=holds)


@pytest.mark.parametrize(
    ("known", "sentences"),
    [
        (fact(Kind.MODALITY, "mri"), {"This is an MRI image.", "The image is an MRI."}),
        (fact(Kind.MODALITY, "ct"), {"This is a CT image.", "The image is a CT."}),
        (fact(Kind.TECHNIQUE, "t2-weighted"), {"The technique is T2-weighted.", "This is a T2-weighted image."}),
        (fact(Kind.PLANE, "axial"), {"The plane is axial.", "The image is axial."}),
        (fact(Kind.ANATOMY, "liver"), {"The image shows the liver.", "The liver is visible."}),
        (fact(Kind.PRESENCE, "nodule"), {"There is a nodule.", "The image shows a nodule."}),
        (fact(Kind.PRESENCE, "oedema"), {"There is oedema.", "The image shows oedema."}),
        (fact(Kind.PRESENCE, "fracture", holds=False), {"There is no fracture.", "The image shows no fracture."}),
        (fact(Kind.SIDE, "left", "kidney"), {"The kidney is on the left.", "The kidney lies on the left side."}),
        (fact(Kind.COUNT, "2", "lung"), {"The image shows 2 lungs.", "There are 2 lungs."}),
        (fact(Kind.COLOUR, "black", "lung"), {"The lung is black.", "The lung looks black."}),
        (fact(Kind.ANATOMY, "brain", holds=False), set()),  # not asked for, so beside the point
        (fact(Kind.COUNT, "3", "lung", holds=False), set()),  # makes no natural sentence
    ],
    ids=lambda value: f"{value.kind}-{value.value}-{value.holds}" if isinstance(value, Fact) else "",
)
def test_a_fact_becomes_a_sentence(known: Fact, sentences: set[str]) -> None:
    written = {write_findings(asking(known), seed=seed) for seed in range(20)}
    assert written == {f"{sentence} Impression: Yes" for sentence in sentences} or (not sentences and written == {"Impression: Yes"})


@pytest.mark.parametrize(
    ("question", "question_type", "first"),
    [
        ("Is the brain shown?", None, "brain"),  # what the question names, even where it is denied
        ("Is it a CT?", QuestionType.MODALITY_RECOGNITION, "CT"),  # then what bears on its type
        ("Where is it?", QuestionType.OTHER_BIOLOGICAL_ATTRIBUTES, "left"),
    ],
)
def test_what_is_asked_for_comes_first(question: str, question_type: QuestionType | None, first: str) -> None:
    facts = (
        fact(Kind.MODALITY, "ct"),
        fact(Kind.ANATOMY, "liver"),
        fact(Kind.ANATOMY, "brain", holds=False),
        fact(Kind.SIDE, "left", "liver"),
    )
    for seed in range(10):
        assert first in write_findings(asking(*facts, question=question, question_type=question_type), seed=seed).partition(".")[0]


def test_one_to_three_sentences_by_the_seed_that_say_nothing_twice() -> None:
    places = (fact(Kind.POSITION, "upper", "liver"), fact(Kind.POSITION, "upper left", "liver"))
    sample = asking(*places, fact(Kind.MODALITY, "ct"), fact(Kind.ANATOMY, "liver"), fact(Kind.ANATOMY, "kidney"))
    written = [write_findings(sample, seed=seed) for seed in range(40)]
    assert written == [write_findings(sample, seed=seed) for seed in range(40)]
    assert {text.count(".") for text in written} == {1, 2, 3}
    assert all(text.count("part of the image") <= 1 for text in written)


def test_own_rationales_are_kept_and_data_without_facts_are_refused() -> None:
    own, missing, unknown = asking(rationale="Bright."), asking(fact(Kind.MODALITY, "ct")), asking(facts=None)
    written = [sample.rationale for sample in add_findings([own, missing, unknown])]
    assert written[0] == "Bright."
    assert "CT" in str(written[1])
    assert written[2] == "Impression: Yes"
    with pytest.raises(DataError, match="needs facts"):
        add_findings([own, unknown])


def test_slake_has_targets_with_reasoning() -> None:
    config = Config.model_validate(
        {
            "data": {"reader": "slake", "root": str(FIXTURES / "slake"), "rationales": "facts", "train": {"has_choices": True}},
            "prompt": {"strategy": "think"},
        }
    )
    targets = [sft_target(sample, config) for sample in load_split(config.data, "train")]
    assert targets
    assert all(target.startswith("<think>") and "Impression: " in target for target in targets)
    assert any("." in target for target in targets)
    assert all(sample.rationale is None for sample in load_split(config.data, "test"))


@pytest.mark.integration
@pytest.mark.parametrize("name", ["slake", "vqa_rad"])
def test_no_sentence_about_a_real_image_is_false(name: str) -> None:
    if not (folder := os.environ.get("OSLER_TEST_DATA")):
        pytest.skip("OSLER_TEST_DATA does not name the folder of real annotation files")
    num = 0
    for sample in [sample for sample in read(name, Path(folder) / name, split="all") if sample.choices and sample.facts][:400]:
        findings = write_findings(sample).partition("Impression:")[0]
        statements = judge(findings, facts=sample.facts, terms=sample.terms)
        assert all(statement.truth is not Truth.FALSE for statement in statements), (sample.question, findings)
        num += any(statement.truth is Truth.TRUE for statement in statements)
    assert num > 300
