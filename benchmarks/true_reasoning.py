"""What keeps reasoning true: every setting of docs/reasoning.md, trained and tested on the demo's questions, over several seeds.

    python benchmarks/true_reasoning.py [--out runs/true_reasoning] [--seeds 0,1,2] [--only grpo,grpo-statements]

Each row is a list of `osler` commands, as in `osler demo`; finished rows are not run again. Writes `results.json`, the tables of
docs/reasoning.md as Markdown, and its two plots.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from osler.config import load_config
from osler.experiments.jobs import Job, plan_commands, run_jobs

STRATEGIES: Final = ("think", "think_after")
MATTERS_STRATEGIES: Final = ("think",)  # an answer before the reasoning cannot follow it
WARM_UP_QUESTIONS: Final = 640  # 20 steps of SFT

_LOGGED: Final = "--rewards.names=[accuracy, format, statements]"
ANSWER_ALONE: Final = (_LOGGED, "--rewards.weights=[1, 1, 0]")  # weight 0: logged in every step, without effect
STATEMENTS: Final = (_LOGGED, "--rewards.weights=[1, 1, 1]")
MATTERS: Final = ("--rewards.names=[accuracy, format, statements, reasoning_matters]", "--rewards.weights=[1, 1, 0, 1]")


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """One way to train: the command, the overrides, and whether a short SFT comes first."""

    title: str
    verb: str | None  # "train", "sft", None for no training
    overrides: tuple[str, ...] = ()
    warm_up: bool = False
    strategies: tuple[str, ...] = STRATEGIES


SETTINGS: Final[Mapping[str, Setting]] = {
    "zero-shot": Setting(title="zero-shot", verb=None),
    "sft": Setting(title="SFT", verb="sft"),
    "grpo": Setting(title="GRPO, answer reward alone", verb="train", overrides=ANSWER_ALONE),
    "grpo-kl-0.04": Setting(title="GRPO, beta 0.04", verb="train", overrides=(*ANSWER_ALONE, "--grpo.beta=0.04")),
    "grpo-kl-0.2": Setting(title="GRPO, beta 0.2", verb="train", overrides=(*ANSWER_ALONE, "--grpo.beta=0.2")),
    "grpo-matters": Setting(title="GRPO, reasoning_matters", verb="train", overrides=MATTERS, strategies=MATTERS_STRATEGIES),
    "grpo-statements": Setting(title="GRPO, statements", verb="train", overrides=STATEMENTS),
    "grpo-statements-kl-0.04": Setting(title="GRPO, statements, beta 0.04", verb="train", overrides=(*STATEMENTS, "--grpo.beta=0.04")),
    "sft-grpo": Setting(title="SFT of 20 steps, then GRPO", verb="train", overrides=ANSWER_ALONE, warm_up=True),
    "sft-grpo-statements": Setting(title="SFT of 20 steps, then GRPO, statements", verb="train", overrides=STATEMENTS, warm_up=True),
}


def plan(out: Path, seeds: Sequence[int], names: Sequence[str], overrides: Sequence[str]) -> Iterator[Job]:
    """One job for each seed, setting and strategy, in an order in which seed 0 comes first."""
    for seed in seeds:
        for name in names:
            setting = SETTINGS[name]
            for strategy in setting.strategies:
                folder = f"{seed}/{name}-{strategy}"
                shared = (f"--prompt.strategy={strategy}", f"--data.seed={seed}", *overrides)
                commands: list[tuple[str, ...]] = []
                if setting.warm_up:
                    warm = out / folder / "warm_up"
                    commands.append(("sft", "demo", "--out", str(warm), *shared, f"--data.train.limit={WARM_UP_QUESTIONS}"))
                    shared = (*shared, f"--policy.path={warm / 'policy'}")
                commands += plan_commands("demo", out / folder, [*shared, *setting.overrides], verb=setting.verb)
                yield Job(name=folder, commands=tuple(commands))


def main(arguments: Sequence[str] | None = None) -> None:
    """Run what has not been run, then write results, tables and plots."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/true_reasoning"))
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--only", default=",".join(SETTINGS), help="settings, by comma")
    parser.add_argument("overrides", nargs="*", help="key=value, for every run")
    options = parser.parse_args(arguments)
    seeds = [int(seed) for seed in options.seeds.split(",")]
    jobs = list(plan(options.out, seeds, options.only.split(","), [f"--{value}" for value in options.overrides]))
    run_jobs(jobs, options.out, title="true reasoning", terms=load_config("demo", []).to_json())


if __name__ == "__main__":
    main()
