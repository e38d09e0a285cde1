"""Questions with choices as arrays of numbers, and the distinct texts of an audit, so that each is processed once.

Shapes: N questions, K options at most.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from osler.audits.context_prior import ContextWords
from osler.text import fold_option
from osler.types import LETTERS, Sample

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Ints = NDArray[np.int64]

ABSENT: Final = -1
"""Where a question has no option."""


@dataclass(frozen=True, slots=True, kw_only=True)
class QuestionArrays:
    """Questions with choices as arrays of indices into a Vocabulary."""

    ids: tuple[str, ...]  # of the samples, ("med_r1/ct/test/0", ..)
    options: Ints  # (N, K) index of an option's text; -1 beyond the last one
    questions: Ints  # (N,) index of the question's text
    targets: Ints  # (N,) column of the right option
    contexts: tuple[ContextWords | None, ...]  # N

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def sizes(self) -> Ints:
        """(N,) number of options of each question."""
        sizes: Ints = (self.options != ABSENT).sum(axis=1)
        return sizes

    def take(self, rows: Ints) -> QuestionArrays:
        """These questions, in the order of `rows`."""
        contexts = tuple(self.contexts[row] for row in rows.tolist())
        ids = tuple(self.ids[row] for row in rows.tolist())
        return QuestionArrays(
            ids=ids, options=self.options[rows], questions=self.questions[rows], targets=self.targets[rows], contexts=contexts
        )


@dataclass(slots=True)
class Vocabulary:
    """The distinct texts of an audit with their indices, so that each text is processed once however often it occurs."""

    options: dict[str, int] = field(default_factory=dict)  # option -> index
    questions: dict[str, int] = field(default_factory=dict)  # folded question -> index
    has_contexts: bool = False  # whether a question has a patient context
    _raw_questions: dict[str, int] = field(default_factory=dict)  # question as written -> the index of its folded text
    _styles: dict[Callable[[str], str], Ints] = field(default_factory=dict)
    _measures: dict[Callable[[str], int], Ints] = field(default_factory=dict)

    def encode(self, samples: Iterable[Sample]) -> QuestionArrays:
        """The samples that have choices as arrays, with new texts added; open-ended samples are skipped."""
        import numpy as np

        closed = [sample for sample in samples if sample.choices]
        contexts = tuple(ContextWords.of(sample.context) for sample in closed)
        self.has_contexts |= any(context is not None for context in contexts)
        tuples: dict[tuple[str, ...], int] = {}
        tuple_of_row = [tuples.setdefault(sample.choices, len(tuples)) for sample in closed]
        sizes = np.array([len(choices) for choices in tuples], dtype=np.int64)
        options = np.full((len(tuples), int(sizes.max(initial=1))), ABSENT, dtype=np.int64)
        known = self.options
        options[np.arange(options.shape[1]) < sizes[:, None]] = [
            known.setdefault(choice, len(known)) for choices in tuples for choice in choices
        ]
        return QuestionArrays(
            ids=tuple(sample.id for sample in closed),
            options=options[np.array(tuple_of_row, dtype=np.int64)],
            questions=np.array([self._number_question(sample.question) for sample in closed], dtype=np.int64),
            targets=np.array([LETTERS.index(sample.target) for sample in closed], dtype=np.int64),
            contexts=contexts,
        )

    def _number_question(self, text: str) -> int:
        if (number := self._raw_questions.get(text)) is None:
            number = self._raw_questions[text] = self.questions.setdefault(fold_option(text), len(self.questions))
        return number

    def measure(self, function: Callable[[str], int]) -> Ints:
        """`function`, a named one, of every option text, in the order of their indices."""
        import numpy as np

        if function not in self._measures or len(self._measures[function]) < len(self.options):
            self._measures[function] = np.array([function(text) for text in self.options], dtype=np.int64)
        return self._measures[function]

    def number(self, style: Callable[[str], str]) -> Ints:
        """A number for the `style` of every option text, the same number for the same style; `style` must be a named function."""
        import numpy as np

        if style not in self._styles or len(self._styles[style]) < len(self.options):
            numbers: dict[str, int] = {}
            self._styles[style] = np.array([numbers.setdefault(style(text), len(numbers)) for text in self.options], dtype=np.int64)
        return self._styles[style]
