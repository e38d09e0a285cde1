"""What each ablation changes in a question, and which image a swap gives it."""

from dataclasses import replace

import numpy as np
import pytest
from small_runs import SolidImage, solid_sample

from osler.evaluation.ablations import Ablation, SyntheticImage, ablate
from osler.images.blank import GREY
from osler.taxonomy import Modality, QuestionType
from osler.types import Sample


def question(
    number: int, answer: str, modality: Modality | None = Modality.CT, *, asks: str = "What?", subject: str | None = None
) -> Sample:
    return replace(
        solid_sample((number, 56)),
        id=f"test/{number}",
        question=asks,
        choices=(answer, "other"),
        target="A",
        modality=modality,
        question_type=QuestionType.DISEASE_DIAGNOSIS,
        subject_id=subject,
    )


CTS = [question(number, answer) for number, answer in enumerate(["cyst", "cyst", "tumour", "abscess"])]
MRIS = [question(number, "cyst", Modality.MRI) for number in range(10, 14)]
OPEN = replace(question(20, "x"), choices=(), target="a cyst")
TEXT_ONLY = replace(question(21, "x"), images=())


@pytest.mark.parametrize("ablation", Ablation)
def test_only_images_change(ablation: Ablation) -> None:
    samples = [*CTS, *MRIS]
    found = ablate(samples, ablation, seed=1)
    assert [replace(after, images=(), metadata={}) for after in found.samples] == [replace(before, images=()) for before in samples]
    assert {sample.metadata["ablation"] for sample in found.samples} == {ablation.value}
    assert found == ablate(samples, ablation, seed=1)
    assert not found.left_out


def test_blank_and_noise_keep_the_size() -> None:
    source = SolidImage(grey=3, size=84)
    blank, noise, other = (
        SyntheticImage(source=source).load(),
        SyntheticImage(source=source, seed=0).load(),
        SyntheticImage(source=source, seed=1).load(),
    )
    assert blank.size == noise.size == (84, 84)
    assert blank.getextrema() == ((GREY, GREY),) * 3
    pixels = np.asarray(noise)
    assert pixels.mean() == pytest.approx(127.5, abs=3)
    assert pixels.std() == pytest.approx(73.9, abs=3)
    assert np.array_equal(pixels, np.asarray(SyntheticImage(source=source, seed=0).load()))
    assert not np.array_equal(pixels, np.asarray(other))
    assert len({SyntheticImage(source=source), SyntheticImage(source=source, seed=0), SyntheticImage(source=source, seed=1)}) == 3


def test_question_only_has_no_image() -> None:
    assert all(sample.images == () for sample in ablate(CTS, Ablation.QUESTION_ONLY).samples)


def donors(found: tuple[Sample, ...], pool: list[Sample]) -> list[Sample]:
    return [next(sample for sample in pool if sample.images == swapped.images) for swapped in found]


@pytest.mark.parametrize("seed", range(5))
def test_swaps_within_a_modality_are_for_another_answer(seed: int) -> None:
    found = ablate([*CTS, *MRIS], Ablation.SWAP_WITHIN, seed=seed)
    for sample, donor in zip([*CTS, *MRIS], donors(found.samples, [*CTS, *MRIS]), strict=True):
        assert donor.modality == sample.modality
        assert donor.images != sample.images
        assert donor.target_text != sample.target_text or sample.modality is Modality.MRI
    assert found.num_same_target == len(MRIS)


@pytest.mark.parametrize("seed", range(5))
def test_swaps_across_change_the_modality(seed: int) -> None:
    unknown = question(30, "cyst", None)
    found = ablate([*CTS, *MRIS, unknown], Ablation.SWAP_ACROSS, seed=seed)
    assert found.left_out == {"no image to swap with": 1}
    for sample, donor in zip([*CTS, *MRIS], donors(found.samples, [*CTS, *MRIS]), strict=True):
        assert {donor.modality, sample.modality} == {Modality.CT, Modality.MRI}


PREFERRED: list[tuple[str, list[Sample], int | None]] = [
    ("the same question", [question(1, "b", asks="Else?"), question(2, "b"), question(3, "a")], 2),
    ("the same type of question", [question(1, "b", asks="Else?"), question(3, "a")], 1),
    ("any other image", [question(1, "a")], 1),
    ("another subject", [question(1, "b", subject="s0"), question(2, "b", subject="s1")], 2),
    ("the same subject, where there is no other", [question(1, "b", subject="s0")], 1),
    ("as many images", [replace(question(1, "b"), images=question(1, "b").images * 2), question(2, "b")], 2),
    ("never its own image", [replace(question(1, "b"), images=question(0, "a").images)], None),
    ("no other sample", [], None),
]


@pytest.mark.parametrize(("name", "others", "expected"), PREFERRED, ids=[row[0] for row in PREFERRED])
def test_the_best_donor_is_taken(name: str, others: list[Sample], expected: int | None) -> None:
    sample = question(0, "a", subject="s0")
    found = ablate([sample, *others], Ablation.SWAP_WITHIN)
    taken = [one.images for one in found.samples if one.id == sample.id]
    assert taken == ([] if expected is None else [next(one.images for one in others if one.id == f"test/{expected}")])


@pytest.mark.parametrize("ablation", Ablation)
@pytest.mark.parametrize("samples", [[], [TEXT_ONLY], [OPEN, TEXT_ONLY]], ids=["none", "text only", "open-ended"])
def test_nothing_to_ablate(ablation: Ablation, samples: list[Sample]) -> None:
    found = ablate(samples, ablation)
    assert len(found.samples) + sum(found.left_out.values()) == len(samples)
    assert found.left_out.get("no image", 0) == samples.count(TEXT_ONLY)


@pytest.mark.integration
def test_thousands_of_swaps_are_quick() -> None:
    """One question about every image, with mostly equal answers: a search of all donors for each sample would take minutes."""
    answers = ["b" if number % 50 == 0 else "a" for number in range(1500)]
    samples = [
        replace(question(0, answer), id=f"test/{number}", images=(SolidImage(grey=number % 250, size=1 + number // 250),))
        for number, answer in enumerate(answers)
    ]
    found = ablate(samples, Ablation.SWAP_WITHIN)
    assert (len(found.samples), found.num_same_target) == (1500, 0)
