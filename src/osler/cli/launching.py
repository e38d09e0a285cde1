"""The options that say where the jobs of a verb run."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from osler.errors import ConfigError

if TYPE_CHECKING:
    from osler.experiments.launchers import Launching


def add_launcher(parser: argparse.ArgumentParser) -> None:
    """Add `--launcher` and what a job asks a cluster for."""
    group = parser.add_argument_group(
        "where jobs run",
        "Data, policies and the folder --out must have the same paths on all nodes. A job whose node dies starts again on another one and "
        "continues from its checkpoints.",
    )
    group.add_argument(
        "--launcher",
        choices=("local", "ray", "slurm"),
        default="local",
        help="this machine, a Ray cluster, or Slurm (default: %(default)s)",
    )
    group.add_argument("--job-cpus", type=int, default=1, metavar="N", help="cores of a job on a cluster (default: %(default)s)")
    group.add_argument("--job-gpus", type=int, default=0, metavar="N", help="GPUs of a job on a cluster (default: %(default)s)")
    group.add_argument("--job-memory", type=float, default=None, metavar="GB", help="memory of a job on a cluster (default: the cluster's)")
    group.add_argument("--job-hours", type=float, default=None, metavar="HOURS", help="a job that takes longer is stopped (default: none)")
    group.add_argument("--job-tries", type=int, default=3, metavar="N", help="starts of a job whose nodes die (default: %(default)s)")
    group.add_argument(
        "--launcher-option",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="of the launcher: address=ray://HOST:10001 for ray; slurm_partition=gpu, slurm_account=.. for slurm (submitit's names)",
    )


def launching_of(options: argparse.Namespace) -> Launching:
    """What the options of `add_launcher` say. Raises ConfigError for amounts and settings that mean nothing."""
    from osler.experiments.launchers import Launching, Resources

    pairs = [text.partition("=") for text in options.launcher_option]
    if wrong := next((name for name, equals, value in pairs if not (name and equals and value)), None):
        raise ConfigError(f"--launcher-option {wrong!r}: write KEY=VALUE")
    resources = Resources(
        cpus=options.job_cpus, gpus=options.job_gpus, memory_gb=options.job_memory, hours=options.job_hours, tries=options.job_tries
    )
    return Launching(name=options.launcher, resources=resources, settings={name: value for name, _, value in pairs})
