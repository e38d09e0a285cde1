"""`osler eval --shards N`: the questions in N parts, each a job on this machine or on a node of a cluster, and one records file."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from osler.config import Config
from osler.errors import ConfigError
from osler.evaluation.run import EvaluationResult, changed_term, evaluate, name_term, prepare
from osler.evaluation.shards import check_terms, chunk_size_of, join_shards, plan_shards, shard_file, shards_folder
from osler.experiments.jobs import Job, run_jobs
from osler.experiments.launchers import Launching
from osler.run_folder import Run, forgetting_unused, open_run


def evaluate_in_shards(
    recipe: str,
    overrides: Sequence[str],
    config: Config,
    out: Path,
    num_shards: int,
    *,
    policy: str | None = None,
    label: str = "eval",
    fresh: bool = False,
    launching: Launching | None = None,
) -> EvaluationResult:
    """`evaluate`, with the questions answered in up to `num_shards` jobs; the records are those of one process. The same call resumes.

    Raises ConfigError for no shards and for an endpoint, which is asked several questions at once by itself; and what `evaluate` raises.
    """
    if num_shards < 1:
        raise ConfigError(f"--shards {num_shards}: use 1 or more")
    if config.eval.engine == "openai":
        raise ConfigError("an endpoint is asked by [eval] concurrency, several questions at once: leave --shards out")
    task = prepare(config, policy, label)
    path = Run(root=out).records / f"{label}.jsonl"
    if not fresh and (key := changed_term(path, task.terms)) is not None:
        raise ConfigError(f"{path} was made with other {name_term(key)}: give another --label, or --fresh to start it over")
    run = Run(root=out)
    has_training = run.policy.exists() or run.checkpoints.exists()
    run = open_run(out, config, resume=has_training or not fresh)
    folder = shards_folder(out, label)
    if fresh:
        path.unlink(missing_ok=True)
        shutil.rmtree(folder, ignore_errors=True)
    shards = plan_shards(len(task.prompts), chunk_size_of(task.config), num_shards)
    for shard in shards:  # one that has ended is not begun again
        check_terms(task, shard_file(out, label, shard), shard)
    chosen = ("--policy", policy) if policy is not None else ()
    shared = ("eval", recipe, *overrides, "--out", str(out), "--label", label, *chosen)
    jobs = [Job(name=shard.name, commands=((*shared, "--shard", str(shard)),)) for shard in shards]
    with forgetting_unused(run):
        if not path.exists() or len(path.read_bytes().splitlines()) < len(task.prompts):
            folder.mkdir(parents=True, exist_ok=True)
            run_jobs(jobs, folder, title="eval", terms=config.to_json(), launching=launching)
            join_shards(task, out, label, shards)
        shutil.rmtree(folder, ignore_errors=True)
    return evaluate(config, out, policy=policy, label=label)
