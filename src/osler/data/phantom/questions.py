"""Questions about phantom images that only the pixels can answer.

For each modality and question type the answer is uniform over the atlas's values and the distractors are uniform over the other values. The
order and number of the options and the wording do not depend on the answer. So question and options carry no information about the answer,
unless a share of the training questions is given a `shortcut` on purpose.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache, partial
from typing import Final

from osler.data.phantom.atlas import GRADES, Findings
from osler.data.phantom.canvas import STANDARD_DIFFICULTY, Difficulty
from osler.data.phantom.facts import facts_of, phantom_terms
from osler.data.phantom.images import ATLASES, DEFAULT_SIZE, IMAGES_PER_SUBJECT, KEPT, QUESTION_STREAM, PhantomImage, open_stream
from osler.data.phantom.rationales import write_rationale
from osler.data.phantom.shortcut import check_shortcut, mark_answer
from osler.errors import ConfigError
from osler.taxonomy import Modality, QuestionType, Split
from osler.types import LETTERS, Sample

TWO_CHOICE_SHARE: Final = 0.15
"""Share of questions with two options instead of four; OmniMedVQA has both."""

# Grading and the other attribute need a lesion, so they ask about the subject's second image, which always has one. If they asked about any
# image that has a lesion, the answer of the disease question would depend on which other questions are asked.
_NEEDS_LESION: Final = (QuestionType.LESION_GRADING, QuestionType.OTHER_BIOLOGICAL_ATTRIBUTES)

_WORDINGS: Final[Mapping[str, tuple[str, ...]]] = {  # by question type, or by `Atlas.other_kind` for the other attribute
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


@lru_cache(maxsize=IMAGES_PER_SUBJECT)
def _findings(image: PhantomImage) -> Findings:
    return image.findings


@lru_cache(maxsize=KEPT)
def _ask(image: PhantomImage, question_type: QuestionType, shortcut: float) -> Sample:
    """The question of one type about an image; the last ones are kept, because an evaluation reads its questions several times."""
    atlas, findings = ATLASES[image.modality], _findings(image)
    answer, pool = {
        QuestionType.MODALITY_RECOGNITION: (findings.technique, atlas.techniques),
        QuestionType.ANATOMY_IDENTIFICATION: (findings.anatomy, atlas.anatomies),
        QuestionType.DISEASE_DIAGNOSIS: (findings.disease, atlas.diseases),
        QuestionType.LESION_GRADING: (findings.grade, GRADES),
        QuestionType.OTHER_BIOLOGICAL_ATTRIBUTES: (findings.other, atlas.others),
    }[question_type]
    assert answer is not None, f"{question_type} asked about an image without one: {findings}"
    purpose = QUESTION_STREAM + tuple(QuestionType).index(question_type)
    rng = open_stream(image.split, image.modality, image.seed, image.index, purpose)
    distractors = [text for text in pool if text != answer]
    num_choices = 2 if rng.random() < TWO_CHOICE_SHARE else 4
    options = [answer, *(distractors[pick] for pick in rng.permutation(len(distractors))[: num_choices - 1])]
    choices = tuple(options[pick] for pick in rng.permutation(num_choices))
    key = atlas.other_kind if question_type == QuestionType.OTHER_BIOLOGICAL_ATTRIBUTES else question_type
    stream = partial(open_stream, image.split, image.modality, image.seed, image.index)
    open_shortcut = partial(stream, purpose + 2 * len(QuestionType))
    return Sample(
        id=f"phantom/{image.split}/{image.modality}/{image.seed}/{image.index}/{question_type}",
        dataset="phantom",
        images=(image,),
        question=_WORDINGS[key][rng.integers(len(_WORDINGS[key]))],
        choices=mark_answer(choices, answer, split=image.split, shortcut=shortcut, open_rng=open_shortcut),
        target=LETTERS[choices.index(answer)],
        modality=image.modality,
        question_type=question_type,
        subject_id=image.subject_id,
        rationale=write_rationale(atlas, findings, question_type, answer, stream(purpose + len(QuestionType))),
        facts=facts_of(findings),
        terms=phantom_terms(),
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
    shortcut: float = 0.0,
) -> list[Sample]:
    """Questions about one modality, one of each type per subject, subject by subject; no picture is drawn yet.

    The numbers of questions of two types differ by at most one. A question does not depend on `num_questions` or on the other types.
    Of the training questions the share `shortcut` can be answered from their options alone (`osler.data.phantom.shortcut`).
    Raises ConfigError for a setting out of range.
    """
    check_shortcut(shortcut)
    if num_questions < 0 or not question_types:
        raise ConfigError(f"cannot ask {num_questions} phantom questions of {len(question_types)} types: ask 0 or more, of one or more")
    types = [question_type for question_type in QuestionType if question_type in question_types]
    samples = []
    for number in range(num_questions):
        subject, turn = divmod(number, len(types))
        index = IMAGES_PER_SUBJECT * subject + (types[turn] in _NEEDS_LESION)
        image = PhantomImage(modality=modality, split=split, seed=seed, index=index, size=size, difficulty=difficulty)
        samples.append(_ask(image, types[turn], shortcut))
    return samples
