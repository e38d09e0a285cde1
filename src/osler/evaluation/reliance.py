"""What answers follow, the patient context or the image: one rule over what changes of either do to them.

An input is followed where one of its changes lowers the accuracy, or changes more than MIN_CHANGED of the answers, with the whole 95 %
interval. It is not followed where every change that was asked keeps the changed answers below MIN_CHANGED with the whole interval. All else
is not clear: too few questions. Blank, noise, other images and no image are changes of the image.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from osler.evaluation.ablations import Ablation
from osler.evaluation.compare import Alteration, compare
from osler.evaluation.context_changes import ContextChange
from osler.metrics.gain import MIN_CHANGED
from osler.types import Record

_VERDICTS: Final[Mapping[tuple[bool, bool], str]] = MappingProxyType(
    {
        (True, False): "reads the context and not the image",
        (False, True): "reads the image and not the context",
        (True, True): "reads both the context and the image",
        (False, False): "reads neither the context nor the image",
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reliance:
    """What the answers of a policy follow, on the questions with a patient context."""

    plain: tuple[Record, ...]  # the plain answers to these questions
    context: tuple[Alteration, ...]  # in the order of ContextChange
    image: tuple[Alteration, ...]  # in the order of Ablation, on the same questions

    @property
    def follows_context(self) -> bool | None:
        """Whether the answers follow the context; None where that is not clear or was not asked."""
        return follows(self.context)

    @property
    def follows_image(self) -> bool | None:
        """Whether the answers follow the image; None where that is not clear or was not asked."""
        return follows(self.image)

    @property
    def is_found_out(self) -> bool:
        """Whether the answers follow the context and not the image."""
        return self.follows_context is True and self.follows_image is False

    @property
    def verdict(self) -> str:
        """What the policy reads, in words: "reads the context and not the image"."""
        if not self.plain:
            return "was not asked the unaltered questions, so that nothing can be compared"
        context, image = self.follows_context, self.follows_image
        if context is not None and image is not None:
            return _VERDICTS[context, image]
        return f"{_part(context, 'context', self.context)}; {_part(image, 'image', self.image)}"


def _part(follows: bool | None, what: str, alterations: Sequence[Alteration]) -> str:
    if follows is not None:
        return f"reads the {what}" if follows else f"does not read the {what}"
    if not any(_is_measured(one) for one in alterations):
        names = ",".join(ContextChange) if what == "context" else "blank,swap_within"
        return f"whether it reads the {what} was not asked (--ablation {names})"
    return f"whether it reads the {what} is not clear from {max(one.num_questions for one in alterations)} questions"


def _is_measured(alteration: Alteration) -> bool:
    return alteration.same_answer is not None and alteration.same_answer.total > 0


def follows(alterations: Sequence[Alteration]) -> bool | None:
    """Whether answers follow what these alterations change; None where that is not clear, and without a comparison."""
    measured = [(one.same_answer, one.change) for one in alterations if one.same_answer is not None and one.same_answer.total]
    if any(
        (same.high is not None and 1 - same.high > MIN_CHANGED)
        or (change is not None and change.difference.high is not None and change.difference.high < 0)
        for same, change in measured
    ):
        return True
    return False if measured and all(same.low is not None and 1 - same.low < MIN_CHANGED for same, _ in measured) else None


def judge_reliance(plain: Sequence[Record], altered: Mapping[str, Sequence[Record]]) -> Reliance | None:
    """What answers follow, from the plain records and those of alterations by name; None where no context was changed.

    The image's alterations are compared on the questions whose context was changed.
    """
    asked = {record.sample_id for name in ContextChange for record in altered.get(name, ())}
    if not asked:
        return None
    own = tuple(record for record in plain if record.sample_id in asked)

    def compare_all(names: Sequence[str]) -> tuple[Alteration, ...]:
        parts = {name: [record for record in altered.get(name, ()) if record.sample_id in asked] for name in names}
        return tuple(compare(name, own, part) for name, part in parts.items() if part)

    return Reliance(plain=own, context=compare_all(tuple(ContextChange)), image=compare_all(tuple(Ablation)))
