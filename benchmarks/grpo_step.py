"""How much faster a GRPO step is with shared prefixes: TRL's own path and Osler's, step by step in turn, on the same policy and questions.

    python benchmarks/grpo_step.py [--shapes demo,long] [--steps 8] [--json]

Both trainers start from the same weights and write the same completions with the same seed, so their steps do the same work. Prints the
median seconds of a step for every shape, and the ratio; with --json the last line holds the same as JSON.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch

from osler.config import build_config
from osler.models import find_policy, load_policy
from osler.prompts import render
from osler.scoring import resolve_rewards
from osler.selection import load_split
from osler.train import build_trainer
from osler.training import grpo_arguments, quiet_upstream


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """What a step computes."""

    questions: int
    num_generations: int
    max_completion_length: int
    strategy: str = "no_think"
    is_exact: bool = True  # every completion has that length, else it ends where the policy ends it
    grpo: tuple[tuple[str, Any], ...] = ()  # on top


SHAPES: Final = {
    "demo": Shape(questions=8, num_generations=8, max_completion_length=20),
    "demo_think": Shape(questions=8, num_generations=8, max_completion_length=40, strategy="think", is_exact=False),  # its recipe
    "reference": Shape(questions=8, num_generations=8, max_completion_length=20, grpo=(("beta", 0.04),)),
    "small_group": Shape(questions=8, num_generations=4, max_completion_length=20),
    "large_group": Shape(questions=4, num_generations=16, max_completion_length=20),
}
WARM_UP: Final = 2


def build(shape: Shape, policy: str, out: Path, *, share: bool) -> Any:
    """A trainer over phantoms, ready for its first step."""
    grpo = {
        "num_generations": shape.num_generations,
        "per_device_train_batch_size": shape.questions * shape.num_generations,
        "learning_rate": 1e-5,
        "beta": 0.0,
        "loss_type": "grpo",
        "disable_tqdm": True,
        "save_strategy": "no",
        **dict(shape.grpo),
    }
    config = build_config(
        {
            "data": {"train": {"modalities": ["mri"], "limit": 64}},
            "prompt": {"strategy": shape.strategy},
            "policy": {"path": policy, "device": "cpu"},
            "sampling": {"max_completion_length": shape.max_completion_length},
            "trainer": {"share_prefix": share},
            "grpo": grpo,
        }
    )
    prompts = [render(sample, shape.strategy, phase="train") for sample in load_split(config.data, "train")]
    rewards = resolve_rewards(config.rewards.names)
    loaded = load_policy(config.policy)
    loaded.model.config._name_or_path = find_policy(policy).path  # where TRL finds the reference
    if shape.is_exact:  # stop at a token that is never written
        loaded.model.generation_config.eos_token_id = [loaded.model.config.image_token_id]
    trainer = build_trainer(config, loaded, prompts, rewards, grpo_arguments(config, out))
    if shape.is_exact:
        trainer.eos_token_ids = [loaded.model.config.image_token_id]
        trainer.generation_kwargs["eos_token_id"] = trainer.generation_config.eos_token_id = trainer.eos_token_ids
    trainer.model.train()
    trainer.create_optimizer_and_scheduler(1000)
    trainer.current_gradient_accumulation_steps = 1
    return trainer


def step(trainer: Any, inputs: Any) -> float:
    """Seconds of one step: rollout, rewards, loss, gradient, update."""
    start = time.perf_counter()
    trainer.training_step(trainer.model, inputs, None)
    torch.nn.utils.clip_grad_norm_(trainer.model.parameters(), 1.0)
    trainer.optimizer.step()
    trainer.optimizer.zero_grad()
    return time.perf_counter() - start


def measure(shape: Shape, policy: str, num_steps: int) -> dict[str, float]:
    """Medians over `num_steps` steps of each trainer, in turn, after a warm-up that is not counted."""
    with tempfile.TemporaryDirectory() as folder:
        trainers = {name: build(shape, policy, Path(folder), share=name == "osler") for name in ("trl", "osler")}
        seconds: dict[str, list[float]] = {name: [] for name in trainers}
        for batch, inputs in enumerate(trainers["trl"].get_train_dataloader()):
            if batch == WARM_UP + num_steps:
                break
            for name, trainer in trainers.items():
                torch.manual_seed(batch)
                seconds[name].append(step(trainer, inputs))
        metrics = trainers["osler"]._metrics["train"]
    medians = {name: statistics.median(values[WARM_UP:]) for name, values in seconds.items()}
    return {
        "trl_s": medians["trl"],
        "osler_s": medians["osler"],
        "ratio": medians["trl"] / medians["osler"],
        "tokens": statistics.mean(metrics["completions/mean_length"][WARM_UP:]),
        "groups_without_advantage": statistics.mean(metrics["frac_reward_zero_std"][WARM_UP:]),
        "parameter_difference": largest_difference(trainers),
    }


def largest_difference(trainers: dict[str, Any]) -> float:
    """How far the parameters of both trainers have drifted apart: rounding, unless a step differed."""
    first, second = (list(trainer.model.parameters()) for trainer in trainers.values())
    return max(float((left - right).detach().abs().max()) for left, right in zip(first, second, strict=True))


def main(arguments: Sequence[str]) -> int:
    """Measure the shapes asked for and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--shapes", default=",".join(SHAPES), help="comma-separated, known: " + ", ".join(SHAPES))
    parser.add_argument("--steps", type=int, default=8, help="counted steps of each trainer")
    parser.add_argument("--policy", default="osler-tiny")
    parser.add_argument("--json", action="store_true", help="end with one line of JSON")
    options = parser.parse_args(arguments)
    results = {}
    print("| shape | questions | G | tokens | TRL s | Osler s | ratio | groups without advantage |")
    print("|---|---|---|---|---|---|---|---|")
    for name in options.shapes.split(","):
        shape = SHAPES[name]
        with quiet_upstream():
            found = results[name] = measure(shape, options.policy, options.steps)
        print(
            f"| {name} | {shape.questions} | {shape.num_generations} | {found['tokens']:.1f} "
            f"| {found['trl_s']:.3f} | {found['osler_s']:.3f} | {found['ratio']:.2f} | {found['groups_without_advantage']:.0%} |",
            flush=True,
        )
    if options.json:
        print(json.dumps({"threads": torch.get_num_threads(), "torch": torch.__version__, "shapes": results}))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
