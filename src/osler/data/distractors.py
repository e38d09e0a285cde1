"""Redraw the distractors of a question. The question, the right answer, its letter and the image stay the same.

The written distractors of a benchmark can often be recognised by their text: in OmniMedVQA an option that is right once is nearly always
right. Redrawn distractors are right answers of other questions of the same modality and question type, drawn in proportion to how often
they are right, so that the text of an option says little about whether it is the answer.
"""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Final

from osler.data.donors import asked_for
from osler.data.option_order import refers_to_options
from osler.text import fold_option, fold_words
from osler.types import LETTERS, Sample

_YES_NO: Final = frozenset({"yes", "no", "true", "false", "maybe", "not sure", "unsure"})


class Distractors(StrEnum):
    """Whether the distractors of a question were redrawn, or why not; kept in `sample.metadata["distractors"]`."""

    REDRAWN = "redrawn"
    TOO_FEW_GOLDS = "too_few_golds"  # questions that ask for the same have too few other right answers
    YES_NO = "yes_no"  # the options are yes and no
    NAMED = "named"  # the question names its options, e.g. "Which is bigger, heart or lung?"
    REFERS = "refers"  # an option refers to other options, e.g. "all of the above"
    OPEN_ENDED = "open_ended"


@dataclass(slots=True, kw_only=True)
class _Golds:
    """The right answers of questions that ask for the same (`donors.asked_for`), as keys of `fold_option`."""

    counts: Counter[str] = field(default_factory=Counter)  # key -> number of questions
    texts: dict[str, str] = field(default_factory=dict)  # key -> the answer as written
    of_image: defaultdict[str, set[str]] = field(default_factory=lambda: defaultdict(set))  # image uri -> keys


def redraw_distractors(samples: Sequence[Sample], *, seed: int = 0, pool: Iterable[Sample] | None = None) -> list[Sample]:
    """Replace distractors by right answers of questions in `pool` (default: the samples) of the same modality and question type.

    Where a dataset tells more closely what a question asks for (`content_type` of SLAKE and VQA-RAD), that has to be the same as well.

    Returns the samples in their order, each with its outcome, a value of `Distractors`, in `metadata["distractors"]`.

    A question keeps its number of options and the letter of its answer. Distractors are drawn without replacement, weighted by how often
    they are right. They differ from the answer after `fold_option` and are not right for another such question about the same image. The
    draw depends only on the seed, the sample's id and the pool. An answer that is right for more than a quarter of the four-option
    questions remains a good guess, because there are too few questions in which it can be wrong.
    """
    golds = _collect_golds(samples if pool is None else pool)
    redrawn = []
    for sample in samples:
        choices, outcome = _redraw(sample, golds.get(asked_for(sample), _Golds()), seed)
        redrawn.append(replace(sample, choices=choices, metadata={**sample.metadata, "distractors": outcome.value}))
    return redrawn


def _collect_golds(pool: Iterable[Sample]) -> dict[Hashable, _Golds]:
    cells: dict[Hashable, _Golds] = defaultdict(_Golds)
    for sample in pool:
        if not sample.choices or is_yes_no(sample) or refers_to_options(sample):
            continue
        golds, key = cells[asked_for(sample)], fold_option(sample.target_text)
        golds.counts[key] += 1
        golds.texts.setdefault(key, sample.target_text)
        for image in sample.images:
            golds.of_image[image.uri].add(key)
    return dict(cells)


def _redraw(sample: Sample, golds: _Golds, seed: int) -> tuple[tuple[str, ...], Distractors]:
    if not sample.choices:
        return sample.choices, Distractors.OPEN_ENDED
    if is_yes_no(sample):
        return sample.choices, Distractors.YES_NO
    if _names_options(sample):
        return sample.choices, Distractors.NAMED
    if refers_to_options(sample):
        return sample.choices, Distractors.REFERS
    excluded = {fold_option(sample.target_text)}.union(*(golds.of_image.get(image.uri, ()) for image in sample.images))
    candidates = [key for key in sorted(golds.counts) if key and key not in excluded]
    num_distractors = len(sample.choices) - 1
    if len(candidates) < num_distractors:
        return sample.choices, Distractors.TOO_FEW_GOLDS
    rng = random.Random(f"{seed}/distractors/{sample.id}")
    # Weighted sampling without replacement: the largest u ** (1 / weight), Efraimidis and Spirakis (2006), algorithm A.
    ranks = {key: rng.random() ** (1 / golds.counts[key]) for key in candidates}
    drawn = [golds.texts[key] for key in sorted(candidates, key=lambda key: -ranks[key])[:num_distractors]]
    drawn.insert(LETTERS.index(sample.target), sample.target_text)
    return tuple(drawn), Distractors.REDRAWN


def _names_options(sample: Sample) -> bool:
    question = f" {fold_words(sample.question)} "
    return all(f" {fold_words(choice)} " in question for choice in sample.choices)


def is_yes_no(sample: Sample) -> bool:
    """Whether every option is yes, no, or a similar word."""
    return bool(sample.choices) and all(fold_option(choice) in _YES_NO for choice in sample.choices)
