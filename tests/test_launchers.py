"""Jobs on Ray and Slurm: a killed node costs nothing but time, and results equal those of this machine."""

import os
import signal
import subprocess
import sys
import threading
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from osler.cli.main import main
from osler.errors import ConfigError, OslerError
from osler.experiments.job_list import read_jobs
from osler.experiments.jobs import Job, run_jobs
from osler.experiments.launchers import Launching, Resources
from osler.experiments.launchers.local import TIMED_OUT, run_on_node

CHECK = ("data", "check", "--images", "none", "--data.reader=phantom")
SMALL = (
    "--data.train.limit=48",
    "--data.test.limit_per_modality=8",
    "--policy.device=cpu",
    "--grpo.save_steps=1",
    "--grpo.logging_steps=1",
)


@pytest.mark.parametrize(
    ("amounts", "said"),
    [
        ({"cpus": 0}, "--job-cpus 0"),
        ({"gpus": -1}, "--job-gpus -1"),
        ({"tries": 0}, "--job-tries 0"),
        ({"memory_gb": 0.0}, "--job-memory 0"),
        ({"hours": float("nan")}, "--job-hours nan"),
        ({"hours": float("inf")}, "--job-hours inf"),
    ],
)
def test_amounts_that_mean_nothing_are_refused(amounts: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        Resources(**amounts)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--launcher-option", "address"], "write KEY=VALUE"),
        (["--launcher-option", "address=here"], "is for ray and slurm"),
        (["--job-gpus", "1"], "--job-gpus is for a job on a cluster"),
        (["--job-hours", "2"], "--job-hours is for a job on a cluster"),
        (["--launcher", "slurm"], "has no Slurm"),
        (["--launcher", "slurm", "--launcher-option", "cluster=local", "--launcher-option", "part=gpu"], "--launcher-option: "),
        (["--data.seed=1"], "belongs to a command"),
    ],
)
def test_what_no_launcher_takes_is_a_line(tmp_path: Path, arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    if "slurm" in arguments:
        pytest.importorskip("submitit")
    (tmp_path / "list.txt").write_text("a: data check")
    assert main(["jobs", str(tmp_path / "list.txt"), "--out", str(tmp_path / "out"), *arguments]) == 2
    assert said in capsys.readouterr().err.splitlines()[-1]


def test_a_list_of_jobs(tmp_path: Path) -> None:
    path = tmp_path / "list.txt"
    path.write_text("# two seeds\n\nseed0: osler train demo --seed 0 && eval demo --label=a\nseed1:data check --data.root 'a b'\n")
    own = str(tmp_path / "seed0")
    assert read_jobs(path, tmp_path) == [
        Job(name="seed0", commands=(("train", "demo", "--seed", "0", "--out", own), ("eval", "demo", "--label=a", "--out", own))),
        Job(name="seed1", commands=(("data", "check", "--data.root", "a b"),)),
    ]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "has 0 jobs"),
        ("train demo", "line 1: begin with a name"),
        ("../a: train demo", "line 1: begin with a name"),
        ("a: train demo\na: eval demo", "line 2: there is a job a already"),
        ("a:", "line 1: a command is empty"),
        ("a: train demo &&", "line 1: a command is empty"),
        ("a: train 'demo", "line 1: No closing quotation"),
        ("a: jobs list.txt", "is no job"),
    ],
)
def test_lines_that_are_no_jobs(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "list.txt").write_text(text)
    with pytest.raises(ConfigError, match=said):
        read_jobs(tmp_path / "list.txt", tmp_path)


@pytest.mark.integration
def test_a_process_of_jobs_ends_with_its_parent(tmp_path: Path) -> None:
    start = "subprocess.Popen([sys.executable, '-m', 'osler.cli.in_turn', str(os.getpid())], stdin=0)"
    code = f"import os, subprocess, sys; print({start}.pid, flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        parent.kill()
        deadline = time.monotonic() + 30
        while _runs(child) and time.monotonic() < deadline:
            time.sleep(0.1)
        assert not _runs(child)


def _runs(process: int) -> bool:
    """Whether a process runs; one that has ended and whose parent has not asked for it does not."""
    try:
        return "\nState:\tZ" not in Path(f"/proc/{process}/status").read_text() if Path("/proc").is_dir() else not os.kill(process, 0)
    except OSError:
        return False


def test_a_job_beyond_its_time_is_stopped(tmp_path: Path) -> None:
    commands, log = [["data", "check", "--data.reader=phantom", "--images", "decode"]], tmp_path / "log.txt"
    assert run_on_node(commands, str(log), 1, str(tmp_path), 0.0001) == TIMED_OUT
    assert "stopped after --job-hours 0.0001" in log.read_text()
    assert run_on_node(commands, str(log), 1, str(tmp_path / "away")) == 1
    assert "away is not on this node" in log.read_text()


@pytest.mark.slow
def test_slurm_jobs_by_the_local_executor_of_submitit(tmp_path: Path) -> None:
    pytest.importorskip("submitit")
    launching = Launching(name="slurm", settings={"cluster": "local"})
    jobs = [Job(name=name, commands=((*CHECK, f"--data.num_questions={number}"),)) for name, number in (("a", 8), ("b", 16))]
    run_jobs(jobs, tmp_path, title="list", launching=launching)
    assert [f"{24 * number} samples" in (tmp_path / name / "log.txt").read_text() for name, number in (("a", 8), ("b", 16))] == [True, True]
    with pytest.raises(OslerError, match="`osler train no-such-recipe` ended with 2"):
        run_jobs([Job(name="broken", commands=(("train", "no-such-recipe"),))], tmp_path, title="list", launching=launching)


@pytest.mark.slow
def test_a_ray_node_that_is_killed_costs_nothing_but_time(tmp_path: Path) -> None:
    """Two nodes, a training on each; the node of one is killed after a few steps. Its policy and records are those of a plain run."""
    pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    def plan(out: Path) -> list[Job]:
        runs = {f"seed{seed}": ("demo", "--out", str(out / f"seed{seed}"), *SMALL, f"--seed={seed}") for seed in (0, 1)}
        return [Job(name=name, commands=(("sft", *run), ("eval", *run, "--label", name, "--policy", run[2]))) for name, run in runs.items()]

    run_jobs(plan(tmp_path / "plain"), tmp_path / "plain", title="list")
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    nodes = [cluster.add_node(num_cpus=1) for _ in range(2)]
    try:
        killer = threading.Thread(target=_kill_when_begun, args=(cluster, nodes[0], tmp_path / "ray"), daemon=True)
        killer.start()
        run_jobs(
            plan(tmp_path / "ray"), tmp_path / "ray", title="list", launching=Launching(name="ray", settings={"address": cluster.address})
        )
        killer.join(timeout=1)
        assert not killer.is_alive()
        assert len(cluster.worker_nodes) == 1
    finally:
        cluster.shutdown()
    for name in ("seed0", "seed1"):
        for file in (f"records/{name}.jsonl", "policy/model.safetensors"):
            assert (tmp_path / "plain" / name / file).read_bytes() == (tmp_path / "ray" / name / file).read_bytes()
    started = [(tmp_path / "ray" / name / "log.txt").read_text().count("+ osler sft") for name in ("seed0", "seed1")]
    assert sorted(started) == [1, 2]


def _kill_when_begun(cluster: Any, node: Any, out: Path) -> None:
    """Kill a node once every training has a checkpoint."""
    while not all(list((out / f"seed{seed}").glob("checkpoints/checkpoint-*")) for seed in (0, 1)):
        time.sleep(0.2)
    cluster.remove_node(node, allow_graceful=False)


@pytest.mark.integration
def test_an_interrupt_is_no_failure_of_a_job(tmp_path: Path) -> None:
    """Ctrl-C in a terminal reaches the command and its processes: exit code 130, and the same command goes on."""
    (tmp_path / "list.txt").write_text("a: data check --data.reader=phantom --images decode\n")
    command = [sys.executable, "-m", "osler", "jobs", str(tmp_path / "list.txt"), "--out", str(tmp_path / "out")]
    heeding = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # a shell makes what it runs in the background ignore Ctrl-C
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True, preexec_fn=heeding) as process:
        deadline = time.monotonic() + 60
        while not (tmp_path / "out/a/log.txt").exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        time.sleep(0.5)
        os.killpg(process.pid, signal.SIGINT)
        _, said = process.communicate(timeout=60)
    assert process.returncode == 130, said
    assert said.splitlines()[-1] == "osler: interrupted; the same command continues where it stopped"
