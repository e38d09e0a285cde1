"""Time of a GRPO step with TRL's own trainer and with shared prefixes.

    python benchmarks/grpo_step.py [--shapes no_think,demo] [--steps 7] [--threads 1] [--json]
    python benchmarks/grpo_step.py --shapes true_size --policy DIR --steps 3 --threads 2

Both trainers start from the same weights, a Qwen2-VL of 6.5 million parameters, and take their steps in turn with the same random numbers.
In every step the script asserts that both generate the same completions and the same loss. For each shape it prints the median time of a
step, the ratio of the two times, and the time of each phase; with --json the last line is one JSON object with the times.

The shapes of true size train a LoRA adapter on a checkpoint of tools/make_checkpoint.py, in bfloat16. There rounding may change a sampled
token, so the script prints how many completions are equal, and asserts losses that agree within rounding.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from benchmark_model import make_model, make_processor, make_questions
from trl import GRPOConfig, GRPOTrainer

from osler.config import LoraSection, PolicyConfig
from osler.policies.load import load_policy
from osler.policies.lora import base_of, lora_config
from osler.policies.quiet import quiet_training
from osler.training.phases import PHASES, PhaseTimer, time_phases
from osler.training.shared_prefix.trainer import SharedPrefixGRPOTrainer


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """The size of a step."""

    size: int  # pixels of a side of the image
    prompt: int  # tokens, with the image tokens
    completion: int  # tokens of each completion
    groups: int = 1  # in each step
    num_generations: int = 8
    has_true_size: bool = False  # a LoRA adapter on a checkpoint in bfloat16, the vision tower frozen
    checkpoints: bool = False  # gradient checkpointing


SHAPES: Final = {
    "no_think": Shape(size=384, prompt=296, completion=10),
    "think": Shape(size=384, prompt=296, completion=120),
    "demo": Shape(size=112, prompt=120, completion=16),
    "no_think_4_groups": Shape(size=384, prompt=296, completion=10, groups=4),
    "demo_4_groups": Shape(size=112, prompt=120, completion=16, groups=4),
    "true_no_think": Shape(size=392, prompt=296, completion=10, has_true_size=True),  # Med-R1's: 196 image tokens
    "true_think": Shape(size=392, prompt=346, completion=100, num_generations=4, has_true_size=True, checkpoints=True),  # MedVLM-R1's
}
ALIASES: Final = {"true_size": "true_no_think,true_think"}
HEADLINE: Final = "no_think,think,demo"
CLOCKS: Final = {"wall": time.perf_counter, "cpu": time.process_time}
WARM_UP: Final = 2  # steps that are not counted
NUM_QUESTIONS: Final = 32
LOSS_TOLERANCE: Final = 1e-5
ROUNDING: Final = 5e-2  # of a loss in bfloat16


def reward_tokens(completion_ids: list[list[int]], **_: Any) -> list[float]:
    """A reward that depends only on the tokens and differs within a group."""
    return [sum(token * 7919 % 97 for token in tokens) % 101 / 101 for tokens in completion_ids]


def load(shape: Shape, folder: str | None) -> tuple[Any, Any, Any]:
    """The model of a shape, its processor, and the configuration of its adapter."""
    if not shape.has_true_size:
        processor = make_processor()
        return make_model(processor), processor, None
    assert folder is not None
    policy = load_policy(PolicyConfig(path=folder, dtype="bfloat16", device="cpu", freeze_vision=True, min_pixels=3136, max_pixels=401408))
    return policy.model, policy.processor, lora_config(LoraSection(r=16, alpha=32), policy.family)


def make_trainer(
    trainer_class: type[Any], processor: Any, questions: list[dict[str, Any]], shape: Shape, out: str, model: Any, adapter: Any = None
) -> Any:
    """A trainer ready for its first step. Its end token is one that the model never generates, so all completions have full length."""
    arguments = GRPOConfig(
        output_dir=out,
        per_device_train_batch_size=shape.groups * shape.num_generations,
        num_generations=shape.num_generations,
        max_completion_length=shape.completion,
        learning_rate=1e-6,
        beta=0.0,
        temperature=1.0,
        entropy_coef=0.0,
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=shape.checkpoints,
        report_to=[],
        save_strategy="no",
        disable_tqdm=True,
        remove_unused_columns=False,
    )
    trainer = trainer_class(
        model=model,
        reward_funcs=reward_tokens,
        args=arguments,
        train_dataset=_as_dataset(questions),
        processing_class=processor,
        peft_config=adapter,
    )
    trainer.eos_token_ids = [model.config.image_token_id]
    trainer.generation_kwargs["eos_token_id"] = trainer.generation_config.eos_token_id = trainer.eos_token_ids
    trainer.model.train()
    trainer.create_optimizer_and_scheduler(1000)
    trainer.current_gradient_accumulation_steps = 1
    return trainer


def _as_dataset(questions: list[dict[str, Any]]) -> Any:
    """The questions as a dataset that returns the image objects themselves, without encoding them."""
    from datasets import Dataset

    dataset = Dataset.from_dict({"index": list(range(len(questions)))})
    dataset.set_transform(lambda batch: {key: [questions[index][key] for index in batch["index"]] for key in questions[0]})
    return dataset


def run_step(trainer: Any, inputs: Any, timer: PhaseTimer) -> float:
    """Run one step (rollout, rewards, loss, gradient, update) and return its loss."""
    with timer.phase("other"):
        loss = float(trainer.training_step(trainer.model, inputs, None))
        with timer.phase("optimiser"):
            trainer.accelerator.clip_grad_norm_(trainer.model.parameters(), 1.0)
            trainer.optimizer.step()
            trainer.optimizer.zero_grad()
    return loss


def read_resident(name: str) -> float | None:
    """GiB of this process, `name` being VmRSS (resident) or VmHWM (its peak since `reset_peak`); None if the system is not Linux."""
    status = Path("/proc/self/status")
    if not status.exists():
        return None
    line = next(line for line in status.read_text().splitlines() if line.startswith(name))
    return int(line.split()[1]) / (1 << 20)


def reset_peak(*, trims: bool = False) -> float:
    """Let the peak start anew and return the resident GiB; `trims`: without what earlier work has freed, which would count as resident."""
    if trims:
        gc.collect()
        ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    return read_resident("VmRSS") or 0.0


@contextmanager
def peak_memory(used: list[float]) -> Iterator[None]:
    """Append the GiB that the block takes at its peak beyond what was resident before. Linux alone can say; elsewhere nothing is added."""
    if read_resident("VmRSS") is None:
        yield
        return
    before = reset_peak(trims=True)
    yield
    used.append((read_resident("VmHWM") or 0.0) - before)


def measure(shape: Shape, num_steps: int, read: Callable[[], float], policy: str | None = None) -> dict[str, Any]:
    """Time `num_steps` steps of each trainer, in turn, after the warm-up.

    Returns the medians trl_ms and osler_ms, their ratio, the lowest and highest ratio of a step, the median of each phase in ms, the
    highest memory of a step in GiB, and the share of equal completions.
    """
    classes = {"trl": GRPOTrainer, "osler": SharedPrefixGRPOTrainer}
    seconds_of: dict[str, list[dict[str, float]]] = {name: [] for name in classes}
    memory: dict[str, list[float]] = {name: [] for name in classes}
    warm_up, is_equal = 1 if shape.has_true_size else WARM_UP, []
    with tempfile.TemporaryDirectory() as folder:
        trainers, timers = {}, {name: PhaseTimer(read) for name in classes}
        for name, trainer_class in classes.items():
            model, processor, adapter = load(shape, policy)
            questions = make_questions(processor, NUM_QUESTIONS, shape.size, shape.prompt)
            trainers[name] = make_trainer(trainer_class, processor, questions, shape, str(Path(folder) / name), model, adapter)
            time_phases(trainers[name], timers[name], base_of(trainers[name].model))
            timers[name].wrap(trainers[name].processing_class.image_processor, "preprocess", "processor")
        assert trainers["osler"].shares_prefix
        trainers["osler"].checks_itself = not shape.has_true_size  # once in a run, with a copy in float32
        for batch, inputs in enumerate(trainers["trl"].get_train_dataloader()):
            if batch == warm_up + num_steps:
                break
            losses, completions = {}, {}
            for name, trainer in trainers.items():
                torch.manual_seed(batch)
                timers[name].seconds.clear()
                with peak_memory(memory[name]):
                    losses[name] = run_step(trainer, inputs, timers[name])
                seconds_of[name].append(dict(timers[name].seconds))
                completions[name] = sorted(trainer._buffered_inputs[0]["completion_ids"].tolist())  # TRL shuffles them
            is_equal += [ours == theirs for ours, theirs in zip(completions["osler"], completions["trl"], strict=True)]
            assert shape.has_true_size or all(is_equal), f"step {batch}: the completions differ"
            tolerance = ROUNDING if shape.has_true_size else LOSS_TOLERANCE
            assert abs(losses["trl"] - losses["osler"]) <= tolerance, f"step {batch}: the losses differ"
            if shape.has_true_size:
                print(
                    f"step {batch}: " + ", ".join(f"{name} {sum(rows[-1].values()):.1f} s" for name, rows in seconds_of.items()), flush=True
                )
    counted = {name: rows[warm_up:] for name, rows in seconds_of.items()}
    return {
        **summarise(counted),
        "memory_gib": {name: max(values[warm_up:], default=None) for name, values in memory.items()},
        "equal_completions": statistics.mean(is_equal),
    }


def summarise(seconds_of: dict[str, list[dict[str, float]]]) -> dict[str, Any]:
    """Medians and ratios of the steps of both trainers, given the seconds of each phase of each step."""
    totals = {name: [1e3 * sum(seconds.values()) for seconds in rows] for name, rows in seconds_of.items()}
    trl_ms, osler_ms = (statistics.median(totals[name]) for name in ("trl", "osler"))
    ratios = sorted(theirs / ours for theirs, ours in zip(totals["trl"], totals["osler"], strict=True))
    return {
        "trl_ms": trl_ms,
        "osler_ms": osler_ms,
        "ratio": trl_ms / osler_ms,
        "lowest": ratios[0],
        "highest": ratios[-1],
        "phases": {
            name: {phase: statistics.median(1e3 * seconds.get(phase, 0.0) for seconds in rows) for phase in PHASES}
            for name, rows in seconds_of.items()
        },
    }


def main(arguments: Sequence[str]) -> int:
    """Measure the shapes of --shapes and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    known = ", ".join([*SHAPES, *ALIASES])
    parser.add_argument("--shapes", default=HEADLINE, help=f"comma-separated names out of {known} (default: %(default)s)")
    parser.add_argument("--policy", help="the checkpoint for the shapes of true size, see tools/make_checkpoint.py")
    parser.add_argument("--steps", type=int, default=7, help="steps of each trainer that are counted (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="PyTorch threads (default: %(default)s, least affected by other work)")
    parser.add_argument("--clock", choices=CLOCKS, default="wall", help="cpu is the CPU time of this process, for a busy machine")
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    options = parser.parse_args(arguments)
    names = ",".join(ALIASES.get(name, name) for name in options.shapes.split(",")).split(",")
    if unknown := set(names) - SHAPES.keys():
        parser.error(f"argument --shapes: unknown {', '.join(sorted(unknown))}, choose from {known}")
    if options.policy is None and any(SHAPES[name].has_true_size for name in names):
        parser.error("--policy is missing: make a checkpoint with `python -m tools.make_checkpoint`")
    if min(options.steps, options.threads) < 1:
        parser.error("--steps and --threads must be 1 or more")
    torch.set_num_threads(options.threads)
    results = {}
    print("| shape | G | groups | prompt | completion | TRL ms | Osler ms | ratio | lowest to highest |")
    print("|---|---|---|---|---|---|---|---|---|")
    for name in names:
        shape = SHAPES[name]
        with quiet_training():
            result = results[name] = measure(shape, options.steps, CLOCKS[options.clock], options.policy)
        print(
            f"| {name} | {shape.num_generations} | {shape.groups} | {shape.prompt} | {shape.completion} | {result['trl_ms']:.0f} "
            f"| {result['osler_ms']:.0f} | **{result['ratio']:.2f}** | {result['lowest']:.2f} to {result['highest']:.2f} |",
            flush=True,
        )
    print("\n| shape, ms | " + " | ".join(PHASES) + " |\n|---|" + "---|" * len(PHASES))
    for name, result in results.items():
        for trainer, phases in result["phases"].items():
            print(f"| {name}, {trainer} | " + " | ".join(f"{phases[phase]:.0f}" for phase in PHASES) + " |")
    print("\n| shape | memory of a step, TRL | Osler | equal completions |\n|---|---|---|---|")
    for name, result in results.items():
        sizes = ["–" if size is None else f"{size:.2f} GiB" for size in result["memory_gib"].values()]
        print(f"| {name} | {' | '.join(sizes)} | {100 * result['equal_completions']:.0f} % |")
    if options.json:
        rows = [{"name": name, **{key: result[key] for key in ("trl_ms", "osler_ms", "ratio")}} for name, result in results.items()]
        print(json.dumps({"threads": torch.get_num_threads(), "torch": torch.__version__, "shapes": rows}))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
