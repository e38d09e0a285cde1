"""The training question with the most similar words: the cosine of TF-IDF vectors (Salton 1988).

Shapes: Q distinct questions of train, of which the K most frequent are searched, A distinct questions that are asked, W words.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from osler.metrics.overlap import overlap_words

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from scipy.sparse import csr_array

    from osler.audits.numbering import Ints

MAX_SEARCHED: Final = 4096
"""Training questions that are searched, the most frequent ones; beyond that the time would grow with the square of the data."""

_AT_ONCE: Final = 256  # asked questions
_USUAL: Final = 1 / 64  # share of the questions from which on a word is usual: its column is dense
_EQUAL: Final = 5e-10  # cosines that differ by less are equal


@dataclass(frozen=True, slots=True, kw_only=True)
class QuestionWords:
    """Which words each question holds."""

    has_QW: csr_array  # 1.0 where a question holds a word

    @classmethod
    def of(cls, questions: Sequence[str]) -> QuestionWords:
        """The words of folded questions."""
        import numpy as np
        from scipy.sparse import csr_array

        places: dict[str, int] = {}
        columns: list[int] = []
        ends = [0]
        for text in questions:
            columns += sorted({places.setdefault(word, len(places)) for word in overlap_words(text)})
            ends.append(len(columns))
        return cls(has_QW=csr_array((np.ones(len(columns)), columns, ends), shape=(len(questions), len(places))))

    def find_nearest(self, known: Ints, asked: Ints, *, max_searched: int = MAX_SEARCHED) -> Ints:
        """(A,) for each of the questions `asked` the place in `known` (Q,), the most frequent first, of the nearest question; -1 for none.

        The same question is nearest to itself. Of equally near ones the first is taken. A question without a known word has none.
        Only the first `max_searched` of the known questions are searched for other ones.
        """
        import numpy as np

        nearest = np.full(len(asked), -1, dtype=np.int64)
        if not len(known) or not self.has_QW.shape[1]:
            return nearest
        counts_W = self.has_QW[known].sum(axis=0)
        weights_W = np.where(counts_W > 0, 1 + np.log((1 + len(known)) / (1 + counts_W)), 0.0)
        searched, wanted = (self._vectors(rows, weights_W) for rows in (known[:max_searched], asked))
        usual = np.flatnonzero(counts_W >= _USUAL * len(known))
        rare = np.flatnonzero((counts_W > 0) & (counts_W < _USUAL * len(known)))
        dense_KU, sparse_RK = searched[:, usual].toarray(), searched[:, rare].T.tocsr()
        best = np.zeros(len(asked))
        for start in range(0, len(asked), _AT_ONCE):
            part = wanted[start : start + _AT_ONCE]
            cosines_AK = part[:, usual].toarray() @ dense_KU.T
            others = (part[:, rare] @ sparse_RK).tocoo()
            cosines_AK[others.row, others.col] += others.data
            best_A = cosines_AK.max(axis=1)
            first_A = (cosines_AK >= best_A[:, None] - _EQUAL).argmax(axis=1)
            nearest[start : start + _AT_ONCE] = np.where(best_A > _EQUAL, first_A, -1)
            best[start : start + _AT_ONCE] = best_A
        place_of = np.full(self.has_QW.shape[0], -1, dtype=np.int64)
        place_of[known] = np.arange(len(known))
        same = place_of[asked]
        is_beyond = (same >= max_searched) & (best < 1 - _EQUAL) & (np.diff(self.has_QW.indptr)[asked] > 0)
        return np.where(is_beyond, same, nearest)

    def _vectors(self, rows: Ints, weights_W: NDArray[np.float64]) -> csr_array:
        """One row of length 1 for each question; a row of zeros for one without a known word."""
        import numpy as np

        vectors = self.has_QW[rows]
        vectors.data = weights_W[vectors.indices]
        lengths = np.sqrt((vectors.multiply(vectors)).sum(axis=1))
        vectors.data /= np.repeat(np.where(lengths > 0, lengths, 1.0), np.diff(vectors.indptr))
        return vectors
