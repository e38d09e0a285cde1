"""Questions about phantom studies that no single picture answers, and nothing but the pictures.

The answer is uniform over its pool. All values of a pool are options, in random order, but for the five changes, of which four are drawn.
The wording does not depend on the answer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import Final, get_args

from osler.config import Layout
from osler.data.phantom.canvas import STANDARD_DIFFICULTY, Difficulty
from osler.data.phantom.shortcut import check_shortcut, mark_answer
from osler.data.phantom.studies.facts import facts_of, study_terms
from osler.data.phantom.studies.rationales import write_rationale
from osler.data.phantom.studies.source import DEFAULT_SIZE, DEFAULT_SLICES, QUESTION, SHORTCUT, PhantomStudy
from osler.data.phantom.studies.truth import ASPECTS, CAPTIONS, Aspect, StudyKind, pool_of
from osler.errors import ConfigError
from osler.images.slices import lay_out
from osler.taxonomy import QuestionType, Split
from osler.types import LETTERS, PLACE, Sample

MAX_CHOICES: Final = 4
QUESTION_TYPES: Final[Mapping[Aspect, QuestionType]] = MappingProxyType(
    {
        Aspect.SIDE: QuestionType.OTHER_BIOLOGICAL_ATTRIBUTES,
        Aspect.LEVEL: QuestionType.OTHER_BIOLOGICAL_ATTRIBUTES,
        Aspect.COUNT: QuestionType.OTHER_BIOLOGICAL_ATTRIBUTES,
        Aspect.EXTENT: QuestionType.LESION_GRADING,
        Aspect.DIAGNOSIS: QuestionType.DISEASE_DIAGNOSIS,
        Aspect.MOTION: QuestionType.OTHER_BIOLOGICAL_ATTRIBUTES,
        Aspect.CONTRACTION: QuestionType.OTHER_BIOLOGICAL_ATTRIBUTES,
        Aspect.SITE: QuestionType.OTHER_BIOLOGICAL_ATTRIBUTES,
        Aspect.CHANGE: QuestionType.LESION_GRADING,
        Aspect.NEW_SITE: QuestionType.OTHER_BIOLOGICAL_ATTRIBUTES,
    }
)
INTRODUCTIONS: Final = {
    **{kind: "These slices run from the feet to the head." for kind in StudyKind if kind.is_volume},
    StudyKind.ULTRASOUND_CINE: "These frames are in the order of time.",
}
WORDINGS: Final[Mapping[Aspect, tuple[str, ...]]] = MappingProxyType(
    {
        Aspect.SIDE: (
            "On which side of the patient is the lesion?",
            "Which side of the patient holds the lesion?",
            "Which side is affected?",
        ),
        Aspect.LEVEL: (
            "In which third of the slices is the lesion?",
            "Which third of the slices shows the lesion?",
            "Where along the slices is the lesion?",
        ),
        Aspect.COUNT: ("How many lesions are there?", "How many lesions do the slices show?", "What is the number of lesions?"),
        Aspect.EXTENT: ("On how many slices is the lesion?", "How many slices show the lesion?", "How many slices does the lesion cross?"),
        Aspect.DIAGNOSIS: ("What is the most likely diagnosis?", "Which finding is present?", "What is the main finding?"),
        Aspect.MOTION: (
            "In which direction does the bright spot move?",
            "Where does the bright spot move on the screen?",
            "How does the bright spot move?",
        ),
        Aspect.CONTRACTION: ("How does the chamber contract?", "How strongly does the wall move?", "How well does the chamber contract?"),
        Aspect.SITE: ("Where is the lesion?", "In which part of the chest is the lesion?", "Where does the lesion lie?"),
        Aspect.CHANGE: ("How has the lesion changed?", "What is the change of the lesion?", "How does the lesion compare with before?"),
        Aspect.NEW_SITE: ("Where is the new lesion?", "Which part of the chest holds the new lesion?", "Where has a new lesion appeared?"),
    }
)


LAYOUTS: Final[tuple[Layout, ...]] = get_args(Layout)


def ask(study: PhantomStudy, *, single_slice: int | None = None, layout: Layout = "images", shortcut: float = 0.0) -> Sample:
    """The question of a study; with `single_slice`, counted from 1, the same question with only that picture.

    The pictures of a volume or a cine are laid out as `[data.study]` lays out those of files; views and a follow-up are single images.
    """
    truth, rng = study.truth, study.stream(QUESTION)
    pool = pool_of(study.kind, study.aspect)
    others = [value for value in pool if value != truth.answer]
    options = [truth.answer, *(others[pick] for pick in rng.permutation(len(others))[: MAX_CHOICES - 1])]
    choices = tuple(options[pick] for pick in rng.permutation(len(options)))
    wordings = WORDINGS[study.aspect]
    wording = wordings[rng.integers(len(wordings))]
    shown = range(study.num_pictures) if single_slice is None else (single_slice - 1,)
    return Sample(
        id=f"phantom_study/{study.name}",
        dataset="phantom_study",
        images=lay_out([study.pictures[place] for place in shown], layout if study.kind not in CAPTIONS else "images"),
        question=_introduce(study.kind, shown, wording),
        choices=mark_answer(choices, truth.answer, split=study.split, shortcut=shortcut, open_rng=partial(study.stream, SHORTCUT)),
        target=LETTERS[choices.index(truth.answer)],
        modality=study.kind.modality,
        question_type=QUESTION_TYPES[study.aspect],
        subject_id=f"phantom_study/{study.name}",
        rationale=write_rationale(truth, rng),
        facts=facts_of(truth),
        terms=study_terms(study.kind, study.num_pictures),
        metadata={"kind": study.kind.value, "aspect": study.aspect.value},
    )


def _introduce(kind: StudyKind, shown: Sequence[int], wording: str) -> str:
    """The question behind what the pictures are: their order, or a caption before each."""
    if kind not in CAPTIONS:
        return f"{INTRODUCTIONS[kind]} {wording}"
    return "".join(f"{CAPTIONS[kind][place]}: {PLACE}\n" for place in shown) + wording


def build_studies(
    *,
    kind: StudyKind,
    split: Split,
    seed: int,
    num_questions: int,
    aspects: Sequence[Aspect] | None = None,
    size: int = DEFAULT_SIZE,
    num_slices: int = DEFAULT_SLICES,
    single_slice: int | None = None,
    layout: Layout = "images",
    difficulty: Difficulty = STANDARD_DIFFICULTY,
    shortcut: float = 0.0,
) -> list[Sample]:
    """Questions about studies of one kind, each about a study of its own, the aspects in turn; no picture is drawn yet.

    A question does not depend on `num_questions`, on the other aspects, on `single_slice` or on `layout`. Aspects that do not fit the kind
    are left out. Of the training questions the share `shortcut` can be answered from their options alone (`osler.data.phantom.shortcut`).
    Raises ConfigError for a setting out of range.
    """
    check_shortcut(shortcut)
    asked = [aspect for aspect in ASPECTS[kind] if aspects is None or aspect in aspects]
    if num_questions < 0:
        raise ConfigError(f"cannot ask {num_questions} questions about studies: ask 0 or more")
    num_pictures = 2 if kind.has_views else num_slices
    if single_slice is not None and not 1 <= single_slice <= num_pictures:
        raise ConfigError(f"single_slice {single_slice}: a study of {kind} has the pictures 1 to {num_pictures}")
    samples = []
    for number in range(num_questions if asked else 0):
        index, turn = divmod(number, len(asked))
        study = PhantomStudy(
            kind=kind, aspect=asked[turn], split=split, seed=seed, index=index, size=size, num_slices=num_slices, difficulty=difficulty
        )  # fmt: skip
        samples.append(ask(study, single_slice=single_slice, layout=layout, shortcut=shortcut))
    return samples
