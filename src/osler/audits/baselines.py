"""Blind baselines: answers without an image or a model, fitted on train and scored on test.

All but the fixed ones are the same lookup over another key: a key seen S times among the options of train and right G times rates
(G + 0.25) / (S + 1), the option of the highest rate is the answer, and ties share the credit. `OptionPrior` is that lookup over option
texts for one question at a time; `BASELINES` are arrays, because a matrix of every train and test file asks a million times.
Shapes: N items, K options at most.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Literal

from osler.metrics.estimates import Estimate, wilson
from osler.text import fold_option
from osler.types import LETTERS, Sample

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Ints = NDArray[np.int64]
    Floats = NDArray[np.float64]

_PRIOR_GOLD = 0.25
_PRIOR_SEEN = 1.0
_ABSENT: Final = -1  # where an item has no option


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Items:
    """Questions with choices as arrays over a Catalogue."""

    ids: tuple[str, ...]  # of the samples, ("med_r1/ct/test/0", ..)
    options: Ints  # (N, K) index of an option's text; -1 beyond the last one
    questions: Ints  # (N,) index of the question's text
    targets: Ints  # (N,) column of the right option

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def sizes(self) -> Ints:
        """(N,) how many options each item has."""
        sizes: Ints = (self.options != _ABSENT).sum(axis=1)
        return sizes


@dataclass(slots=True)
class Catalogue:
    """The distinct texts of an audit, so that each is looked at once however often it stands in the data."""

    texts: dict[str, int] = field(default_factory=dict)  # option -> index
    questions: dict[str, int] = field(default_factory=dict)  # folded question -> index
    _folded: dict[str, int] = field(default_factory=dict)  # question as written -> index
    _styles: dict[Callable[[str], str], Ints] = field(default_factory=dict)

    def add(self, samples: Iterable[Sample]) -> Items:
        """The samples that have choices; open-ended ones are passed over."""
        import numpy as np

        closed = [sample for sample in samples if sample.choices]
        options = np.full((len(closed), max((len(sample.choices) for sample in closed), default=1)), _ABSENT, dtype=np.int64)
        for row, sample in enumerate(closed):
            options[row, : len(sample.choices)] = [self.texts.setdefault(choice, len(self.texts)) for choice in sample.choices]
        return Items(
            ids=tuple(sample.id for sample in closed),
            options=options,
            questions=np.array([self._question(sample.question) for sample in closed], dtype=np.int64),
            targets=np.array([LETTERS.index(sample.target) for sample in closed], dtype=np.int64),
        )

    def _question(self, text: str) -> int:
        if (index := self._folded.get(text)) is None:
            index = self._folded[text] = self.questions.setdefault(fold_option(text), len(self.questions))
        return index

    def map(self, measure: Callable[[str], int]) -> Ints:
        """`measure` of every option text, in the order of their indices."""
        import numpy as np

        return np.array([measure(text) for text in self.texts], dtype=np.int64)

    def number(self, style: Callable[[str], str]) -> Ints:
        """The same for a text-valued `style`, a named function: texts of equal style get equal numbers."""
        if (found := self._styles.get(style)) is None or len(found) < len(self.texts):
            numbers: dict[str, int] = {}
            found = self._styles[style] = self.map(lambda text: numbers.setdefault(style(text), len(numbers)))
        return found


def case_style(text: str) -> str:
    """How an option is capitalised: "none", "lower", "upper", "title", "sentence" or "mixed"."""
    if text.lower() == text.upper():
        return "none"
    for style, holds in (("lower", text.islower()), ("upper", text.isupper()), ("title", text.istitle())):
        if holds:
            return style
    return "sentence" if text[:1].isupper() and text[1:].islower() else "mixed"


def punctuation_style(text: str) -> str:
    """Which signs an option holds, e.g. "(,)" for "Benign, grade (II)", and "." where it ends in a full stop."""
    return "".join(sorted({sign for sign in text if not sign.isalnum() and not sign.isspace()}))


def _option_keys(items: Items, catalogue: Catalogue) -> Ints:
    return catalogue.number(fold_option)[items.options]


def _question_keys(items: Items, catalogue: Catalogue) -> Ints:
    return items.questions[:, None] * len(catalogue.texts) + _option_keys(items, catalogue)


def _length_keys(items: Items, catalogue: Catalogue) -> Ints:
    return catalogue.map(len)[items.options]


def _position_keys(items: Items, catalogue: Catalogue) -> Ints:
    """(number of options, position), so that "the last" is learned apart for two and for four options."""
    return items.sizes[:, None] * len(LETTERS) + _letter_keys(items, catalogue)


def _letter_keys(items: Items, catalogue: Catalogue) -> Ints:  # noqa: ARG001 - every baseline's keys take a catalogue
    import numpy as np

    return np.broadcast_to(np.arange(items.options.shape[1]), items.options.shape)


@dataclass(frozen=True, slots=True, kw_only=True)
class Baseline:
    """One way to answer blind."""

    name: str
    title: str
    what: str  # what it looks at, for a reader of the table
    keys: Callable[[Items, Catalogue], Ints]  # (N, K)
    how: Literal["rate", "count", "fixed"] = "rate"
    # rate: the share of times that the key was right; count: how often; fixed: the key itself is the score and nothing is fitted


BASELINES: Final[Mapping[str, Baseline]] = {
    baseline.name: baseline
    for baseline in (
        Baseline(name="option_prior", title="Option prior", what="how often an option's text was right in train", keys=_option_keys),
        Baseline(
            name="question_prior",
            title="Question prior",
            what="how often an option's text was right for the same question in train",
            keys=_question_keys,
        ),
        Baseline(name="longest", title="Longest option", what="the longest option; nothing is fitted", keys=_length_keys, how="fixed"),
        Baseline(
            name="shortest",
            title="Shortest option",
            what="the shortest option; nothing is fitted",
            keys=lambda items, catalogue: -_length_keys(items, catalogue),
            how="fixed",
        ),
        Baseline(
            name="lower_case",
            title="Lower case",
            what="the option without capitals; nothing is fitted",
            keys=lambda items, catalogue: catalogue.map(lambda text: text == text.lower())[items.options],
            how="fixed",
        ),
        Baseline(
            name="case",
            title="Case",
            what="how an option is capitalised",
            keys=lambda items, catalogue: catalogue.number(case_style)[items.options],
        ),
        Baseline(
            name="punctuation",
            title="Punctuation",
            what="which signs an option holds",
            keys=lambda items, catalogue: catalogue.number(punctuation_style)[items.options],
        ),
        Baseline(name="position", title="Position", what="where an option stands among so many", keys=_position_keys),
        Baseline(
            name="majority_letter", title="Majority letter", what="the letter most often right in train", keys=_letter_keys, how="count"
        ),
    )
}
"""By the name that the JSON of an audit uses."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Blind(Estimate):
    """What one baseline gets on one test set: the mean credit of `total` questions with its 95 % interval."""

    total: int

    __str__ = Estimate.__str__


def summarize_credits(credits_N: Floats) -> Blind:
    """The mean of credits. Wilson's (1927) interval as for so many right answers: too wide, if anything, where ties share a credit."""
    total = len(credits_N)
    if total == 0:
        return Blind(value=None, low=None, high=None, total=0)
    share = float(credits_N.mean())
    low, high = wilson(share, total)
    return Blind(value=share, low=low, high=high, total=total)


def chance(items: Items) -> float | None:
    """What guessing gets on average, e.g. 0.25 with four options each; None without questions."""
    return float((1 / items.sizes).mean()) if len(items) else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Lookup:
    """A fitted baseline: the score of every key of train, and of any other."""

    known: Ints  # sorted
    scores: Floats
    unknown: float

    def look_up(self, keys: Ints) -> Floats:
        """The score of each key, in the shape of `keys`."""
        import numpy as np

        places = np.minimum(np.searchsorted(self.known, keys), len(self.known) - 1)
        return np.where(self.known[places] == keys, self.scores[places], self.unknown)


def fit(baseline: Baseline, train: Items, catalogue: Catalogue) -> Lookup | None:
    """What a baseline learns from train; None where there is nothing to learn from, or nothing that it learns.

    Call it once every sample of an audit is in the catalogue.
    """
    import numpy as np

    if baseline.how == "fixed" or not len(train):
        return None
    keys = baseline.keys(train, catalogue)
    known, index = np.unique(keys[train.options != _ABSENT], return_inverse=True)
    right = keys[np.arange(len(train)), train.targets]
    gold = np.bincount(np.searchsorted(known, right), minlength=len(known))
    if baseline.how == "count":
        return Lookup(known=known, scores=gold.astype(np.float64), unknown=0.0)
    seen = np.bincount(index, minlength=len(known))
    return Lookup(known=known, scores=(gold + _PRIOR_GOLD) / (seen + _PRIOR_SEEN), unknown=_PRIOR_GOLD / _PRIOR_SEEN)


def score(baseline: Baseline, learned: Lookup | None, items: Items, keys: Ints) -> Floats | None:
    """(N,) the credit of every item, whose `keys` (N, K) are the baseline's; None for a fitted baseline that learned nothing."""
    import numpy as np

    if learned is None and baseline.how != "fixed":
        return None
    scores_NK = keys.astype(np.float64) if learned is None else learned.look_up(keys)
    scores_NK = np.where(items.options == _ABSENT, -np.inf, scores_NK)
    is_best = scores_NK == scores_NK.max(axis=1, keepdims=True)
    credits_N: Floats = is_best[np.arange(len(items)), items.targets] / np.maximum(is_best.sum(axis=1), 1)
    return credits_N


def blind_credits(train: Sequence[Sample], test: Sequence[Sample]) -> dict[str, dict[str, float]]:
    """Baseline -> sample id -> credit on every test question with choices: what an accuracy is to be compared with, question by question.

    A fitted baseline is left out where train has no question with choices.
    """
    catalogue = Catalogue()
    fitted, asked = catalogue.add(train), catalogue.add(test)
    found: dict[str, dict[str, float]] = {}
    for name, baseline in BASELINES.items():
        credits_N = score(baseline, fit(baseline, fitted, catalogue), asked, baseline.keys(asked, catalogue))
        if credits_N is not None:
            found[name] = dict(zip(asked.ids, credits_N.tolist(), strict=True))
    return found


def blind_matrix(
    train: Mapping[str, Items], test: Mapping[str, Items], catalogue: Catalogue, baselines: Iterable[Baseline] = BASELINES.values()
) -> dict[str, dict[str, dict[str, Blind]]]:
    """Baseline -> train -> test -> what it gets. No value where a fitted baseline has no train items, or a test set is empty."""
    import numpy as np

    empty = np.zeros(0)
    matrix: dict[str, dict[str, dict[str, Blind]]] = {}
    for baseline in baselines:
        learned = {name: fit(baseline, items, catalogue) for name, items in train.items()}
        asked = {name: (items, baseline.keys(items, catalogue)) for name, items in test.items()}
        matrix[baseline.name] = {
            row: {
                column: summarize_credits(empty if (credits_N := score(baseline, lookup, *found)) is None else credits_N)
                for column, found in asked.items()
            }
            for row, lookup in learned.items()
        }
    return matrix
