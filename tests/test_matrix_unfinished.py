"""The page of a matrix that has not ended: what is finished, which cells are missing, and nothing that is neither."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from small_plans import RECIPE, make_plan

from osler.audits.credits import credits_file, update_credits
from osler.cli.main import main
from osler.config import load_config
from osler.evaluation.engines.scripted import ScriptedEngine
from osler.evaluation.records import append_records
from osler.evaluation.run import answer_prompts
from osler.experiments.jobs import STATE, state_of
from osler.experiments.matrix import collect, describe_plan
from osler.experiments.plan import AxisPlan, PolicyJob
from osler.files import write_json
from osler.prompts import render
from osler.reports.make import write_report
from osler.reports.matrices import MATRIX_FILE
from osler.reports.unfinished import PLAN_FILE, MatrixPlan, read_unfinished

TERMS = "terms"


def answer(plan: AxisPlan, job: PolicyJob, out: Path) -> None:
    """What the evaluation of a job leaves: A to every question, and the credits of the blind baselines."""
    prompts = [render(sample, job.strategy or "no_think") for sample in plan.test]
    path = job.records_file(out)
    append_records(path, answer_prompts(ScriptedEngine(lambda _: "<answer>A</answer>"), prompts, max_completion_length=4))
    overrides = [word for word in job.commands[-1] if word.startswith("--data.")]
    update_credits(path, load_config(RECIPE, overrides).data, plan.test)


def start(out: Path, *, ended: Callable[[PolicyJob], bool] = lambda _: True) -> AxisPlan:
    """A matrix of two domains, of which the jobs that `ended` names have ended."""
    plan = make_plan(domains=("ct", "mri"), limit=3, rows=("zero_shot", "sft", "blind"), strategies=("no_think",))
    out.mkdir()
    write_json(out / PLAN_FILE, MatrixPlan(recipe="small", axes=(describe_plan(plan, TERMS),)).to_json())
    done = [job for job in plan.jobs if ended(job)]
    for job in done:
        answer(plan, job, out)
    write_json(out / STATE, {job.name: state_of(job, TERMS) for job in done})
    return plan


def test_when_all_have_ended_the_page_is_that_of_the_matrix(tmp_path: Path) -> None:
    plan = start(tmp_path / "out")
    whole, found = collect(plan, tmp_path / "out"), read_unfinished(tmp_path / "out").axes["modality"]
    assert found == whole


def is_zero_shot(job: PolicyJob) -> bool:
    return job.row == "zero_shot"


def is_of_ct(job: PolicyJob) -> bool:
    return job.domain in ("ct", None)


# Which jobs have ended, the matrices on the page, and what the notes say of the others.
STATES: list[tuple[Callable[[PolicyJob], bool], list[str], list[str]]] = [
    (
        lambda _: False,
        [],
        [
            "Unfinished: 5 of 5 policies are not tested to the end.",
            "Missing cells of Zero-shot, No-Think: every cell (none answered).",
            "Missing cells of SFT, No-Think: trained on CT (none answered); trained on MRI (none answered).",
        ],
    ),
    (
        is_zero_shot,
        ["zero_shot-no_think"],
        [
            "Unfinished: 4 of 5 policies",
            "Missing cells of Blind: option prior: trained on CT (none answered); trained on MRI (none answered).",
            "No policy of CT, MRI has ended, so the image gain of zero-shot in that row is over guessing alone.",
        ],
    ),
    (
        is_of_ct,
        ["zero_shot-no_think", "sft-no_think", "blind"],
        ["Unfinished: 2 of 5 policies", "Missing cells of SFT, No-Think: trained on MRI (none answered).", "No policy of MRI has ended"],
    ),
]


@pytest.mark.parametrize(("ended", "matrices", "notes"), STATES)
def test_what_is_finished_is_shown_and_what_is_missing_is_named(
    tmp_path: Path, ended: Callable[[PolicyJob], bool], matrices: list[str], notes: list[str]
) -> None:
    plan = start(tmp_path / "out", ended=ended)
    whole = {job.name: job for job in plan.jobs if ended(job)}
    found = read_unfinished(tmp_path / "out").axes["modality"]
    assert list(found.matrices) == matrices
    text = "\n".join(found.notes)
    assert all(note in text for note in notes), text
    assert text.count("Missing cells of") == len({job.row for job in plan.jobs if not ended(job)})
    for name, part in found.matrices.items():
        for train, row in part.cells.items():
            has_any = name.startswith("zero_shot") or any(name.startswith(job.row) and job.domain == train for job in whole.values())
            assert [cell.value is not None for cell in row.values()] == [has_any, has_any]
    page = tmp_path / "page.html"
    write_report([tmp_path / "out"], page)
    assert "Unfinished: " in page.read_text()
    assert ("<h4>Accuracy</h4>" in page.read_text()) == ("blind" in matrices)


def cut(_: AxisPlan, path: Path) -> None:
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:4]))


def drop_credits(_: AxisPlan, path: Path) -> None:
    credits_file(path).unlink()


def start_again(plan: AxisPlan, path: Path) -> None:
    """Records of another recipe, which a job that has not ended under the present one may have left."""
    out = path.parents[3]
    write_json(out / STATE, {job.name: state_of(job, "other terms" if job.records_file(out) == path else TERMS) for job in plan.jobs})


UNFINISHED: list[tuple[Callable[[AxisPlan, Path], None], str]] = [
    (cut, "(4 of 6 questions answered)"),
    (drop_credits, "(answered, and the job has not ended)"),
    (start_again, "(answered, and the job has not ended)"),
    (lambda _, path: path.unlink(), "(none answered)"),
]


@pytest.mark.parametrize(("damage", "state"), UNFINISHED)
def test_a_policy_that_has_not_ended_is_not_counted(tmp_path: Path, damage: Callable[[AxisPlan, Path], None], state: str) -> None:
    plan = start(tmp_path / "out")
    job = next(job for job in plan.jobs if (job.row, job.domain) == ("sft", "mri"))
    damage(plan, job.records_file(tmp_path / "out"))
    found = read_unfinished(tmp_path / "out").axes["modality"]
    assert f"Missing cells of SFT, No-Think: trained on MRI {state}." in found.notes
    cells = found.matrices["sft-no_think"].cells
    assert all(cell.value is None for cell in cells["mri"].values())
    assert all(cell.value is not None for cell in cells["ct"].values())


def rewrite(change: Callable[[Any], object]) -> Callable[[Path], None]:
    def damage(out: Path) -> None:
        values = json.loads((out / PLAN_FILE).read_text())
        change(values["axes"][0])
        (out / PLAN_FILE).write_text(json.dumps(values))

    return damage


DAMAGED: list[tuple[Callable[[Path], object], str]] = [
    (lambda out: (out / PLAN_FILE).write_text("{"), "does not hold the plan of a matrix"),
    (lambda out: (out / PLAN_FILE).write_text("[]"), "does not hold the plan of a matrix"),
    (rewrite(lambda axis: axis["num_test"].pop("ct")), "does not hold the plan of a matrix"),
    (rewrite(lambda axis: axis["policies"][0].update(records="../../secret.jsonl")), "does not hold the plan of a matrix"),
    (rewrite(lambda axis: axis["policies"][0].update(row="rlhf")), "does not hold the plan of a matrix"),
    (lambda out: (out / STATE).write_text("[]"), "jobs.json is not a JSON object"),
    (lambda out: (out / PLAN_FILE).unlink(), "holds jobs that have not all ended: run the same command again"),
]


@pytest.mark.parametrize(("damage", "says"), DAMAGED)
def test_a_damaged_plan_is_one_line(
    tmp_path: Path, damage: Callable[[Path], object], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    start(tmp_path / "out", ended=is_zero_shot)
    damage(tmp_path / "out")
    assert main(["report", str(tmp_path / "out"), "--out", str(tmp_path / "page.html")]) == 2
    error = capsys.readouterr().err
    assert says in error
    assert error.count("\n") == 1


def test_a_matrix_that_ends_leaves_no_plan(tmp_path: Path) -> None:
    words = ["matrix", RECIPE, "--domains", "ct,mri", "--limit", "2", "--rows", "blind", "--out", str(tmp_path / "out")]
    assert main(words) == 0
    assert (tmp_path / "out" / MATRIX_FILE).is_file()
    assert not (tmp_path / "out" / PLAN_FILE).exists()


def test_a_matrix_that_fails_has_a_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The second policy of --policies has damaged weights, so its job fails; the blind baselines have ended."""
    out = tmp_path / "out"
    plan = make_plan(domains=("ct", "mri"), limit=2, rows=("blind",))
    blocked = out / plan.jobs[1].name / "records"
    blocked.mkdir(parents=True)
    plan.jobs[1].records_file(out).mkdir()  # a folder where a file has to be
    words = ["matrix", RECIPE, "--domains", "ct,mri", "--limit", "2", "--rows", "blind", "--out", str(out)]
    assert main(words) != 0
    assert not (out / MATRIX_FILE).exists()
    assert main(["report", str(out), "--out", str(tmp_path / "page.html")]) == 0
    assert "trained on MRI (none answered)" in (tmp_path / "page.html").read_text()
