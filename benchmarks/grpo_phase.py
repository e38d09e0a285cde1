"""Time of the demo's GRPO training with TRL's own trainer and with shared prefixes.

    python benchmarks/grpo_phase.py [--steps 20] [--strategy no_think] [--json]

Two trainers with the demo recipe take their steps in turn: one with `share_prefix = false`, one with `share_prefix = true`. Both train the
same policy from the same weights on the same questions. The time includes everything that a step of `osler train` does: reading questions
and images, rollout, rewards, loss, gradient, update. Rounding differences accumulate over the steps, as between two machines, so the mean
rewards of the last quarter are printed to show that both trainers learn equally well. With --json the last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Final

import torch
from grpo_step import CLOCKS, run_step

from osler.config import load_config
from osler.data.phantom import images
from osler.grading import resolve_rewards
from osler.policies.lora import base_of
from osler.policies.quiet import quiet_training
from osler.policies.sources import PACKAGED_POLICIES
from osler.training.arguments import grpo_arguments
from osler.training.checkpoints import load_for_training
from osler.training.dataset import read_prompts
from osler.training.grpo import build_trainer
from osler.training.phases import PhaseTimer, time_phases

SHOWN: Final = ("reading", "processor", "vision", "prefill", "decode", "rewards", "update forward", "backward", "optimiser", "other")
"""The parts of a step. What the reference computes, beside its vision tower and TRL's means and advantages, is in other."""


def make_trainer(strategy: str, policy: str, num_steps: int, out: Path, overrides: Sequence[str], *, share_prefix: bool) -> Any:
    """The trainer of the demo recipe, ready for its first step."""
    # TRL loads the reference of the KL term from this folder.
    settings = (f"--prompt.strategy={strategy}", f"--policy.path={policy}", "--policy.device=cpu", "--grpo.disable_tqdm=true")
    sharing = f"--trainer.share_prefix={str(share_prefix).lower()}"
    config = load_config("demo", [*settings, sharing, *(overrides if share_prefix else ())])
    prompts = read_prompts(config)
    arguments = grpo_arguments(config, out)
    loaded = load_for_training(config, prompts, arguments)
    trainer = build_trainer(config, loaded, prompts, resolve_rewards(config.rewards.names), arguments)
    trainer.model.train()
    trainer.create_optimizer_and_scheduler(num_steps)
    trainer.current_gradient_accumulation_steps = 1
    return trainer


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Seconds of all steps and mean reward of the last quarter for each trainer: keys trl_s, osler_s, ratio, trl_reward, osler_reward.

    `phases` has the seconds of each part of a step of each trainer. `groups_without_advantage` is the mean share of groups with equal
    rewards, for Osler's trainer.
    """
    with tempfile.TemporaryDirectory() as folder:
        trainers = {
            name: make_trainer(
                options.strategy, options.policy, options.steps, Path(folder) / name, options.override, share_prefix=share_prefix
            )
            for name, share_prefix in (("trl", False), ("osler", True))
        }
        timers = {name: PhaseTimer(CLOCKS[options.clock]) for name in trainers}
        for name, trainer in trainers.items():
            time_phases(trainer, timers[name], base_of(trainer.model))
            timers[name].wrap(trainer, "_calculate_rewards", "rewards")
        batches = {name: islice(iter(trainer.get_train_dataloader()), options.steps) for name, trainer in trainers.items()}
        for number in range(options.steps):
            for name, trainer in trainers.items():
                torch.manual_seed(number)
                images.draw_once.cache_clear()  # each trainer draws its pictures itself
                with timers[name].phase("reading"):
                    inputs = next(batches[name])
                run_step(trainer, inputs, timers[name])
                with timers[name].phase("other"):
                    trainer.lr_scheduler.step()
                    trainer.state.global_step += 1
    seconds = {name: sum(timer.seconds.values()) for name, timer in timers.items()}
    rewards = {name: trainer._metrics["train"]["reward"] for name, trainer in trainers.items()}
    last = max(options.steps // 4, 1)
    return {
        "trl_s": seconds["trl"],
        "osler_s": seconds["osler"],
        "ratio": seconds["trl"] / seconds["osler"],
        **{f"{name}_reward": statistics.mean(values[-last:]) for name, values in rewards.items()},
        "phases": {name: {phase: timer.seconds[phase] / options.steps for phase in SHOWN} for name, timer in timers.items()},
        "groups_without_advantage": statistics.mean(trainers["osler"]._metrics["train"]["frac_reward_zero_std"]),
    }


def main(arguments: Sequence[str]) -> int:
    """Measure and print one row."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--steps", type=int, default=20, help="steps of each trainer (default: %(default)s)")
    parser.add_argument("--strategy", default="no_think", help="prompt strategy (default: %(default)s)")
    packaged = str(PACKAGED_POLICIES / "osler-tiny")
    parser.add_argument("--policy", default=packaged, help="folder of the policy to train (default: osler-tiny)")
    parser.add_argument("--clock", choices=CLOCKS, default="wall", help="cpu is the CPU time of this process, for a busy machine")
    parser.add_argument("--threads", type=int, default=1, help="PyTorch threads (default: %(default)s)")
    parser.add_argument("--override", action="append", default=[], help="setting of Osler's trainer: --override=--section.key=value")
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    with quiet_training():
        result = measure(options)
    print("| strategy | steps | TRL s | Osler s | ratio | TRL reward | Osler reward | groups without advantage |")
    print("|---|---|---|---|---|---|---|---|")
    print(
        f"| {options.strategy} | {options.steps} | {result['trl_s']:.1f} | {result['osler_s']:.1f} | **{result['ratio']:.2f}** "
        f"| {result['trl_reward']:.3f} | {result['osler_reward']:.3f} | {result['groups_without_advantage']:.0%} |"
    )
    print("\n| a step of, in s | " + " | ".join(SHOWN) + " |\n|---|" + "---|" * len(SHOWN))
    for name, phases in result["phases"].items():
        print(f"| {options.strategy}, {name} | " + " | ".join(f"{phases[phase]:.3f}" for phase in SHOWN) + " |")
    if options.json:
        print(json.dumps({"strategy": options.strategy, "steps": options.steps, **result}))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
