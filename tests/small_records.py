"""Small records for the tests of metrics."""

from __future__ import annotations

from collections.abc import Sequence

from osler.types import Record

CHOICES = ("CT", "MRI", "X-ray", "Ultrasound")


def answer(
    number: int,
    is_right: float = True,
    *,
    image: object = None,
    subject: str | None = None,
    dataset: str = "toy",
    choices: Sequence[str] = CHOICES,
    letter: str | None = "",
    probabilities: Sequence[float] | None = None,
    vote_share: float | None = None,
    modality: str | None = "mri",
    policy: str = "tiny",
) -> Record:
    """The record of question `number` with target A, about an image of its own unless `image` names one."""
    return Record(
        sample_id=f"{dataset}/{number}",
        dataset=dataset,
        modality=modality,
        question_type=None,
        subject_id=subject,
        image_uris=(f"{number}.png" if image is None else f"shared-{image}.png",),
        strategy="no_think",
        policy=policy,
        prompt="?",
        completion="",
        num_tokens=1,
        finish_reason="stop",
        choices=tuple(choices),
        target="A",
        answer=("A" if is_right else "B") if letter == "" else letter,
        reasoning=None,
        is_well_formed=True,
        outcome="correct" if is_right else "incorrect",
        rule="answer_tag.letter",
        option_probabilities=None if probabilities is None else tuple(probabilities),
        vote_share=vote_share,
    )


def answers(rights: Sequence[float], images: Sequence[object] | None = None, **others: object) -> list[Record]:
    """One record for each of `rights`, about the image at the same index."""
    pictures = [None] * len(rights) if images is None else images
    return [answer(i, right, image=image, **others) for i, (right, image) in enumerate(zip(rights, pictures, strict=True))]  # type: ignore[arg-type]
