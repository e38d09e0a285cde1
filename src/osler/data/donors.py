"""Donors: which other question gives its image or its patient context to a question, by rules from the best kind to the last resort."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from operator import attrgetter
from typing import Final, TypeVar

from osler.taxonomy import Modality, QuestionType
from osler.text import fold_option
from osler.types import Sample

T = TypeVar("T")

MAX_TRIES: Final = 64
"""Random draws before the whole list is searched."""


def draw_fitting(items: Sequence[T], fits: Callable[[T], bool], rng: random.Random) -> T | None:
    """One of the items that fit, all equally likely, or None. Where most items fit, only a few are checked."""
    if not items:
        return None
    for _ in range(MAX_TRIES):
        item = items[rng.randrange(len(items))]
        if fits(item):
            return item
    fitting = [item for item in items if fits(item)]
    return rng.choice(fitting) if fitting else None


@dataclass(frozen=True, slots=True, kw_only=True)
class DonorRule:
    """Which samples may give to a sample: those with the same key (or any other key) that fit."""

    key: Callable[[Sample], Hashable]
    fits: Callable[[Sample, Sample], bool]  # (the sample that receives, the donor)
    is_across: bool = False  # another key instead of the same
    needs_other_answer: bool = False

    def candidates(self, samples: Sequence[Sample]) -> Mapping[Hashable, Sequence[Sample]]:
        """Possible donors by the key of the sample that receives."""
        groups: defaultdict[Hashable, list[Sample]] = defaultdict(list)
        for sample in samples:
            groups[self.key(sample)].append(sample)
        if self.is_across:  # a sample without a modality may have any, so it neither gives nor receives
            named = [key for key in groups if key is not None]
            return {key: [donor for other in named if other != key for donor in groups[other]] for key in named}
        if self.needs_other_answer:
            return {key: group for key, group in groups.items() if len({fold_option(sample.target_text) for sample in group}) > 1}
        return groups


def find_donors(samples: Sequence[Sample], rules: Sequence[DonorRule], name: str, seed: int) -> list[Sample | None]:
    """For each sample a donor by the first rule that finds one, else None. Draws depend on all arguments and the sample's id."""
    groups = [(rule, rule.candidates(samples)) for rule in rules]
    donors = []
    for sample in samples:
        rng = random.Random(f"{seed}/{name}/{sample.id}")
        draws = (draw_fitting(group.get(rule.key(sample), ()), partial(rule.fits, sample), rng) for rule, group in groups)
        donors.append(next((donor for donor in draws if donor is not None), None))
    return donors


def has_other_images(sample: Sample, donor: Sample) -> bool:
    """Whether the two share no image."""
    return {image.uri for image in sample.images}.isdisjoint(image.uri for image in donor.images)


def is_other_subject(sample: Sample, donor: Sample) -> bool:
    """Whether the donor is another subject where subjects are known."""
    return sample.subject_id is None or sample.subject_id != donor.subject_id


def has_other_answer(sample: Sample, donor: Sample) -> bool:
    """Whether the donor has another answer to the same type of question, so that what it gives is known to say something else."""
    return sample.question_type == donor.question_type and fold_option(sample.target_text) != fold_option(donor.target_text)


def is_other_case(sample: Sample, donor: Sample) -> bool:
    """Whether the donor has as many images, all of them different, of another subject where subjects are known."""
    return is_other_subject(sample, donor) and len(sample.images) == len(donor.images) and has_other_images(sample, donor)


def _is_other_case_and_answer(sample: Sample, donor: Sample) -> bool:
    return has_other_answer(sample, donor) and is_other_case(sample, donor)


def asked_for(sample: Sample) -> tuple[Modality | None, QuestionType | None, str]:
    """What right answers have in common: modality, question type and, where a dataset tells it (SLAKE, VQA-RAD), the content type."""
    return sample.modality, sample.question_type, str(sample.metadata.get("content_type", ""))


SAME_QUESTION: Final = DonorRule(
    key=attrgetter("modality", "question_type", "question"), fits=_is_other_case_and_answer, needs_other_answer=True
)
CONTRADICTING: Final = (
    SAME_QUESTION,
    DonorRule(key=asked_for, fits=_is_other_case_and_answer, needs_other_answer=True),
)
"""Another case of the same modality with another answer to the same question, or to a question of the same type that asks for the same."""


def find_contradicting(samples: Sequence[Sample], *, seed: int) -> list[Sample | None]:
    """For each sample another case of its modality with another answer to the same question; None without one.

    For this seed it is the donor of the ablation swap_within.
    """
    return find_donors(samples, (SAME_QUESTION,), "swap_within", seed)
