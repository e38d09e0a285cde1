"""Questions about phantom images that nothing but the pixels can answer.

For each modality and question type the answer is uniform over the atlas's pool, the distractors are uniform over the rest, and their order,
their number and the wording are drawn without looking at the answer. So the options, alone or with the question, say nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import count, islice
from types import MappingProxyType
from typing import Final

from osler.data.phantom.atlas import GRADES, LOCATIONS, Atlas, Findings
from osler.data.phantom.canvas import STANDARD_DIFFICULTY, Difficulty
from osler.data.phantom.images import ATLASES, DEFAULT_SIZE, IMAGES_PER_SUBJECT, QUESTION_STREAM, PhantomImage, Split, open_stream
from osler.errors import ConfigError
from osler.taxonomy import Modality, QuestionType
from osler.types import LETTERS, Sample

TWO_CHOICE_SHARE: Final = 0.15
"""OmniMedVQA mixes questions of two options among those of four."""

_ASKED_OF: Final = MappingProxyType(
    {
        # Grading and the other attribute need a lesion, so they are asked of the image that always has one. Asking them of whichever image
        # happens to have one would make the disease question's answer depend on which questions stand beside it.
        QuestionType.MODALITY_RECOGNITION: 0,
        QuestionType.ANATOMY_IDENTIFICATION: 0,
        QuestionType.DISEASE_DIAGNOSIS: 0,
        QuestionType.LESION_GRADING: 1,
        QuestionType.OTHER_BIOLOGICAL_ATTRIBUTES: 1,
    }
)

_WORDINGS: Final = MappingProxyType(
    {
        QuestionType.MODALITY_RECOGNITION: (
            "Which imaging technique is shown?",
            "How was this image acquired?",
            "What type of image is this?",
            "Which technique produced this picture?",
        ),
        QuestionType.ANATOMY_IDENTIFICATION: (
            "Which anatomical region is shown?",
            "What anatomy does this image show?",
            "Which part of the body is this?",
            "What is the anatomical site?",
        ),
        QuestionType.DISEASE_DIAGNOSIS: (
            "What is the most likely diagnosis?",
            "Which finding is present?",
            "What is the main finding?",
            "Which diagnosis fits this image?",
        ),
        QuestionType.LESION_GRADING: (
            "How severe is the abnormality?",
            "What is the grade of the finding?",
            "Which severity grade fits the abnormality?",
            "How advanced is the disease shown?",
        ),
    }
)

_OTHER_WORDINGS: Final = MappingProxyType(
    {
        "location": (
            "Where is the lesion?",
            "Which quadrant holds the lesion?",
            "In which part of the image is the abnormality?",
            "Where does the abnormality lie?",
        ),
        "colour": ("What colour is the lesion?", "Which colour does the lesion have?", "What is the main colour of the lesion?"),
        "side": ("Where along the scan is the abnormality?", "Which part of the scan is affected?", "Where does the abnormality lie?"),
        "density": ("How densely packed are the cells?", "What is the cell density?", "How crowded is the field?"),
    }
)

_EXTENTS: Final = MappingProxyType(dict(zip(GRADES, ("tiny", "small", "medium", "large"), strict=True)))


def _answer(question_type: QuestionType, findings: Findings) -> str:
    answer = {
        QuestionType.MODALITY_RECOGNITION: findings.technique,
        QuestionType.ANATOMY_IDENTIFICATION: findings.anatomy,
        QuestionType.DISEASE_DIAGNOSIS: findings.disease,
        QuestionType.LESION_GRADING: findings.grade,
        QuestionType.OTHER_BIOLOGICAL_ATTRIBUTES: findings.other,
    }[question_type]
    assert answer is not None, f"{question_type} asked of an image without one: {findings}"
    return answer


def _pool(question_type: QuestionType, atlas: Atlas) -> tuple[str, ...]:
    return {
        QuestionType.MODALITY_RECOGNITION: atlas.techniques,
        QuestionType.ANATOMY_IDENTIFICATION: atlas.anatomies,
        QuestionType.DISEASE_DIAGNOSIS: atlas.diseases,
        QuestionType.LESION_GRADING: GRADES,
        QuestionType.OTHER_BIOLOGICAL_ATTRIBUTES: atlas.others,
    }[question_type]


def _explain(question_type: QuestionType, atlas: Atlas, findings: Findings) -> str:
    """The sign that decides, in one sentence that ends with the answer."""
    answer = _answer(question_type, findings)
    place = f" in the {findings.other}" if findings.other in LOCATIONS else ""
    match question_type:
        case QuestionType.MODALITY_RECOGNITION:
            return f"With {atlas.signs[answer]}, the technique is {answer}"
        case QuestionType.ANATOMY_IDENTIFICATION:
            return f"With {atlas.signs[answer]}, the anatomy shown is {answer}"
        case QuestionType.DISEASE_DIAGNOSIS:
            return f"With {atlas.signs[answer]}{place}, the finding is {answer}"
        case QuestionType.LESION_GRADING:
            return f"The extent of the {findings.disease} is {_EXTENTS[answer]}, so its grade is {answer}"
        case QuestionType.OTHER_BIOLOGICAL_ATTRIBUTES:
            return {
                "location": f"The centre of the {findings.disease} lies in the {answer}",
                "colour": f"The colour of most of the {findings.disease} is {answer}",
                "side": f"Along the scan, the place of the {findings.disease} is {answer}",
                "density": f"Judged by the gaps between cells, the field is {answer}",
            }[atlas.other_kind]


def _ask(image: PhantomImage, findings: Findings, question_type: QuestionType) -> Sample:
    """The question of one type about an image."""
    atlas = ATLASES[image.modality]
    purpose = QUESTION_STREAM + tuple(QuestionType).index(question_type)
    rng = open_stream(image.split, image.modality, image.seed, image.index, purpose)
    answer = _answer(question_type, findings)
    distractors = [text for text in _pool(question_type, atlas) if text != answer]
    num_choices = 2 if rng.random() < TWO_CHOICE_SHARE else 4
    options = [answer, *(distractors[pick] for pick in rng.permutation(len(distractors))[: num_choices - 1])]
    choices = tuple(options[pick] for pick in rng.permutation(num_choices))
    wordings = _WORDINGS.get(question_type) or _OTHER_WORDINGS[atlas.other_kind]
    return Sample(
        id=f"phantom/{image.split}/{image.modality}/{image.seed}/{image.index}/{question_type}",
        dataset="phantom",
        images=(image,),
        question=wordings[rng.integers(len(wordings))],
        choices=choices,
        target=LETTERS[choices.index(answer)],
        modality=image.modality,
        question_type=question_type,
        subject_id=image.subject_id,
        rationale=_explain(question_type, atlas, findings),
    )


def build_samples(
    *,
    modality: Modality,
    split: Split,
    seed: int,
    num_questions: int,
    question_types: Sequence[QuestionType] = tuple(QuestionType),
    size: int = DEFAULT_SIZE,
    difficulty: Difficulty = STANDARD_DIFFICULTY,
) -> list[Sample]:
    """Questions about one modality, one of each type per subject, in the order of the subjects; no picture is drawn yet.

    The types differ in number by one at most. A question does not change with `num_questions` or with which other types are asked.
    Raises ConfigError for a setting out of range.
    """
    if num_questions < 0 or not question_types:
        raise ConfigError(f"cannot ask {num_questions} phantom questions of {len(question_types)} types: ask 0 or more, of one or more")
    asked = [question_type for question_type in QuestionType if question_type in question_types]

    def ask_all() -> Iterator[Sample]:
        for first in count(0, IMAGES_PER_SUBJECT):
            images = [
                PhantomImage(modality=modality, split=split, seed=seed, index=first + offset, size=size, difficulty=difficulty)
                for offset in range(IMAGES_PER_SUBJECT)
            ]
            findings = [image.findings for image in images]
            for question_type in asked:
                offset = _ASKED_OF[question_type]
                yield _ask(images[offset], findings[offset], question_type)

    return list(islice(ask_all(), num_questions))
