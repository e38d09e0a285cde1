"""What a question gives away without its image. A policy's accuracy means something only beside these baselines."""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from osler.types import LETTERS, Sample

_PRIOR_GOLD = 0.25
_PRIOR_SEEN = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class OptionPrior:
    """How often each option text was the right one in training: a lookup that sees neither image nor question.

    On OmniMedVQA it answers 83 to 100 % of the test questions of the modality it was fitted on.
    """

    gold: Counter[str]
    seen: Counter[str]

    @classmethod
    def fit(cls, samples: Iterable[Sample]) -> OptionPrior:
        """Count the options of samples with choices; open-ended ones are passed over."""
        gold: Counter[str] = Counter()
        seen: Counter[str] = Counter()
        for sample in samples:
            seen.update(fold_option(choice) for choice in sample.choices)
            if sample.choices:
                gold[fold_option(sample.target_text)] += 1
        return cls(gold=gold, seen=seen)

    def rate(self, choice: str) -> float:
        """(times right + 0.25) / (times seen + 1): 0.25 for an option that training never showed."""
        key = fold_option(choice)
        return (self.gold[key] + _PRIOR_GOLD) / (self.seen[key] + _PRIOR_SEEN)

    def best(self, sample: Sample) -> tuple[str, ...]:
        """The letters of the highest rate; more than one on a tie, none for an open-ended sample."""
        rates = [self.rate(choice) for choice in sample.choices]
        return tuple(letter for letter, rate in zip(LETTERS, rates, strict=False) if rate == max(rates))

    def credit(self, sample: Sample) -> float:
        """The expected score of answering with `best`, ties sharing it: 1, 0.5, .. or 0."""
        letters = self.best(sample)
        return 1 / len(letters) if sample.target in letters else 0.0

    def pick(self, sample: Sample, *, seed: int = 0) -> str | None:
        """One letter of `best`, ties drawn by `seed` and the sample's id; None for an open-ended sample."""
        letters = self.best(sample)
        return random.Random(f"{seed}/{sample.id}").choice(letters) if letters else None


def fold_option(text: str) -> str:
    """An option as the lookup keys it: lower case, letters, digits and single spaces, e.g. "X-ray (frontal)." -> "xray frontal"."""
    return " ".join(re.sub(r"[^\w\s]|_", "", text.lower()).split())
