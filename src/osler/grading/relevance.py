"""Which statements bear on a question: a reasoning that only states true things about something else gives no reason for its answer.

What counts follows from the question type. The sign of a disease, for example, is evidence for a diagnosis, and the sign of a body region
is not. Without a question type every statement counts.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from osler.facts import Kind
from osler.taxonomy import QuestionType

RELEVANT_KINDS: Final[Mapping[QuestionType, frozenset[Kind]]] = MappingProxyType(
    {
        QuestionType.MODALITY_RECOGNITION: frozenset({Kind.MODALITY, Kind.TECHNIQUE}),
        QuestionType.ANATOMY_IDENTIFICATION: frozenset({Kind.ANATOMY, Kind.PLANE, Kind.SIDE, Kind.POSITION}),
        QuestionType.DISEASE_DIAGNOSIS: frozenset({Kind.PRESENCE}),
        QuestionType.LESION_GRADING: frozenset({Kind.SIZE, Kind.SEVERITY, Kind.COUNT, Kind.CHANGE, Kind.SLICES}),
        QuestionType.OTHER_BIOLOGICAL_ATTRIBUTES: frozenset(
            {Kind.POSITION, Kind.SIDE, Kind.LEVEL, Kind.SLICES, Kind.SIZE, Kind.COUNT, Kind.COLOUR, Kind.PRESENCE, Kind.CHANGE, Kind.MOTION}
        ),
    }
)
"""The kinds that bear on each type of question; a sign counts as the kind that it is a sign of."""


def bears_on(question_type: QuestionType | None, kind: Kind, sign_of: frozenset[Kind] = frozenset()) -> bool:
    """Whether a statement of this kind is a reason for an answer to such a question. A sign of unknown meaning bears on every question."""
    if question_type is None:
        return True
    kinds = sign_of if kind is Kind.SIGN else {kind}
    return not kinds or not RELEVANT_KINDS[question_type].isdisjoint(kinds)
