"""Published results, which a reproduction is compared with.

Med-R1 (arXiv 2503.13939): No-Think minus Think, in percentage points of accuracy. The rows of a matrix are training domains, the columns
test domains.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from osler.taxonomy import Modality, QuestionType

_MODALITIES: Final = tuple(Modality)  # CT, MRI, X-ray, ultrasound, dermoscopy, fundus, OCT, microscopy
_QUESTION_TYPES: Final = (
    QuestionType.ANATOMY_IDENTIFICATION,
    QuestionType.DISEASE_DIAGNOSIS,
    QuestionType.LESION_GRADING,
    QuestionType.MODALITY_RECOGNITION,
    QuestionType.OTHER_BIOLOGICAL_ATTRIBUTES,
)

_BY_MODALITY: Final = (
    (1.24, 7.75, -0.61, -5.69, 7.96, 7.11, 5.54, 4.23),
    (16.94, 0.43, 0.99, -10.32, 4.90, 8.93, 9.08, 2.79),
    (-1.30, 1.65, 1.24, -2.89, 0.00, 4.10, -0.47, 2.88),
    (3.94, 2.57, 2.84, 0.14, 5.82, 5.01, 4.71, 7.75),
    (2.53, 0.58, 0.56, -3.76, 2.90, -0.55, 3.42, -0.36),
    (4.57, 2.67, -1.86, 2.51, 1.07, 1.55, 7.31, 3.96),
    (15.99, 2.70, 0.06, -3.57, -7.81, -2.46, 0.83, 0.36),
    (3.18, 3.31, 1.92, 0.57, 4.36, 7.29, 6.61, 5.05),
)
_BY_QUESTION_TYPE: Final = (
    (0.27, 0.22, 8.71, 0.42, 1.70),
    (0.84, 0.05, -10.09, 0.21, 1.14),
    (1.92, 0.32, 10.09, 0.05, -1.99),
    (1.54, 2.52, -1.83, 0.33, 2.27),
    (-0.31, -1.93, -4.59, -0.01, 2.70),
)


def _cells(names: tuple[str, ...], rows: tuple[tuple[float, ...], ...]) -> Mapping[tuple[str, str], float]:
    return {
        (str(train), str(test)): round(points / 100, 6)
        for train, row in zip(names, rows, strict=True)
        for test, points in zip(names, row, strict=True)
    }


NO_THINK_MINUS_THINK: Final[Mapping[str, Mapping[tuple[str, str], float]]] = {
    "modality": _cells(_MODALITIES, _BY_MODALITY),
    "question_type": _cells(_QUESTION_TYPES, _BY_QUESTION_TYPE),
}
"""By axis, then (train, test); as shares, like all differences in Osler: 0.0775 for 7.75 points."""
