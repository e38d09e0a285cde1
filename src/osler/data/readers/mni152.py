"""Questions with known answers about a real brain volume, the MNI152 average; every question is about the same brain."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

from osler.data.readers.base import ReaderCard, ReadReport, check_choice
from osler.errors import ConfigError
from osler.facts import Fact, Facts, Kind
from osler.taxonomy import SPLITS, Modality, QuestionType
from osler.types import LETTERS, Sample

if TYPE_CHECKING:
    import numpy as np

    from osler.data.mni152 import BrainSlice

ASPECTS: Final = ("side", "level", "plane", "tissue")
CARD: Final = ReaderCard(
    title="MNI152 average brain",
    source="ICBM 152 nonlinear symmetric 2009 (Fonov et al., NeuroImage 2011), as nilearn 0.14.1 carries it",
    licence="BSD-3-Clause, with nilearn",
    counts="any number, about one volume with maps of grey and white matter",
    layout="the folder of the mni_icbm152 files; without it an installed nilearn is used (pip install --no-deps nilearn==0.14.1)",
    options={
        "aspects": "list of side, level (of a black ball), plane, tissue (which of two slices has more grey matter); all when left out",
        "num_questions": "questions per split; 40 when left out",
        "num_slices": "slices of a question about side or level; 8 when left out",
        "size": "height of a picture in pixels; 112 when left out",
    },
)

_LOWEST, _HIGHEST = -40.0, 65.0
"""Millimetres to the head between which slices are cut."""

_MIN_DIFFERENCE: Final = 0.08  # of the shares of grey matter of two slices
_DATASET: Final = "mni152"


def read(
    root: Path | None = None,
    *,
    split: str | None = None,
    seed: int = 0,
    aspects: Sequence[str] | None = None,
    num_questions: int = 40,
    num_slices: int = 8,
    size: int = 112,
) -> ReadReport:
    """`num_questions` questions of each split, the aspects in turn.

    Raises ConfigError for an invalid option, DataError without the files.
    """
    import numpy as np

    from osler.data.mni152 import find_root

    check_choice("split", split, SPLITS)
    if isinstance(aspects, str):
        raise ConfigError(f"aspects is {aspects!r}: use a list of names")
    asked = tuple(aspects or ASPECTS)
    for aspect in asked:
        check_choice("aspect", aspect, ASPECTS)
    if not all(isinstance(number, int) for number in (num_questions, num_slices, size)):
        raise ConfigError("num_questions, num_slices and size of mni152 are whole numbers")
    if not (num_questions >= 0 and 6 <= num_slices <= 24 and 28 <= size <= 1024):
        raise ConfigError("mni152 takes num_questions of 0 or more, num_slices of 6 to 24 and a size of 28 to 1024")
    folder = find_root(root)
    samples = []
    for part in (split,) if split else SPLITS:
        for number in range(num_questions):
            aspect = asked[number % len(asked)]
            rng = np.random.default_rng([seed, SPLITS.index(part), ASPECTS.index(aspect), number])
            ask = {"plane": _ask_plane, "tissue": _ask_tissue}.get(aspect) or partial(_ask_ball, aspect=aspect, num_slices=num_slices)
            samples.append(ask(f"{_DATASET}/{part}/{seed}/{number}/{aspect}", folder, rng, size))
    return ReadReport(samples=tuple(samples), splits=() if split else SPLITS)


def _ask_ball(sample_id: str, root: Path, rng: np.random.Generator, size: int, *, aspect: str, num_slices: int) -> Sample:
    """Side or level of a black ball that one or two of the slices show."""
    from osler.data.mni152 import ORIGIN, BrainSlice, draw_ball
    from osler.data.phantom.studies.facts import slices_phrase
    from osler.data.phantom.studies.truth import LEVELS, SIDES, level_of

    step = (_HIGHEST - _LOWEST) / num_slices
    heights = [round(_LOWEST + step * (number + rng.uniform(0.3, 0.7))) for number in range(num_slices)]
    side, level = SIDES[rng.integers(2)], LEVELS[rng.integers(3)]
    within = [height for number, height in enumerate(heights) if level_of(number, num_slices) == level]
    while True:  # until no slice of another third shows the ball
        centre = within[rng.integers(len(within))]
        ball = draw_ball(root, rng, side=side, lowest=centre - 2, highest=centre + 2)
        slices = tuple(BrainSlice(root=root, plane="axial", index=height - ORIGIN[2], size=size, ball=ball) for height in heights)
        if all(level_of(number, num_slices) == level for number, picture in enumerate(slices) if picture.ball_radius > 0):
            break
    shown = tuple(number for number, picture in enumerate(slices) if picture.ball_radius >= 3)
    where = slices_phrase((shown[0], shown[-1]))
    facts = [Fact(kind=Kind.SLICES, value=slices_phrase((first, last))) for first in shown for last in shown if first <= last]
    facts += [Fact(kind=Kind.LEVEL, value=level_of(number, num_slices)) for number in shown]
    facts += [Fact(kind=Kind.SIDE, value=side), Fact(kind=Kind.PRESENCE, value="lesion"), Fact(kind=Kind.PLANE, value="axial")]
    is_side = aspect == "side"
    return _sample(
        sample_id,
        slices,
        "These slices run from the feet to the head. "
        + ("On which side of the patient is the black lesion?" if is_side else "In which third of the slices is the black lesion?"),
        SIDES if is_side else LEVELS,
        side if is_side else level,
        rng,
        rationale=f"The lesion is on {where}. Location:",
        facts=facts,
        closed=(Kind.SLICES, Kind.LEVEL, Kind.SIDE, Kind.PLANE),
        num_slices=num_slices,
    )


def _ask_plane(sample_id: str, root: Path, rng: np.random.Generator, size: int) -> Sample:
    """The plane of three neighbouring slices."""
    from osler.data.mni152 import BrainSlice
    from osler.images.geometry import PLANES

    plane = PLANES[rng.integers(len(PLANES))]
    first = int(rng.integers(60, 110))
    slices = tuple(BrainSlice(root=root, plane=plane, index=first + 6 * number, size=size) for number in range(3))
    facts = [Fact(kind=Kind.PLANE, value=plane)]
    shape = {"axial": "front to back", "coronal": "side to side", "sagittal": "front to back, in profile"}[plane]
    return _sample(
        sample_id,
        slices,
        "In which plane are these slices?",
        PLANES,
        plane,
        rng,
        rationale=f"The slices show the brain from {shape}. Plane:",
        facts=facts,
        closed=(Kind.PLANE,),
        num_slices=3,
    )


def _ask_tissue(sample_id: str, root: Path, rng: np.random.Generator, size: int) -> Sample:
    """Which of two slices has the larger share of grey matter, by the maps."""
    from osler.data.mni152 import ORIGIN, BrainSlice, grey_share

    while True:
        indices = [round(height) - ORIGIN[2] for height in rng.uniform(_LOWEST, _HIGHEST, 2)]
        shares = [grey_share(root, index) for index in indices]
        if abs(shares[0] - shares[1]) >= _MIN_DIFFERENCE:
            break
    answer = "the first" if shares[0] > shares[1] else "the second"
    told = f"The share of grey matter is {shares[0]:.0%} on the first slice and {shares[1]:.0%} on the second. Slice:"
    return _sample(
        sample_id,
        tuple(BrainSlice(root=root, plane="axial", index=index, size=size) for index in indices),
        "On which of the two slices is the share of grey matter in the brain tissue larger?",
        ("the first", "the second"),
        answer,
        rng,
        rationale=told,
        facts=[Fact(kind=Kind.PLANE, value="axial")],
        closed=(Kind.PLANE,),
        num_slices=2,
    )


def _sample(
    sample_id: str,
    slices: tuple[BrainSlice, ...],
    question: str,
    pool: Sequence[str],
    answer: str,
    rng: np.random.Generator,
    *,
    rationale: str,
    facts: Sequence[Fact],
    closed: tuple[Kind, ...],
    num_slices: int,
) -> Sample:
    """The question with its options in random order."""
    from osler.data.phantom.studies.facts import study_terms
    from osler.data.phantom.studies.truth import StudyKind

    choices = tuple(pool[pick] for pick in rng.permutation(len(pool)))
    known = (Fact(kind=Kind.MODALITY, value=Modality.MRI.value), Fact(kind=Kind.ANATOMY, value="brain"), *facts)
    return Sample(
        id=sample_id,
        dataset=_DATASET,
        images=slices,
        question=question,
        choices=choices,
        target=LETTERS[choices.index(answer)],
        modality=Modality.MRI,
        question_type=QuestionType.OTHER_BIOLOGICAL_ATTRIBUTES,
        subject_id=_DATASET,
        rationale=f"{rationale} {answer}",
        facts=Facts(facts=tuple(dict.fromkeys(known)), closed=(Kind.MODALITY, *closed)),
        terms=study_terms(StudyKind.MRI_VOLUME, num_slices),
        metadata={"aspect": sample_id.rpartition("/")[2]},
    )
