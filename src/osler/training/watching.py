"""A training that is watched: the rules of `symptoms` on the last steps of its metrics, each cause told once in a run.

Everything is read from the lines of `metrics.jsonl`, so a run that resumes goes on with the lines that it kept.
"""

from __future__ import annotations

import statistics
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any, Final

from osler.config import Config
from osler.training.rollout_figures import ACCURACY, BLANK_ACCURACY, CORRECT, IDENTICAL, LETTER, PARSED, QUESTIONS, SAME, TARGET
from osler.training.symptoms import MIN_COMPARED, WARNINGS, BlankImage, RolloutFigures, Symptom, find_symptoms

WINDOW: Final = 10
"""Logged lines that are judged together. A single step has a few questions, and some of them are all right or all wrong by chance."""

PAID: Final = "rewards/accuracy/mean"
"""What says how many answers are right where they are enumerated and not drawn."""

FIRST: Final = 5
"""Logged lines whose entropy later ones are compared with."""


class Watch:
    """The last lines of a training, and the causes that were told."""

    def __init__(self, config: Config, *, window: int = WINDOW) -> None:
        self.config = config
        self.window = window
        self.told: set[str] = set()
        self._first_entropies: list[float] = []
        self._lines: deque[Mapping[str, Any]] = deque(maxlen=window)
        self._blank: deque[Mapping[str, Any]] = deque()  # lines that compare with blank images, as few as hold MIN_COMPARED questions

    def resume(self, lines: Sequence[Mapping[str, Any]]) -> None:
        """Go on behind the lines of an interrupted run."""
        for line in lines:
            self._keep(line)
            self.told |= {warning["cause"] for warning in line.get(WARNINGS, ()) if isinstance(warning, dict) and "cause" in warning}

    def observe(self, line: Mapping[str, Any]) -> list[Symptom]:
        """The causes that a new line brings to light, without those that were told; none before the window is full."""
        self._keep(line)
        if len(self._lines) < self.window:
            return []
        found = [symptom for symptom in find_symptoms(self.figures(), self.config) if symptom.cause not in self.told]
        self.told |= {symptom.cause for symptom in found}
        return found

    def figures(self) -> RolloutFigures:
        """The means over the window; of KL divergence and entropy the median, because one step can raise a mean of ten."""
        correct = self._mean(CORRECT)
        return RolloutFigures(
            equal_groups=self._mean("frac_reward_zero_std"),
            reward=self._mean("reward"),
            parsed=self._mean(PARSED),
            correct=correct if correct is not None else self._mean(PAID),
            cut=self._mean("completions/clipped_ratio"),
            kl=self._median("kl"),
            entropy=self._median("entropy") if correct is not None else None,  # where answers are enumerated nothing needs to be explored
            first_entropy=statistics.fmean(self._first_entropies) if len(self._first_entropies) == FIRST else None,
            identical=self._mean(IDENTICAL),
            letters=self._shares(LETTER),
            targets=self._shares(TARGET),
            blank=self._compare_blank(),
        )

    def _keep(self, line: Mapping[str, Any]) -> None:
        self._lines.append(line)
        if len(self._first_entropies) < FIRST:
            self._first_entropies += _numbers([line], "entropy")
        if isinstance(line.get(QUESTIONS), (int, float)):
            self._blank.append(line)
            while sum(_numbers(list(self._blank)[1:], QUESTIONS)) >= MIN_COMPARED:
                self._blank.popleft()

    def _mean(self, name: str) -> float | None:
        numbers = list(_numbers(self._lines, name))
        return statistics.fmean(numbers) if numbers else None

    def _median(self, name: str) -> float | None:
        numbers = list(_numbers(self._lines, name))
        return statistics.median(numbers) if numbers else None

    def _shares(self, prefix: str) -> dict[str, float]:
        """The mean share of each letter; a step that does not name a letter has none of it."""
        lines = [line for line in self._lines if any(name.startswith(prefix) for name in line)]
        names = sorted({name for line in lines for name in line if name.startswith(prefix)})
        return {name.removeprefix(prefix): sum(_numbers(lines, name)) / len(lines) for name in names}

    def _compare_blank(self) -> BlankImage | None:
        if not (total := sum(_numbers(self._blank, QUESTIONS))):
            return None

        def pooled(name: str) -> float:
            return float(sum(line[name] * line[QUESTIONS] for line in self._blank) / total)

        return BlankImage(num_questions=round(total), same=pooled(SAME), accuracy=pooled(ACCURACY), blank_accuracy=pooled(BLANK_ACCURACY))


def _numbers(lines: Sequence[Mapping[str, Any]] | deque[Mapping[str, Any]], name: str) -> Iterator[float]:
    return (line[name] for line in lines if isinstance(line.get(name), (int, float)))


def to_values(symptoms: Sequence[Symptom]) -> list[dict[str, str]]:
    """The symptoms as the values of a line of `metrics.jsonl`."""
    return [asdict(symptom) for symptom in symptoms]
