"""The demo's plan, its commands and its closing lines; the whole of it runs in `make demo`."""

from pathlib import Path

import pytest

from osler.cli.demo import sparkline
from osler.cli.main import build_parser, split_overrides
from osler.config import load_config
from osler.experiments.demo import STRATEGIES, TableRow, lift, plan_demo
from osler.taxonomy import Modality
from osler.types import Outcome, Record

JOBS = plan_demo(load_config("demo"), Path("out"), ["--seed=3"])


@pytest.mark.parametrize("job", JOBS, ids=lambda job: job.name)
def test_every_command_parses_and_repeats_the_overrides(job: TableRow) -> None:
    for command in job.commands:
        own, overrides = split_overrides(command)
        options = build_parser().parse_args(own)
        assert options.seed == 3
        assert load_config("demo", overrides).prompt.strategy == job.strategy
        strategy = job.strategy.replace("_", "-")
        assert options.out in (Path("out") / job.name, Path("out") / f"warm-up-{strategy}")


def test_plan_has_every_row_of_the_protocol() -> None:
    rows = [(job.title, job.strategy) for job in JOBS]
    protocol = [(title, strategy) for title in ("zero-shot", "SFT") for strategy in STRATEGIES]
    after = [(f"GRPO after SFT{remark}", strategy) for remark in ("", ", exact") for strategy in ("think", "think_after")]
    trained = [*after, ("GRPO", "no_think"), ("GRPO, exact", "no_think"), ("GRPO, answer reward alone", "think")]
    assert sorted(rows) == sorted([*protocol, *trained, ("blind", "no_think")])
    assert len({job.name for job in JOBS}) == len({job.label for job in JOBS}) == len(JOBS)


def test_rows_of_a_strategy_share_their_warm_up() -> None:
    first = [job.commands[0] for job in JOBS if job.title.startswith("GRPO after SFT")]
    assert len(first) == 4
    assert len({*first}) == 2


def record(number: int, modality: Modality, *, is_right: bool) -> Record:
    return Record(
        sample_id=f"phantom/{modality}/{number}",
        dataset="phantom",
        modality=modality,
        question_type=None,
        subject_id=None,
        image_uris=(),
        strategy="think",
        policy="tiny",
        prompt="",
        completion="",
        num_tokens=1,
        finish_reason="stop",
        choices=("a", "b"),
        target="A",
        answer="A" if is_right else "B",
        reasoning=None,
        is_well_formed=True,
        outcome=Outcome.CORRECT if is_right else Outcome.INCORRECT,
        rule="",
    )


def test_lift_is_in_domain_and_against_zero_shot() -> None:
    before = [record(n, Modality.MRI, is_right=n < 10) for n in range(40)] + [record(n, Modality.CT, is_right=True) for n in range(40)]
    after = [record(n, Modality.MRI, is_right=n < 30) for n in range(40)] + [record(n, Modality.CT, is_right=False) for n in range(40)]
    results = {job.name: before if job.title == "zero-shot" else after for job in JOBS}
    grpo = next(job for job in JOBS if job.name == "grpo-after-sft-think")
    assert lift(grpo, JOBS, results, ("mri",)).difference.value == pytest.approx(0.5)


@pytest.mark.parametrize(("values", "curve"), [([], ""), ([1.0], "▁"), ([0.0, 1.0], "▁█"), ([0.0, 0.0, 1.0, 1.0, 2.0, 2.0], "▁▁▅▅██")])
def test_sparkline(values: list[float], curve: str) -> None:
    assert sparkline(values) == curve
