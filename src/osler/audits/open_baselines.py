"""Blind baselines of open questions: answers of train to the same question, a similar one, or the same type of question.

All are scored on test by the grader's own rules, so that the accuracy of a policy on open questions can be compared with them.
Shapes: N open questions, train and test together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

from osler.audits.baselines import ALL_BASELINES, BASELINES
from osler.audits.context_prior import NAME as CONTEXT_PRIOR
from osler.audits.nearest import QuestionWords
from osler.audits.open_arrays import OpenArrays
from osler.grading.comparison import compare
from osler.metrics.estimates import Share
from osler.taxonomy import Axis
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


@dataclass(slots=True)
class TrainAnswers:
    """What the baselines are fitted on: the rows of train, at least one, and their most frequent answers, found once for all baselines."""

    arrays: OpenArrays
    rows: Ints
    _usual: int | None = None
    _by_question: Ints | None = None

    @property
    def usual(self) -> int:
        """The most frequent answer of all."""
        if self._usual is None:
            self._usual = int(self.arrays.most_frequent(self.rows, 0 * self.rows)[0])
        return self._usual

    @property
    def by_question(self) -> Ints:
        """The most frequent answer to each question, by its number, as `OpenArrays.most_frequent` gives them."""
        if self._by_question is None:
            self._by_question = self.arrays.most_frequent(self.rows, self.arrays.questions[self.rows])
        return self._by_question


Answerer = Callable[[OpenQuestions, TrainAnswers, "Ints"], "Ints"]
"""From open questions, the answers of train and the rows of test: the answer to each of the latter, as a number of its text."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenBaseline:
    """One way to answer open questions blind."""

    title: str
    what: str  # what the answer is, as the page says it
    answer: Answerer


def _answer_question(questions: OpenQuestions, train: TrainAnswers, test: Ints) -> Ints:
    """The most frequent answer to the same question, or of all where the question is not in train."""
    return _look_up(train.by_question, questions.arrays.questions[test], train)


def _answer_prior(key: Callable[[OpenArrays], Ints]) -> Answerer:
    """The most frequent answer of open questions with the same key, or of all where the key is not in train."""

    def answer(questions: OpenQuestions, train: TrainAnswers, test: Ints) -> Ints:
        keys = key(questions.arrays)
        return _look_up(questions.arrays.most_frequent(train.rows, keys[train.rows]), keys[test], train)

    return answer


def _look_up(answers: Ints, keys: Ints, train: TrainAnswers) -> Ints:
    """The answer to each of the keys, or the most frequent of all where train has none."""
    import numpy as np

    found = np.append(answers, -1)[np.minimum(keys, len(answers))]  # a higher key is not in train
    return np.where(found >= 0, found, train.usual)


def _answer_nearest(questions: OpenQuestions, train: TrainAnswers, test: Ints) -> Ints:
    """The most frequent answer to the training question with the most similar words; without a known word the most frequent of all.

    Of equally near questions the more frequent is taken, then the first by its text.
    """
    import numpy as np

    arrays = questions.arrays
    of_train, counts = np.unique(arrays.questions[train.rows], return_counts=True)
    known = np.array(sorted(of_train.tolist(), key=arrays.question_texts.__getitem__), dtype=np.int64)
    known = known[np.argsort(-counts[np.searchsorted(of_train, known)], kind="stable")]
    asked, place = np.unique(arrays.questions[test], return_inverse=True)
    nearest = questions.words.find_nearest(known, asked)
    answers = train.by_question[known[nearest]]
    return np.where(nearest >= 0, answers, train.usual)[place]


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
            answer=_answer_question,
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
    fitted, new = TrainAnswers(questions.arrays, rows[: len(known)]), rows[len(known) :]
    return {
        name: dict(zip(ids, [texts[number] for number in baseline.answer(questions, fitted, new).tolist()], strict=True))
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
    _results: dict[tuple[str, bytes, bytes], NDArray[np.int8]] = field(default_factory=dict)  # two axes have one set of all train rows

    @classmethod
    def of(cls, samples: Sequence[Sample], places: Ints) -> OpenTable:
        """Number the texts of the samples at `places`, which are open questions."""
        arrays = OpenArrays.of([samples[place] for place in places.tolist()])
        return cls(places=places, questions=OpenQuestions(arrays), grader=_Grader(arrays=arrays))

    def results(self, name: str, train: TrainAnswers, test: Ints) -> NDArray[np.int8]:
        """What `_Grader.grade` says of the answers of a baseline to the questions `test`."""
        key = (name, sha256(train.rows.tobytes()).digest(), sha256(test.tobytes()).digest())
        if key not in self._results:
            answers = OPEN_BASELINES[name].answer(self.questions, train, test)
            self._results[key] = self.grader.grade(answers, test)
        return self._results[key]


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenPart:
    """The open questions of one axis, as `open_matrix` takes them."""

    train: Mapping[str, Ints]
    test: Mapping[str, Ints]
    has_contexts: bool


def open_matrices(table: OpenTable, parts: Mapping[Axis, OpenPart]) -> dict[Axis, dict[str, dict[str, dict[str, Any]]]]:
    """The `open_matrix` of each axis."""
    return {axis: open_matrix(table, part.train, part.test, has_contexts=part.has_contexts) for axis, part in parts.items()}


def open_matrix(
    table: OpenTable, train: Mapping[str, Ints], test: Mapping[str, Ints], *, has_contexts: bool
) -> dict[str, dict[str, dict[str, Any]]]:
    """Baseline -> train domain -> test domain -> OpenShares; None where either has no open question.

    `train` and `test` give the places of each domain's open questions among the samples of `table`; `has_contexts` whether any question,
    also one with choices, has a patient context.
    """
    import numpy as np

    places = table.places
    known, asked = ({domain: np.searchsorted(places, rows) for domain, rows in part.items()} for part in (train, test))
    everything = np.unique(np.concatenate([np.arange(0), *asked.values()]))
    columns = {domain: np.searchsorted(everything, rows) for domain, rows in asked.items()}
    fitted = {row: TrainAnswers(table.questions.arrays, rows) for row, rows in known.items()}
    matrix: dict[str, dict[str, dict[str, Any]]] = {}
    for name in _used(has_contexts):
        matrix[name] = {}
        for row, train_answers in fitted.items():
            has_both = len(train_answers.rows) > 0 and len(everything) > 0
            results = table.results(name, train_answers, everything) if has_both else None
            matrix[name][row] = {
                column: None if results is None or not len(where) else _shares(results[where]) for column, where in columns.items()
            }
    return matrix
