"""Blind baselines: answers without an image or a model, fitted on train and scored on test.

All but the fixed ones are the same lookup with another key: a key that is seen S times among the options of train and is right G times
has the rate (G + 0.25) / (S + 1). The option of the highest rate is the answer, and ties share the credit. `OptionPrior` is this lookup by
option text for one question at a time; `BASELINES` work on arrays, because a matrix of all train and test files takes a million look-ups.
Shapes: N questions, K options at most.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

from osler.audits.context_prior import NAME as CONTEXT_PRIOR
from osler.audits.context_prior import ContextPrior
from osler.audits.numbering import ABSENT, SampleTable
from osler.audits.question_arrays import QuestionArrays, Vocabulary
from osler.metrics.estimates import NO_ESTIMATE, Estimate, wilson
from osler.text import fold_option
from osler.types import LETTERS, Sample

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Ints = NDArray[np.int64]
    Floats = NDArray[np.float64]

_PRIOR_GOLD = 0.25
_PRIOR_SEEN = 1.0
_MAX_GAPS: Final = 4  # numbers of keys for each that can occur, up to which they are not numbered anew


@dataclass(frozen=True, slots=True, kw_only=True)
class OptionPrior:
    """How often each option text was right in training: a lookup that uses neither image nor question.

    On OmniMedVQA it answers 83 to 100 % of the test questions of the modality it was fitted on.
    """

    gold: Counter[str]
    seen: Counter[str]

    @classmethod
    def fit(cls, samples: Iterable[Sample]) -> OptionPrior:
        """Count the options of samples with choices; open-ended ones are skipped."""
        gold: Counter[str] = Counter()
        seen: Counter[str] = Counter()
        for sample in samples:
            seen.update(fold_option(choice) for choice in sample.choices)
            if sample.choices:
                gold[fold_option(sample.target_text)] += 1
        return cls(gold=gold, seen=seen)

    def rate(self, choice: str) -> float:
        """(times right + 0.25) / (times seen + 1): 0.25 for an option that is not in train."""
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
        """One letter of `best`, ties drawn by `seed` and the sample id; None for an open-ended sample."""
        letters = self.best(sample)
        return random.Random(f"{seed}/{sample.id}").choice(letters) if letters else None


def case_style(text: str) -> str:
    """How an option is capitalised: "none", "lower", "upper", "title", "sentence" or "mixed"."""
    if text.lower() == text.upper():
        return "none"
    for style, holds in (("lower", text.islower()), ("upper", text.isupper()), ("title", text.istitle())):
        if holds:
            return style
    return "sentence" if text[:1].isupper() and text[1:].islower() else "mixed"


def punctuation_style(text: str) -> str:
    """The distinct signs of an option in order, e.g. "()," for "Benign, grade (II)"."""
    if text.replace(" ", "").isalnum():
        return ""
    return "".join(sorted({sign for sign in text if not sign.isalnum() and not sign.isspace()}))


def _option_keys(arrays: QuestionArrays, vocabulary: Vocabulary) -> Ints:
    return vocabulary.number(fold_option)[arrays.options]


def _length_keys(arrays: QuestionArrays, vocabulary: Vocabulary) -> Ints:
    return vocabulary.measure(len)[arrays.options]


def _is_lower_case(text: str) -> bool:
    return text == text.lower()


def _letter_keys(arrays: QuestionArrays, vocabulary: Vocabulary) -> Ints:  # noqa: ARG001 - the keys of every baseline take a vocabulary
    import numpy as np

    return np.broadcast_to(np.arange(arrays.options.shape[1]), arrays.options.shape)


@dataclass(frozen=True, slots=True, kw_only=True)
class Baseline:
    """One way to answer blind."""

    title: str
    what: str  # what the answer depends on, as the page says it
    keys: Callable[[QuestionArrays, Vocabulary], Ints]  # (N, K)
    how: Literal["rate", "count", "fixed", "context"] = "rate"
    # Score of a key. rate: share of times that it was right; count: number of times; fixed: the key itself, nothing is fitted;
    # context: by `ContextPrior`, whose keys are options.


BASELINES: Final[Mapping[str, Baseline]] = {
    "option_prior": Baseline(title="Option prior", what="how often an option's text was right in train", keys=_option_keys),
    "question_prior": Baseline(
        title="Question prior",
        what="how often an option's text was right for the same question in train",
        keys=lambda arrays, vocabulary: arrays.questions[:, None] * len(vocabulary.options) + _option_keys(arrays, vocabulary),
    ),
    "longest": Baseline(title="Longest option", what="the longest option; nothing is fitted", keys=_length_keys, how="fixed"),
    "shortest": Baseline(
        title="Shortest option",
        what="the shortest option; nothing is fitted",
        keys=lambda arrays, vocabulary: -_length_keys(arrays, vocabulary),
        how="fixed",
    ),
    "lower_case": Baseline(
        title="Lower case",
        what="the option without capitals; nothing is fitted",
        keys=lambda arrays, vocabulary: vocabulary.measure(_is_lower_case)[arrays.options],
        how="fixed",
    ),
    "case": Baseline(
        title="Case",
        what="how an option is capitalised",
        keys=lambda arrays, vocabulary: vocabulary.number(case_style)[arrays.options],
    ),
    "punctuation": Baseline(
        title="Punctuation",
        what="which signs an option holds",
        keys=lambda arrays, vocabulary: vocabulary.number(punctuation_style)[arrays.options],
    ),
    "position": Baseline(
        title="Position",
        what="where an option stands among so many",  # the last of two options has another key than the last of four
        keys=lambda arrays, vocabulary: arrays.sizes[:, None] * len(LETTERS) + _letter_keys(arrays, vocabulary),
    ),
    "majority_letter": Baseline(title="Majority letter", what="the letter most often right in train", keys=_letter_keys, how="count"),
}
"""By their names in the JSON of an audit."""

ALL_BASELINES: Final[Mapping[str, Baseline]] = {
    **BASELINES,
    CONTEXT_PRIOR: Baseline(
        title="Context prior",
        what="how often an option's text was right beside the words of the patient context in train",
        keys=_option_keys,
        how="context",
    ),
}
"""Also the one that is there only where a question has a patient context."""


def baselines_for(vocabulary: Vocabulary) -> Mapping[str, Baseline]:
    """The baselines of data with these texts."""
    return ALL_BASELINES if vocabulary.has_contexts else BASELINES


def blind_accuracy(credit: float | None, total: int) -> Estimate:
    """The mean credit of `total` questions with the interval of Wilson (1927) for so many right answers; None gives no value.

    Where ties share a credit the interval is too wide, never too narrow.
    """
    if credit is None:
        return NO_ESTIMATE
    low, high = wilson(credit, total)
    return Estimate(value=credit, low=low, high=high)


def chance(arrays: QuestionArrays) -> float | None:
    """The mean accuracy of guessing, e.g. 0.25 with four options each; None without questions."""
    return float((1 / arrays.sizes).mean()) if len(arrays) else None


@dataclass(frozen=True, slots=True, kw_only=True)
class ContextLookup:
    """The fitted baseline of the patient context."""

    prior: ContextPrior
    texts: tuple[str, ...]  # a text of each number of an option

    @classmethod
    def fit(cls, keys: Ints, train: QuestionArrays, vocabulary: Vocabulary) -> ContextLookup:
        """Count the words of the contexts of train by option; `keys` (N, K) are the numbers of folded options."""
        import numpy as np

        numbers = vocabulary.number(fold_option)
        texts = [""] * (int(numbers.max(initial=-1)) + 1)
        for text, number in zip(vocabulary.options, numbers.tolist(), strict=True):
            texts[number] = text
        options = np.where(train.options == ABSENT, ABSENT, keys)
        return cls(prior=ContextPrior.fit(train.contexts, options, train.targets, texts), texts=tuple(texts))

    def look_up(self, keys: Ints, arrays: QuestionArrays) -> Floats:
        """(N, K) the scores of all options."""
        import numpy as np

        scores_NK = np.zeros(keys.shape)
        for row, context in enumerate(arrays.contexts):
            if context is not None:
                scores_NK[row] = self.prior.score(context, keys[row].tolist(), self.texts)
        return np.round(scores_NK, 9)  # so that equal evidence ties, in whatever order it was added


def number_keys(baseline: Baseline, arrays: QuestionArrays, vocabulary: Vocabulary) -> Ints:
    """(N, K) the keys of every option; of a baseline that looks them up, as numbers from 0 with few gaps, equal for equal keys.

    `arrays` are those that the vocabulary encoded.
    """
    import numpy as np

    if (known := vocabulary.keys.get(baseline.title)) is not None:
        return known
    keys = baseline.keys(arrays, vocabulary)
    if baseline.how in ("fixed", "context") or not keys.size:
        return keys
    lowest = int(keys.min())
    if int(keys.max()) - lowest <= _MAX_GAPS * keys.size:
        return keys - lowest
    vocabulary.keys[baseline.title] = numbers = np.unique(keys, return_inverse=True)[1].reshape(keys.shape)
    return numbers


def fit(baseline: Baseline, keys: Ints, train: QuestionArrays, vocabulary: Vocabulary) -> Floats | ContextLookup | None:
    """The score of each key of `number_keys`, whose rows of the train questions are `keys` (N, K), up to the highest in train.

    None for a fixed baseline and without train questions.
    """
    import numpy as np

    if baseline.how == "fixed" or not len(train):
        return None
    if baseline.how == "context":
        return ContextLookup.fit(keys, train, vocabulary)
    seen = np.bincount(keys[train.options != ABSENT])
    gold = np.bincount(keys[np.arange(len(train)), train.targets], minlength=len(seen))
    return gold.astype(np.float64) if baseline.how == "count" else (gold + _PRIOR_GOLD) / (seen + _PRIOR_SEEN)


def score(baseline: Baseline, lookup: Floats | ContextLookup | None, arrays: QuestionArrays, keys: Ints) -> Floats | None:
    """(N,) the credit of every question with its `number_keys` (N, K); None for a fitted baseline without a lookup."""
    import numpy as np

    if lookup is None and baseline.how != "fixed":
        return None
    if isinstance(lookup, ContextLookup):
        scores_NK = lookup.look_up(keys, arrays)
    elif lookup is None:
        scores_NK = keys.astype(np.float64)
    else:
        unseen = 0.0 if baseline.how == "count" else _PRIOR_GOLD / _PRIOR_SEEN
        scores_NK = np.where(keys < len(lookup), lookup[np.minimum(keys, len(lookup) - 1)], unseen)
    scores_NK = np.where(arrays.options == ABSENT, -np.inf, scores_NK)
    is_best = scores_NK == scores_NK.max(axis=1, keepdims=True)
    credits_N: Floats = is_best[np.arange(len(arrays)), arrays.targets] / np.maximum(is_best.sum(axis=1), 1)
    return credits_N


def blind_credits(train: Sequence[Sample], test: Sequence[Sample]) -> dict[str, dict[str, float]]:
    """Baseline -> sample id -> credit on every test question with choices.

    Fitted baselines are left out where train has no question with choices.
    """
    import numpy as np

    vocabulary = Vocabulary()
    arrays = vocabulary.encode(SampleTable.of([*train, *test]))
    known, asked = np.split(np.arange(len(arrays)), [sum(bool(sample.choices) for sample in train)])
    ids = [sample.id for sample in test if sample.choices]
    credits_by_baseline: dict[str, dict[str, float]] = {}
    for name, _, credits_N in _scores(arrays, {"train": known}, asked, vocabulary):
        if credits_N is not None:
            credits_by_baseline[name] = dict(zip(ids, credits_N.tolist(), strict=True))
    return credits_by_baseline


def blind_matrix(
    arrays: QuestionArrays, train: Mapping[str, Ints], test: Mapping[str, Ints], vocabulary: Vocabulary
) -> dict[str, dict[str, dict[str, float | None]]]:
    """Baseline -> train -> test -> mean credit; None where a fitted baseline has no train questions, or the test set has none.

    `train` and `test` give the rows of each set in `arrays`.
    """
    import numpy as np

    asked = np.unique(np.concatenate([np.arange(0), *test.values()]))
    places = {column: np.searchsorted(asked, rows) for column, rows in test.items()}
    matrix: dict[str, dict[str, dict[str, float | None]]] = {name: {} for name in baselines_for(vocabulary)}
    for name, row, credits_N in _scores(arrays, train, asked, vocabulary):
        matrix[name][row] = {
            column: None if credits_N is None or not len(where) else float(credits_N[where].mean()) for column, where in places.items()
        }
    return matrix


def _scores(
    arrays: QuestionArrays, train: Mapping[str, Ints], asked: Ints, vocabulary: Vocabulary
) -> Iterator[tuple[str, str, Floats | None]]:
    """The credits of every baseline, fitted on each of the train sets, on the rows `asked`, as `score` gives them."""
    if not train:
        return
    known, tested = {name: arrays.take(rows) for name, rows in train.items()}, arrays.take(asked)
    for name, baseline in baselines_for(vocabulary).items():
        keys = number_keys(baseline, arrays, vocabulary)
        credits_N: Floats | None = None
        for row, rows in train.items():
            if baseline.how != "fixed" or credits_N is None:
                credits_N = score(baseline, fit(baseline, keys[rows], known[row], vocabulary), tested, keys[asked])
            yield name, row, credits_N
