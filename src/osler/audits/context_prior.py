"""The blind baseline of the patient context: how often an option was right beside the words of a context, fitted on train.

For every option text and every word the training questions tell how often the option was right and how often wrong beside that word; the
score of an option is the sum of the logarithms of these ratios over the words of the context (naive Bayes), less what the option tells
without a context. A word is also that an option stands in the context. Without a context every option has the score 0.
Shapes: N questions, K options at most.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from osler.context import ADULT, Context, years_of
from osler.text import fold_words

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

NAME: Final = "context_prior"

OLD: Final = 60.0
"""Years from which an adult is in the oldest of three age groups."""

_PRIOR: Final = 0.5  # added to every count, so that a word seen once decides little
_ANY: Final = -2  # the option of the word that an option stands in the context, whatever the option


@dataclass(frozen=True, slots=True, kw_only=True)
class ContextWords:
    """What a baseline sees of a context."""

    words: frozenset[str]  # {"age:adult", "sex:male", "cough"}
    text: str  # " 67 year old man cough ", folded, to find options in

    @classmethod
    def of(cls, context: Context | None) -> ContextWords | None:
        """The words of a context; None without one."""
        if context is None:
            return None
        words = {f"{name}:{value}" for name in ("sex", "laterality") if (value := getattr(context, name)) is not None}
        if context.age is not None:
            years = years_of(context.age)
            group = context.age if years is None else "child" if years < ADULT else "adult" if years < OLD else "old"
            words.add(f"age:{group}")
        folded = fold_words(" ".join(context.texts))
        return cls(words=frozenset(words | set(folded.split())), text=f" {folded} ")

    def holds(self, option: str) -> bool:
        """Whether the text of an option stands in the context."""
        folded = fold_words(option)
        return bool(folded) and f" {folded} " in self.text


@dataclass(frozen=True, slots=True, kw_only=True)
class ContextPrior:
    """How often each option was right and wrong beside each word."""

    right: Counter[tuple[int, str]]  # (option, word) -> times
    wrong: Counter[tuple[int, str]]
    num_right: Counter[int]  # option -> times, of questions with a context
    num_wrong: Counter[int]

    @classmethod
    def fit(
        cls, contexts: Sequence[ContextWords | None], options: NDArray[np.int64], targets: NDArray[np.int64], texts: Sequence[str]
    ) -> ContextPrior:
        """Count questions with a context. `options` (N, K) are the numbers of folded texts, -1 for none; `texts` has a text of each."""
        prior = cls(right=Counter(), wrong=Counter(), num_right=Counter(), num_wrong=Counter())
        for context, row, target in zip(contexts, options.tolist(), targets.tolist(), strict=True):
            for place, option in enumerate(row if context is not None else ()):
                if context is None or option < 0:
                    continue
                counts, totals = (prior.right, prior.num_right) if place == target else (prior.wrong, prior.num_wrong)
                totals.update((option, _ANY))
                counts.update((option, word) for word in context.words)
                counts[_ANY, _stands(context, texts[option])] += 1
        return prior

    def score(self, context: ContextWords | None, options: Sequence[int], texts: Sequence[str]) -> list[float]:
        """The score of each option of a question; -inf for none (-1). All are 0 without a context."""
        scores = []
        for option in options:
            if context is None or option < 0:
                scores.append(0.0 if option >= 0 else -math.inf)
                continue
            told = sum(self._ratio(option, word) for word in sorted(context.words))
            scores.append(told + self._ratio(_ANY, _stands(context, texts[option])))
        return scores

    def _ratio(self, option: int, word: str) -> float:
        """The logarithm of P(word | option right) / P(word | option wrong), 0 for an option or a word that was not seen."""
        if not self.right[option, word] + self.wrong[option, word]:
            return 0.0
        right, wrong = self.right[option, word] + _PRIOR, self.wrong[option, word] + _PRIOR
        return math.log(right / (self.num_right[option] + 2 * _PRIOR)) - math.log(wrong / (self.num_wrong[option] + 2 * _PRIOR))


def _stands(context: ContextWords, option: str) -> str:
    return "in the context" if context.holds(option) else "not in it"
