"""Blind baselines of open questions: answers of train to the same question, a similar one, or the same type of question.

All are scored on test by the grader's own rules, so that the accuracy of a policy on open questions can be compared with them.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import log, sqrt
from operator import attrgetter
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, Protocol

from osler.audits.baselines import ALL_BASELINES, BASELINES
from osler.audits.context_prior import NAME as CONTEXT_PRIOR
from osler.grading.comparison import compare
from osler.metrics.estimates import Share
from osler.metrics.overlap import overlap_words
from osler.text import fold_answer, fold_option
from osler.types import Sample

if TYPE_CHECKING:
    from scipy.sparse import csr_array

ROWS_AT_ONCE: Final = 256
"""Questions that are compared with all training questions at a time."""


class Answerer(Protocol):
    """A fitted baseline."""

    def answers(self, samples: Sequence[Sample]) -> list[str]:
        """The answer to each open question."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenBaseline:
    """One way to answer open questions blind."""

    title: str
    what: str  # what the answer is, as the page says it
    fit: Callable[[Sequence[Sample]], Answerer]  # on open training questions, at least one


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerPrior:
    """The most frequent answer of open questions by a key, and of all of them."""

    key: Callable[[Sample], Hashable]
    by_key: Mapping[Hashable, str]
    usual: str  # "Lung"; the answer to a question whose key is not in train

    @classmethod
    def fit(cls, samples: Sequence[Sample], key: Callable[[Sample], Hashable]) -> AnswerPrior:
        """Count the reference answers of open questions, at least one."""
        targets: defaultdict[Hashable, list[str]] = defaultdict(list)
        for sample in samples:
            targets[key(sample)].append(sample.target)
        by_key = {name: most_frequent(found) for name, found in targets.items()}
        return cls(key=key, by_key=by_key, usual=most_frequent([sample.target for sample in samples]))

    def answers(self, samples: Sequence[Sample]) -> list[str]:
        """The answer to each question, e.g. ["Lung"]."""
        return [self.by_key.get(self.key(sample), self.usual) for sample in samples]


@dataclass(frozen=True, slots=True, kw_only=True)
class NearestQuestion:
    """The most frequent answer to the training question with the most similar words: the cosine of TF-IDF vectors (Salton 1988).

    The same question is nearest to itself. Of equally near ones the more frequent is taken, then the first by its text. A question without
    a known word gets the most frequent answer of all.
    """

    places: Mapping[str, int]  # word -> column
    weights: Sequence[float]  # of each column, its inverse document frequency
    known_QW: csr_array  # distinct training questions Q by words W, rows of length 1
    by_question: Sequence[str]  # the answer to each of them
    usual: str

    @classmethod
    def fit(cls, samples: Sequence[Sample]) -> NearestQuestion:
        """Index the distinct open questions, at least one."""
        targets: defaultdict[str, list[str]] = defaultdict(list)
        for sample in samples:
            targets[fold_option(sample.question)].append(sample.target)
        questions = sorted(targets, key=lambda text: (-len(targets[text]), text))
        counts = Counter(word for text in questions for word in set(overlap_words(text)))
        places = {word: column for column, word in enumerate(counts)}
        weights = [1 + log((1 + len(questions)) / (1 + count)) for count in counts.values()]
        return cls(
            places=places,
            weights=weights,
            known_QW=_vectors(questions, places, weights),
            by_question=[most_frequent(targets[text]) for text in questions],
            usual=most_frequent([sample.target for sample in samples]),
        )

    def answers(self, samples: Sequence[Sample]) -> list[str]:
        """The answer to each question."""
        questions = list(dict.fromkeys(fold_option(sample.question) for sample in samples))
        found: dict[str, str] = {}
        for start in range(0, len(questions), ROWS_AT_ONCE):
            part = questions[start : start + ROWS_AT_ONCE]
            cosines_NQ = (_vectors(part, self.places, self.weights) @ self.known_QW.T).toarray().round(9)  # equal ones stay equal
            for text, row, nearest in zip(part, cosines_NQ, cosines_NQ.argmax(axis=1), strict=True):
                found[text] = self.by_question[nearest] if row[nearest] > 0 else self.usual
        return [found[fold_option(sample.question)] for sample in samples]


def _vectors(texts: Sequence[str], places: Mapping[str, int], weights: Sequence[float]) -> csr_array:
    """One row of length 1 for each text; a row of zeros for a text without a known word."""
    from scipy.sparse import csr_array

    values: list[float] = []
    columns: list[int] = []
    ends = [0]
    for text in texts:
        known = sorted({places[word] for word in overlap_words(text) if word in places})
        length = sqrt(sum(weights[column] ** 2 for column in known))
        columns += known
        values += [weights[column] / length for column in known]
        ends.append(len(columns))
    return csr_array((values, columns, ends), shape=(len(texts), len(places)))


def most_frequent(texts: Iterable[str]) -> str:
    """The most frequent of some answers that are counted without case and articles; of equal ones the first by its text."""
    counts: Counter[tuple[str, ...]] = Counter()
    spelling: dict[tuple[str, ...], str] = {}
    for text in sorted(texts):
        folded = fold_answer(text)
        counts[folded] += 1
        spelling.setdefault(folded, text)
    return spelling[max(counts, key=lambda folded: counts[folded])]


OPEN_BASELINES: Final[Mapping[str, OpenBaseline]] = MappingProxyType(
    {
        "option_prior": OpenBaseline(
            title=BASELINES["option_prior"].title,
            what="the most frequent answer in train to the same type of question",
            fit=lambda samples: AnswerPrior.fit(samples, lambda sample: sample.question_type),
        ),
        "question_prior": OpenBaseline(
            title=BASELINES["question_prior"].title,
            what="the most frequent answer in train to the same question, or to any where the question is new",
            fit=lambda samples: AnswerPrior.fit(samples, lambda sample: fold_option(sample.question)),
        ),
        "nearest_question": OpenBaseline(
            title="Nearest question",
            what="the most frequent answer in train to the question with the most similar words",
            fit=NearestQuestion.fit,
        ),
        CONTEXT_PRIOR: OpenBaseline(
            title=ALL_BASELINES[CONTEXT_PRIOR].title,
            what="the most frequent answer in train beside the same patient context, or of all where the context is new",
            fit=lambda samples: AnswerPrior.fit(samples, attrgetter("context")),
        ),
    }
)
"""By their names in the JSON of an audit. All but the nearest question have the names of the same rules for questions with choices. That of
the context is left out of data without contexts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenShares:
    """What became of a baseline's answers to some open questions, in shares of one."""

    right: Share
    undecided: Share


def _used(samples: Iterable[Sample]) -> dict[str, OpenBaseline]:
    """The baselines of such data."""
    has_contexts = any(sample.context is not None for sample in samples)
    return {name: baseline for name, baseline in OPEN_BASELINES.items() if name != CONTEXT_PRIOR or has_contexts}


def open_questions(samples: Iterable[Sample]) -> list[Sample]:
    """The samples without choices."""
    return [sample for sample in samples if not sample.choices]


def open_answers(train: Iterable[Sample], test: Iterable[Sample]) -> dict[str, dict[str, str]]:
    """Baseline -> sample id -> answer, for every open test question; {} where train or test has none."""
    known, asked = open_questions(train), open_questions(test)
    if not known or not asked:
        return {}
    ids = [sample.id for sample in asked]
    used = _used((*known, *asked))
    return {name: dict(zip(ids, baseline.fit(known).answers(asked), strict=True)) for name, baseline in used.items()}


def open_matrix(train: Mapping[str, Sequence[Sample]], test: Mapping[str, Sequence[Sample]]) -> dict[str, dict[str, dict[str, Any]]]:
    """Baseline -> train domain -> test domain -> OpenShares; None where either has no open question."""
    asked = {domain: open_questions(samples) for domain, samples in test.items()}
    known = {domain: open_questions(samples) for domain, samples in train.items()}
    matrix: dict[str, dict[str, dict[str, Any]]] = {}
    everything = (sample for samples in (*train.values(), *test.values()) for sample in samples)  # of closed questions too, as for these
    for name, baseline in _used(everything).items():
        fitted = {domain: baseline.fit(samples) if samples else None for domain, samples in known.items()}
        matrix[name] = {
            row: {column: _score(answerer, samples) if answerer and samples else None for column, samples in asked.items()}
            for row, answerer in fitted.items()
        }
    return matrix


def _score(answerer: Answerer, samples: Sequence[Sample]) -> OpenShares:
    results = [compare(answer, sample.target).is_right for answer, sample in zip(answerer.answers(samples), samples, strict=True)]
    return OpenShares(right=results.count(True) / len(results), undecided=results.count(None) / len(results))
