"""How much faster the demo's GRPO phase is with shared prefixes: its recipe, on TRL's path and on Osler's, a step of each in turn.

    python benchmarks/grpo_phase.py [--steps 20] [--strategy no_think] [--json]

Everything that a step of `osler train` does is in the time: reading questions and images, rollout, rewards, loss, gradient, update. Both
train the same policy from the same weights on the same questions. Rounding makes them drift apart over the steps, as it does two runs on
different machines; the mean rewards show whether they learn alike.
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
from typing import Any

import torch
from grpo_step import CLOCKS, Clock, step

from osler.config import load_config
from osler.grading import resolve_rewards
from osler.training.arguments import grpo_arguments, load_for_training, quiet_upstream, read_prompts
from osler.training.grpo import build_trainer


def build(strategy: str, policy: str, num_steps: int, out: Path, overrides: Sequence[str], *, share: bool) -> Any:
    """The demo's trainer, ready for its first step."""
    own = (f"--prompt.strategy={strategy}", f"--policy.path={policy}", "--policy.device=cpu", "--grpo.disable_tqdm=true")
    sharing = f"--trainer.share_prefix={str(share).lower()}"
    config = load_config("demo", [*own, sharing, *(overrides if share else ())])
    prompts = read_prompts(config)
    trainer = build_trainer(
        config, load_for_training(config, prompts), prompts, resolve_rewards(config.rewards.names), grpo_arguments(config, out)
    )
    trainer.model.train()
    trainer.create_optimizer_and_scheduler(num_steps)
    trainer.current_gradient_accumulation_steps = 1
    return trainer


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Seconds of all steps and the mean rewards of the last quarter, of each trainer."""
    with tempfile.TemporaryDirectory() as folder:
        trainers = {
            name: build(options.strategy, options.policy, options.steps, Path(folder) / name, options.override, share=name == "osler")
            for name in ("trl", "osler")
        }
        clocks = {name: Clock(CLOCKS[options.clock]) for name in trainers}
        batches = {name: islice(iter(trainer.get_train_dataloader()), options.steps) for name, trainer in trainers.items()}
        for number in range(options.steps):
            for name, trainer in trainers.items():
                torch.manual_seed(number)
                with clocks[name].phase("reading"):
                    inputs = next(batches[name])
                step(trainer, inputs, clocks[name])
                with clocks[name].phase("other"):
                    trainer.lr_scheduler.step()
                    trainer.state.global_step += 1
    seconds = {name: sum(clock.seconds.values()) for name, clock in clocks.items()}
    rewards = {name: trainer._metrics["train"]["reward"] for name, trainer in trainers.items()}
    last = max(options.steps // 4, 1)
    return {
        "trl_s": seconds["trl"],
        "osler_s": seconds["osler"],
        "ratio": seconds["trl"] / seconds["osler"],
        **{f"{name}_reward": statistics.mean(values[-last:]) for name, values in rewards.items()},
        "groups_without_advantage": statistics.mean(trainers["osler"]._metrics["train"]["frac_reward_zero_std"]),
    }


def main(arguments: Sequence[str]) -> int:
    """Measure and print one row."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--strategy", default="no_think")
    parser.add_argument("--policy", default="osler-tiny")
    parser.add_argument("--clock", choices=CLOCKS, default="wall", help="cpu counts this process alone, for a machine that is shared")
    parser.add_argument("--threads", type=int, default=1, help="of PyTorch (default: %(default)s)")
    parser.add_argument("--override", action="append", default=[], help="a recipe's key for Osler's trainer alone, --section.key=value")
    parser.add_argument("--json", action="store_true", help="end with one line of JSON")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    with quiet_upstream():
        found = measure(options)
    print("| strategy | steps | TRL s | Osler s | ratio | TRL reward | Osler reward | groups without advantage |")
    print("|---|---|---|---|---|---|---|---|")
    print(
        f"| {options.strategy} | {options.steps} | {found['trl_s']:.1f} | {found['osler_s']:.1f} | **{found['ratio']:.2f}** "
        f"| {found['trl_reward']:.3f} | {found['osler_reward']:.3f} | {found['groups_without_advantage']:.0%} |"
    )
    if options.json:
        print(json.dumps({"strategy": options.strategy, "steps": options.steps, **found}))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
