"""What a matrix consists of: a job for every policy, its commands, and a note where there can be none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from small_plans import RECIPE, make_plan, write_med_r1

from osler.cli.main import build_parser, split_overrides
from osler.config import load_config
from osler.errors import OslerError
from osler.experiments.plan import find_given

PLANS: list[tuple[str, dict[str, Any], int, int]] = [
    # name, options, jobs, test questions
    ("one strategy", {"domains": ("ct", "mri"), "strategies": ("think",), "limit": 5}, 1 + 2 + 2 + 2, 10),
    ("the recipe's strategies", {"domains": ("ct", "mri"), "limit": 5}, 2 * (1 + 2 + 2) + 2, 10),
    ("some rows", {"domains": ("ct", "mri"), "limit": 5, "rows": ("grpo",)}, 4, 10),
    ("a dataset's own labels", {"domains": ("X-Ray", "MR"), "limit": 5, "rows": ("blind",)}, 2, 10),
    ("every modality", {"rows": ("blind",), "limit": 3}, 8, 24),
    ("every question type", {"axis": "question_type", "rows": ("blind",), "limit": 16}, 5, 80),
]


@pytest.mark.parametrize(("name", "options", "jobs", "questions"), PLANS, ids=[row[0] for row in PLANS])
def test_a_plan_has_a_job_for_every_policy(name: str, options: dict[str, Any], jobs: int, questions: int) -> None:
    plan = make_plan(**options)
    assert len(plan.jobs) == jobs == len({job.name for job in plan.jobs})
    assert len(plan.test) == questions
    assert all(len(samples) == options["limit"] for samples in plan.train.values())
    for domain, samples in plan.train.items():
        assert {getattr(sample, plan.axis) for sample in samples} == {domain}


@pytest.mark.parametrize("job", make_plan(domains=("ct", "mri"), limit=5, overrides=("--seed=3",)).jobs, ids=lambda job: job.name)
def test_every_command_says_what_it_trains_and_tests(job: Any) -> None:
    for command in job.commands:
        own, overrides = split_overrides(command)
        assert build_parser().parse_args([*own, *(["--seed", "0"] if "--seed" not in own else [])]).out == Path("out") / job.name
        config = load_config(RECIPE, [part for part in overrides if not part.startswith("--seed")])
        assert config.data.test.modalities == ("ct", "mri")
        assert config.data.train.modalities == ((job.domain,) if job.domain else ())
        if job.strategy:
            assert config.prompt.strategy == job.strategy
        else:
            assert config.eval.engine == "option_prior"


def test_a_domain_without_training_questions_is_an_empty_row(tmp_path: Path) -> None:
    overrides = write_med_r1(tmp_path, train=["ct"], test=["ct", "mri"])
    plan = make_plan(overrides=overrides, strategies=("med_r1_no_think",), rows=("grpo", "blind"))
    assert plan.domains == ("ct", "mri")
    assert [job.domain for job in plan.jobs] == ["ct", "ct"]
    assert "--data.axis=modality" in plan.jobs[0].commands[0]
    assert "--data.train.name=ct" in plan.jobs[0].commands[0]
    assert ["mri" in note and "row is empty" in note for note in plan.notes] == [True]


@pytest.mark.parametrize(
    ("strategy", "terms", "rows", "note"),
    [
        ("med_r1_think", [], ["grpo"], "No SFT for ct, med_r1_think, so its row is empty: "),
        ("med_r1_think", ["--sft_target=med_r1_sft"], ["sft", "grpo"], None),
        ("med_r1_no_think", [], ["sft", "grpo"], None),
    ],
)
def test_sft_is_planned_where_it_has_targets(strategy: str, terms: list[str], rows: list[str], note: str | None, tmp_path: Path) -> None:
    overrides = [*write_med_r1(tmp_path, train=["ct"], test=["ct"]), *terms]
    plan = make_plan(overrides=overrides, strategies=(strategy,), rows=("sft", "grpo"))
    assert [job.row for job in plan.jobs] == rows
    assert len(plan.notes) == (note is not None)
    assert note is None or (plan.notes[0].startswith(note) and "no rationale" in plan.notes[0])


def test_a_plan_of_nothing_says_why(tmp_path: Path) -> None:
    overrides = write_med_r1(tmp_path, train=["ct"], test=["ct"])
    with pytest.raises(OslerError, match="no rationale"):
        make_plan(overrides=overrides, strategies=("med_r1_think",), rows=("sft",))


@pytest.mark.parametrize(
    ("train", "rows", "jobs"),
    [
        ([], ("grpo",), ["given-ct", "given-mri"]),
        (["ct"], ("sft", "blind"), ["given-ct", "given-mri", "blind-ct"]),
    ],
)
def test_given_policies_need_no_training_questions(train: list[str], rows: tuple[str, ...], jobs: list[str], tmp_path: Path) -> None:
    overrides = write_med_r1(tmp_path / "data", train=train, test=["ct", "mri"])
    for name in ("ct", "mri"):
        (tmp_path / "given" / name).mkdir(parents=True)
    plan = make_plan(overrides=overrides, strategies=("med_r1_no_think",), rows=rows, policies=tmp_path / "given")
    assert [f"{job.row}-{job.domain}" for job in plan.jobs] == jobs
    assert [job.given for job in plan.jobs[:2]] == [tmp_path / "given" / "ct", tmp_path / "given" / "mri"]
    assert all("no blind baseline" in note for note in plan.notes)


@pytest.mark.parametrize(
    ("axis", "given", "strategies", "named"),
    [
        ("modality", ["ct", "mri"], ("think", "no_think"), "ct, mri"),
        ("modality", ["ct-think", "ct-no-think", "mri"], ("think", "no_think"), "mri"),
        ("modality", ["ct-think", "ct-no-think"], ("think", "no_think"), None),
        ("modality", ["ct"], ("think", "think_after"), None),
        ("question_type", ["lesion_grading"], ("no_think", "med_r1_think"), "lesion_grading"),
    ],
)
def test_why_no_published_row_stands_beside_a_policy(
    axis: str, given: list[str], strategies: tuple[str, ...], named: str | None, tmp_path: Path
) -> None:
    for name in given:
        (tmp_path / name).mkdir()
    domains = ("ct", "mri") if axis == "modality" else ("lesion_grading",)
    plan = make_plan(axis=axis, domains=domains, limit=5, rows=("zero_shot",), strategies=strategies, policies=tmp_path)
    notes = [note for note in plan.notes if "no published difference" in note]
    assert [note.partition(": ")[0] for note in notes] == ([f"One policy answers with and without reasoning for {named}"] if named else [])


@pytest.mark.parametrize(
    ("folders", "found"),
    [
        (["ct"], "ct"),
        (["ct", "ct-no-think"], "ct-no-think"),
        (["grpo-ct-no-think", "ct-no-think"], "grpo-ct-no-think"),
        (["ct-think"], None),
        ([], None),
    ],
)
def test_given_policies_are_found_by_their_names(folders: list[str], found: str | None, tmp_path: Path) -> None:
    for name in folders:
        (tmp_path / name).mkdir()
    assert find_given(tmp_path, "no_think", "ct") == (tmp_path / found if found else None)
