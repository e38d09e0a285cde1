"""Change the order of a question's options: at random for an epoch, or every rotation. The letter of the target changes with it."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from osler.metrics import rotation_id
from osler.types import LETTERS, Sample

# "All of the above", "Both A and B": such a text depends on the other options and their order.
_REFERS: Final = re.compile(
    r"(?i:.*\b(?:all|none|any|both|neither|either|one|some)\s+(?:of\s+)?(?:the\s+)?(?:above|below)\b.*)"
    r"|(?:(?i:both|neither|either|only|options?|answers?|choices?)\s+)?\(?[A-Z]\)?(?:\s*(?:,|&|/|\band\b|\bor\b|\bnor\b)\s*\(?[A-Z]\)?)+\.?"
    r"|(?i:both|neither|either|only|options?|answers?|choices?)\s+\(?[A-Z]\)?\.?",
    re.DOTALL,
)


def refers_to_options(sample: Sample) -> bool:
    """Whether an option refers to others by position or letter, e.g. "Both A and B", so that the order of the options must not change."""
    return any(_REFERS.fullmatch(text.strip()) for text in sample.choices)


def shuffle_options(sample: Sample, key: str) -> Sample:
    """The sample with its options in a random order that depends on its id and on `key`, e.g. "0/3" for seed 0 and epoch 3.

    Open-ended samples, and samples with options that refer to each other, are returned unchanged.
    """
    if not sample.choices or refers_to_options(sample):
        return sample
    order = list(range(len(sample.choices)))
    random.Random(f"{key}/options/{sample.id}").shuffle(order)
    return _reorder(sample, order)


def rotate_options(sample: Sample) -> tuple[Sample, ...]:
    """One sample for each rotation of the options by 0, 1 .. places; `metadata["rotation"]` is that number, `rotation_id` gives the id.

    Returns () for an open-ended sample and for a sample with options that refer to each other.
    """
    if not sample.choices or refers_to_options(sample):
        return ()
    num = len(sample.choices)
    orders = ([(place + shift) % num for place in range(num)] for shift in range(num))
    return tuple(
        replace(_reorder(sample, order), id=rotation_id(sample.id, shift), metadata={**sample.metadata, "rotation": shift})
        for shift, order in enumerate(orders)
    )


def _reorder(sample: Sample, order: Sequence[int]) -> Sample:
    """The sample with `choices[order[i]]` at position i, and its target adapted."""
    target = LETTERS[order.index(LETTERS.index(sample.target))]
    return replace(sample, choices=tuple(sample.choices[place] for place in order), target=target)
