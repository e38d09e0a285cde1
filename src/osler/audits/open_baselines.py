"""Blind baselines of open questions: answers of train to the same question, a similar one, or the same type of question.

All are scored on test by the grader's own rules, so that the accuracy of a policy on open questions can be compared with them.
Shapes: N open questions, train and test together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

from osler.audits.baselines import ALL_BASELINES, BASELINES
from osler.audits.context_prior import NAME as CONTEXT_PRIOR
from osler.audits.nearest import QuestionWords
from osler.audits.open_arrays import OpenArrays
from osler.grading.comparison import compare
from osler.metrics.estimates import Share
from osler.types import Sample

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from osler.audits.numbering import Ints


@dataclass(slots=True)
class OpenQuestions:
    """Open questions, and what every baseline needs of them."""

    arrays: OpenArrays
    _words: QuestionWords | None = None

    @property
    def words(self) -> QuestionWords:
        """The words of the distinct questions."""
        if self._words is None:
            self._words = QuestionWords.of(self.arrays.question_texts)
        return self._words


Answerer = Callable[[OpenQuestions, "Ints", "Ints"], "Ints"]
"""From open questions, the rows of train, at least one, and those of test: the answer to each of the latter, as a number of its text."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenBaseline:
    """One way to answer open questions blind."""

    title: str
    what: str  # what the answer is, as the page says it
    answer: Answerer


def _answer_prior(key: Callable[[OpenArrays], Ints]) -> Answerer:
    """The most frequent answer of open questions with the same key, or of all where the key is not in train."""

    def answer(questions: OpenQuestions, train: Ints, test: Ints) -> Ints:
        import numpy as np

        arrays = questions.arrays
        keys = key(arrays)
        by_key = np.full(int(keys.max(initial=-1)) + 1, -1, dtype=np.int64)
        found = arrays.most_frequent(train, keys[train])
        by_key[: len(found)] = found
        answers = by_key[keys[test]]
        return np.where(answers >= 0, answers, _usual(arrays, train))

    return answer


def _usual(arrays: OpenArrays, train: Ints) -> int:
    """The most frequent answer of all."""
    return int(arrays.most_frequent(train, 0 * train)[0])


def _answer_nearest(questions: OpenQuestions, train: Ints, test: Ints) -> Ints:
    """The most frequent answer to the training question with the most similar words; without a known word the most frequent of all.

    Of equally near questions the more frequent is taken, then the first by its text.
    """
    import numpy as np

    arrays = questions.arrays
    of_train, counts = np.unique(arrays.questions[train], return_counts=True)
    known = np.array(sorted(of_train.tolist(), key=arrays.question_texts.__getitem__), dtype=np.int64)
    known = known[np.argsort(-counts[np.searchsorted(of_train, known)], kind="stable")]
    asked, place = np.unique(arrays.questions[test], return_inverse=True)
    nearest = questions.words.find_nearest(known, asked)
    answers = arrays.most_frequent(train, arrays.questions[train])[known[nearest]]
    return np.where(nearest >= 0, answers, _usual(arrays, train))[place]


OPEN_BASELINES: Final[Mapping[str, OpenBaseline]] = MappingProxyType(
    {
        "option_prior": OpenBaseline(
            title=BASELINES["option_prior"].title,
            what="the most frequent answer in train to the same type of question",
            answer=_answer_prior(lambda arrays: arrays.question_types),
        ),
        "question_prior": OpenBaseline(
            title=BASELINES["question_prior"].title,
            what="the most frequent answer in train to the same question, or to any where the question is new",
            answer=_answer_prior(lambda arrays: arrays.questions),
        ),
        "nearest_question": OpenBaseline(
            title="Nearest question",
            what="the most frequent answer in train to the question with the most similar words",
            answer=_answer_nearest,
        ),
        CONTEXT_PRIOR: OpenBaseline(
            title=ALL_BASELINES[CONTEXT_PRIOR].title,
            what="the most frequent answer in train beside the same patient context, or of all where the context is new",
            answer=_answer_prior(lambda arrays: arrays.contexts),
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


def _used(has_contexts: bool) -> dict[str, OpenBaseline]:
    """The baselines of data with or without patient contexts."""
    return {name: baseline for name, baseline in OPEN_BASELINES.items() if name != CONTEXT_PRIOR or has_contexts}


def open_questions(samples: Iterable[Sample]) -> list[Sample]:
    """The samples without choices."""
    return [sample for sample in samples if not sample.choices]


def open_answers(train: Iterable[Sample], test: Iterable[Sample]) -> dict[str, dict[str, str]]:
    """Baseline -> sample id -> answer, for every open test question; {} where train or test has none."""
    import numpy as np

    known, asked = open_questions(train), open_questions(test)
    if not known or not asked:
        return {}
    ids = [sample.id for sample in asked]
    questions = OpenQuestions(OpenArrays.of([*known, *asked]))
    rows, texts = np.arange(len(known) + len(asked)), questions.arrays.target_texts
    used = _used(any(sample.context is not None for sample in (*known, *asked)))
    return {
        name: dict(zip(ids, [texts[number] for number in baseline.answer(questions, *np.split(rows, [len(known)])).tolist()], strict=True))
        for name, baseline in used.items()
    }


def _shares(results: NDArray[np.int8]) -> OpenShares:
    return OpenShares(right=int((results == _RIGHT).sum()) / len(results), undecided=int((results == _UNDECIDED).sum()) / len(results))


_RIGHT: Final = 1
_UNDECIDED: Final = 2


@dataclass(slots=True, kw_only=True)
class _Grader:
    """Compares answers with references, each pair of texts once."""

    arrays: OpenArrays
    _known: dict[int, int] = field(default_factory=dict)

    def grade(self, answers: Ints, rows: Ints) -> NDArray[np.int8]:
        """_RIGHT, _UNDECIDED or 0 for the answers to these questions."""
        import numpy as np

        texts = self.arrays.target_texts
        pairs, place = np.unique(self.arrays.targets[rows] * len(texts) + answers, return_inverse=True)  # those of one reference together
        found = np.empty(len(pairs), dtype=np.int8)
        for number, pair in enumerate(pairs.tolist()):
            if (result := self._known.get(pair)) is None:
                target, answer = divmod(pair, len(texts))
                is_right = compare(texts[answer], texts[target]).is_right
                result = self._known[pair] = _UNDECIDED if is_right is None else int(is_right)
            found[number] = result
        return found[place]


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenTable:
    """The open questions among samples, prepared once for every comparison of them."""

    places: Ints  # of the open questions among the samples, in order
    questions: OpenQuestions
    grader: _Grader

    @classmethod
    def of(cls, samples: Sequence[Sample], places: Ints) -> OpenTable:
        """Number the texts of the samples at `places`, which are open questions."""
        arrays = OpenArrays.of([samples[place] for place in places.tolist()])
        return cls(places=places, questions=OpenQuestions(arrays), grader=_Grader(arrays=arrays))


def open_matrix(
    table: OpenTable, train: Mapping[str, Ints], test: Mapping[str, Ints], *, has_contexts: bool
) -> dict[str, dict[str, dict[str, Any]]]:
    """Baseline -> train domain -> test domain -> OpenShares; None where either has no open question.

    `train` and `test` give the places of each domain's open questions among the samples of `table`; `has_contexts` whether any question,
    also one with choices, has a patient context.
    """
    import numpy as np

    questions, places = table.questions, table.places
    known, asked = ({domain: np.searchsorted(places, rows) for domain, rows in part.items()} for part in (train, test))
    everything = np.unique(np.concatenate([np.arange(0), *asked.values()]))
    columns = {domain: np.searchsorted(everything, rows) for domain, rows in asked.items()}
    matrix: dict[str, dict[str, dict[str, Any]]] = {}
    for name, baseline in _used(has_contexts).items():
        matrix[name] = {}
        for row, rows in known.items():
            has_both = len(rows) > 0 and len(everything) > 0
            results = table.grader.grade(baseline.answer(questions, rows, everything), everything) if has_both else None
            matrix[name][row] = {
                column: None if results is None or not len(where) else _shares(results[where]) for column, where in columns.items()
            }
    return matrix
