"""Open questions as arrays of numbers, equal for equal texts, so that each text is processed once.

Shapes: N open questions, T distinct reference answers, Q distinct questions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from osler.audits.numbering import number_parts, number_rows
from osler.text import fold_answer, fold_option
from osler.types import Sample

if TYPE_CHECKING:
    from osler.audits.numbering import Ints


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenArrays:
    """Open questions by numbers."""

    question_types: Ints  # (N,)
    questions: Ints  # (N,) of the folded question
    contexts: Ints  # (N,) of the patient context
    targets: Ints  # (N,) of the reference answer, in the order of the texts
    question_texts: Sequence[str]  # Q folded questions
    target_texts: Sequence[str]  # T in their order
    folded_targets: Ints  # (T,) equal for answers that are equal without case and articles

    @classmethod
    def of(cls, samples: Sequence[Sample]) -> OpenArrays:
        """Number the texts of open questions."""
        import numpy as np

        target_texts = sorted({sample.target for sample in samples})
        places = {text: place for place, text in enumerate(target_texts)}
        of_raw, raw_questions = number_parts([sample.question for sample in samples])
        of_question, questions = number_parts(list(map(fold_option, raw_questions)))
        return cls(
            question_types=number_parts([sample.question_type for sample in samples])[0],
            questions=of_question[of_raw],
            contexts=number_parts([sample.context for sample in samples])[0],
            targets=np.fromiter((places[sample.target] for sample in samples), np.int64, len(samples)),
            question_texts=questions,
            target_texts=target_texts,
            folded_targets=number_parts(list(map(fold_answer, target_texts)))[0],
        )

    def most_frequent(self, rows: Ints, keys: Ints) -> Ints:
        """For each number among `keys`, one for each of the `rows`, the most frequent answer, as a number; -1 for one that does not occur.

        Answers are counted without case and articles; of equal ones the first by its text is taken, and of its spellings too.
        """
        import numpy as np

        found = np.full(int(keys.max(initial=-1)) + 1, -1, dtype=np.int64)
        if not len(rows):
            return found
        targets = self.targets[rows]
        answers = number_rows(keys, self.folded_targets[targets])
        counts = np.bincount(answers)
        first = np.full(len(counts), len(self.target_texts), dtype=np.int64)
        np.minimum.at(first, answers, targets)
        key_of_answer = np.empty(len(counts), dtype=np.int64)
        key_of_answer[answers] = keys
        order = np.lexsort((first, -counts, key_of_answer))
        is_best = np.diff(key_of_answer[order], prepend=-1) != 0
        found[key_of_answer[order][is_best]] = first[order][is_best]
        return found
