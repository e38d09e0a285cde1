"""The plan of a reader study: drawn once, every reader sees every case, and what a study cannot be."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from small_studies_of_readers import config_of, write_rows

from osler.data.select import load_split
from osler.errors import ConfigError
from osler.evaluation.readings import Part
from osler.serving.readers.plan import StudySettings, make_plan, read_plan, write_plan
from osler.types import Sample


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> list[Sample]:
    return load_split(config_of(write_rows(tmp_path_factory.mktemp("rows"), 41)).data, "test")


SETTINGS = [
    StudySettings(),
    StudySettings(num_readers=1, repeated=0.5, without_image=1.0, has_model=True),
    StudySettings(num_readers=26, repeated=0, without_image=0, seed=7),
]


@pytest.mark.parametrize("settings", SETTINGS)
def test_a_plan_is_drawn_once(tmp_path: Path, samples: list[Sample], settings: StudySettings) -> None:
    plan = make_plan(samples, settings, {"questions": "x"})
    assert plan == make_plan(samples, settings, {"questions": "x"})
    write_plan(tmp_path, plan)
    assert read_plan(tmp_path) == plan


def test_another_seed_is_another_plan(samples: list[Sample]) -> None:
    one, other = (make_plan(samples, StudySettings(seed=seed), {}) for seed in (0, 1))
    assert one.steps != other.steps


@pytest.mark.parametrize("settings", SETTINGS)
def test_every_reader_sees_every_case_once_and_repeats_far_apart(samples: list[Sample], settings: StudySettings) -> None:
    plan = make_plan(samples, settings, {})
    cases = list(range(len(samples)))
    num_repeats = round(settings.repeated * len(samples))
    for steps in plan.steps:
        parts = [step.part for step in steps]
        assert parts == sorted(parts, key=list(Part).index)
        first = [step.case for step in steps if step.part is Part.UNAIDED and not step.is_repeat]
        assert sorted(first) == cases
        assert sorted(step.case for step in steps if step.part is Part.WITH_MODEL) == (cases if settings.has_model else [])
        unaided = [step for step in steps if step.part is Part.UNAIDED]
        places = {step.case: place for place, step in enumerate(unaided) if not step.is_repeat}
        repeats = [(place, step.case) for place, step in enumerate(unaided) if step.is_repeat]
        assert len(repeats) == len({case for _, case in repeats}) == min(num_repeats, len(samples) // 2)
        assert all(place - places[case] >= len(samples) // 2 for place, case in repeats)


def test_readers_have_orders_of_their_own_and_the_same_questions_without_images(samples: list[Sample]) -> None:
    plan = make_plan(samples, StudySettings(), {})
    blind = [[step.case for step in steps if step.part is Part.WITHOUT_IMAGE] for steps in plan.steps]
    assert len({tuple(cases) for cases in blind}) == 3
    assert len({tuple(sorted(cases)) for cases in blind}) == 1
    assert len(blind[0]) == round(0.25 * 41)
    counts = Counter(str(samples[case].modality) for case in blind[0])
    assert max(counts.values()) - min(counts.values()) <= 1
    assert len({tuple(step.case for step in steps) for steps in plan.steps}) == 3


def test_orders_are_uniform(samples: list[Sample]) -> None:
    """Over many readers every case stands first about as often as any other, also where cases are repeated."""
    settings = [StudySettings(num_readers=26, repeated=0.5, without_image=0, seed=seed) for seed in range(60)]
    plans = [make_plan(samples[:4], one, {}) for one in settings]
    counts = Counter(steps[0].case for plan in plans for steps in plan.steps)
    assert all(abs(counts[case] - 390) < 70 for case in range(4))  # four standard deviations


@pytest.mark.parametrize("num", [1, 2, 3])
def test_few_questions_make_a_plan(samples: list[Sample], num: int) -> None:
    (steps,) = make_plan(samples[:num], StudySettings(num_readers=1, without_image=0), {}).steps
    assert sum(step.is_repeat for step in steps) == (0 if num == 1 else 1)


@pytest.mark.parametrize(
    "wrong",
    [{"num_readers": 0}, {"num_readers": 27}, {"repeated": 0.6}, {"without_image": -0.1}, {"repeated": float("nan")}, {"washout_days": -1}],
)
def test_settings_that_make_no_study(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="give a"):
        StudySettings(**wrong)
