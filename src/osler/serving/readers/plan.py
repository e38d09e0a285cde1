"""The design of a reader study as data: which reader sees which question when, and with what. It is drawn once and kept in a file.

The design is that of multi-reader multi-case studies (Obuchowski 1995): every reader answers every question once, in an order of their own.
Before and after these come two parts. First some questions without their images, because a question says nothing of its image, while who
has seen the image remembers it. Last every question again, in another order, with the answer of a policy: unaided answers come first, so
that nobody has seen what the policy says.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final

from pydantic import Field, TypeAdapter, ValidationError

from osler.errors import ConfigError, DataError
from osler.evaluation.readings import MAX_READERS, Part
from osler.files import read_text, write_json
from osler.types import Sample

PLAN_FILE: Final = "plan.json"
_MAX_BYTES: Final = 256 << 20

Share = Annotated[float, Field(ge=0, le=1)]


@dataclass(frozen=True, slots=True, kw_only=True)
class StudySettings:
    """What a study asks of its readers. Raises ConfigError for numbers that make no study."""

    num_readers: int = 3
    repeated: Share = 0.1  # of the questions are asked twice, at least half of all questions apart
    without_image: Share = 0.25  # of the questions with images are first asked without them
    has_model: bool = False  # a last part with the answers of a policy
    washout_days: float = 0.0  # between a reader's last unaided answer and the part with the policy's answers
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the numbers."""
        if not 1 <= self.num_readers <= MAX_READERS:
            raise ConfigError(f"--readers {self.num_readers}: give a number from 1 to {MAX_READERS}")
        for option, share, limit in (("--repeated", self.repeated, 0.5), ("--without-image", self.without_image, 1.0)):
            if not 0 <= share <= limit:
                raise ConfigError(f"{option} {share}: give a share of the questions from 0 to {limit}")
        if not 0 <= self.washout_days <= 3650:
            raise ConfigError(f"--washout-days {self.washout_days}: give a number of days from 0 to 3650")


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One case that one reader sees."""

    part: Part
    case: int  # the place of the question in `Plan.sample_ids`
    is_repeat: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The steps of every reader, in order, and what they were drawn for."""

    settings: StudySettings
    terms: Mapping[str, str]  # digests of the questions, of their content and of the policy's answers
    sample_ids: tuple[str, ...]
    steps: tuple[tuple[Step, ...], ...]  # of reader 1, reader 2 ..

    def count(self, reader: int, part: Part) -> int:
        """How many cases a reader, from 1, sees in a part."""
        return sum(step.part is part for step in self.steps[reader - 1])


_ADAPTER: Final = TypeAdapter(Plan)


def make_plan(samples: Sequence[Sample], settings: StudySettings, terms: Mapping[str, str]) -> Plan:
    """The plan of a study. Equal samples and settings give equal plans. The questions without images are the same for all readers."""
    blind = _choose_blind(samples, settings)
    return Plan(
        settings=settings,
        terms=terms,
        sample_ids=tuple(sample.id for sample in samples),
        steps=tuple(_steps(len(samples), blind, settings, reader) for reader in range(1, settings.num_readers + 1)),
    )


def _choose_blind(samples: Sequence[Sample], settings: StudySettings) -> list[int]:
    """The cases that are asked without images, spread over the modalities."""
    rng = random.Random(f"{settings.seed}/without_image")
    by_modality: defaultdict[str, list[int]] = defaultdict(list)
    for case, sample in enumerate(samples):
        if sample.images:
            by_modality[str(sample.modality)].append(case)
    for cases in by_modality.values():
        rng.shuffle(cases)
    ranked = sorted((place, name, case) for name, cases in by_modality.items() for place, case in enumerate(cases))
    return [case for _, _, case in ranked[: _count(settings.without_image, len(ranked))]]


def _count(share: float, total: int) -> int:
    """The nearest number to a share of the total, and at least 1 for a share above 0."""
    return min(total, max(1, round(share * total))) if share else 0


def _steps(num_cases: int, blind: Sequence[int], settings: StudySettings, reader: int) -> tuple[Step, ...]:
    rng = random.Random(f"{settings.seed}/reader/{reader}")
    first = rng.sample(blind, len(blind))
    unaided = rng.sample(range(num_cases), num_cases)
    steps = [Step(part=Part.WITHOUT_IMAGE, case=case) for case in first]
    steps += _with_repeats(unaided, settings.repeated, rng)
    if settings.has_model:
        steps += [Step(part=Part.WITH_MODEL, case=case) for case in rng.sample(range(num_cases), num_cases)]
    return tuple(steps)


def _with_repeats(order: Sequence[int], share: float, rng: random.Random) -> list[Step]:
    """The unaided cases in their order, with some of the first half repeated at random places, each at least half the cases later.

    The order of the first answers stays a random one: what is repeated depends on it, and not the other way round.
    """
    half = len(order) // 2
    repeated = sorted(rng.sample(range(half), min(half, _count(share, len(order)))))
    behind: defaultdict[int, list[int]] = defaultdict(list)  # place in the order -> cases that are repeated behind it
    for place in repeated:
        behind[rng.randrange(place + half, len(order))].append(order[place])
    steps = []
    for place, case in enumerate(order):
        steps.append(Step(part=Part.UNAIDED, case=case))
        steps += [Step(part=Part.UNAIDED, case=again, is_repeat=True) for again in rng.sample(behind[place], len(behind[place]))]
    return steps


def write_plan(folder: Path, plan: Plan) -> None:
    """Write the plan of a study. Raises OSError."""
    write_json(folder / PLAN_FILE, _ADAPTER.dump_python(plan, mode="json"))


def read_plan(folder: Path) -> Plan | None:
    """The plan of a study, None without one. Raises DataError for a damaged file."""
    path = folder / PLAN_FILE
    if not path.is_file():
        return None
    try:
        return _ADAPTER.validate_json(read_text(path, _MAX_BYTES, "restore it, or start over with --fresh"))
    except ValidationError as error:
        where = ".".join(map(str, error.errors()[0]["loc"]))
        raise DataError(f"{path} is not the plan of a study ({where}): restore it, or start over with --fresh") from None
