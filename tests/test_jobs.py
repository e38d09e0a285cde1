"""Jobs: those that ended do not run again, what they have in common runs once, and a failure names itself."""

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from osler.errors import OslerError
from osler.experiments.jobs import MARK, STATE, Job, plan_commands, plan_warm_up, run_jobs
from osler.experiments.launchers import local

CHECK = ("data", "check", "--images", "none", "--data.reader=phantom", '--data.modalities=["mri"]')
TRAININGS = [("sft", "think_after", "sft"), ("letters", "no_think", "train"), ("reasons", "think", "train")]
PARTS = [("first", [*CHECK]), ("second", ["train", "no-such-recipe"]), ("third", ["no-such-verb"])]


@pytest.mark.integration
def test_a_failing_command_names_itself_and_its_log(tmp_path: Path) -> None:
    job = Job(name="broken", commands=(("train", "no-such-recipe"),))
    with pytest.raises(OslerError, match="no recipe at no-such-recipe"):
        run_jobs([job], tmp_path, title="demo")
    assert (tmp_path / STATE).is_file()  # by which --fresh knows the folder


def pretend_gpu(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With this driver each command has a process of its own."""
    folder.mkdir()
    (folder / "nvidia-smi").touch(mode=0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=os.pathsep)


@pytest.mark.integration
@pytest.mark.parametrize("has_gpu", [False, True])
def test_a_job_stops_at_its_first_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, has_gpu: bool) -> None:
    if has_gpu:
        pretend_gpu(tmp_path / "bin", monkeypatch)
    job = Job(name="broken", commands=(CHECK, ("train", "no-such-recipe"), CHECK))
    with pytest.raises(OslerError, match=r"`osler train no-such-recipe` ended with 2; see .*log.txt"):
        run_jobs([job], tmp_path, title="demo")
    log = (tmp_path / "broken" / "log.txt").read_text()
    assert [line for line in log.splitlines() if line.startswith(MARK)] == [f"{MARK}{shlex.join(command)}" for command in job.commands[:2]]


@pytest.mark.integration
def test_a_command_that_jobs_have_in_common_runs_once_and_first(tmp_path: Path) -> None:
    listed = [
        Job(name=name, commands=(CHECK, ("data", "check", f"--data.num_questions={number}", *CHECK[2:])))
        for number, name in enumerate("abc", 5)
    ]
    run_jobs(listed, tmp_path, title="demo")
    logs = [(tmp_path / job.name / "log.txt").read_text().splitlines() for job in listed]
    ran = [[line for line in log if line.startswith(MARK)] for log in logs]
    expected = [[f"{MARK}{shlex.join(command)}" for command in job.commands[job.name != "a" :]] for job in listed]
    assert ran == expected
    assert json.loads((tmp_path / STATE).read_text()).keys() == {"a", "b", "c"}


@pytest.mark.integration
def test_jobs_that_wait_for_a_failed_one_are_not_started(tmp_path: Path) -> None:
    broken = ("train", "no-such-recipe")
    with pytest.raises(OslerError, match="no recipe at no-such-recipe"):
        run_jobs([Job(name=name, commands=(broken, (*CHECK, f"--data.num_questions={name}"))) for name in "12"], tmp_path, title="demo")
    assert not (tmp_path / "2").exists()


@pytest.mark.integration
def test_jobs_run_in_kept_processes_one_after_the_other(tmp_path: Path) -> None:
    answers = subprocess.run(
        [sys.executable, "-m", "osler.cli.in_turn", str(os.getpid())],
        input="".join(json.dumps({"commands": [command], "log": str(tmp_path / name)}) + "\n" for name, command in PARTS),
        capture_output=True,
        text=True,
        check=False,
    )
    assert answers.stdout.split() == ["0", "2"]
    assert "600 samples" in (tmp_path / "first").read_text()
    assert "no-such-recipe" in (tmp_path / "second").read_text()
    assert "invalid" in (tmp_path / "third").read_text()
    assert answers.returncode == 2


@pytest.mark.integration
def test_a_command_reads_nothing_from_the_jobs_that_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    body = "    print(subprocess.run(['cat'], capture_output=True).stdout + b'!')"
    (tmp_path / "curious.py").write_text("\n".join(["import subprocess", "def read(root, *, split=None, seed=0):", body, "    return []"]))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    job = Job(name="check", commands=(("data", "check", "--data.reader=curious:read", f"--data.root={tmp_path}"),))
    run_jobs([job], tmp_path / "out", title="demo")
    assert "b'!'" in (tmp_path / "out" / "check" / "log.txt").read_text()


@pytest.mark.slow
def test_jobs_that_share_a_process_give_what_they_give_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = ("--data.train.limit=24", "--data.test.limit_per_modality=4", "--policy.device=cpu")
    monkeypatch.setattr(local, "MAX_WORKERS", 1)
    for place in ("shared", "alone"):
        out = tmp_path / place
        if place == "alone":
            pretend_gpu(tmp_path / "bin", monkeypatch)
        out.mkdir()
        first, start = plan_warm_up("demo", out / "warm-up", (*small, "--prompt.strategy=think"))
        plans = [
            (name, plan_commands("demo", out / name, [*small, f"--prompt.strategy={strategy}", start], verb=verb))
            for name, strategy, verb in TRAININGS
        ]
        run_jobs([Job(name=name, commands=(first, *commands)) for name, commands in plans], out, title="demo")
    for name, _, _ in TRAININGS:
        for file in (f"records/{name}.jsonl", "policy/model.safetensors"):
            assert (tmp_path / "shared" / name / file).read_bytes() == (tmp_path / "alone" / name / file).read_bytes()


@pytest.mark.slow
def test_finished_jobs_do_not_run_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    job = Job(name="axis/check", commands=(CHECK,))
    run_jobs([job], tmp_path, title="matrix")
    log = tmp_path / "axis" / "check" / "log.txt"
    first = log.read_bytes()
    run_jobs([job], tmp_path, title="matrix")
    assert log.read_bytes() == first
    assert "holds a finished matrix; --fresh" in capsys.readouterr().err
    run_jobs([job], tmp_path, title="matrix", terms="another recipe")
    assert len(log.read_bytes()) > len(first)
    log.unlink()
    log.parent.rmdir()  # a run that somebody deleted is made again
    run_jobs([job], tmp_path, title="matrix")
    assert log.is_file()


def test_a_state_that_cannot_be_read_is_one_line(tmp_path: Path) -> None:
    (tmp_path / STATE).write_text("[")
    with pytest.raises(OslerError, match="delete it"):
        run_jobs([Job(name="check", commands=(CHECK,))], tmp_path, title="demo")


EVALUATION = ("eval", "demo", "--out", "out/ct", "--seed=3", "--label", "ct")


@pytest.mark.parametrize(
    ("verb", "policy", "commands"),
    [
        (None, None, (EVALUATION,)),
        (None, Path("given/ct"), ((*EVALUATION, "--policy", "given/ct"),)),
        ("sft", None, (("sft", "demo", "--out", "out/ct", "--seed=3"), (*EVALUATION, "--policy", "out/ct/policy"))),
    ],
)
def test_commands_of_a_folder(verb: str | None, policy: Path | None, commands: tuple[tuple[str, ...], ...]) -> None:
    assert plan_commands("demo", Path("out/ct"), ["--seed=3"], verb=verb, policy=policy) == commands


@pytest.mark.parametrize(("name", "file"), [("grpo-think", "grpo-think.jsonl"), ("modality/grpo-ct", "grpo-ct.jsonl")])
def test_records_carry_the_name_of_their_folder(name: str, file: str) -> None:
    assert Job(name=name, commands=()).records_file(Path("out")) == Path("out") / name / "records" / file
