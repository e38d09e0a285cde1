"""Blind baselines of open questions: the most frequent answer in train to the same question, type of question, or patient context.

They are scored on test by the grader's own rules, so that the accuracy of a policy on open questions can be compared with them.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from types import MappingProxyType
from typing import Final

from osler.audits.baselines import ALL_BASELINES
from osler.audits.context_prior import NAME as CONTEXT_PRIOR
from osler.grading.comparison import compare
from osler.text import fold_answer, fold_option
from osler.types import Sample

Key = Callable[[Sample], Hashable]

OPEN_KEYS: Final[Mapping[str, Key]] = MappingProxyType(
    {"option_prior": lambda sample: sample.question_type, "question_prior": lambda sample: fold_option(sample.question)}
)
"""What the answer depends on, by the baseline of `ALL_BASELINES` that the same rule is for questions with choices."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerPrior:
    """The most frequent answer of open questions by a key, and of all of them."""

    key: Key
    answers: Mapping[Hashable, str]
    usual: str  # "Lung"; the answer to a question whose key is not in train

    @classmethod
    def fit(cls, samples: Iterable[Sample], key: Key) -> AnswerPrior | None:
        """Count the reference answers; samples with choices are skipped. None without open questions."""
        texts: defaultdict[Hashable, list[str]] = defaultdict(list)
        for sample in samples:
            if not sample.choices:
                texts[key(sample)].append(sample.target)
        if not texts:
            return None
        every = [text for found in texts.values() for text in found]
        return cls(key=key, answers={name: _most_frequent(found) for name, found in texts.items()}, usual=_most_frequent(every))

    def answer(self, sample: Sample) -> str:
        """The answer to a question, e.g. "Lung"."""
        return self.answers.get(self.key(sample), self.usual)

    def credit(self, sample: Sample) -> float:
        """1.0 where the answer is right, else 0.0: what cannot be decided counts as for a policy."""
        return float(compare(self.answer(sample), sample.target).is_right is True)


def _most_frequent(texts: Sequence[str]) -> str:
    """The most frequent of some answers that are counted without case and articles; of equal ones the first by its text."""
    counts: Counter[tuple[str, ...]] = Counter()
    spelling: dict[tuple[str, ...], str] = {}
    for text in sorted(texts):
        folded = fold_answer(text)
        counts[folded] += 1
        spelling.setdefault(folded, text)
    return spelling[max(counts, key=lambda folded: counts[folded])]


def open_credits(train: Sequence[Sample], test: Sequence[Sample]) -> dict[str, dict[str, float]]:
    """Title of a baseline -> sample id -> credit on every open test question; {} where train has no open question."""
    asked = [sample for sample in test if not sample.choices]
    found = {}
    has_contexts = any(sample.context is not None for sample in (*train, *test))
    keys: dict[str, Key] = {**OPEN_KEYS, CONTEXT_PRIOR: attrgetter("context")} if has_contexts else dict(OPEN_KEYS)
    for name, key in keys.items():
        if (prior := AnswerPrior.fit(train, key)) is not None:
            found[ALL_BASELINES[name].title] = {sample.id: prior.credit(sample) for sample in asked}
    return found
