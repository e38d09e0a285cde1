"""Questions with choices as arrays of numbers, and the distinct texts of an audit, so that each is processed once.

Shapes: N questions, K options at most.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from osler.audits.context_prior import ContextWords
from osler.audits.numbering import ABSENT, SampleTable, number_parts
from osler.text import fold_option

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class QuestionArrays:
    """Questions with choices as arrays of indices into a Vocabulary."""

    options: Ints  # (N, K) index of an option's text; -1 beyond the last one
    questions: Ints  # (N,) index of the question's text
    targets: Ints  # (N,) column of the right option
    contexts: tuple[ContextWords | None, ...]  # N; () where no question has one

    def __len__(self) -> int:
        return len(self.targets)

    @property
    def sizes(self) -> Ints:
        """(N,) number of options of each question."""
        sizes: Ints = (self.options != ABSENT).sum(axis=1)
        return sizes

    def take(self, rows: Ints) -> QuestionArrays:
        """These questions, in the order of `rows`."""
        contexts = tuple(self.contexts[row] for row in rows.tolist()) if self.contexts else ()
        return QuestionArrays(options=self.options[rows], questions=self.questions[rows], targets=self.targets[rows], contexts=contexts)


@dataclass(slots=True)
class Vocabulary:
    """The distinct texts of an audit with their indices, so that each text is processed once however often it occurs."""

    options: Sequence[str] = ()  # by their indices
    has_contexts: bool = False  # whether a question has a patient context
    _styles: dict[Callable[[str], str], Ints] = field(default_factory=dict)
    _measures: dict[Callable[[str], int], Ints] = field(default_factory=dict)
    keys: dict[str, Ints] = field(default_factory=dict)
    """Baseline -> numbers of its keys of all questions, of those that are numbered anew; every axis has the same."""

    def encode(self, table: SampleTable) -> QuestionArrays:
        """The samples of the table that have choices as arrays, whose texts become those of the vocabulary; open-ended ones are skipped."""
        import numpy as np

        self.options = table.option_texts
        self._styles.clear()
        self._measures.clear()
        self.keys.clear()
        places = np.flatnonzero(table.is_closed)
        contexts = [table.samples[place].context for place in places.tolist()]
        self.has_contexts = any(context is not None for context in contexts)
        folded = number_parts([fold_option(text) for text in table.question_texts])[0]
        return QuestionArrays(
            options=table.options[table.choices[places]],
            questions=folded[table.questions[places]],
            targets=table.target_columns[places],
            contexts=tuple(map(ContextWords.of, contexts)) if self.has_contexts else (),
        )

    def measure(self, function: Callable[[str], int]) -> Ints:
        """`function`, a named one, of every option text, in the order of their indices."""
        import numpy as np

        if function not in self._measures:
            self._measures[function] = np.array([function(text) for text in self.options], dtype=np.int64)
        return self._measures[function]

    def number(self, style: Callable[[str], str]) -> Ints:
        """A number for the `style` of every option text, the same number for the same style; `style` must be a named function."""
        if style not in self._styles:
            self._styles[style] = number_parts(list(map(style, self.options)))[0]
        return self._styles[style]
