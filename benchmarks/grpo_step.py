"""How much faster a GRPO step is with shared prefixes: TRL's own trainer and Osler's, step by step in turn.

    python benchmarks/grpo_step.py [--shapes no_think,demo] [--steps 7] [--threads 1] [--json]

Both trainers start from the same weights, a Qwen2-VL of 6.5 million parameters, and draw from the same random numbers. That they write the
same completions and get the same losses is asserted in every step. Prints the median time of a step for each shape, the ratio, and where
the time goes; with --json the last line holds the times as one JSON object.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from study_model import make_model, make_processor, make_questions
from trl import GRPOConfig, GRPOTrainer

from osler.training.arguments import quiet_upstream
from osler.training.shared_prefix.trainer import SharedPrefixGRPOTrainer


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """What a step computes."""

    size: int  # pixels of an image's side
    prompt: int  # tokens, image tokens included
    completion: int  # tokens, exactly
    groups: int = 1  # questions a step
    num_generations: int = 8


SHAPES: Final = {
    "no_think": Shape(size=384, prompt=296, completion=10),
    "think": Shape(size=384, prompt=296, completion=120),
    "demo": Shape(size=112, prompt=120, completion=16),
    "no_think_4_groups": Shape(size=384, prompt=296, completion=10, groups=4),
    "demo_4_groups": Shape(size=112, prompt=120, completion=16, groups=4),
}
HEADLINE: Final = "no_think,think,demo"
CLOCKS: Final = {"wall": time.perf_counter, "cpu": time.process_time}
WARM_UP: Final = 2
PHASES: Final = ("preprocess", "vision", "prefill", "decode", "update forward", "backward", "optimiser", "other")
NUM_QUESTIONS: Final = 32
LOSS_TOLERANCE: Final = 1e-5


class Clock:
    """Seconds of each phase; a phase that starts within another stops the outer one's clock."""

    def __init__(self, read: Callable[[], float]) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._read = read
        self._inner = [0.0]

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Count what runs inside."""
        start = self._read()
        self._inner.append(0.0)
        try:
            yield
        finally:
            spent = self._read() - start
            self.seconds[name] += spent - self._inner.pop()
            self._inner[-1] += spent

    def wrap(self, owner: Any, method: str, name: str | Callable[[dict[str, Any]], str]) -> None:
        """Count a method's calls as a phase, which may depend on their keywords."""
        original = getattr(owner, method)

        def timed(*args: Any, **kwargs: Any) -> Any:
            with self.phase(name if isinstance(name, str) else name(kwargs)):
                return original(*args, **kwargs)

        setattr(owner, method, timed)


def reward_tokens(completion_ids: list[list[int]], **_: Any) -> list[float]:
    """A reward that follows from the tokens and differs within a group."""
    return [sum(token * 7919 % 97 for token in tokens) % 101 / 101 for tokens in completion_ids]


def build(trainer_class: type[Any], processor: Any, questions: list[dict[str, Any]], shape: Shape, out: str) -> Any:
    """A trainer ready for its first step, whose completions stop at a token that is never written."""
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
        gradient_checkpointing=False,
        report_to=[],
        save_strategy="no",
        disable_tqdm=True,
        remove_unused_columns=False,
    )
    model = make_model(processor)
    trainer = trainer_class(
        model=model, reward_funcs=reward_tokens, args=arguments, train_dataset=_as_dataset(questions), processing_class=processor
    )
    trainer.eos_token_ids = [model.config.image_token_id]
    trainer.generation_kwargs["eos_token_id"] = trainer.generation_config.eos_token_id = trainer.eos_token_ids
    trainer.model.train()
    trainer.create_optimizer_and_scheduler(1000)
    trainer.current_gradient_accumulation_steps = 1
    return trainer


def _as_dataset(questions: list[dict[str, Any]]) -> Any:
    """The questions as a dataset that hands on decoded images."""
    from datasets import Dataset

    dataset = Dataset.from_dict({"index": list(range(len(questions)))})
    dataset.set_transform(lambda batch: {key: [questions[index][key] for index in batch["index"]] for key in ("prompt", "images")})
    return dataset


def watch(trainer: Any, clock: Clock) -> None:
    """Count a trainer's phases. What a rollout does besides vision and prompts is decoding; the same of an update is its forward pass."""

    def reading(kwargs: dict[str, Any]) -> str:
        if trainer.watched_update:
            return "update forward"
        return "prefill" if kwargs["inputs_embeds"].shape[1] > 1 else "decode"

    def update(*args: Any, **kwargs: Any) -> Any:
        trainer.watched_update = True
        try:
            return compute_loss(*args, **kwargs)
        finally:
            trainer.watched_update = False

    trainer.watched_update = False
    compute_loss = trainer._compute_loss
    trainer._compute_loss = update
    clock.wrap(trainer, "_tokenize_prompts", "preprocess")
    clock.wrap(trainer, "_generate_single_turn", "decode")
    clock.wrap(trainer, "_compute_loss", "update forward")
    clock.wrap(trainer.accelerator, "backward", "backward")
    clock.wrap(trainer.model.model.visual, "forward", "vision")
    clock.wrap(trainer.model.model.language_model, "forward", reading)
    image_processor = trainer.processing_class.image_processor
    clock.wrap(image_processor, "preprocess", "preprocess")


def step(trainer: Any, inputs: Any, clock: Clock) -> float:
    """The loss of one step: rollout, rewards, loss, gradient, update."""
    with clock.phase("other"):
        loss = float(trainer.training_step(trainer.model, inputs, None))
        with clock.phase("optimiser"):
            trainer.accelerator.clip_grad_norm_(trainer.model.parameters(), 1.0)
            trainer.optimizer.step()
            trainer.optimizer.zero_grad()
    return loss


def measure(shape: Shape, num_steps: int, read: Callable[[], float]) -> dict[str, Any]:
    """Medians over `num_steps` steps of each trainer, in turn, after a warm-up that is not counted."""
    classes = {"trl": GRPOTrainer, "osler": SharedPrefixGRPOTrainer}
    clocks: dict[str, list[dict[str, float]]] = {name: [] for name in classes}
    with tempfile.TemporaryDirectory() as folder:
        trainers, current = {}, {name: Clock(read) for name in classes}
        for name, trainer_class in classes.items():
            processor = make_processor()
            questions = make_questions(processor, NUM_QUESTIONS, shape.size, shape.prompt)
            trainers[name] = build(trainer_class, processor, questions, shape, str(Path(folder) / name))
            watch(trainers[name], current[name])
        assert trainers["osler"].shares_prefix
        for batch, inputs in enumerate(trainers["trl"].get_train_dataloader()):
            if batch == WARM_UP + num_steps:
                break
            found = {}
            for name, trainer in trainers.items():
                torch.manual_seed(batch)
                current[name].seconds.clear()
                loss = step(trainer, inputs, current[name])
                clocks[name].append(dict(current[name].seconds))
                found[name] = loss, sorted(trainer._buffered_inputs[0]["completion_ids"].tolist())  # TRL shuffles them
            assert found["trl"][1] == found["osler"][1], f"step {batch}: the completions differ"
            assert abs(found["trl"][0] - found["osler"][0]) <= LOSS_TOLERANCE, f"step {batch}: the losses differ"
    totals = {name: [1e3 * sum(seconds.values()) for seconds in rows[WARM_UP:]] for name, rows in clocks.items()}
    trl_ms, osler_ms = (statistics.median(totals[name]) for name in classes)
    phases = {
        name: {phase: statistics.median(1e3 * seconds.get(phase, 0.0) for seconds in rows[WARM_UP:]) for phase in PHASES}
        for name, rows in clocks.items()
    }
    ratios = sorted(theirs / ours for theirs, ours in zip(totals["trl"], totals["osler"], strict=True))
    return {
        "trl_ms": trl_ms,
        "osler_ms": osler_ms,
        "ratio": trl_ms / osler_ms,
        "lowest": ratios[0],
        "highest": ratios[-1],
        "phases": phases,
    }


def main(arguments: Sequence[str]) -> int:
    """Measure the shapes asked for and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--shapes", default=HEADLINE, help="comma-separated, known: " + ", ".join(SHAPES))
    parser.add_argument("--steps", type=int, default=7, help="counted steps of each trainer (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="of PyTorch (default: %(default)s, which other work disturbs least)")
    parser.add_argument("--clock", choices=CLOCKS, default="wall", help="cpu counts this process alone, for a machine that is shared")
    parser.add_argument("--json", action="store_true", help="end with one line of JSON")
    options = parser.parse_args(arguments)
    if unknown := set(options.shapes.split(",")) - SHAPES.keys():
        parser.error(f"no shape {', '.join(sorted(unknown))}: known are {', '.join(SHAPES)}")
    if min(options.steps, options.threads) < 1:
        parser.error("--steps and --threads must be 1 or more")
    torch.set_num_threads(options.threads)
    results = {}
    print("| shape | G | groups | prompt | completion | TRL ms | Osler ms | ratio | lowest to highest |")
    print("|---|---|---|---|---|---|---|---|---|")
    for name in options.shapes.split(","):
        shape = SHAPES[name]
        with quiet_upstream():
            found = results[name] = measure(shape, options.steps, CLOCKS[options.clock])
        print(
            f"| {name} | {shape.num_generations} | {shape.groups} | {shape.prompt} | {shape.completion} | {found['trl_ms']:.0f} "
            f"| {found['osler_ms']:.0f} | **{found['ratio']:.2f}** | {found['lowest']:.2f} to {found['highest']:.2f} |",
            flush=True,
        )
    print("\n| shape, ms | " + " | ".join(PHASES) + " |\n|---|" + "---|" * len(PHASES))
    for name, found in results.items():
        for trainer, phases in found["phases"].items():
            print(f"| {name}, {trainer} | " + " | ".join(f"{phases[phase]:.0f}" for phase in PHASES) + " |")
    if options.json:
        rows = [{"name": name, **{key: found[key] for key in ("trl_ms", "osler_ms", "ratio")}} for name, found in results.items()]
        print(json.dumps({"threads": torch.get_num_threads(), "torch": torch.__version__, "shapes": rows}))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
