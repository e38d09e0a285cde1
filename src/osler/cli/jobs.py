"""`osler jobs`."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from osler.cli.common import add_verb
from osler.cli.launching import add_launcher, launching_of


def add_jobs(verbs: Any) -> None:
    """`osler jobs`."""
    parser = add_verb(
        verbs,
        "jobs",
        _run,
        "run a list of osler commands, several at once, here or on a cluster",
        "Run the jobs of a text file: a line is a job, NAME: COMMAND && COMMAND .., each command as typed after\n"
        "`osler`. Its runs go to --out/NAME unless the command says --out itself; blank lines and lines that\n"
        "begin with # are skipped. Finished jobs are not run again, so the same command resumes the list.\n"
        "Example of a list:\n\n"
        "  seed0: train demo --seed 0 && eval demo --policy runs/seeds/seed0\n"
        "  seed1: train demo --seed 1 && eval demo --policy runs/seeds/seed1",
        "osler jobs seeds.txt --out runs/seeds",
        "osler jobs seeds.txt --out /shared/seeds --launcher ray --job-gpus 1",
        "osler jobs seeds.txt --out /shared/seeds --launcher slurm --job-gpus 1 --job-hours 12 --launcher-option slurm_partition=gpu",
    )
    parser.add_argument("list", type=Path, metavar="LIST", help="a text file with a job a line")
    parser.add_argument("--out", type=Path, required=True, help="folder of the jobs' run folders and logs")
    add_launcher(parser)


def _run(options: argparse.Namespace) -> Mapping[str, Any]:
    from osler.errors import ConfigError
    from osler.experiments.job_list import read_jobs
    from osler.experiments.jobs import run_jobs

    if options.overrides:
        raise ConfigError(f"{options.overrides[0]} belongs to a command: write it into {options.list}")
    jobs = read_jobs(options.list, options.out)
    launching = launching_of(options)
    options.out.mkdir(parents=True, exist_ok=True)
    run_jobs(jobs, options.out, title="list of jobs", launching=launching)
    print(f"{len(jobs)} jobs have finished; logs: {options.out}/NAME/log.txt, page: osler report {options.out}")
    return {"out": options.out, "jobs": [job.name for job in jobs]}
