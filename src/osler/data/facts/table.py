"""The facts of a dataset's images, with the questions that state them."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import replace
from typing import Final

from osler.facts import Fact, Facts, Kind

_EXCLUSIVE: Final[tuple[Kind, ...]] = (Kind.MODALITY, Kind.PLANE)
"""An image has one value of these kinds, so they are closed where it is known."""

CONTRADICTION: Final = "fact about an image that its annotations contradict"
"""The note that counts facts which are left out because one annotation states them and another one denies them."""


class FactTable:
    """Collects facts by image. `notes` counts the facts that are left out because annotations contradict each other."""

    def __init__(self, notes: Counter[str]) -> None:
        self._sources: defaultdict[str, dict[Fact, set[str | None]]] = defaultdict(dict)
        self._checked: dict[str, tuple[Facts, frozenset[str]]] = {}
        self._notes = notes

    def add(self, image: str, facts: Iterable[Fact], question: str | None = None) -> None:
        """Add facts that a question and its right answer state; None stands for another annotation, such as a box."""
        sources = self._sources[image]
        for fact in facts:
            sources.setdefault(fact, set()).add(question)

    def facts_of(self, image: str, question: str) -> Facts | None:
        """The facts of an image for one question about it, without those that no annotation but that question states; None for no facts.

        A reasoning that only repeats the right answer is no evidence for it.
        """
        if image not in self._checked:
            self._checked[image] = self._check(image)
        facts, only_sources = self._checked[image]
        if question in only_sources:
            sources = self._sources[image]
            facts = _as_facts(fact for fact in facts.facts if sources[fact] != {question})
        return facts if facts.facts else None

    def _check(self, image: str) -> tuple[Facts, frozenset[str]]:
        """The facts that nothing contradicts, and the questions that are the only source of one."""
        sources = self._sources.get(image, {})
        num_values = Counter(fact.kind for fact in sources if fact.kind in _EXCLUSIVE and fact.holds)
        kept = [
            fact
            for fact in sources
            if replace(fact, holds=not fact.holds) not in sources and not (fact.holds and num_values[fact.kind] > 1)
        ]
        if len(kept) < len(sources):
            self._notes[CONTRADICTION] += len(sources) - len(kept)
        only = frozenset(question for fact in kept if len(sources[fact]) == 1 for question in sources[fact] if question is not None)
        return _as_facts(kept), only


def _as_facts(facts: Iterable[Fact]) -> Facts:
    known = tuple(facts)
    return Facts(facts=known, closed=tuple(kind for kind in _EXCLUSIVE if any(fact.kind is kind and fact.holds for fact in known)))
