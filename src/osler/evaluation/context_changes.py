"""Changes of the patient context: the same questions without it, with that of another patient, or with one that says the opposite.

A policy that uses the context answers differently under them; a policy that uses the image does not, because the image stays.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from enum import StrEnum
from operator import attrgetter
from typing import Final

from osler.context import Context, differing_fields
from osler.data.donors import DonorRule, find_donors, has_other_answer, has_other_images, is_other_subject
from osler.evaluation.ablations import Ablated, mark
from osler.evaluation.contradictions import contradict
from osler.types import PLACE, Sample

NO_CONTEXT: Final = "no patient context"
"""Why a question is left out that has none."""


class ContextChange(StrEnum):
    """What happens to the patient context of a question."""

    NONE = "no_context"  # no context in the prompt
    SHUFFLED = "context_shuffled"  # that of another patient of the same modality, if possible with another answer
    CONTRADICTORY = "context_contradictory"  # the opposite by rules: age group, sex, side, indication


def change_context(samples: Sequence[Sample], change: ContextChange, *, seed: int = 0) -> Ablated:
    """The samples with a changed context; those that have none, and those whose context cannot be changed, are left out and counted.

    metadata["context_changes"] of a sample names the fields that differ from its own. Random draws for a sample depend on the seed, its id
    and the list of samples.
    """
    left_out: Counter[str] = Counter()
    owners = []
    for sample in samples:
        if sample.context is None:
            left_out[NO_CONTEXT] += 1
        elif change is not ContextChange.CONTRADICTORY and any(PLACE in text for text in sample.context.texts):
            left_out["an image within the context"] += 1  # it would lose its place
        else:
            owners.append(sample)
    contexts: list[Context | None] = [None] * len(owners)
    donors: list[Sample | None] = [None] * len(owners)
    if change is ContextChange.SHUFFLED:
        donors = find_donors(owners, _DONOR_RULES, change, seed)
        contexts = [None if donor is None else donor.context for donor in donors]
    elif change is ContextChange.CONTRADICTORY:
        contexts = [sample.context and contradict(sample.context) for sample in owners]
    changed = []
    for sample, context in zip(owners, contexts, strict=True):
        differing = differing_fields(sample.context, context)
        if context is None and change is not ContextChange.NONE:
            left_out["no context to swap with"] += 1
        elif not differing:
            left_out["nothing in the context has an opposite"] += 1
        else:
            marked = mark(sample, change.value)
            changed.append(replace(marked, context=context, metadata={**marked.metadata, "context_changes": differing}))
    num_same = sum(donor is not None and not has_other_answer(sample, donor) for sample, donor in zip(owners, donors, strict=True))
    return Ablated(samples=tuple(changed), left_out=dict(left_out), num_same_target=num_same)


def _is_other_patient(sample: Sample, donor: Sample) -> bool:
    """Whether the donor is another patient, as far as subjects and images tell, with another context."""
    return is_other_subject(sample, donor) and has_other_images(sample, donor) and sample.context != donor.context


def _is_other_patient_and_answer(sample: Sample, donor: Sample) -> bool:
    return has_other_answer(sample, donor) and _is_other_patient(sample, donor)


# From the best kind of donor to the last resort.
_DONOR_RULES: Final = (
    DonorRule(key=attrgetter("modality", "question_type", "question"), fits=_is_other_patient_and_answer, needs_other_answer=True),
    DonorRule(key=attrgetter("modality", "question_type"), fits=_is_other_patient_and_answer, needs_other_answer=True),
    DonorRule(key=attrgetter("modality"), fits=_is_other_patient),
    DonorRule(key=lambda _: None, fits=_is_other_patient),
)
